// SPDX-License-Identifier: Apache-2.0

//! `localityLbSetting`, checked and compiled.
//!
//! Reference: Istio `pkg/config/validation` (`validateLocalityLbSetting`),
//! `pilot/pkg/networking/core/loadbalancer`.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    facts::Findings,
    istio::{DestinationRuleSpec, Distribute, LoadBalancer, LocalityLb},
    problem::{Severity, code},
};
use crate::model::{
    Spread,
    locality::{NearLabel, Nearness, PlacePattern, Sharing},
};

/// Compiles a setting; `None` if it is rejected.
pub(super) fn read(written: &LocalityLb, path: &str, findings: &mut Findings) -> Option<Spread> {
    if written.enabled == Some(false) {
        return Some(Spread::Anywhere);
    }
    let further = !written.failover.is_empty() || !written.failover_priority.is_empty();
    if !written.distribute.is_empty() {
        if further {
            let text = "distribute excludes failover and failoverPriority";
            findings.reject(path, text, "choose one");
            return None;
        }
        return shares(&written.distribute, &format!("{path}.distribute"), findings);
    }
    let labels = written.failover_priority.iter();
    let labels: Vec<NearLabel> = labels
        .map(|label| match label.split_once('=') {
            Some((key, value)) => NearLabel {
                key: key.into(),
                value: Some(value.into()),
            },
            None => NearLabel {
                key: label.as_str().into(),
                value: None,
            },
        })
        .collect();
    let beyond = beyond(written, path, findings)?;
    let of_place = |label: &&String| label.starts_with("topology.kubernetes.io/");
    if let (Some(label), false) = (
        written.failover_priority.iter().find(of_place),
        beyond.is_empty(),
    ) {
        let text = format!("failover and {label} in failoverPriority exclude each other");
        findings.reject(path, text, "choose one");
        return None;
    }
    Some(Spread::Nearest(Nearness {
        by_place: labels.is_empty() || !beyond.is_empty(),
        labels,
        beyond,
    }))
}

/// Says which settings count for nothing, because no endpoint is ever found unfit.
pub(super) fn report_unwatched(spec: &DestinationRuleSpec, findings: &mut Findings) {
    let policies = spec.traffic_policy.iter();
    let general = policies.map(|policy| ("spec.trafficPolicy".to_owned(), policy));
    let inherited = spec.traffic_policy.as_ref();
    let inherited = inherited.is_some_and(|policy| policy.outlier_detection.is_some());
    let subsets = spec
        .subsets
        .iter()
        .enumerate()
        .filter_map(|(index, subset)| {
            let policy = subset.traffic_policy.as_ref()?;
            Some((format!("spec.subsets[{index}].trafficPolicy"), policy))
        });
    for (path, policy) in general.chain(subsets) {
        if policy.outlier_detection.is_none() && !inherited {
            report(policy.load_balancer.as_ref(), &path, findings);
        }
        for (index, of_port) in policy.port_level_settings.iter().enumerate() {
            if of_port.outlier_detection.is_none() {
                let path = format!("{path}.portLevelSettings[{index}]");
                report(of_port.load_balancer.as_ref(), &path, findings);
            }
        }
    }
}

fn report(written: Option<&LoadBalancer>, path: &str, findings: &mut Findings) {
    let Some(setting) = written.and_then(|written| written.locality_lb_setting.as_ref()) else {
        return;
    };
    let fields = [
        ("failover", !setting.failover.is_empty()),
        ("failoverPriority", !setting.failover_priority.is_empty()),
    ];
    for (field, _) in fields.iter().filter(|(_, written)| *written) {
        findings.add(
            Severity::Warning,
            code::WITHOUT_EFFECT,
            format!("{path}.loadBalancer.localityLbSetting.{field}"),
            "has no effect without outlierDetection: endpoints near and far are used alike",
            "add outlierDetection to the same policy",
        );
    }
}

/// Where the clients of each region go when they leave it.
fn beyond(
    written: &LocalityLb,
    path: &str,
    findings: &mut Findings,
) -> Option<Vec<(Arc<str>, Arc<str>)>> {
    let mut beyond = Vec::with_capacity(written.failover.len());
    for (index, failover) in written.failover.iter().enumerate() {
        let (from, to) = (failover.from.as_str(), failover.to.as_str());
        let region = |text: &str| !text.is_empty() && !text.contains(['/', '*']);
        if !region(from) || !region(to) || from == to {
            let text = format!("{from:?} and {to:?} are not two regions");
            findings.reject(format!("{path}.failover[{index}]"), text, "name two");
            return None;
        }
        beyond.push((from.into(), to.into()));
    }
    Some(beyond)
}

fn shares(written: &[Distribute], path: &str, findings: &mut Findings) -> Option<Spread> {
    let mut all: Vec<Sharing> = Vec::with_capacity(written.len());
    for (index, distribute) in written.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let from = pattern(&distribute.from, &format!("{path}.from"), findings)?;
        if let Some(other) = all.iter().position(|known| known.from.overlaps(&from)) {
            let text = format!("overlaps with that of distribute[{other}]");
            findings.reject(format!("{path}.from"), text, "name each place once");
            return None;
        }
        let to = to(&distribute.to, &format!("{path}.to"), findings)?;
        all.push(Sharing { from, to });
    }
    Some(Spread::Shares(all.into()))
}

fn to(
    written: &BTreeMap<String, u32>,
    path: &str,
    findings: &mut Findings,
) -> Option<Vec<(PlacePattern, u32)>> {
    let mut to: Vec<(PlacePattern, u32)> = Vec::with_capacity(written.len());
    for (text, weight) in written {
        let field = format!("{path}[{text}]");
        let pattern = pattern(text, &field, findings)?;
        if !(1..=100).contains(weight) {
            findings.reject(field, format!("{weight} is not a share"), "use 1 to 100");
            return None;
        }
        if to.iter().any(|(known, _)| known.overlaps(&pattern)) {
            findings.reject(field, "overlaps with another place", "name each place once");
            return None;
        }
        to.push((pattern, *weight));
    }
    let sum: u32 = to.iter().map(|(_, weight)| weight).sum();
    if sum != 100 {
        findings.reject(path, format!("the shares add up to {sum}"), "make it 100");
        return None;
    }
    Some(to)
}

fn pattern(text: &str, field: &str, findings: &mut Findings) -> Option<PlacePattern> {
    let pattern = PlacePattern::parse(text);
    if pattern.is_none() {
        let said = format!("{text:?} is not a place");
        findings.reject(field, said, "write it as region/zone/subzone or region/*");
    }
    pattern
}
