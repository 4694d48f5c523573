// SPDX-License-Identifier: Apache-2.0

//! The metric about what should have been captured and was not.
//!
//! Knows nothing of how it is found out.

use crate::telemetry::exposition::Exposition;

impl Exposition {
    /// Connections that were missed, by direction and reason.
    pub(super) fn missed(&mut self, missed: &[([String; 2], u64)]) {
        self.list(
            (
                "mesh_agent_capture_missed_total",
                "counter",
                "Connections of captured pods that the agent should have had and had not, by direction and \
                 reason: no_listener (refused), passed_open (let through in plaintext), not_tagged (dropped), \
                 not_accepted (captured, and never accepted), older (open when their pod was captured).",
            ),
            ["direction", "reason"],
            missed.iter().cloned(),
        );
    }
}
