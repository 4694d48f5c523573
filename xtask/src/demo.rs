// SPDX-License-Identifier: Apache-2.0

//! `cargo xtask demo`: sets the machine up, builds agent and demo, and becomes the demo.
//!
//! Knows nothing of what is shown. Invariant: standard output belongs to the demo alone, and its
//! signals and its exit code are ours, because it takes our place.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context, Result};

use crate::{
    artefacts,
    command::program,
    setup::{self, Lacking, Scope},
};

/// The command itself; returns only when there is something wrong.
pub(crate) fn run(words: &[String]) -> Result<()> {
    if let Some(unknown) = words
        .iter()
        .find(|word| !["--keep", "--json"].contains(&word.as_str()))
    {
        return Err(Lacking::usage(format!(
            "demo does not know {unknown:?}: --keep, --json"
        )));
    }
    Lacking::unless_root("the demo makes network namespaces and loads kernel programs")?;
    setup::ensure(&[Scope::Build, Scope::Nodes])?;
    let agent = artefacts::agent()?;
    let demo = artefacts::build("mesh-tests", "mesh-demo")?;
    let mut command = program(&demo);
    let failed = command.args(words).env("MESH_AGENT_BIN", agent).exec();
    Err(failed).with_context(|| format!("start {}", demo.display()))
}
