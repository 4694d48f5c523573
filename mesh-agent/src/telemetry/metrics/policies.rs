// SPDX-License-Identifier: Apache-2.0

//! The metrics about AuthorizationPolicies and LocalRateLimits.
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

    /// What LocalRateLimits have not admitted.
    pub(in crate::telemetry) fn limited(&mut self, limited: Vec<([String; 2], u64)>) {
        self.list(
            (
                "mesh_agent_rate_limited_total",
                "counter",
                "Requests that a LocalRateLimit did not admit.",
            ),
            ["namespace", "name"],
            limited,
        );
    }
}
