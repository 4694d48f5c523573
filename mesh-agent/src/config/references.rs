// SPDX-License-Identifier: Apache-2.0

//! What is wrong between objects: names that nothing has, claims that contradict each other.
//!
//! Destinations and backends are checked where they are resolved, in `routes.rs`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{
    attachment,
    dirty::Dirty,
    endpoints::Endpoints,
    facts::{Findings, Meta, Name},
    index::{IndexSettings, Shelves},
    object::Kind,
    pods::{Pods, Touched},
    policy::PeerAuthenticationFacts,
    problem::{Origin, Problem, Severity, code},
    resolve::{HostPattern, Visibility},
    selection::has_labels,
    virtual_service::VirtualServiceFacts,
};

/// What is wrong between objects, as far as it is worth remembering.
#[derive(Debug, Default)]
pub(super) struct References {
    /// Between Services and what routes.
    routing: BTreeSet<Problem>,
    /// A pod that each PeerAuthentication selects, if there is one.
    selected: HashMap<Name, Option<Name>>,
}

impl References {
    /// Takes in what changed.
    pub(super) fn update(
        &mut self,
        shelves: &Shelves,
        settings: &IndexSettings,
        endpoints: &Endpoints,
        pods: &Pods,
        dirty: &Dirty,
        touched: &Touched,
    ) {
        let hosts = !dirty.services.is_empty() || !dirty.entries.is_empty();
        if hosts || !dirty.routing.is_empty() {
            self.routing.clear();
            let mut checker = Checker {
                problems: &mut self.routing,
            };
            checker.hosts(shelves, endpoints);
            checker.rules(shelves, endpoints);
            checker.host_conflicts(shelves);
            checker.parents(shelves);
            checker.vips(shelves);
        }
        let changed = dirty.policies.iter();
        for (_, name) in changed.filter(|(kind, _)| *kind == Kind::PeerAuthentication) {
            self.selected.remove(name);
        }
        for (peer, _) in shelves.peer_authentications.iter() {
            let root = *peer.meta.namespace == *settings.root_namespace;
            if !peer.selector.is_empty() && !root {
                self.select(shelves, pods, touched, peer);
            }
        }
    }

    /// Looks for a pod that `peer` selects, if that is not known from before.
    fn select(
        &mut self,
        shelves: &Shelves,
        pods: &Pods,
        touched: &Touched,
        peer: &PeerAuthenticationFacts,
    ) {
        let namespace = &peer.meta.namespace;
        let name = (Arc::clone(namespace), Arc::clone(&peer.meta.name));
        let mut all = pods.in_namespace(&shelves.pods, namespace);
        let found = match self.selected.get(&name) {
            Some(Some(pod)) if !touched.pods.contains(pod) => return,
            Some(None) => touched.pods.iter().find(|pod| {
                let view = pods.view(&shelves.pods, pod);
                pod.0 == *namespace
                    && view.is_some_and(|view| has_labels(&view.facts.labels, &peer.selector))
            }),
            _ => all
                .find(|(_, pod)| has_labels(&pod.facts.labels, &peer.selector))
                .map(|(name, _)| name),
        };
        self.selected.insert(name, found.cloned());
    }

    /// Adds what is wrong to `problems`.
    pub(super) fn check(&self, shelves: &Shelves, pods: &Pods, problems: &mut BTreeSet<Problem>) {
        problems.extend(self.routing.iter().cloned());
        let mut checker = Checker { problems };
        checker.selectors(shelves, &self.selected);
        checker.addresses(shelves, pods);
        checker.namespaces(shelves, pods);
    }
}

struct Checker<'p> {
    problems: &'p mut BTreeSet<Problem>,
}

impl Checker<'_> {
    #[expect(clippy::too_many_arguments, reason = "the parts of one problem")]
    fn add(
        &mut self,
        severity: Severity,
        code: &'static str,
        kind: &str,
        meta: &Meta,
        origin: &Origin,
        field: &str,
        text: String,
        fix: &str,
    ) {
        let mut findings = Findings::new(meta.to_ref(kind), origin.clone());
        findings.add(severity, code, field, text, fix);
        self.problems.extend(findings.problems);
    }

    /// Hosts of VirtualServices that no Service has.
    fn hosts(&mut self, shelves: &Shelves, endpoints: &Endpoints) {
        for (facts, origin) in shelves
            .virtual_services
            .iter()
            .filter(|(facts, _)| facts.in_mesh)
        {
            for (index, host) in facts.hosts.iter().enumerate() {
                if !is_known(host, endpoints) {
                    let field = format!("spec.hosts[{index}]");
                    let text = format!(
                        "no Service has the host {}: nothing is routed for it",
                        name(host)
                    );
                    let fix = "name a Service, as <name> in its own namespace or as <name>.<namespace>.svc.<domain>";
                    self.add(
                        Severity::Warning,
                        code::REFERENCE,
                        "VirtualService",
                        &facts.meta,
                        origin,
                        &field,
                        text,
                        fix,
                    );
                }
            }
        }
    }

    /// Hosts of DestinationRules that no Service has.
    fn rules(&mut self, shelves: &Shelves, endpoints: &Endpoints) {
        for (facts, origin) in shelves.destination_rules.iter() {
            if !is_known(&facts.host, endpoints) {
                let text = format!(
                    "no Service has the host {}: the rule has no effect",
                    name(&facts.host)
                );
                let fix = "name a Service, as <name> in its own namespace or as <name>.<namespace>.svc.<domain>";
                self.add(
                    Severity::Warning,
                    code::REFERENCE,
                    "DestinationRule",
                    &facts.meta,
                    origin,
                    "spec.host",
                    text,
                    fix,
                );
            }
        }
    }

    /// Several VirtualServices with one host, for the same clients.
    fn host_conflicts(&mut self, shelves: &Shelves) {
        let mut sorted: Vec<_> = shelves
            .virtual_services
            .iter()
            .filter(|(facts, _)| facts.in_mesh)
            .collect();
        sorted.sort_by_key(|(facts, _)| facts.meta.seniority());
        let mut claims: BTreeMap<&HostPattern, Vec<&VirtualServiceFacts>> = BTreeMap::new();
        for (facts, origin) in sorted {
            for (index, host) in facts.hosts.iter().enumerate() {
                let elders = claims.entry(host).or_default();
                let elder = elders
                    .iter()
                    .find(|elder| overlap(&elder.visibility, &facts.visibility))
                    .filter(|elder| meet(elder, facts));
                if let Some(elder) = elder.filter(|elder| elder.meta != facts.meta) {
                    let winner = elder.meta.to_ref("VirtualService");
                    let text = format!(
                        "{winner} has the host {} too, and decides alone",
                        name(host)
                    );
                    let field = format!("spec.hosts[{index}]");
                    let fix = "merge the two into one";
                    self.add(
                        Severity::Error,
                        code::HOST_CONFLICT,
                        "VirtualService",
                        &facts.meta,
                        origin,
                        &field,
                        text,
                        fix,
                    );
                }
                elders.push(facts);
            }
        }
    }

    /// Parents of routes that do not exist, or that no captured connection names.
    fn parents(&mut self, shelves: &Shelves) {
        for (route, origin) in shelves.routes() {
            for parent in &route.parents {
                let name = &parent.service;
                let service = shelves.services.get(&name.namespace, &name.name);
                if let Err(text) = attachment::ports(route.kind, parent, service) {
                    self.add(
                        Severity::Error,
                        code::REFERENCE,
                        route.kind.as_str(),
                        &route.meta,
                        origin,
                        &parent.field,
                        text,
                        attachment::FIX,
                    );
                }
            }
        }
    }

    /// PeerAuthentications that select no pod.
    fn selectors(&mut self, shelves: &Shelves, selected: &HashMap<Name, Option<Name>>) {
        for (name, pod) in selected {
            if let (Some((peer, origin)), None) = (shelves.peer_authentications.find(name), pod) {
                let text = "no pod has these labels: the object has no effect".to_owned();
                let fix = "use labels of the pods, not of their Deployment";
                let field = "spec.selector.matchLabels";
                self.add(
                    Severity::Warning,
                    code::NO_WORKLOADS,
                    "PeerAuthentication",
                    &peer.meta,
                    origin,
                    field,
                    text,
                    fix,
                );
            }
        }
    }

    /// Pods that share an address.
    fn addresses(&mut self, shelves: &Shelves, pods: &Pods) {
        for (address, claimants) in pods.same_address.contested() {
            let mut claimants = claimants.iter();
            let owner = claimants.next().and_then(|name| shelves.pods.find(name));
            for name in claimants {
                let (Some((owner, _)), Some((pod, origin))) = (owner, shelves.pods.find(name))
                else {
                    continue;
                };
                let text = format!(
                    "{address} is also the address of {}, and counts as that pod's",
                    owner.meta.to_ref("Pod")
                );
                let fix = "give each pod its own address";
                self.add(
                    Severity::Error,
                    code::DUPLICATE,
                    "Pod",
                    &pod.meta,
                    origin,
                    "status.podIPs",
                    text,
                    fix,
                );
            }
        }
    }

    /// Services that share an address.
    fn vips(&mut self, shelves: &Shelves) {
        let mut owners: HashMap<IpAddr, &Meta> = HashMap::new();
        for (service, origin) in shelves.services.iter() {
            for vip in &service.vips {
                let owner = *owners.entry(*vip).or_insert(&service.meta);
                if *owner != service.meta {
                    let text = format!("{vip} is also the address of {}", owner.to_ref("Service"));
                    let fix = "give each Service its own ClusterIP";
                    self.add(
                        Severity::Error,
                        code::DUPLICATE,
                        "Service",
                        &service.meta,
                        origin,
                        "spec.clusterIPs",
                        text,
                        fix,
                    );
                }
            }
        }
    }

    /// Namespaces with pods, none of which is in the mesh.
    fn namespaces(&mut self, shelves: &Shelves, pods: &Pods) {
        for (namespace, origin) in shelves.namespaces.iter() {
            let meta = &namespace.meta;
            let undecided = !namespace.choice.keep_in && !namespace.choice.keep_out;
            if undecided && pods.is_left_out(&meta.name) {
                let text = "the namespace is not enrolled: its pods are not in the mesh".to_owned();
                let fix = format!(
                    "kubectl label namespace {} istio-injection=enabled",
                    meta.name
                );
                self.add(
                    Severity::Info,
                    code::NOT_ENROLLED,
                    "Namespace",
                    meta,
                    origin,
                    "metadata.labels",
                    text,
                    &fix,
                );
            }
        }
    }
}

/// Whether both have rules for HTTP, or for bytes.
fn meet(one: &VirtualServiceFacts, other: &VirtualServiceFacts) -> bool {
    let both = |has: fn(&VirtualServiceFacts) -> bool| has(one) && has(other);
    let idle = |facts: &VirtualServiceFacts| facts.rules.is_empty() && facts.opaque.is_empty();
    both(|facts| !facts.rules.is_empty())
        || both(|facts| !facts.opaque.is_empty())
        || idle(one)
        || idle(other)
}

fn overlap(one: &Visibility, other: &Visibility) -> bool {
    match (one, other) {
        (Visibility::Everyone, Visibility::Everyone) => true,
        (Visibility::Everyone, Visibility::Namespaces(names))
        | (Visibility::Namespaces(names), Visibility::Everyone) => !names.is_empty(),
        (Visibility::Namespaces(one), Visibility::Namespaces(other)) => !one.is_disjoint(other),
    }
}

fn name(host: &HostPattern) -> String {
    match host {
        HostPattern::Any => "*".to_owned(),
        HostPattern::Suffix(_, suffix) => format!("*{suffix}"),
        HostPattern::Exact(name) => name.to_string(),
    }
}

/// Whether a Service has such a host.
fn is_known(host: &HostPattern, endpoints: &Endpoints) -> bool {
    match host {
        HostPattern::Exact(name) => endpoints.has(name),
        wild => endpoints.hosts().any(|name| wild.matches(name)),
    }
}
