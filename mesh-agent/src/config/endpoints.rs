// SPDX-License-Identifier: Apache-2.0

//! Services with their endpoints, and the clusters that routes send to.
//!
//! Endpoints come from EndpointSlices, else from the pods that the Service selects. Clusters and
//! the load of endpoints are carried over from the last snapshot where nothing changed.
//! Invariant: a cluster for one address family holds endpoints of that family only, because a
//! connection keeps the client's address.

mod catalog;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

pub(super) use self::catalog::Catalog;
use self::catalog::are_same;
use super::{
    destination_rule::SubsetFacts,
    dirty::Dirty,
    distribution::Distribution,
    entries::{self, Entries},
    facts::{Meta, Name, Shelf},
    index::Shelves,
    loads::Loads,
    nodes::{self, SlicePlace},
    pods::{PodView, Pods, Touched},
    resolve::{self, HostPattern},
    selection::Selection,
    service::{PortFacts, ServiceFacts, SliceFacts, Target},
    slices::{self, Slices},
    workload_entry::EntrySocket,
};
use crate::model::{Cluster, Endpoint, ObjectRef, Place, SharedMap, UpstreamPolicy, Workload};

/// Which endpoints a client of a VIP can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
    /// A headless Service has no VIP to tell.
    Both,
}

impl Family {
    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    pub(super) fn includes(self, address: IpAddr) -> bool {
        self == Self::Both || self == Self::of(address)
    }

    /// The families of a Service's VIPs.
    pub(super) fn all_of(service: &ServiceFacts) -> Vec<Self> {
        let mut families: Vec<Self> = service.vips.iter().map(|vip| Self::of(*vip)).collect();
        families
            .sort_by_key(|family| Some(*family) != service.vips.first().map(|vip| Self::of(*vip)));
        families.dedup();
        if families.is_empty() && service.reach.is_some() {
            // Told by the address that a connection was opened to.
            families.extend([Self::V4, Self::V6]);
        } else if families.is_empty() {
            families.push(Self::Both);
        }
        families
    }
}

/// A Service with all its endpoints.
#[derive(Debug)]
struct ServiceView {
    name: Name,
    /// Whether an endpoint is in the mesh, ready or not: capture must not come and go with readiness.
    enrolled: bool,
    /// Which endpoints are used first, if the Service or its namespace says so.
    distribution: Option<Distribution>,
    /// By position in the Service's ports.
    endpoints: Vec<Vec<Endpoint>>,
    clusters: HashMap<ClusterKey, Arc<Cluster>>,
    /// Those of the last snapshot, while it is not known which of them are the same.
    last: HashMap<ClusterKey, Arc<Cluster>>,
}

/// What tells a cluster from all others of its Service; a subset by its rule and name, its use by
/// that rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ClusterKey {
    port: u16,
    family: Family,
    subset: Option<(ObjectRef, Arc<str>)>,
    used: Option<ObjectRef>,
    /// By clients that connected to one of its endpoints.
    direct: bool,
}

/// What DestinationRules make of a Service's port.
#[derive(Clone, Default)]
pub(super) struct Shape<'s> {
    /// A part of the endpoints, and whose rule defines it.
    pub(super) subset: Option<(&'s SubsetFacts, &'s Meta)>,
    /// How the endpoints are used, and which rule says so.
    pub(super) used: Option<(UpstreamPolicy, ObjectRef)>,
}

/// All Services, by host name.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    views: BTreeMap<Arc<str>, ServiceView>,
    slices: Slices,
    /// What ExternalName Services stand for.
    aliases: BTreeMap<Name, Arc<str>>,
    loads: Loads,
    /// Where this node is.
    here: Option<Arc<Place>>,
}

/// What a Service has now.
struct Found {
    enrolled: bool,
    distribution: Option<Distribution>,
    ports: Vec<Sockets>,
}

impl Endpoints {
    /// Takes in what changed; returns the host names of Services that are not what they were, or
    /// that are gone.
    pub(super) fn update(
        &mut self,
        shelves: &Shelves,
        domain: &str,
        pods: &Pods,
        entries: &Entries,
        (dirty, touched): (&Dirty, &Touched),
    ) -> BTreeSet<Arc<str>> {
        let mut names = dirty.services.clone();
        self.slices
            .update(&shelves.slices, &dirty.slices, &mut names);
        slices::with_addresses(&shelves.slices, &touched.addresses, &mut names);
        nodes::with_nodes(&shelves.slices, &dirty.nodes, &mut names);
        self.selecting(&shelves.services, touched, &mut names);
        self.aliased(shelves, (dirty, touched), &mut names);
        for namespace in &dirty.namespaces {
            let services = shelves.services.in_namespace(namespace);
            names.extend(services.map(|(name, _)| name.clone()));
        }
        let selection = Selection::new(pods, &shelves.pods, names.len());
        let mut changed = BTreeSet::new();
        let here = nodes::place(&shelves.nodes, &pods.node);
        if self.here != here {
            self.here = here;
            changed.extend(self.views.keys().map(Arc::clone));
        }
        for name in names {
            let host = resolve::hostname(&name.0, &name.1, domain);
            let same = match shelves.services.find(&name) {
                Some((facts, _)) => {
                    let found = self.find(shelves, facts, &name, &pods.by_address, &selection);
                    self.put(&host, &name, found)
                }
                // Slices may be left of a Service that is gone.
                None if entries.get(&host).is_some() => true,
                None => self.remove(&host),
            };
            if !same || dirty.services.contains(&name) {
                changed.insert(host);
            }
        }
        changed
    }

    /// Takes in hosts of ServiceEntries whose owners or endpoints may be others; adds those that are
    /// not what they were, or that are gone, to `changed`.
    pub(super) fn update_entries(
        &mut self,
        shelves: &Shelves,
        domain: &str,
        pods: &Pods,
        entries: &Entries,
        hosts: BTreeSet<Arc<str>>,
        changed: &mut BTreeSet<Arc<str>>,
    ) {
        let selection = Selection::new(pods, &shelves.pods, hosts.len());
        for host in hosts {
            let same = match entries.get(&host) {
                Some(entry) => {
                    let meta = &entry.facts.meta;
                    let name = (Arc::clone(&meta.namespace), Arc::clone(&meta.name));
                    let sockets = entry.sockets(shelves, pods, &selection);
                    self.put(&host, &name, of_entry(shelves, sockets))
                }
                None if entries::service_of(shelves, &host, domain).is_some() => true,
                None => self.remove(&host),
            };
            if !same || entries.is_new(&host) {
                changed.insert(host);
            }
        }
    }

    /// Adds the Services without slices whose selectors are for pods that changed.
    fn selecting(&self, shelf: &Shelf<ServiceFacts>, touched: &Touched, names: &mut HashSet<Name>) {
        for namespace in touched.labels.namespaces() {
            for (name, facts) in shelf.in_namespace(namespace) {
                let selector = &facts.selector;
                let selects = !selector.is_empty()
                    && touched.labels.may_match(namespace, selector)
                    && !self.slices.has(name);
                if selects {
                    names.insert(name.clone());
                }
            }
        }
    }

    /// Notes what ExternalName Services stand for; adds those whose hosts resolve to something else.
    fn aliased(
        &mut self,
        shelves: &Shelves,
        (dirty, touched): (&Dirty, &Touched),
        names: &mut HashSet<Name>,
    ) {
        for name in &dirty.services {
            let facts = shelves.services.find(name);
            match facts.and_then(|(facts, _)| facts.alias.as_ref()) {
                Some(alias) => drop(self.aliases.insert(name.clone(), Arc::clone(alias))),
                None => drop(self.aliases.remove(name)),
            }
        }
        for (name, alias) in &self.aliases {
            let mut addresses = shelves.resolved.get(alias).into_iter().flatten();
            if dirty.names.contains(alias)
                || addresses.any(|address| touched.addresses.contains(address))
            {
                names.insert(name.clone());
            }
        }
    }

    /// The names that ExternalName Services stand for, but for those of Services.
    pub(super) fn names(&self, domain: &str) -> impl Iterator<Item = &Arc<str>> {
        let of_service = move |alias: &str| {
            let host = alias.strip_suffix(domain);
            host.is_some_and(|host| host.ends_with(".svc."))
        };
        let all = self.aliases.values();
        all.filter(move |alias| !alias.is_empty() && !of_service(alias))
    }

    /// Whether a Service is in the mesh, and the sockets of each of its ports.
    fn find(
        &self,
        shelves: &Shelves,
        facts: &ServiceFacts,
        name: &Name,
        by_address: &SharedMap<IpAddr, Arc<Workload>>,
        selection: &Selection<'_>,
    ) -> Found {
        let ports = facts.ports.iter();
        let namespace = shelves.namespaces.get(&Arc::default(), &name.0);
        let of_all = namespace.and_then(|namespace| namespace.distribution);
        let distribution = facts.distribution.or(of_all);
        let hinted = distribution == Some(Distribution::Hinted);
        let place = |workload: Option<&Arc<Workload>>, slice: &SlicePlace| {
            nodes::of_endpoint(&shelves.nodes, workload, slice, hinted)
        };
        let (enrolled, ports) = match self.slices.of(&shelves.slices, name) {
            _ if let Some(alias) = &facts.alias => {
                let of_port = |port| from_name(port, shelves, alias, by_address);
                let ports: Vec<Sockets> = ports.map(of_port).collect();
                let mut workloads = ports
                    .iter()
                    .flatten()
                    .filter_map(|(_, one, ..)| one.as_ref());
                (workloads.any(|workload| workload.enrolled), ports)
            }
            Some(slices) => {
                let of_port = |port| from_slices(port, facts, &slices, by_address, place);
                (in_mesh(&slices, by_address), ports.map(of_port).collect())
            }
            None => {
                let selected = selection.select(&name.0, &facts.selector);
                let of_port = |port| from_pods(port, facts, &selected, place);
                let enrolled = selected.iter().any(|pod| pod.workload.enrolled);
                (enrolled, ports.map(of_port).collect())
            }
        };
        Found {
            enrolled,
            distribution,
            ports,
        }
    }

    /// Whether that changes nothing.
    fn put(&mut self, host: &Arc<str>, name: &Name, found: Found) -> bool {
        let (enrolled, distribution) = (found.enrolled, found.distribution);
        let ports = found.ports.into_iter();
        let endpoints: Vec<Vec<Endpoint>> =
            ports.map(|sockets| self.loads.endpoints(sockets)).collect();
        let fresh = ServiceView {
            name: name.clone(),
            enrolled,
            distribution,
            endpoints,
            clusters: HashMap::new(),
            last: HashMap::new(),
        };
        let Some(view) = self.views.get_mut(host) else {
            self.views.insert(Arc::clone(host), fresh);
            return false;
        };
        let same_ports = view.endpoints.len() == fresh.endpoints.len();
        let mut ports = view.endpoints.iter().zip(&fresh.endpoints);
        let same = view.enrolled == enrolled
            && view.distribution == distribution
            && same_ports
            && ports.all(|(a, b)| are_same(a, b));
        let last = std::mem::replace(&mut view.endpoints, fresh.endpoints);
        self.loads.release(&last);
        view.name = fresh.name;
        view.enrolled = enrolled;
        view.distribution = distribution;
        same
    }

    /// Whether it was not there.
    fn remove(&mut self, host: &Arc<str>) -> bool {
        let Some(view) = self.views.remove(host) else {
            return true;
        };
        self.loads.release(&view.endpoints);
        false
    }

    /// Makes the clusters of `hosts` anew when they are next asked for.
    pub(super) fn renew(&mut self, hosts: &BTreeSet<Arc<str>>) {
        for host in hosts {
            if let Some(view) = self.views.get_mut(host) {
                view.last = std::mem::take(&mut view.clusters);
            }
        }
    }

    /// Forgets what the last snapshot had and nothing asked for.
    pub(super) fn settle(&mut self, hosts: &BTreeSet<Arc<str>>) {
        for host in hosts {
            if let Some(view) = self.views.get_mut(host) {
                view.last = HashMap::new();
            }
        }
    }

    /// Whether there is such a Service.
    pub(super) fn has(&self, host: &str) -> bool {
        self.views.contains_key(host)
    }

    /// Adds the hosts that `pattern` is about.
    pub(super) fn about(&self, pattern: &HostPattern, hosts: &mut BTreeSet<Arc<str>>) {
        match pattern {
            HostPattern::Exact(host) => drop(hosts.insert(Arc::clone(host))),
            wild => {
                let all = self.hosts().filter(|host| wild.matches(host));
                hosts.extend(all.map(Arc::clone));
            }
        }
    }

    /// The host names of all Services, in order.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &Arc<str>> {
        self.views.keys()
    }
}

/// An endpoint's address, whose that is, where, and how many parts of the traffic it gets.
pub(super) type Socket = (SocketAddr, Option<Arc<Workload>>, Option<Arc<Place>>, u32);

pub(super) type Sockets = Vec<Socket>;

/// What a host of a ServiceEntry has.
fn of_entry(shelves: &Shelves, sockets: Vec<Vec<EntrySocket>>) -> Found {
    let unsaid = SlicePlace::default();
    let place = |(address, workload, said, weight): EntrySocket| {
        let of_node = || nodes::of_endpoint(&shelves.nodes, workload.as_ref(), &unsaid, false);
        let place = said.or_else(of_node);
        (address, workload, place, weight)
    };
    let of_port = |sockets: Vec<_>| sockets.into_iter().map(place).collect::<Sockets>();
    let ports: Vec<Sockets> = sockets.into_iter().map(of_port).collect();
    let workloads = ports
        .iter()
        .flatten()
        .filter_map(|(_, one, ..)| one.as_ref());
    Found {
        enrolled: workloads.into_iter().any(|workload| workload.enrolled),
        distribution: None,
        ports,
    }
}

/// Whether any address of `slices`, ready or not, is that of an enrolled pod.
fn in_mesh(slices: &[&SliceFacts], by_address: &SharedMap<IpAddr, Arc<Workload>>) -> bool {
    let ports = slices.iter().flat_map(|slice| &slice.ports);
    ports
        .flat_map(|port| &port.sockets)
        .filter_map(|(address, _)| by_address.get(&address.ip()))
        .any(|workload| workload.enrolled)
}

/// Where a name resolves to, at the Service's own port: kube-proxy knows nothing of a target port here.
fn from_name(
    port: &PortFacts,
    shelves: &Shelves,
    name: &Arc<str>,
    by_address: &SharedMap<IpAddr, Arc<Workload>>,
) -> Sockets {
    let addresses = shelves.resolved.get(name).into_iter().flatten();
    let socket = |address: &IpAddr| {
        let workload = by_address.get(address).map(Arc::clone);
        let place = nodes::of_endpoint(
            &shelves.nodes,
            workload.as_ref(),
            &SlicePlace::default(),
            false,
        );
        (SocketAddr::new(*address, port.number), workload, place, 1)
    };
    addresses.map(socket).collect()
}

fn from_slices(
    port: &PortFacts,
    service: &ServiceFacts,
    slices: &[&SliceFacts],
    by_address: &SharedMap<IpAddr, Arc<Workload>>,
    place: impl Fn(Option<&Arc<Workload>>, &SlicePlace) -> Option<Arc<Place>>,
) -> Sockets {
    let of_slice = |slice: &'_ &'_ SliceFacts| {
        let ports = slice.ports.iter().filter(|other| other.name == port.name);
        let sockets = ports.flat_map(|port| port.sockets.iter().zip(&slice.places));
        let usable = sockets.filter(|((_, ready), _)| *ready || service.publish_not_ready);
        let socket = usable.map(|((address, _), slice)| {
            let workload = by_address.get(&address.ip());
            let place = place(workload, slice);
            (*address, workload.map(Arc::clone), place, 1)
        });
        socket.collect::<Sockets>()
    };
    slices.iter().flat_map(of_slice).collect()
}

fn from_pods(
    port: &PortFacts,
    service: &ServiceFacts,
    selected: &[PodView<'_>],
    place: impl Fn(Option<&Arc<Workload>>, &SlicePlace) -> Option<Arc<Place>>,
) -> Sockets {
    let mut sockets = Vec::new();
    let unsaid = SlicePlace::default();
    for pod in selected {
        let number = match &port.target {
            Target::Number(number) => Some(*number),
            Target::Name(name) => pod.facts.port(name),
        };
        let (Some(number), true) = (number, pod.facts.ready || service.publish_not_ready) else {
            continue;
        };
        for address in &pod.facts.addresses {
            let wanted = service.vips.is_empty()
                || service
                    .vips
                    .iter()
                    .any(|vip| vip.is_ipv4() == address.is_ipv4());
            if wanted {
                let workload = Some(Arc::clone(&pod.workload));
                let place = place(workload.as_ref(), &unsaid);
                sockets.push((SocketAddr::new(*address, number), workload, place, 1));
            }
        }
    }
    sockets
}
