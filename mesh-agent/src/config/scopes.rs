// SPDX-License-Identifier: Apache-2.0

//! What the clients of each pod see: which Sidecar counts for them, if any.
//!
//! One that selects the pod, else its namespace's, else the root namespace's; of several at one place the
//! oldest. Said of the enrolled pods of this node only: nobody asks for that of others. Those
//! for whom rules may look other than for their namespace have a view. Reference: Istio
//! `pilot/pkg/model/push_context.go` (`getSidecarScope`).

use std::{collections::HashMap, sync::Arc};

use super::{
    destination_rule::DestinationRuleFacts,
    facts::{Findings, Shelf},
    index::IndexSettings,
    pod::PodFacts,
    problem::{Severity, code},
    selection::has_labels,
    sidecar::SidecarFacts,
};
use crate::model::{Scope, View};

/// What there is to choose among.
#[derive(Debug)]
pub(super) struct Scopes<'a> {
    /// Where nothing else is said.
    mesh: Arc<Scope>,
    /// The root namespace's, which counts where a namespace has none.
    root: Option<&'a SidecarFacts>,
    /// That of pods whose traffic is not taken here.
    unasked: Arc<Scope>,
    /// By namespace, the oldest first.
    selecting: HashMap<&'a str, Vec<&'a SidecarFacts>>,
    whole: HashMap<&'a str, &'a SidecarFacts>,
    rules: &'a Shelf<DestinationRuleFacts>,
    /// What is wrong with Sidecars taken together.
    pub(super) findings: Vec<Findings>,
}

impl<'a> Scopes<'a> {
    pub(super) fn new(
        settings: &IndexSettings,
        sidecars: &'a Shelf<SidecarFacts>,
        rules: &'a Shelf<DestinationRuleFacts>,
    ) -> Self {
        let mut scopes = Self {
            mesh: Arc::new(Scope {
                policy: settings.outbound,
                ..Scope::default()
            }),
            root: None,
            rules,
            unasked: Arc::default(),
            selecting: HashMap::new(),
            whole: HashMap::new(),
            findings: Vec::new(),
        };
        let mut sorted: Vec<_> = sidecars.iter().collect();
        sorted.sort_by_key(|(sidecar, _)| sidecar.meta.seniority());
        for (sidecar, origin) in sorted {
            let namespace = &*sidecar.meta.namespace;
            if !sidecar.selector.is_empty() {
                let selecting = scopes.selecting.entry(namespace).or_default();
                selecting.push(sidecar);
            } else if let Some(first) = scopes.whole.get(namespace) {
                let winner = first.meta.to_ref("Sidecar");
                let mut findings = Findings::new(sidecar.meta.to_ref("Sidecar"), origin.clone());
                findings.add(
                    Severity::Error,
                    code::SIDECAR_CONFLICT,
                    "spec.workloadSelector",
                    format!("{winner} is older and is for the whole namespace, too: this object has no effect"),
                    "keep one of them, or add a workloadSelector",
                );
                scopes.findings.push(findings);
            } else {
                scopes.whole.insert(namespace, sidecar);
            }
        }
        scopes.root = scopes.whole.get(&*settings.root_namespace).copied();
        scopes
    }

    /// What a pod's clients see; `asked` is whether its traffic is taken here.
    pub(super) fn of(&self, pod: &PodFacts, asked: bool) -> Arc<Scope> {
        if !asked {
            return Arc::clone(&self.unasked);
        }
        let namespace = &*pod.meta.namespace;
        let selecting = self.selecting.get(namespace).into_iter().flatten();
        let selecting = selecting.copied();
        let own = selecting
            .filter(|sidecar| has_labels(&pod.labels, &sidecar.selector))
            .chain(self.whole.get(namespace).copied())
            .next();
        let sidecar = own.or(self.root);
        let scope = sidecar.map_or(&self.mesh, |sidecar| &sidecar.scope);
        let rules = self.rules.in_namespace(namespace);
        let rules = rules.filter(|(_, rule)| rule.is_for(&pod.labels));
        let rules: Vec<Arc<str>> = rules.map(|(name, _)| Arc::clone(&name.1)).collect();
        let narrow = sidecar.filter(|_| scope.is_narrow());
        if narrow.is_none() && rules.is_empty() {
            return Arc::clone(scope);
        }
        let because = narrow.map(|sidecar| sidecar.meta.to_ref("Sidecar").to_string());
        let chosen = rules.iter().map(|name| format!("DestinationRule {name}"));
        let because: Vec<String> = because.into_iter().chain(chosen).collect();
        let key = format!("{namespace} ({})", because.join(", ")).into();
        Arc::new(Scope {
            view: Some(View { key, rules }),
            ..Scope::clone(scope)
        })
    }
}
