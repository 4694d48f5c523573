// SPDX-License-Identifier: Apache-2.0

//! What the clients of each pod see: which Sidecar counts for them, if any.
//!
//! One that selects the pod, else its namespace's, else the root namespace's; of several at one place the
//! oldest. Said of the enrolled pods of this node only: nobody asks for that of others. Reference:
//! Istio `pilot/pkg/model/push_context.go` (`getSidecarScope`).

use std::{collections::HashMap, sync::Arc};

use super::{
    facts::{Findings, Shelf},
    index::IndexSettings,
    pod::PodFacts,
    problem::{Severity, code},
    selection::has_labels,
    sidecar::SidecarFacts,
};
use crate::model::Scope;

/// What there is to choose among.
#[derive(Debug)]
pub(super) struct Scopes<'a> {
    /// Where nothing else is said.
    mesh: Arc<Scope>,
    /// That of pods whose traffic is not taken here.
    unasked: Arc<Scope>,
    /// By namespace, the oldest first.
    selecting: HashMap<&'a str, Vec<&'a SidecarFacts>>,
    whole: HashMap<&'a str, &'a SidecarFacts>,
    /// What is wrong with Sidecars taken together.
    pub(super) findings: Vec<Findings>,
}

impl<'a> Scopes<'a> {
    pub(super) fn new(settings: &IndexSettings, sidecars: &'a Shelf<SidecarFacts>) -> Self {
        let mut scopes = Self {
            mesh: Arc::new(Scope {
                policy: settings.outbound,
                hosts: None,
            }),
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
                    code::OVERRULED,
                    "spec.workloadSelector",
                    format!("{winner} is older and is for the whole namespace, too: this object has no effect"),
                    "keep one of them, or add a workloadSelector",
                );
                scopes.findings.push(findings);
            } else {
                scopes.whole.insert(namespace, sidecar);
            }
        }
        if let Some(root) = scopes.whole.get(&*settings.root_namespace) {
            scopes.mesh = Arc::clone(&root.scope);
        }
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
        Arc::clone(own.map_or(&self.mesh, |sidecar| &sidecar.scope))
    }
}
