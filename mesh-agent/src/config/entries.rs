// SPDX-License-Identifier: Apache-2.0

//! ServiceEntries as Services: which of them a host belongs to, and what its endpoints are.
//!
//! A host is its Service's, if there is one; else the oldest ServiceEntry's that names it. Knows
//! nothing of clusters. Invariant: after an update everything here is as if all ServiceEntries had
//! been joined anew.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::jiff::Timestamp;

use super::{
    dirty::Dirty,
    facts::Name,
    index::Shelves,
    pods::{Pods, Touched},
    problem::{Origin, Problem, Severity, code},
    resolve,
    selection::{Selection, has_labels},
    service::{PortFacts, ServiceFacts, Target},
    service_entry::{ServiceEntryFacts, Source},
    workload_entry::{EntryEndpoint, EntrySocket, Place},
};
use crate::model::Workload;

/// Sockets, and whose they are.
type Sockets = Vec<EntrySocket>;

/// Which comes first of several: the oldest, then by name and namespace.
type Seniority = (Option<Timestamp>, Arc<str>, Arc<str>);

/// The hosts of all ServiceEntries.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// What each named when it was last looked at.
    named: HashMap<Name, (Seniority, Vec<Arc<str>>)>,
    claimants: BTreeMap<Arc<str>, BTreeSet<Seniority>>,
    /// Those that are no Service's.
    owned: BTreeMap<Arc<str>, Entry>,
    /// Those whose owner, or what that says, may be another than before.
    fresh: BTreeSet<Arc<str>>,
}

/// A host and the ServiceEntry that it belongs to.
#[derive(Debug)]
pub(super) struct Entry {
    owner: Name,
    pub(super) facts: ServiceFacts,
}

impl Entries {
    /// Takes in what changed; the hosts whose endpoints or owners may be others.
    pub(super) fn update(
        &mut self,
        shelves: &Shelves,
        domain: &str,
        dirty: &Dirty,
        touched: &Touched,
    ) -> BTreeSet<Arc<str>> {
        let mut hosts = BTreeSet::new();
        for name in &dirty.entries {
            self.rename(shelves, name, &mut hosts);
        }
        for (namespace, name) in &dirty.services {
            let host = resolve::hostname(namespace, name, domain);
            if self.claimants.contains_key(&host) {
                hosts.insert(host);
            }
        }
        for host in &hosts {
            self.own(shelves, host, domain);
        }
        self.fresh.clone_from(&hosts);
        let moved = |(_, entry): &(&Arc<str>, &Entry)| {
            let facts = shelves.service_entries.find(&entry.owner);
            facts.is_some_and(|(facts, _)| concerns(shelves, facts, dirty, touched))
        };
        let moved = self.owned.iter().filter(moved);
        hosts.extend(moved.map(|(host, _)| Arc::clone(host)));
        hosts
    }

    /// Notes which hosts a ServiceEntry names; adds those that it named before or names now.
    fn rename(&mut self, shelves: &Shelves, name: &Name, hosts: &mut BTreeSet<Arc<str>>) {
        if let Some((seniority, last)) = self.named.remove(name) {
            for host in last {
                if let Some(claimants) = self.claimants.get_mut(&host) {
                    claimants.remove(&seniority);
                    if claimants.is_empty() {
                        self.claimants.remove(&host);
                    }
                }
                hosts.insert(host);
            }
        }
        let Some((facts, _)) = shelves.service_entries.find(name) else {
            return;
        };
        let seniority = (facts.meta.created, Arc::clone(&name.1), Arc::clone(&name.0));
        let named: Vec<Arc<str>> = facts
            .hosts
            .iter()
            .map(|(host, _)| Arc::clone(host))
            .collect();
        for host in &named {
            let claimants = self.claimants.entry(Arc::clone(host)).or_default();
            claimants.insert(seniority.clone());
            hosts.insert(Arc::clone(host));
        }
        self.named.insert(name.clone(), (seniority, named));
    }

    /// Finds out whose a host is.
    fn own(&mut self, shelves: &Shelves, host: &Arc<str>, domain: &str) {
        self.owned.remove(host);
        if service_of(shelves, host, domain).is_some() {
            return;
        }
        let claimants = self.claimants.get(host);
        let Some((_, name, namespace)) = claimants.and_then(BTreeSet::first) else {
            return;
        };
        let owner = (Arc::clone(namespace), Arc::clone(name));
        let found = shelves.service_entries.find(&owner);
        let mut hosts = found.into_iter().flat_map(|(facts, _)| &facts.hosts);
        if let Some((_, facts)) = hosts.find(|(own, _)| own == host) {
            let facts = facts.clone();
            self.owned.insert(Arc::clone(host), Entry { owner, facts });
        }
    }

    /// The host, if it is a ServiceEntry's.
    pub(super) fn get(&self, host: &str) -> Option<&Entry> {
        self.owned.get(host)
    }

    /// Whether the last update may have changed more of the host than its endpoints.
    pub(super) fn is_new(&self, host: &str) -> bool {
        self.fresh.contains(host)
    }

    /// All names that are to be resolved.
    pub(super) fn names(&self, shelves: &Shelves) -> BTreeSet<Arc<str>> {
        let mut names = BTreeSet::new();
        for (host, entry) in &self.owned {
            let Some((facts, _)) = shelves.service_entries.find(&entry.owner) else {
                continue;
            };
            each_place(shelves, facts, |place| match place {
                None => drop(names.insert(Arc::clone(host))),
                Some(Place::Name(name)) => drop(names.insert(Arc::clone(name))),
                Some(Place::Address(_)) => {}
            });
        }
        names
    }

    /// Hosts that several claim.
    pub(super) fn problems(&self, shelves: &Shelves, problems: &mut BTreeSet<Problem>) {
        for (host, claimants) in &self.claimants {
            let owner = self.owned.get(host).map(|entry| &entry.owner);
            for (_, name, namespace) in claimants {
                let name = (Arc::clone(namespace), Arc::clone(name));
                let Some((facts, origin)) = shelves.service_entries.find(&name) else {
                    continue;
                };
                if owner != Some(&name) {
                    problems.insert(overruled(facts, origin, host, owner));
                }
            }
        }
    }
}

impl Entry {
    /// Whether an endpoint is in the mesh, and the sockets of each port.
    pub(super) fn sockets(
        &self,
        shelves: &Shelves,
        pods: &Pods,
        selection: &Selection<'_>,
    ) -> Vec<Sockets> {
        let ports = &self.facts.ports;
        let Some((facts, _)) = shelves.service_entries.find(&self.owner) else {
            return vec![Sockets::new(); ports.len()];
        };
        let finder = Finder { shelves, pods };
        let of_port = |port: &PortFacts| match &facts.source {
            Source::Original => Sockets::new(),
            Source::Host => finder.named(&self.facts.meta.name, port),
            Source::Listed(endpoints) => finder.all(endpoints.iter(), port),
            Source::Selected(labels) => {
                let mut found = finder.all(selected(shelves, facts, labels), port);
                found.extend(from_pods(port, &facts.meta.namespace, labels, selection));
                found
            }
        };
        ports.iter().map(of_port).collect()
    }
}

/// Finds sockets.
struct Finder<'a> {
    shelves: &'a Shelves,
    pods: &'a Pods,
}

impl Finder<'_> {
    fn pod(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.pods.by_address.get(&address)
    }

    fn named(&self, name: &Arc<str>, port: &PortFacts) -> Sockets {
        let addresses = self.shelves.resolved.get(name).into_iter().flatten();
        let number = target(port);
        let socket = |address: &IpAddr| {
            let pod = self.pod(*address).map(Arc::clone);
            ((*address, number).into(), pod, None, 1)
        };
        addresses.map(socket).collect()
    }

    fn all<'e>(
        &self,
        endpoints: impl Iterator<Item = &'e EntryEndpoint>,
        port: &PortFacts,
    ) -> Sockets {
        let mut sockets = Sockets::new();
        for endpoint in endpoints {
            let own;
            let addresses = match &endpoint.place {
                Place::Address(address) => {
                    own = [*address];
                    &own[..]
                }
                Place::Name(name) => self
                    .shelves
                    .resolved
                    .get(name)
                    .map_or(&[][..], Vec::as_slice),
            };
            let of = (&*port.name, target(port));
            let at = |address: &IpAddr| endpoint.at(*address, of, self.pod(*address));
            sockets.extend(addresses.iter().filter_map(at));
        }
        sockets
    }
}

fn target(port: &PortFacts) -> u16 {
    match port.target {
        Target::Number(number) => number,
        // Ports of ServiceEntries have none.
        Target::Name(_) => port.number,
    }
}

/// The WorkloadEntries that a ServiceEntry selects.
fn selected<'a>(
    shelves: &'a Shelves,
    facts: &'a ServiceEntryFacts,
    labels: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = &'a EntryEndpoint> {
    let all = shelves.workload_entries.in_namespace(&facts.meta.namespace);
    // As with pods, an empty selector selects nothing.
    all.filter(|(_, entry)| !labels.is_empty() && has_labels(&entry.labels, labels))
        .map(|(_, entry)| &entry.endpoint)
}

fn from_pods(
    port: &PortFacts,
    namespace: &str,
    labels: &BTreeMap<String, String>,
    selection: &Selection<'_>,
) -> Sockets {
    let mut sockets = Sockets::new();
    for pod in selection.select(namespace, labels) {
        for address in pod.facts.addresses.iter().filter(|_| pod.facts.ready) {
            let workload = Some(Arc::clone(&pod.workload));
            sockets.push(((*address, target(port)).into(), workload, None, 1));
        }
    }
    sockets
}

/// Each place where endpoints are; `None` is the host itself.
fn each_place(shelves: &Shelves, facts: &ServiceEntryFacts, mut each: impl FnMut(Option<&Place>)) {
    match &facts.source {
        Source::Original => {}
        Source::Host => each(None),
        Source::Listed(endpoints) => endpoints.iter().for_each(|one| each(Some(&one.place))),
        Source::Selected(labels) => {
            selected(shelves, facts, labels).for_each(|one| each(Some(&one.place)));
        }
    }
}

/// Whether a ServiceEntry's endpoints may be others than before.
fn concerns(
    shelves: &Shelves,
    facts: &ServiceEntryFacts,
    dirty: &Dirty,
    touched: &Touched,
) -> bool {
    if let Source::Selected(labels) = &facts.source {
        let namespace = &facts.meta.namespace;
        let mut entries = dirty.workload_entries.iter();
        if entries.any(|(of, _)| of == namespace) || touched.labels.may_match(namespace, labels) {
            return true;
        }
    }
    if dirty.names.is_empty() && touched.addresses.is_empty() {
        return false;
    }
    let mut concerned = false;
    let hosts = || facts.hosts.iter().map(|(host, _)| host);
    each_place(shelves, facts, |place| {
        let mut named = |name: &Arc<str>| {
            let addresses = shelves.resolved.get(name).into_iter().flatten();
            concerned |= dirty.names.contains(name);
            concerned |= addresses
                .into_iter()
                .any(|one| touched.addresses.contains(one));
        };
        match place {
            None => hosts().for_each(named),
            Some(Place::Name(name)) => named(name),
            Some(Place::Address(address)) => concerned |= touched.addresses.contains(address),
        }
    });
    concerned
}

/// The Service with this host name.
pub(super) fn service_of<'a>(
    shelves: &'a Shelves,
    host: &str,
    domain: &str,
) -> Option<&'a ServiceFacts> {
    let of_domain = host.strip_suffix(domain)?.strip_suffix(".svc.")?;
    let (name, namespace) = of_domain.split_once('.')?;
    shelves.services.get(&namespace.into(), &name.into())
}

fn overruled(
    facts: &ServiceEntryFacts,
    origin: &Origin,
    host: &str,
    owner: Option<&Name>,
) -> Problem {
    let winner = match owner {
        Some((namespace, name)) => format!("ServiceEntry {namespace}/{name}"),
        None => "a Service".to_owned(),
    };
    Problem {
        severity: Severity::Error,
        code: code::OVERRULED,
        object: Some(facts.meta.to_ref("ServiceEntry")),
        origin: origin.clone(),
        field: "spec.hosts".to_owned(),
        text: format!("{winner} has the host {host} too, and decides alone"),
        fix: "merge the two into one".to_owned(),
    }
}
