// SPDX-License-Identifier: Apache-2.0

//! `gateway.networking.x-k8s.io XBackendTrafficPolicy`: as it is written, checked and compiled.
//!
//! How many retries a Service's clients may have under way, where no DestinationRule says anything about
//! that. Knows nothing of requests. Reference: Gateway API GEP-3388; Istio
//! `pilot/pkg/config/kube/gateway/backend_policies.go`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::Deserialize;

use super::{
    facts::{Findings, Meta, Name, Shelf},
    gaps,
    index::Shelves,
    object::{Present, Resource, null_default},
    problem::{Origin, Problem, Severity, code},
    resolve,
};
use crate::model::{ObjectRef, UpstreamPolicy, upstream::RetryBudget};

/// What is not written, as the API has it.
const PERCENT: u32 = 20;
const COUNT: u32 = 10;

/// `XBackendTrafficPolicy.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTrafficPolicySpec {
    #[serde(deserialize_with = "null_default")]
    pub target_refs: Vec<PolicyTarget>,
    pub retry_constraint: Option<RetryConstraint>,
    pub session_persistence: Present,
}

/// One entry of `targetRefs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PolicyTarget {
    /// Empty for a Service.
    #[serde(deserialize_with = "null_default")]
    pub group: String,
    pub kind: String,
    pub name: String,
}

/// `retryConstraint`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryConstraint {
    pub budget: Option<Budget>,
    pub min_retry_rate: Option<RequestRate>,
}

/// `retryConstraint.budget`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Budget {
    pub percent: Option<u32>,
    pub interval: Option<String>,
}

/// `retryConstraint.minRetryRate`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RequestRate {
    pub count: Option<u32>,
    pub interval: Option<String>,
}

/// What matters of an XBackendTrafficPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BackendPolicyFacts {
    meta: Meta,
    /// Services.
    pub(super) targets: Vec<Name>,
    budget: Option<RetryBudget>,
}

impl BackendPolicyFacts {
    pub(super) fn new(
        object: &Resource<BackendTrafficPolicySpec>,
        findings: &mut Findings,
    ) -> Self {
        let meta = Meta::new(&object.metadata);
        let spec = &object.spec;
        let mut targets = Vec::with_capacity(spec.target_refs.len());
        for (index, target) in spec.target_refs.iter().enumerate() {
            let field = format!("spec.targetRefs[{index}]");
            match (target.group.as_str(), target.kind.as_str()) {
                ("" | "core", "Service") if !target.name.is_empty() => {
                    targets.push((Arc::clone(&meta.namespace), target.name.as_str().into()));
                }
                (group, kind) => {
                    let text = format!("{kind:?} of group {group:?} is no Service with a name");
                    findings.reject(field, text, "name a Service of the namespace");
                }
            }
        }
        let fields = [(gaps::POLICY_SESSION, spec.session_persistence)];
        findings.gaps("spec", &fields);
        let written = spec.retry_constraint.as_ref();
        Self {
            budget: written.and_then(|written| budget(written, findings)),
            targets,
            meta,
        }
    }
}

fn budget(written: &RetryConstraint, findings: &mut Findings) -> Option<RetryBudget> {
    let share = written.budget.clone().unwrap_or_default();
    let least = written.min_retry_rate.clone().unwrap_or_default();
    let percent = share.percent.unwrap_or(PERCENT);
    if percent > 100 {
        let text = format!("{percent} is not a percentage");
        findings.reject("spec.retryConstraint.budget.percent", text, "use 0 to 100");
        return None;
    }
    for (gap, path, interval) in [
        (gaps::CONSTRAINT_INTERVAL, "budget", share.interval),
        (gaps::RATE_INTERVAL, "minRetryRate", least.interval),
    ] {
        let fields = [(gap, Present(interval.is_some()))];
        findings.gaps(&format!("spec.retryConstraint.{path}"), &fields);
    }
    Some(RetryBudget {
        per_million: percent * 10_000,
        at_least: least.count.unwrap_or(COUNT),
    })
}

/// The budgets of all Services that have one, by host name, and which object says so.
#[derive(Debug, Default)]
pub(super) struct Budgets(BTreeMap<Arc<str>, (RetryBudget, ObjectRef)>);

impl Budgets {
    /// Of several for one Service the oldest counts.
    pub(super) fn new(shelf: &Shelf<BackendPolicyFacts>, domain: &str) -> Self {
        let mut all = BTreeMap::new();
        for facts in sorted(shelf).into_iter().map(|(facts, _)| facts) {
            let Some(budget) = facts.budget else { continue };
            for (namespace, name) in &facts.targets {
                let said = (budget, facts.meta.to_ref("XBackendTrafficPolicy"));
                let host = resolve::hostname(namespace, name, domain);
                all.entry(host).or_insert(said);
            }
        }
        Self(all)
    }

    /// How the endpoints of a host are used, and which object says so, where a DestinationRule says what
    /// is given.
    pub(super) fn applied(
        &self,
        host: &str,
        (policy, used): (Option<UpstreamPolicy>, Option<ObjectRef>),
    ) -> (Option<UpstreamPolicy>, Option<ObjectRef>) {
        let limits = policy.as_ref().map(|policy| policy.limits);
        let said = limits.is_some_and(|it| it.retry_budget.is_some() || it.retries.is_some());
        match self.0.get(host).filter(|_| !said) {
            None => (policy, used),
            Some((budget, origin)) => {
                let mut policy = policy.unwrap_or_default();
                policy.limits.retry_budget = Some(*budget);
                (Some(policy), used.or_else(|| Some(origin.clone())))
            }
        }
    }
}

type Stored<'a> = (&'a BackendPolicyFacts, &'a Origin);

fn sorted(shelf: &Shelf<BackendPolicyFacts>) -> Vec<Stored<'_>> {
    let mut sorted: Vec<_> = shelf.iter().collect();
    sorted.sort_by_key(|(facts, _)| facts.meta.seniority());
    sorted
}

/// What is wrong between policies and their targets.
pub(super) fn check(shelves: &Shelves, problems: &mut BTreeSet<Problem>) {
    let mut owners: BTreeMap<&Name, &Meta> = BTreeMap::new();
    for (facts, origin) in sorted(&shelves.backend_policies) {
        for (index, target) in facts.targets.iter().enumerate() {
            let owner = *owners.entry(target).or_insert(&facts.meta);
            let (severity, code, text, fix) = if shelves.services.find(target).is_none() {
                let text = format!("there is no Service {}/{}", target.0, target.1);
                let fix = "name a Service of the namespace";
                (Severity::Error, code::REFERENCE, text, fix)
            } else if *owner != facts.meta {
                let winner = owner.to_ref("XBackendTrafficPolicy");
                let text = format!("{winner} is older and decides for the Service");
                (
                    Severity::Warning,
                    code::OVERRULED,
                    text,
                    "merge the two into one",
                )
            } else {
                continue;
            };
            problems.insert(Problem {
                severity,
                code,
                object: Some(facts.meta.to_ref("XBackendTrafficPolicy")),
                origin: origin.clone(),
                field: format!("spec.targetRefs[{index}]"),
                text: format!("{text}: this has no effect there"),
                fix: fix.to_owned(),
            });
        }
    }
}
