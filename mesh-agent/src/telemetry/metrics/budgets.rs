// SPDX-License-Identifier: Apache-2.0

//! The metrics about budgets: who holds what, and who was held back or refused.
//!
//! Knows nothing of how shares are found.

use super::{AgentState, BudgetState, PodState};
use crate::telemetry::exposition::Exposition;

const LABELS: [&str; 4] = ["namespace", "pod", "side", "budget"];

impl Exposition {
    /// What pods hold of what the node has.
    pub(super) fn agent_budgets(&mut self, state: &AgentState) {
        let of_pods = |value: fn(&BudgetState) -> u64| {
            let rows = state.pods.iter().flat_map(move |pod: &PodState| {
                let row = move |budget: &BudgetState| {
                    let [namespace, name] = pod.labels();
                    let (side, of) = (budget.side.to_owned(), budget.budget.to_owned());
                    ([namespace, name, side, of], value(budget))
                };
                pod.budgets.iter().map(row)
            });
            rows.collect::<Vec<_>>()
        };
        self.list(
            (
                "mesh_agent_budget_used",
                "gauge",
                "What a pod holds of a budget: outbound what it asks for, inbound what others ask of it.",
            ),
            LABELS,
            of_pods(|budget| budget.used),
        );
        self.list(
            (
                "mesh_agent_budget_limit",
                "gauge",
                "What a pod could hold of a budget now: its own, and what is lent to it as long as others leave it.",
            ),
            LABELS,
            of_pods(|budget| budget.limit),
        );
        self.list(
            (
                "mesh_agent_budget_held_back_total",
                "counter",
                "How often something that was asked for or of a pod had to wait for its budget.",
            ),
            LABELS,
            of_pods(|budget| budget.held_back),
        );
        self.list(
            (
                "mesh_agent_budget_refused_total",
                "counter",
                "How often something that was asked for or of a pod was refused for its budget.",
            ),
            LABELS,
            of_pods(|budget| budget.refused),
        );
    }
}
