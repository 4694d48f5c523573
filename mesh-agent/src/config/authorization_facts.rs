// SPDX-License-Identifier: Apache-2.0

//! What matters of an AuthorizationPolicy: which pods it is for, and its compiled form.
//!
//! Invariant: a policy that cannot be read denies what it selects, as far as that can be told, until
//! it has a good state.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use super::{
    authorization::{ActionSpec, AuthorizationPolicySpec, TargetRef},
    authorization_rules::Compiler,
    facts::{Findings, Meta},
    object::Resource,
    problem::{Severity, code},
    read,
    security::Selector,
};
use crate::model::authorization::{Action, Policy, Rule};

/// The annotation that makes a policy one that is told of, and not enforced.
pub(super) const DRY_RUN: &str = "istio.io/dry-run";

/// What matters of an AuthorizationPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AuthorizationFacts {
    pub(super) meta: Meta,
    pub(super) aim: Aim,
    pub(super) policy: Arc<Policy>,
    /// The policy could not be read, and denies everything in its place.
    pub(super) stopgap: bool,
}

/// Which pods a policy is for: of its namespace, or of all if that is the root namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// Those with these labels.
    Pods(BTreeMap<String, String>),
    /// Those behind these Services, at the ports that the Services lead to.
    Services(Vec<(Arc<str>, String)>),
}

impl AuthorizationFacts {
    pub(super) fn new(
        object: &Resource<Value>,
        trust_domain: &str,
        findings: &mut Findings,
    ) -> Self {
        let meta = Meta::new(&object.metadata);
        let name = format!("{}/{}", meta.namespace, meta.name);
        let dry_run = is_dry_run(object, findings);
        let spec: Option<AuthorizationPolicySpec> = match read::spec(object.spec.clone()) {
            Ok(spec) => Some(spec),
            Err(faults) => {
                for fault in faults {
                    findings.reject(fault.field, fault.text, fault.fix);
                }
                None
            }
        };
        let aim = spec.as_ref().and_then(|spec| aim(spec, &meta, findings));
        let aim = aim.unwrap_or_else(|| Aim::Pods(labels(&object.spec)));
        let policy = spec.map(|spec| {
            check(&spec, dry_run, findings);
            let mut compiler = Compiler {
                namespace: &meta.namespace,
                trust_domain,
                action: spec.action,
                findings,
            };
            let rules = compiler.rules(&spec.rules);
            Policy::new(&name, action(spec.action), dry_run, rules)
        });
        let stopgap = findings.rejected;
        let policy = policy.filter(|_| !stopgap);
        let policy = policy
            .unwrap_or_else(|| Policy::new(&name, Action::Deny, dry_run, vec![Rule::default()]));
        Self {
            meta,
            aim,
            policy: Arc::new(policy),
            stopgap,
        }
    }
}

fn action(spec: ActionSpec) -> Action {
    match spec {
        ActionSpec::Allow => Action::Allow,
        ActionSpec::Deny => Action::Deny,
        ActionSpec::Audit => Action::Audit,
        ActionSpec::Custom => Action::Custom,
    }
}

fn is_dry_run(object: &Resource<Value>, findings: &mut Findings) -> bool {
    let annotations = object.metadata.annotations.as_ref();
    let Some(value) = annotations.and_then(|all| all.get(DRY_RUN)) else {
        return false;
    };
    match value.as_str() {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => true,
        "0" | "f" | "F" | "false" | "False" | "FALSE" => false,
        other => {
            let text = format!("{other:?} is neither true nor false: the policy is enforced");
            let field = format!("metadata.annotations[{DRY_RUN}]");
            let fix = "write \"true\" or \"false\"";
            findings.add(Severity::Warning, code::SCHEMA, field, text, fix);
            false
        }
    }
}

/// The labels that a spec selects by, whatever else is wrong with it; none, and so all pods, if not
/// even they can be told.
fn labels(spec: &Value) -> BTreeMap<String, String> {
    let selector = spec.get("selector").cloned().unwrap_or_default();
    let selector = serde_json::from_value::<Option<Selector>>(selector);
    selector.ok().flatten().unwrap_or_default().match_labels
}

/// What must not be missing and what must not stand together.
fn check(spec: &AuthorizationPolicySpec, dry_run: bool, findings: &mut Findings) {
    let is_custom = spec.action == ActionSpec::Custom;
    if spec.rules.is_empty() && matches!(spec.action, ActionSpec::Deny | ActionSpec::Custom) {
        let action = action(spec.action).as_str();
        findings.reject(
            "spec.rules",
            format!("a {action} policy without rules means nothing"),
            "add rules; rules: [{}] matches everything",
        );
    }
    let provider = spec.provider.as_ref();
    let named = provider.is_some_and(|provider| !provider.name.is_empty());
    if is_custom && !named {
        findings.reject(
            "spec.provider.name",
            "a CUSTOM policy must name its provider",
            "name one",
        );
    }
    if !is_custom && provider.is_some() {
        findings.reject(
            "spec.provider",
            "only a CUSTOM policy has a provider",
            "remove it, or set action: CUSTOM",
        );
    }
    if is_custom && !dry_run {
        findings.add(
            Severity::Error,
            code::UNSUPPORTED,
            "spec.action",
            "CUSTOM is not supported yet: requests that the policy selects are denied",
            "use ALLOW and DENY if you can do without the provider",
        );
    }
}

/// Which pods are meant; `None` if that is said wrongly.
fn aim(spec: &AuthorizationPolicySpec, meta: &Meta, findings: &mut Findings) -> Option<Aim> {
    let mut targets: Vec<(&TargetRef, String)> = Vec::new();
    targets.extend(
        spec.target_ref
            .iter()
            .map(|it| (it, "spec.targetRef".to_owned())),
    );
    let listed = spec.target_refs.iter().enumerate();
    targets.extend(listed.map(|(index, it)| (it, format!("spec.targetRefs[{index}]"))));
    let ways = [
        spec.selector.is_some(),
        spec.target_ref.is_some(),
        !spec.target_refs.is_empty(),
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
        return Some(Aim::Pods(labels_of(spec)));
    }
    let mut services = Vec::new();
    for (target, field) in targets {
        services.extend(service(target, field, meta, findings));
    }
    Some(Aim::Services(services))
}

fn labels_of(spec: &AuthorizationPolicySpec) -> BTreeMap<String, String> {
    spec.selector.clone().unwrap_or_default().match_labels
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
