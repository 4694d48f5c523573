// SPDX-License-Identifier: Apache-2.0

//! What matters of an AuthorizationPolicy: which pods it is for, and its compiled form.
//!
//! Invariant: a policy that cannot be read denies what it selects, as far as that can be told, until
//! it has a good state.

use std::sync::Arc;

use serde_json::Value;

use super::{
    aim::{self, Aim, Written},
    authorization::{ActionSpec, AuthorizationPolicySpec},
    authorization_rules::Compiler,
    facts::{Findings, Meta},
    object::Resource,
    problem::{Severity, code},
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

impl AuthorizationFacts {
    pub(super) fn new(
        object: &Resource<Value>,
        trust_domain: &str,
        findings: &mut Findings,
    ) -> Self {
        let meta = Meta::new(&object.metadata);
        let name = format!("{}/{}", meta.namespace, meta.name);
        let dry_run = is_dry_run(object, findings);
        let spec: Option<AuthorizationPolicySpec> = findings.spec(&object.spec);
        let written = spec.as_ref().map(|spec| Written {
            selector: spec.selector.as_ref(),
            target_ref: spec.target_ref.as_ref(),
            target_refs: &spec.target_refs,
        });
        let aim = written.and_then(|written| written.aim(&meta, findings));
        let aim = aim.unwrap_or_else(|| Aim::Pods(aim::labels(&object.spec)));
        let policy = spec.map(|spec| {
            check(&spec, findings);
            let mut compiler = Compiler {
                namespace: &meta.namespace,
                trust_domain,
                action: spec.action,
                findings,
            };
            let rules = compiler.rules(&spec.rules);
            let provider = spec.provider.map(|provider| provider.name.as_str().into());
            Policy::new(&name, action(spec.action), dry_run, rules).asking(provider)
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

/// What must not be missing and what must not stand together.
fn check(spec: &AuthorizationPolicySpec, findings: &mut Findings) {
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
}
