// SPDX-License-Identifier: Apache-2.0

//! `retryBudget`, checked and compiled.
//!
//! Reference: Istio `TrafficPolicy.RetryBudget`; Envoy `CircuitBreakers.Thresholds.RetryBudget`.

use super::{facts::Findings, gaps, istio::RetryBudgetSettings, object::Present, resolve};
use crate::model::upstream::RetryBudget;

/// Compiles a budget; `None` if it is rejected.
pub(super) fn read(
    written: &RetryBudgetSettings,
    path: &str,
    findings: &mut Findings,
) -> Option<RetryBudget> {
    let path = format!("{path}.retryBudget");
    let percent = written.percent.unwrap_or(20.0);
    if !(0.0..=100.0).contains(&percent) {
        let text = format!("{percent} is not a percentage");
        findings.reject(format!("{path}.percent"), text, "use 0 to 100");
        return None;
    }
    let interval = written.budget_interval.as_deref();
    let long = interval.is_some_and(|text| resolve::duration(text).is_none_or(|it| !it.is_zero()));
    findings.gaps(&path, &[(gaps::BUDGET_INTERVAL, Present(long))]);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0 to a million"
    )]
    let per_million = (percent * 10_000.0).round() as u32;
    Some(RetryBudget {
        per_million,
        at_least: written.min_retry_concurrency.unwrap_or(3),
    })
}
