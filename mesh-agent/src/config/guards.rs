// SPDX-License-Identifier: Apache-2.0

//! Which AuthorizationPolicies and RequestAuthentications are for which pod.
//!
//! Those of the pod's namespace and of the root namespace, by labels or by the Services that the
//! pod is behind. Knows nothing of rules. Invariant: pods with the same policies share one value.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    aim::Aim,
    authorization_facts::AuthorizationFacts,
    dirty::Dirty,
    facts::{Findings, Meta, Name, Shelf},
    index::Shelves,
    mesh_config::Providers,
    object::Kind,
    pod::PodFacts,
    pods::{Pods, Touched},
    problem::{Origin, Problem, Severity, code},
    selection::has_labels,
    service::{ServiceFacts, Target},
    token_rules::RequestAuthenticationFacts,
};
use crate::model::{
    TrustDomains,
    authorization::{Attached, Authorization},
    token::{AttachedRules, Authentication},
};

/// Ports of a pod, if not all.
type Ports = Option<Arc<[u16]>>;

/// A kind of policy that is for pods.
pub(super) trait Guard: PartialEq + Sized {
    /// What a pod's policies of the kind make up.
    type Made;

    /// What they are made up with.
    type With;

    const KIND: Kind;

    fn meta(&self) -> &Meta;

    fn aim(&self) -> &Aim;

    fn make<'a>(attached: impl Iterator<Item = (&'a Self, Ports)>, with: &Self::With) -> Self::Made
    where
        Self: 'a;
}

/// What AuthorizationPolicies are made up with.
#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    pub(super) providers: Providers,
    pub(super) trust_domains: TrustDomains,
}

impl Guard for AuthorizationFacts {
    type Made = Authorization;
    type With = Surroundings;

    const KIND: Kind = Kind::AuthorizationPolicy;

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn aim(&self) -> &Aim {
        &self.aim
    }

    fn make<'a>(
        attached: impl Iterator<Item = (&'a Self, Ports)>,
        with: &Surroundings,
    ) -> Authorization {
        let attached = attached.map(|(facts, ports)| Attached {
            policy: facts.policy.known_by(&with.trust_domains),
            ports,
            provider: facts
                .policy
                .provider()
                .and_then(|name| with.providers.get(name))
                .map(Arc::clone),
        });
        Authorization::new(attached.collect())
    }
}

impl Guard for RequestAuthenticationFacts {
    type Made = Authentication;
    type With = ();

    const KIND: Kind = Kind::RequestAuthentication;

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn aim(&self) -> &Aim {
        &self.aim
    }

    fn make<'a>(attached: impl Iterator<Item = (&'a Self, Ports)>, (): &()) -> Authentication {
        let attached = attached.map(|(facts, ports)| AttachedRules {
            name: format!("{}/{}", facts.meta.namespace, facts.meta.name).into(),
            rules: facts.rules.clone(),
            ports,
        });
        Authentication::new(attached.collect())
    }
}

/// A policy's place in the list, and the ports that it is about, if not all.
type Place = (usize, Ports);

/// Tells the policies of pods.
pub(super) struct Guards<'a, T: Guard> {
    policies: Vec<(&'a T, &'a Origin)>,
    by_namespace: HashMap<&'a str, Vec<usize>>,
    everywhere: Vec<usize>,
    services: &'a Shelf<ServiceFacts>,
    with: T::With,
    made: RefCell<HashMap<Vec<Place>, Arc<T::Made>>>,
}

impl<'a, T: Guard> Guards<'a, T> {
    pub(super) fn new(
        policies: &'a Shelf<T>,
        services: &'a Shelf<ServiceFacts>,
        root_namespace: &str,
        with: T::With,
    ) -> Self {
        let policies: Vec<_> = policies.iter().collect();
        let mut by_namespace: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut everywhere = Vec::new();
        for (index, (policy, _)) in policies.iter().enumerate() {
            match (policy.aim(), &*policy.meta().namespace) {
                (Aim::Pods(_), namespace) if namespace == root_namespace => everywhere.push(index),
                (_, namespace) => by_namespace.entry(namespace).or_default().push(index),
            }
        }
        Self {
            policies,
            by_namespace,
            everywhere,
            services,
            with,
            made: RefCell::default(),
        }
    }

    /// The policies of `pod`.
    pub(super) fn of(&self, pod: &PodFacts) -> Arc<T::Made> {
        let own = self.by_namespace.get(&*pod.meta.namespace);
        let indices = self.everywhere.iter().chain(own.into_iter().flatten());
        let places: Vec<Place> = indices
            .filter_map(|index| Some((*index, self.ports(*index, pod)?)))
            .collect();
        if let Some(known) = self.made.borrow().get(&places) {
            return Arc::clone(known);
        }
        let attached = places.iter();
        let attached = attached.map(|(index, ports)| (self.policies[*index].0, ports.clone()));
        let made = Arc::new(T::make(attached, &self.with));
        self.made.borrow_mut().insert(places, Arc::clone(&made));
        made
    }

    /// Whether the policy is for `pod`, and at which ports if not at all.
    fn ports(&self, index: usize, pod: &PodFacts) -> Option<Ports> {
        let (policy, _) = &self.policies[index];
        let targets = match policy.aim() {
            Aim::Pods(labels) => return has_labels(&pod.labels, labels).then_some(None),
            Aim::Services(targets) => targets,
        };
        let namespace = &policy.meta().namespace;
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
            let Aim::Services(targets) = policy.aim() else {
                continue;
            };
            let mut findings = findings(*policy, origin);
            let namespace = &policy.meta().namespace;
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

impl Guards<'_, AuthorizationFacts> {
    /// Providers that policies name and that cannot be asked.
    pub(super) fn check_providers(&self) -> Vec<Findings> {
        let mut all = Vec::new();
        for (policy, origin) in &self.policies {
            let Some(name) = policy.policy.provider() else {
                continue;
            };
            let text = match self.with.providers.get(name) {
                None => format!(
                    "no provider {name:?} can be asked by the extensionProviders of the mesh: the \
                     policy denies what it matches"
                ),
                Some(provider) => {
                    let to = &provider.service;
                    let service = self.services.get(&to.namespace, &to.name);
                    let mut ports = service.iter().flat_map(|service| &service.ports);
                    if ports.any(|port| port.number == provider.port) {
                        continue;
                    }
                    format!(
                        "the provider's Service {}/{} with a port {} is not there: what the policy \
                         matches is answered {}",
                        to.namespace,
                        to.name,
                        provider.port,
                        if provider.fail_open {
                            "as if it were allowed"
                        } else {
                            provider.status_on_error.as_str()
                        },
                    )
                }
            };
            let mut findings = findings(*policy, origin);
            findings.add(
                Severity::Error,
                code::REFERENCE,
                "spec.provider.name",
                text,
                "define envoyExtAuthzHttp or envoyExtAuthzGrpc under extensionProviders in the \
                 ConfigMap istio of the root namespace",
            );
            all.push(findings);
        }
        all
    }
}

/// The pods that each policy of a kind with labels is for, and whether they are in the mesh. A policy for all
/// pods of a namespace, or of the mesh, needs no pod to make sense.
#[derive(Debug, Default)]
pub(super) struct Selected(HashMap<Name, BTreeMap<Name, bool>>);

impl Selected {
    /// Takes in what changed.
    pub(super) fn update<T: Guard>(
        &mut self,
        policies: &Shelf<T>,
        shelves: &Shelves,
        root_namespace: &str,
        pods: &Pods,
        (dirty, touched): (&Dirty, &Touched),
    ) {
        let changed = dirty.policies.iter();
        for (_, name) in changed.filter(|(kind, _)| *kind == T::KIND) {
            self.0.remove(name);
        }
        for (policy, _) in policies.iter() {
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
    pub(super) fn check<T: Guard>(
        &self,
        policies: &Shelf<T>,
        root_namespace: &str,
        pods: &Pods,
        problems: &mut BTreeSet<Problem>,
    ) {
        for (policy, origin) in policies.iter() {
            let mut findings = findings(policy, origin);
            if let Some(pods) = self.0.get(&name(policy)) {
                tell(pods, &mut findings);
            } else if *policy.meta().namespace != *root_namespace
                && pods.is_left_out(&policy.meta().namespace)
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

fn name(policy: &impl Guard) -> Name {
    let meta = policy.meta();
    (Arc::clone(&meta.namespace), Arc::clone(&meta.name))
}

/// The labels of the pods that a policy is for, if it has any.
fn labels(policy: &impl Guard) -> Option<&BTreeMap<String, String>> {
    match policy.aim() {
        Aim::Pods(labels) if !labels.is_empty() => Some(labels),
        Aim::Pods(_) | Aim::Services(_) => None,
    }
}

fn findings<T: Guard>(policy: &T, origin: &Origin) -> Findings {
    Findings::new(policy.meta().to_ref(T::KIND.as_str()), origin.clone())
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
