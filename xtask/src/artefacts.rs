// SPDX-License-Identifier: Apache-2.0

//! Builds the programs that tests, demo and image are made of.
//!
//! Knows nothing of who starts them. Invariant: what it returns was built from the sources as
//! they are now, with the kernel programs embedded.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::{
    command::{self, cargo},
    pins,
};

/// How much the compiler optimises.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Profile {
    /// Enough for load, and quick to link.
    Fast,
    /// All it can; takes minutes.
    Release,
}

impl Profile {
    /// Its name for cargo, and that of its directory.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Release => "release",
        }
    }
}

/// What tests and demo use.
pub(crate) const PROFILE: Profile = Profile::Fast;

/// Builds the agent and returns its path.
pub(crate) fn agent() -> Result<PathBuf> {
    agent_of(PROFILE)
}

/// Builds the agent in `profile` and returns its path.
pub(crate) fn agent_of(profile: Profile) -> Result<PathBuf> {
    build_of(profile, "mesh-agent", "mesh-agent")
}

/// Builds one program of `package` and returns its path.
pub(crate) fn build(package: &str, name: &str) -> Result<PathBuf> {
    build_of(PROFILE, package, name)
}

fn build_of(profile: Profile, package: &str, name: &str) -> Result<PathBuf> {
    command::run_aside(cargo(&pins::STABLE).args([
        "build",
        "--locked",
        "--profile",
        profile.name(),
        "--package",
        package,
        "--bin",
        name,
    ]))?;
    let path = command::target().join(profile.name()).join(name);
    ensure!(path.is_file(), "cargo built no {}", path.display());
    Ok(path)
}
