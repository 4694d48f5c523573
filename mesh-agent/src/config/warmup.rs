// SPDX-License-Identifier: Apache-2.0

//! `warmup` and `warmupDurationSecs`, checked and compiled.
//!
//! Reference: Istio `pilot/pkg/networking/core/cluster_traffic_policy.go` (`setSlowStartConfig`): only
//! round robin and least requests have it.

use super::{
    facts::Findings,
    istio::LoadBalancer,
    problem::{Severity, code},
    resolve,
};
use crate::model::{Balancer, warmup::Warmup};

/// Compiles what is written for `balancer`, if anything is.
pub(super) fn read(
    written: &LoadBalancer,
    balancer: Option<&Balancer>,
    path: &str,
    findings: &mut Findings,
) -> Option<Warmup> {
    let settings = written.warmup.as_ref();
    let (field, text) = match (settings, &written.warmup_duration_secs) {
        (None, None) => return None,
        (Some(settings), _) => ("warmup.duration", settings.duration.as_deref()),
        (None, Some(text)) => ("warmupDurationSecs", Some(text.as_str())),
    };
    let length = text.and_then(resolve::duration);
    let Some(length) = length.filter(|length| length.as_millis() > 0) else {
        let said = format!("{:?} is not a duration", text.unwrap_or_default());
        findings.reject(format!("{path}.{field}"), said, "write it as 60s");
        return None;
    };
    let thousandths = |number: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "what is out of bounds becomes the bound"
        )]
        let whole = number.round() as u32;
        whole
    };
    let percent = settings.and_then(|one| one.minimum_percent).unwrap_or(10.0);
    let aggression = settings.and_then(|one| one.aggression).unwrap_or(1.0);
    if !(0.0..=100.0).contains(&percent) {
        let text = format!("{percent} is not a percentage");
        findings.reject(
            format!("{path}.warmup.minimumPercent"),
            text,
            "use 0 to 100",
        );
        return None;
    }
    if !(1.0..=1_000_000.0).contains(&aggression) {
        let text = format!("{aggression} is less than 1");
        findings.reject(format!("{path}.warmup.aggression"), text, "use 1 or more");
        return None;
    }
    if matches!(balancer, Some(Balancer::Random | Balancer::Hash(_))) {
        findings.add(
            Severity::Warning,
            code::WITHOUT_EFFECT,
            format!("{path}.{field}"),
            "has no effect with this balancer: new endpoints get as much as others",
            "use ROUND_ROBIN or LEAST_REQUEST",
        );
        return None;
    }
    Some(Warmup {
        length,
        at_first: thousandths(percent * 10.0),
        aggression: thousandths(aggression * 1_000.0),
    })
}
