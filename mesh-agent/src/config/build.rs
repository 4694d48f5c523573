// SPDX-License-Identifier: Apache-2.0

//! Joins the facts of all objects into one snapshot.
//!
//! Everything is built anew, but values that did not change are the same allocations as before, so
//! that caches keyed by them stay warm, and loads and schedules go on where they were.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    compile::{Place, Positions},
    destination_rule::Rules,
    endpoints::{Catalog, Family, Kept, PodView},
    enrol::NamespaceFacts,
    index::{IndexSettings, Shelves},
    pod::PodFacts,
    policy::Composer,
    problem::Problem,
    references,
    routes::Router,
    service::PortFacts,
};
use crate::model::{
    Protocol, Service, ServiceName, ServicePort, Snapshot, SpiffeId, Workload, WorkloadUid,
};

/// What the next snapshot takes from the last one.
#[derive(Debug, Default)]
pub(super) struct Carried {
    workloads: HashMap<WorkloadUid, Arc<Workload>>,
    kept: Kept,
    positions: Positions,
}

/// Builds a snapshot, and says what is wrong between objects.
pub(super) fn build(
    shelves: &Shelves,
    settings: &IndexSettings,
    generation: u64,
    last: &Carried,
) -> (Snapshot, Carried, Vec<Problem>) {
    let composer = Composer::new(
        &shelves.peer_authentications,
        &shelves.policies,
        &shelves.mesh_policies,
        &shelves.services,
        &settings.root_namespace,
    );
    let pods = pods(shelves, settings, &composer, last);
    let by_address = by_address(&pods);
    let domain = &settings.cluster_domain;
    let mut catalog = Catalog::new(
        &shelves.services,
        &shelves.slices,
        &pods,
        &by_address,
        domain,
        &last.kept,
    );
    let rules = || {
        let all = shelves.destination_rules.iter().map(|(rule, _)| rule);
        Rules::new(all, &settings.root_namespace)
    };
    let mut router = Router::new(
        &shelves.virtual_services,
        shelves.http_routes.iter().chain(shelves.grpc_routes.iter()),
        rules(),
        domain,
        &last.positions,
    );
    let mut snapshot = Snapshot {
        generation,
        node: settings.node.as_str().into(),
        workloads: workloads(&pods),
        by_address,
        services: HashMap::new(),
        by_vip: HashMap::new(),
    };
    services(&mut catalog, &mut router, &mut snapshot);
    let mut problems: BTreeSet<Problem> = std::mem::take(&mut router.problems);
    problems.extend(
        composer
            .findings
            .into_iter()
            .flat_map(|findings| findings.problems),
    );
    references::check(shelves, settings, &catalog, &pods, &mut problems);
    let carried = Carried {
        workloads: snapshot.workloads.clone(),
        positions: std::mem::take(&mut router.positions),
        kept: catalog.kept,
    };
    (snapshot, carried, problems.into_iter().collect())
}

fn pods<'a>(
    shelves: &'a Shelves,
    settings: &IndexSettings,
    composer: &Composer<'_>,
    last: &Carried,
) -> Vec<PodView<'a>> {
    let namespaces: HashMap<&str, &NamespaceFacts> = shelves
        .namespaces
        .iter()
        .map(|(namespace, _)| (&*namespace.meta.name, namespace))
        .collect();
    let node: Arc<str> = settings.node.as_str().into();
    let alive = shelves.pods.iter().filter(|(pod, _)| !pod.over);
    alive
        .map(|(pod, _)| {
            let namespace = namespaces.get(&*pod.meta.namespace).copied();
            let fresh = workload(pod, namespace, settings, &node, composer);
            let workload = match last.workloads.get(&fresh.uid) {
                Some(same) if **same == fresh => Arc::clone(same),
                _ => Arc::new(fresh),
            };
            PodView {
                facts: pod,
                workload,
            }
        })
        .collect()
}

fn workload(
    pod: &PodFacts,
    namespace: Option<&NamespaceFacts>,
    settings: &IndexSettings,
    node: &Arc<str>,
    composer: &Composer<'_>,
) -> Workload {
    let label = |keys: &[&str]| {
        let found = keys.iter().find_map(|key| pod.labels.get(*key));
        found
            .filter(|value| !value.is_empty())
            .map(|value| Arc::from(value.as_str()))
    };
    let here = pod.node == *node;
    let choice = namespace.map(|namespace| namespace.choice);
    let of_all = namespace.and_then(|namespace| namespace.close_existing_after);
    Workload {
        uid: pod.uid.clone(),
        name: Arc::clone(&pod.meta.name),
        namespace: Arc::clone(&pod.meta.namespace),
        identity: SpiffeId::new(
            &settings.trust_domain,
            &pod.meta.namespace,
            &pod.service_account,
        ),
        node: if here {
            Arc::clone(node)
        } else {
            Arc::clone(&pod.node)
        },
        addresses: pod.addresses.clone(),
        labels: Arc::clone(&pod.labels),
        owner: Arc::clone(&pod.owner),
        canonical_service: label(&[
            "service.istio.io/canonical-name",
            "app.kubernetes.io/name",
            "app",
        ])
        .unwrap_or_else(|| Arc::clone(&pod.owner)),
        canonical_revision: label(&[
            "service.istio.io/canonical-revision",
            "app.kubernetes.io/version",
            "version",
        ])
        .unwrap_or_else(|| "latest".into()),
        enrolled: !pod.host_network && pod.choice.enrols(choice.unwrap_or_default()),
        netns: pod.netns.clone().filter(|_| here && !pod.host_network),
        host_network: pod.host_network,
        ready: pod.ready,
        probe_ports: pod.probe_ports.clone(),
        close_existing_after: pod.close_existing_after.or(of_all),
        inbound: composer.compose(pod),
    }
}

fn workloads(pods: &[PodView<'_>]) -> HashMap<WorkloadUid, Arc<Workload>> {
    let entry = |pod: &PodView<'_>| (pod.workload.uid.clone(), Arc::clone(&pod.workload));
    pods.iter().map(entry).collect()
}

/// Who owns an address; the first by namespace and name if several claim it.
fn by_address(pods: &[PodView<'_>]) -> HashMap<IpAddr, Arc<Workload>> {
    let mut owners = HashMap::new();
    for pod in pods.iter().filter(|pod| !pod.workload.host_network) {
        for address in &pod.workload.addresses {
            owners
                .entry(*address)
                .or_insert_with(|| Arc::clone(&pod.workload));
        }
    }
    owners
}

fn services<'a>(catalog: &mut Catalog<'a>, router: &mut Router<'a>, snapshot: &mut Snapshot) {
    let hostnames: Vec<Arc<str>> = catalog.services.keys().map(Arc::clone).collect();
    for hostname in hostnames {
        let view = &catalog.services[&hostname];
        let (facts, name) = (view.facts, view.name.clone());
        let (families, enrolled) = (view.families(), view.enrolled);
        let special = router.special_namespaces(&name, &hostname);
        let mut by_family: Vec<(Family, Vec<Arc<ServicePort>>)> = Vec::new();
        for family in families {
            let mut ports = Vec::with_capacity(facts.ports.len());
            for port in &facts.ports {
                let mut maker = PortMaker {
                    catalog,
                    router,
                    name: &name,
                    hostname: &hostname,
                    family,
                };
                ports.extend(maker.make(port, &special).map(Arc::new));
            }
            by_family.push((family, ports));
        }
        let routed =
            |port: &Arc<ServicePort>| port.routes.is_some() || !port.consumer_routes.is_empty();
        let ports = by_family
            .first()
            .map(|(_, ports)| ports.clone())
            .unwrap_or_default();
        let service = Arc::new(Service {
            captured: enrolled || ports.iter().any(routed),
            name: name.clone(),
            hostname,
            vips: facts.vips.clone(),
            ports,
        });
        for vip in &facts.vips {
            let of_family = by_family.iter().find(|(family, _)| family.includes(*vip));
            for port in of_family.into_iter().flat_map(|(_, ports)| ports) {
                let entry = snapshot.by_vip.entry(SocketAddr::new(*vip, port.number));
                entry.or_insert_with(|| (Arc::clone(&service), Arc::clone(port)));
            }
        }
        snapshot.services.insert(name, service);
    }
}

/// Makes the ports of one Service for one address family.
struct PortMaker<'r, 'a> {
    catalog: &'r mut Catalog<'a>,
    router: &'r mut Router<'a>,
    name: &'r ServiceName,
    hostname: &'r Arc<str>,
    family: Family,
}

impl PortMaker<'_, '_> {
    fn make(&mut self, port: &PortFacts, special: &BTreeSet<Arc<str>>) -> Option<ServicePort> {
        let (hostname, family) = (self.hostname, self.family);
        let cluster = self.catalog.cluster(hostname, port.number, family, None)?;
        let (mut consumer_routes, mut routes) = (Vec::new(), None);
        if port.protocol != Protocol::Tcp {
            let mut place = Place {
                hostname: Arc::clone(hostname),
                port: port.number,
                family,
                client: None,
            };
            routes = self
                .router
                .routes(self.catalog, self.name, port, &place)
                .map(Arc::new);
            for namespace in special {
                place.client = Some(Arc::clone(namespace));
                let own = self.router.routes(self.catalog, self.name, port, &place);
                consumer_routes.extend(own.map(|own| (Arc::clone(namespace), Arc::new(own))));
            }
        }
        Some(ServicePort {
            number: port.number,
            name: Arc::clone(&port.name),
            protocol: port.protocol,
            cluster,
            subsets: self.subsets(port),
            consumer_routes,
            routes,
        })
    }

    /// All subsets that clients in the Service's namespace can use.
    fn subsets(&mut self, port: &PortFacts) -> Vec<Arc<crate::model::Cluster>> {
        let namespace = &*self.name.namespace;
        let merged = self
            .router
            .rules
            .find(Some(namespace), self.hostname, namespace);
        let subsets = merged.map(|merged| merged.subsets).unwrap_or_default();
        let cluster = |subset| {
            self.catalog
                .cluster(self.hostname, port.number, self.family, Some(subset))
        };
        subsets.into_iter().filter_map(cluster).collect()
    }
}
