// SPDX-License-Identifier: Apache-2.0

//! Builds the programs that tests and demo start.
//!
//! Knows nothing of who starts them. Invariant: what it returns was built from the sources as
//! they are now, with the kernel programs embedded.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::{
    command::{self, cargo},
    pins,
};

/// Optimised enough for load, quick to link: what tests and demo use.
pub(crate) const PROFILE: &str = "fast";

/// Builds the agent and returns its path.
pub(crate) fn agent() -> Result<PathBuf> {
    build("mesh-agent", "mesh-agent")
}

/// Builds one program of `package` and returns its path.
pub(crate) fn build(package: &str, name: &str) -> Result<PathBuf> {
    command::run_aside(cargo(&pins::STABLE).args([
        "build",
        "--locked",
        "--profile",
        PROFILE,
        "--package",
        package,
        "--bin",
        name,
    ]))?;
    let path = command::target().join(PROFILE).join(name);
    ensure!(path.is_file(), "cargo built no {}", path.display());
    Ok(path)
}
