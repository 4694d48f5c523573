// SPDX-License-Identifier: Apache-2.0

//! Which AuthorizationPolicies are for which pod.
//!
//! Those of the pod's namespace and of the root namespace, by labels or by the Services that the
//! pod is behind. Knows nothing of rules. Invariant: pods with the same policies share one value.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    authorization_facts::{Aim, AuthorizationFacts},
    dirty::Dirty,
    facts::{Findings, Name, Shelf},
    index::Shelves,
    object::Kind,
    pod::PodFacts,
    pods::{Pods, Touched},
    problem::{Origin, Problem, Severity, code},
    selection::has_labels,
    service::{ServiceFacts, Target},
};
use crate::model::authorization::{Attached, Authorization};

/// A policy's place in the list, and the ports that it is about, if not all.
type Place = (usize, Option<Arc<[u16]>>);

/// Tells the policies of pods.
pub(super) struct Guards<'a> {
    policies: Vec<(&'a AuthorizationFacts, &'a Origin)>,
    by_namespace: HashMap<&'a str, Vec<usize>>,
    everywhere: Vec<usize>,
    services: &'a Shelf<ServiceFacts>,
    made: RefCell<HashMap<Vec<Place>, Arc<Authorization>>>,
}

impl<'a> Guards<'a> {
    pub(super) fn new(
        policies: &'a Shelf<AuthorizationFacts>,
        services: &'a Shelf<ServiceFacts>,
        root_namespace: &str,
    ) -> Self {
        let policies: Vec<_> = policies.iter().collect();
        let mut by_namespace: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut everywhere = Vec::new();
        for (index, (policy, _)) in policies.iter().enumerate() {
            match (&policy.aim, &*policy.meta.namespace) {
                (Aim::Pods(_), namespace) if namespace == root_namespace => everywhere.push(index),
                (_, namespace) => by_namespace.entry(namespace).or_default().push(index),
            }
        }
        Self {
            policies,
            by_namespace,
            everywhere,
            services,
            made: RefCell::default(),
        }
    }

    /// The policies of `pod`.
    pub(super) fn of(&self, pod: &PodFacts) -> Arc<Authorization> {
        let own = self.by_namespace.get(&*pod.meta.namespace);
        let indices = self.everywhere.iter().chain(own.into_iter().flatten());
        let places: Vec<Place> = indices
            .filter_map(|index| Some((*index, self.ports(*index, pod)?)))
            .collect();
        if let Some(known) = self.made.borrow().get(&places) {
            return Arc::clone(known);
        }
        let attached = places.iter().map(|(index, ports)| Attached {
            policy: Arc::clone(&self.policies[*index].0.policy),
            ports: ports.clone(),
        });
        let made = Arc::new(Authorization::new(attached.collect()));
        self.made.borrow_mut().insert(places, Arc::clone(&made));
        made
    }

    /// Whether the policy is for `pod`, and at which ports if not at all.
    fn ports(&self, index: usize, pod: &PodFacts) -> Option<Option<Arc<[u16]>>> {
        let (policy, _) = &self.policies[index];
        let targets = match &policy.aim {
            Aim::Pods(labels) => return has_labels(&pod.labels, labels).then_some(None),
            Aim::Services(targets) => targets,
        };
        let namespace = &policy.meta.namespace;
        let mut ports = Vec::new();
        let mut selected = false;
        for (name, _) in targets {
            let service = self.services.get(namespace, name);
            let behind = |it: &&ServiceFacts| {
                !it.selector.is_empty() && has_labels(&pod.labels, &it.selector)
            };
            if let Some(service) = service.filter(behind) {
                selected = true;
                ports.extend(service.ports.iter().filter_map(|port| match &port.target {
                    Target::Number(number) => Some(*number),
                    Target::Name(name) => pod.port(name),
                }));
            }
        }
        ports.sort_unstable();
        ports.dedup();
        selected.then(|| Some(ports.into()))
    }

    /// Services that are named and cannot be told pods of.
    pub(super) fn check_services(&self) -> Vec<Findings> {
        let mut all = Vec::new();
        for (policy, origin) in &self.policies {
            let Aim::Services(targets) = &policy.aim else {
                continue;
            };
            let mut findings = findings(policy, origin);
            let namespace = &policy.meta.namespace;
            for (name, field) in targets {
                let text = match self.services.get(namespace, name) {
                    None => format!("there is no Service {namespace}/{name}"),
                    Some(service) if service.selector.is_empty() => {
                        format!("Service {namespace}/{name} selects no pods")
                    }
                    Some(_) => continue,
                };
                findings.add(
                    Severity::Error,
                    code::REFERENCE,
                    field.clone(),
                    format!("{text}: the policy has no effect there"),
                    "name a Service of this namespace that has a selector",
                );
            }
            all.push(findings);
        }
        all
    }
}

/// The pods that each policy with labels is for, and whether they are in the mesh. A policy for all
/// pods of a namespace, or of the mesh, needs no pod to make sense.
#[derive(Debug, Default)]
pub(super) struct Selected(HashMap<Name, BTreeMap<Name, bool>>);

impl Selected {
    /// Takes in what changed.
    pub(super) fn update(
        &mut self,
        shelves: &Shelves,
        root_namespace: &str,
        pods: &Pods,
        dirty: &Dirty,
        touched: &Touched,
    ) {
        let changed = dirty.policies.iter();
        for (_, name) in changed.filter(|(kind, _)| *kind == Kind::AuthorizationPolicy) {
            self.0.remove(name);
        }
        for (policy, _) in shelves.authorization_policies.iter() {
            let Some(labels) = labels(policy) else {
                continue;
            };
            let name = name(policy);
            let root = *name.0 == *root_namespace;
            let enrolled = |pod: &Name| {
                let view = pods.view(&shelves.pods, pod)?;
                has_labels(&view.facts.labels, labels).then_some(view.workload.enrolled)
            };
            if let Some(known) = self.0.get_mut(&name) {
                let near = |pod: &&Name| root || pod.0 == name.0;
                for pod in touched.pods.iter().filter(near) {
                    match enrolled(pod) {
                        Some(enrolled) => drop(known.insert(pod.clone(), enrolled)),
                        None => drop(known.remove(pod)),
                    }
                }
                continue;
            }
            let near = shelves.pods.keys().filter(|pod| root || *pod.0 == name.0);
            let near = near.map(|(namespace, name)| (Arc::clone(namespace), Arc::clone(name)));
            let found = near.filter_map(|pod| enrolled(&pod).map(|enrolled| (pod, enrolled)));
            let found = found.collect();
            self.0.insert(name, found);
        }
    }

    /// Adds what is wrong to `problems`.
    pub(super) fn check(
        &self,
        shelves: &Shelves,
        root_namespace: &str,
        pods: &Pods,
        problems: &mut BTreeSet<Problem>,
    ) {
        for (policy, origin) in shelves.authorization_policies.iter() {
            let mut findings = findings(policy, origin);
            if let Some(pods) = self.0.get(&name(policy)) {
                tell(pods, &mut findings);
            } else if *policy.meta.namespace != *root_namespace
                && pods.is_left_out(&policy.meta.namespace)
            {
                findings.add(
                    Severity::Warning,
                    code::NOT_ENROLLED,
                    "metadata.namespace",
                    "no pod of the namespace is in the mesh: none is protected by it",
                    "enrol the namespace",
                );
            }
            problems.extend(findings.problems);
        }
    }
}

fn name(policy: &AuthorizationFacts) -> Name {
    let meta = &policy.meta;
    (Arc::clone(&meta.namespace), Arc::clone(&meta.name))
}

/// The labels of the pods that a policy is for, if it has any.
fn labels(policy: &AuthorizationFacts) -> Option<&BTreeMap<String, String>> {
    match &policy.aim {
        Aim::Pods(labels) if !labels.is_empty() => Some(labels),
        Aim::Pods(_) | Aim::Services(_) => None,
    }
}

fn findings(policy: &AuthorizationFacts, origin: &Origin) -> Findings {
    Findings::new(policy.meta.to_ref("AuthorizationPolicy"), origin.clone())
}

fn tell(pods: &BTreeMap<Name, bool>, findings: &mut Findings) {
    let field = "spec.selector.matchLabels";
    let mut outside = pods.iter().filter(|(_, enrolled)| !**enrolled);
    if pods.is_empty() {
        findings.add(
            Severity::Warning,
            code::NO_WORKLOADS,
            field,
            "no pod has these labels: the policy has no effect",
            "use labels of the pods, not of their Deployment",
        );
    } else if let Some(((_, first), _)) = outside.next() {
        let text = format!(
            "{} of {} pods are not in the mesh and not protected by it, {first} among them",
            outside.count() + 1,
            pods.len(),
        );
        let fix = "enrol their namespace, and pods that opted out";
        findings.add(Severity::Warning, code::NOT_ENROLLED, field, text, fix);
    }
}
