// SPDX-License-Identifier: Apache-2.0

//! Services with their endpoints, and the clusters that routes send to.
//!
//! Endpoints come from EndpointSlices, else from the pods that the Service selects. Clusters and
//! the load of endpoints are carried over from the last snapshot where nothing changed.
//! Invariant: a cluster for one address family holds endpoints of that family only, because a
//! connection keeps the client's address.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    destination_rule::SubsetFacts,
    facts::{Meta, Shelf},
    pod::PodFacts,
    resolve,
    service::{PortFacts, ServiceFacts, SliceFacts, Target},
};
use crate::model::{
    Cluster, Endpoint, EndpointLoad, ObjectRef, ServiceName, Workload, WorkloadUid,
};

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
}

/// A pod that has not ended, with its workload.
pub(super) struct PodView<'a> {
    pub(super) facts: &'a PodFacts,
    pub(super) workload: Arc<Workload>,
}

/// A Service with all its endpoints.
pub(super) struct ServiceView<'a> {
    pub(super) facts: &'a ServiceFacts,
    pub(super) name: ServiceName,
    /// Whether an endpoint is in the mesh, ready or not: capture must not come and go with readiness.
    pub(super) enrolled: bool,
    /// By position in `facts.ports`.
    endpoints: Vec<Vec<Endpoint>>,
}

impl ServiceView<'_> {
    /// The families of its VIPs.
    pub(super) fn families(&self) -> Vec<Family> {
        let mut families: Vec<Family> =
            self.facts.vips.iter().map(|vip| Family::of(*vip)).collect();
        families.sort_by_key(|family| {
            Some(*family) != self.facts.vips.first().map(|vip| Family::of(*vip))
        });
        families.dedup();
        if families.is_empty() {
            families.push(Family::Both);
        }
        families
    }
}

/// What tells a cluster from all others; a subset by its rule and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ClusterKey {
    hostname: Arc<str>,
    port: u16,
    family: Family,
    subset: Option<(ObjectRef, Arc<str>)>,
}

/// What the next snapshot takes from this one.
#[derive(Debug, Default)]
pub(super) struct Kept {
    loads: HashMap<(Option<WorkloadUid>, SocketAddr), Arc<EndpointLoad>>,
    clusters: HashMap<ClusterKey, Arc<Cluster>>,
}

/// All Services, by host name.
pub(super) struct Catalog<'a> {
    pub(super) services: BTreeMap<Arc<str>, ServiceView<'a>>,
    last: &'a Kept,
    /// What this snapshot uses.
    pub(super) kept: Kept,
}

/// Pods by namespace and label, so that a selector looks at few of them.
struct LabelIndex<'a> {
    pods: &'a [PodView<'a>],
    by_label: HashMap<(&'a str, &'a str, &'a str), Vec<usize>>,
}

impl<'a> LabelIndex<'a> {
    fn new(pods: &'a [PodView<'a>]) -> Self {
        let mut by_label: HashMap<_, Vec<usize>> = HashMap::new();
        for (index, pod) in pods.iter().enumerate() {
            for (key, value) in &*pod.facts.labels {
                let entry = (&*pod.facts.meta.namespace, key.as_str(), value.as_str());
                by_label.entry(entry).or_default().push(index);
            }
        }
        Self { pods, by_label }
    }

    fn select(&self, namespace: &str, selector: &BTreeMap<String, String>) -> Vec<&'a PodView<'a>> {
        let lists = selector.iter().map(|(key, value)| {
            self.by_label
                .get(&(namespace, key.as_str(), value.as_str()))
        });
        let Some(Some(rarest)) = lists.min_by_key(|list| list.map_or(0, Vec::len)) else {
            return Vec::new();
        };
        let pods = rarest.iter().map(|index| &self.pods[*index]);
        pods.filter(|pod| has_labels(&pod.facts.labels, selector))
            .collect()
    }
}

fn has_labels(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

impl<'a> Catalog<'a> {
    pub(super) fn new(
        services: &'a Shelf<ServiceFacts>,
        slices: &'a Shelf<SliceFacts>,
        pods: &'a [PodView<'a>],
        by_address: &HashMap<IpAddr, Arc<Workload>>,
        domain: &str,
        last: &'a Kept,
    ) -> Self {
        let labels = LabelIndex::new(pods);
        let mut by_service: HashMap<(&str, &str), Vec<&SliceFacts>> = HashMap::new();
        for (slice, _) in slices.iter() {
            if let Some(service) = &slice.service {
                by_service
                    .entry((&slice.meta.namespace, service))
                    .or_default()
                    .push(slice);
            }
        }
        let mut catalog = Self {
            services: BTreeMap::new(),
            last,
            kept: Kept::default(),
        };
        for (facts, _) in services.iter() {
            let Meta {
                namespace, name, ..
            } = &facts.meta;
            let ports = facts.ports.iter();
            let (enrolled, sockets): (bool, Vec<_>) = match by_service.get(&(&**namespace, &**name))
            {
                Some(slices) => {
                    let of_port = |port| from_slices(port, facts, slices, by_address);
                    (in_mesh(slices, by_address), ports.map(of_port).collect())
                }
                None => {
                    let selected = labels.select(namespace, &facts.selector);
                    let of_port = |port| from_pods(port, facts, &selected);
                    let enrolled = selected.iter().any(|pod| pod.workload.enrolled);
                    (enrolled, ports.map(of_port).collect())
                }
            };
            let hostname = resolve::hostname(namespace, name, domain);
            let view = ServiceView {
                facts,
                name: ServiceName::new(Arc::clone(namespace), Arc::clone(name)),
                enrolled,
                endpoints: sockets
                    .into_iter()
                    .map(|all| catalog.endpoints(all))
                    .collect(),
            };
            catalog.services.insert(hostname, view);
        }
        catalog
    }

    fn endpoints(&mut self, sockets: Vec<(SocketAddr, Option<Arc<Workload>>)>) -> Vec<Endpoint> {
        let mut endpoints: Vec<Endpoint> = Vec::with_capacity(sockets.len());
        for (address, workload) in sockets {
            let key = (
                workload.as_ref().map(|workload| workload.uid.clone()),
                address,
            );
            let last = self.last.loads.get(&key);
            let load = self.kept.loads.entry(key);
            let load = load.or_insert_with(|| last.map_or_else(Arc::default, Arc::clone));
            endpoints.push(Endpoint {
                address,
                workload,
                load: Arc::clone(load),
            });
        }
        endpoints.sort_by_key(|endpoint| endpoint.address);
        endpoints.dedup_by_key(|endpoint| endpoint.address);
        endpoints
    }

    /// The cluster of a Service's port, or of a subset that a DestinationRule defines; `None` if
    /// there is no such Service or port.
    pub(super) fn cluster(
        &mut self,
        hostname: &Arc<str>,
        port: u16,
        family: Family,
        subset: Option<(&SubsetFacts, &Meta)>,
    ) -> Option<Arc<Cluster>> {
        let rule = subset.map(|(_, meta)| meta.to_ref("DestinationRule"));
        let key = ClusterKey {
            hostname: Arc::clone(hostname),
            port,
            family,
            subset: rule
                .clone()
                .zip(subset.map(|(subset, _)| Arc::clone(&subset.name))),
        };
        if let Some(made) = self.kept.clusters.get(&key) {
            return Some(Arc::clone(made));
        }
        let service = self.services.get(hostname)?;
        let position = service
            .facts
            .ports
            .iter()
            .position(|known| known.number == port)?;
        let labels = subset.map(|(subset, _)| &subset.labels);
        let belongs = |endpoint: &&Endpoint| {
            family.includes(endpoint.address.ip())
                && labels.is_none_or(|labels| {
                    let workload = endpoint.workload.as_ref();
                    workload.is_some_and(|workload| has_labels(&workload.labels, labels))
                })
        };
        let endpoints = service.endpoints[position].iter().filter(belongs);
        let fresh = Cluster::new(
            service.name.clone(),
            Arc::clone(hostname),
            port,
            subset.map(|(subset, _)| Arc::clone(&subset.name)),
            rule,
            endpoints.cloned().collect(),
        );
        let cluster = match self.last.clusters.get(&key) {
            Some(last) if same_endpoints(last, &fresh) => Arc::clone(last),
            _ => Arc::new(fresh),
        };
        self.kept.clusters.insert(key, Arc::clone(&cluster));
        Some(cluster)
    }
}

/// Whether two clusters of one key are the same.
fn same_endpoints(one: &Cluster, other: &Cluster) -> bool {
    let same = |(a, b): (&Endpoint, &Endpoint)| {
        a.address == b.address
            && Arc::ptr_eq(&a.load, &b.load)
            && match (&a.workload, &b.workload) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (None, None) => true,
                _ => false,
            }
    };
    one.endpoints.len() == other.endpoints.len()
        && one.endpoints.iter().zip(&other.endpoints).all(same)
}

type Sockets = Vec<(SocketAddr, Option<Arc<Workload>>)>;

/// Whether any address of `slices`, ready or not, is that of an enrolled pod.
fn in_mesh(slices: &[&SliceFacts], by_address: &HashMap<IpAddr, Arc<Workload>>) -> bool {
    let ports = slices.iter().flat_map(|slice| &slice.ports);
    ports
        .flat_map(|port| &port.sockets)
        .filter_map(|(address, _)| by_address.get(&address.ip()))
        .any(|workload| workload.enrolled)
}

fn from_slices(
    port: &PortFacts,
    service: &ServiceFacts,
    slices: &[&SliceFacts],
    by_address: &HashMap<IpAddr, Arc<Workload>>,
) -> Sockets {
    let ports = slices.iter().flat_map(|slice| &slice.ports);
    let sockets = ports
        .filter(|other| other.name == port.name)
        .flat_map(|other| &other.sockets);
    sockets
        .filter(|(_, ready)| *ready || service.publish_not_ready)
        .map(|(address, _)| (*address, by_address.get(&address.ip()).map(Arc::clone)))
        .collect()
}

fn from_pods(port: &PortFacts, service: &ServiceFacts, selected: &[&PodView<'_>]) -> Sockets {
    let mut sockets = Vec::new();
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
                sockets.push((SocketAddr::new(*address, number), workload));
            }
        }
    }
    sockets
}
