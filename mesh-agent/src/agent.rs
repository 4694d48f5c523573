// SPDX-License-Identifier: Apache-2.0

//! The composition root: builds the parts from settings, joins them, and drains them.
//!
//! Names everything; nobody names it but `main`.

use crate::settings::RunSettings;

/// Runs the agent of one node until it is told to stop.
pub fn run(settings: RunSettings) -> anyhow::Result<()> {
    anyhow::bail!(
        "the parts of the agent of {} are not joined yet",
        settings.node
    )
}
