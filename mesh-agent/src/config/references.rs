// SPDX-License-Identifier: Apache-2.0

//! What is wrong between objects: names that nothing has, claims that contradict each other.
//!
//! Destinations and backends are checked where they are resolved, in `routes.rs`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use super::{
    attachment,
    endpoints::{Catalog, PodView},
    facts::{Findings, Meta},
    index::{IndexSettings, Shelves},
    problem::{Origin, Problem, Severity, code},
    resolve::{HostPattern, Visibility},
    virtual_service::VirtualServiceFacts,
};

/// Adds what is wrong to `problems`.
pub(super) fn check(
    shelves: &Shelves,
    settings: &IndexSettings,
    catalog: &Catalog<'_>,
    pods: &[PodView<'_>],
    problems: &mut BTreeSet<Problem>,
) {
    let mut checker = Checker { problems };
    checker.hosts(shelves, catalog);
    checker.host_conflicts(shelves);
    checker.parents(shelves, catalog);
    checker.selectors(shelves, settings, pods);
    checker.addresses(shelves);
    checker.namespaces(shelves, pods);
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

    /// Hosts of VirtualServices and DestinationRules that no Service has.
    fn hosts(&mut self, shelves: &Shelves, catalog: &Catalog<'_>) {
        let known = |host: &HostPattern| match host {
            HostPattern::Exact(name) => catalog.services.contains_key(name),
            wild => catalog.services.keys().any(|name| wild.matches(name)),
        };
        for (facts, origin) in shelves
            .virtual_services
            .iter()
            .filter(|(facts, _)| facts.in_mesh)
        {
            for (index, host) in facts.hosts.iter().enumerate() {
                if !known(host) {
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
        for (facts, origin) in shelves.destination_rules.iter() {
            if !known(&facts.host) {
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
                    .find(|elder| overlap(&elder.visibility, &facts.visibility));
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
    fn parents(&mut self, shelves: &Shelves, catalog: &Catalog<'_>) {
        let services: HashMap<_, _> = catalog
            .services
            .values()
            .map(|view| (&view.name, view.facts))
            .collect();
        let routes = shelves.http_routes.iter().chain(shelves.grpc_routes.iter());
        for (route, origin) in routes {
            for parent in &route.parents {
                let service = services.get(&parent.service).copied();
                if let Err(text) = attachment::ports(parent, service) {
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
    fn selectors(&mut self, shelves: &Shelves, settings: &IndexSettings, pods: &[PodView<'_>]) {
        for (peer, origin) in shelves.peer_authentications.iter() {
            let is_selected = |pod: &PodView<'_>| {
                pod.facts.meta.namespace == peer.meta.namespace
                    && peer
                        .selector
                        .iter()
                        .all(|(key, value)| pod.facts.labels.get(key) == Some(value))
            };
            let root = *peer.meta.namespace == *settings.root_namespace;
            if !peer.selector.is_empty() && !root && !pods.iter().any(is_selected) {
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

    /// Pods and Services that share an address.
    fn addresses(&mut self, shelves: &Shelves) {
        let mut owners: HashMap<IpAddr, &Meta> = HashMap::new();
        for (pod, origin) in shelves
            .pods
            .iter()
            .filter(|(pod, _)| !pod.over && !pod.host_network)
        {
            for address in &pod.addresses {
                let owner = *owners.entry(*address).or_insert(&pod.meta);
                if *owner != pod.meta {
                    let text = format!(
                        "{address} is also the address of {}, and counts as that pod's",
                        owner.to_ref("Pod")
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
    fn namespaces(&mut self, shelves: &Shelves, pods: &[PodView<'_>]) {
        let mut enrolled: HashMap<&str, bool> = HashMap::new();
        for pod in pods.iter().filter(|pod| !pod.workload.host_network) {
            *enrolled.entry(&pod.facts.meta.namespace).or_default() |= pod.workload.enrolled;
        }
        for (namespace, origin) in shelves.namespaces.iter() {
            let meta = &namespace.meta;
            let undecided = !namespace.choice.keep_in && !namespace.choice.keep_out;
            if undecided && enrolled.get(&*meta.name) == Some(&false) {
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
