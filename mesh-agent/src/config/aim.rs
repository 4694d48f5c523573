// SPDX-License-Identifier: Apache-2.0

//! Which pods a security policy is for, as its selector or its targets say it.
//!
//! Knows nothing of what a policy asks for.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use super::{
    authorization::TargetRef,
    facts::{Findings, Meta},
    problem::{Severity, code},
    security::Selector,
};

/// Which pods a policy is for: of its namespace, or of all if that is the root namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// Those with these labels.
    Pods(BTreeMap<String, String>),
    /// Those behind these Services, at the ports that the Services lead to.
    Services(Vec<(Arc<str>, String)>),
}

/// The fields that say it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written<'a> {
    pub(super) selector: Option<&'a Selector>,
    pub(super) target_ref: Option<&'a TargetRef>,
    pub(super) target_refs: &'a [TargetRef],
}

/// The labels that a spec selects by, whatever else is wrong with it; none, and so all pods, if not
/// even they can be told.
pub(super) fn labels(spec: &Value) -> BTreeMap<String, String> {
    let selector = spec.get("selector").cloned().unwrap_or_default();
    let selector = serde_json::from_value::<Option<Selector>>(selector);
    selector.ok().flatten().unwrap_or_default().match_labels
}

impl Written<'_> {
    /// Which pods are meant; `None` if that is said wrongly.
    pub(super) fn aim(&self, meta: &Meta, findings: &mut Findings) -> Option<Aim> {
        let mut targets: Vec<(&TargetRef, String)> = Vec::new();
        let one = self.target_ref.iter();
        targets.extend(one.map(|it| (*it, "spec.targetRef".to_owned())));
        let listed = self.target_refs.iter().enumerate();
        targets.extend(listed.map(|(index, it)| (it, format!("spec.targetRefs[{index}]"))));
        let ways = [
            self.selector.is_some(),
            self.target_ref.is_some(),
            !self.target_refs.is_empty(),
        ];
        if ways.into_iter().filter(|way| *way).count() > 1 {
            findings.reject(
                "spec",
                "only one of selector, targetRef and targetRefs may be set",
                "keep one of them",
            );
            return None;
        }
        if targets.is_empty() {
            let selector = self.selector.cloned().unwrap_or_default();
            return Some(Aim::Pods(selector.match_labels));
        }
        let mut services = Vec::new();
        for (target, field) in targets {
            services.extend(service(target, field, meta, findings));
        }
        Some(Aim::Services(services))
    }
}

/// The Service that a target names.
fn service(
    target: &TargetRef,
    field: String,
    meta: &Meta,
    findings: &mut Findings,
) -> Option<(Arc<str>, String)> {
    if target.name.is_empty() || target.kind.is_empty() {
        let text = "kind and name must be set";
        findings.reject(field, text, "name a Service");
        return None;
    }
    if !target.namespace.is_empty() && target.namespace != *meta.namespace {
        let text = "a target must be in the namespace of the policy";
        findings.reject(field, text, "remove its namespace, or move the policy");
        return None;
    }
    match (target.group.as_str(), target.kind.as_str()) {
        ("" | "core", "Service") => Some((target.name.as_str().into(), field)),
        (_, kind) => {
            let text = format!("a {kind} is not what the mesh enforces policy at: no effect there");
            let (severity, code) = (Severity::Warning, code::UNSUPPORTED);
            findings.add(
                severity,
                code,
                field,
                text,
                "name a Service, or use a selector",
            );
            None
        }
    }
}
