// SPDX-License-Identifier: Apache-2.0

//! The metric about AuthorizationPolicies.
//!
//! Knows nothing of how it is counted.

use crate::telemetry::exposition::Exposition;

impl Exposition {
    /// What AuthorizationPolicies said.
    pub(in crate::telemetry) fn decisions(&mut self, decisions: Vec<([String; 3], u64)>) {
        self.list(
            (
                "mesh_agent_authorization_total",
                "counter",
                "What an AuthorizationPolicy said other than yes: denied, revoked, would_deny (dry run), audited.",
            ),
            ["policy", "action", "result"],
            decisions,
        );
    }
}
