// SPDX-License-Identifier: Apache-2.0

//! Clusters, made of Services' endpoints when somebody asks for them, and kept where nothing changed.
//!
//! Notes who was asked for, so that a change of it is known to concern whoever asked. Knows nothing of how
//! endpoints are found. Invariant: an endpoint that a rule wants TLS towards has it in every cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    super::{
        backend_policy::Budgets,
        distribution,
        entries::Entries,
        facts::{Name, Shelf},
        selection::has_labels,
        service::ServiceFacts,
    },
    ClusterKey, Endpoints, Family, Shape,
};
use crate::model::{
    Balancer, ClientTls, Cluster, Endpoint, Place, ServiceName, UpstreamPolicy, UpstreamUse,
};

/// How many ExternalName Services may stand for each other in turn.
const MAX_ALIASES: usize = 4;

/// All Services as the compiler of one of them sees them.
pub(in super::super) struct Catalog<'a> {
    pub(in super::super) shelf: &'a Shelf<ServiceFacts>,
    pub(in super::super) entries: &'a Entries,
    pub(in super::super) endpoints: &'a mut Endpoints,
    pub(in super::super) budgets: &'a Budgets,
    /// The host whose clients connect to endpoints by themselves, while it is compiled.
    pub(in super::super) asking: Option<Arc<str>>,
    /// The host names that were asked for, whether there are such Services or not.
    pub(in super::super) used: BTreeSet<Arc<str>>,
}

impl<'a> Catalog<'a> {
    /// Notes that what is asked for depends on `host`.
    pub(in super::super) fn note(&mut self, host: &Arc<str>) {
        if !self.used.contains(host) {
            self.used.insert(Arc::clone(host));
        }
    }

    /// A Service.
    pub(in super::super) fn service(&mut self, host: &Arc<str>) -> Option<&'a ServiceFacts> {
        self.note(host);
        if let Some(entry) = self.entries.get(host) {
            return Some(&entry.facts);
        }
        let name = &self.endpoints.views.get(host)?.name;
        self.shelf.find(name).map(|(facts, _)| facts)
    }

    /// The host whose endpoints those of `host` are: another one that is known, if it is an ExternalName
    /// Service's.
    pub(in super::super) fn stands_for(&mut self, host: &Arc<str>) -> Arc<str> {
        let mut found = Arc::clone(host);
        for _ in 0..MAX_ALIASES {
            let facts = self.service(&found);
            let Some(alias) = facts.and_then(|facts| facts.alias.as_ref()) else {
                break;
            };
            if self.service(alias).is_none() {
                break;
            }
            found = Arc::clone(alias);
        }
        found
    }

    /// Whether an endpoint of the Service is in the mesh.
    pub(in super::super) fn is_enrolled(&self, host: &str) -> bool {
        let view = self.endpoints.views.get(host);
        view.is_some_and(|view| view.enrolled)
    }

    /// The cluster of a Service's port, or of a subset that a DestinationRule defines; `None` if
    /// there is no such Service or port.
    pub(in super::super) fn cluster(
        &mut self,
        hostname: &Arc<str>,
        port: u16,
        family: Family,
        shape: Shape<'_>,
    ) -> Option<Arc<Cluster>> {
        let Shape { subset, used } = shape;
        let (policy, used) = used.unzip();
        let facts = self.service(hostname)?;
        let direct = self.asking.as_ref() == Some(hostname);
        let (policy, used) = self.budgets.applied(hostname, (policy, used));
        let policy = facts.policy(policy, direct);
        let rule = subset.map(|(_, meta)| meta.to_ref("DestinationRule"));
        let subset_name = subset.map(|(subset, _)| Arc::clone(&subset.name));
        let key = ClusterKey {
            port,
            family,
            subset: rule.clone().zip(subset_name.clone()),
            used: used.clone(),
            direct,
        };
        let here = self.endpoints.here.clone();
        let view = self.endpoints.views.get_mut(hostname)?;
        if let Some(made) = view.clusters.get(&key) {
            return Some(Arc::clone(made));
        }
        let mut ports = facts.ports.iter();
        let position = ports.position(|known| known.number == port)?;
        let labels = subset.map(|(subset, _)| &subset.labels);
        let belongs = |endpoint: &&Endpoint| is_part(endpoint, family, labels);
        let endpoints = view.endpoints.get(position)?.iter().filter(belongs);
        let policy = distribution::spread(policy, view.distribution);
        let (endpoints, policy) = used_so(hostname, endpoints, policy, here.as_deref());
        let last = view.last.get(&key);
        let cluster = match last {
            Some(last)
                if are_same(&last.endpoints, &endpoints)
                    && distribution::same_use(last, policy.as_ref(), here.as_ref())
                    && same_owner(last, &view.name) =>
            {
                Arc::clone(last)
            }
            _ => {
                let upstream = policy.map(|policy| {
                    let last = last.and_then(|last| last.upstream.as_ref());
                    let turn = last.map(|last| last.turn.clone()).unwrap_or_default();
                    Arc::new(UpstreamUse::new(policy, turn, &endpoints, here))
                });
                let (namespace, name) = (Arc::clone(&view.name.0), Arc::clone(&view.name.1));
                let name = ServiceName::new(namespace, name);
                let (host, rule) = (Arc::clone(hostname), rule.or(used));
                let cluster = Cluster::new(name, host, port, subset_name, rule, endpoints);
                Arc::new(cluster.used(upstream))
            }
        };
        view.clusters.insert(key, Arc::clone(&cluster));
        Some(cluster)
    }
}

/// Whether an endpoint belongs to the family's part of a cluster, or to a subset's.
fn is_part(endpoint: &Endpoint, family: Family, labels: Option<&BTreeMap<String, String>>) -> bool {
    family.includes(endpoint.address.ip())
        && labels.is_none_or(|labels| {
            let workload = endpoint.workload.as_ref();
            workload.is_some_and(|workload| has_labels(&workload.labels, labels))
        })
}

/// The endpoints with what a rule asks for towards them, and their policy if it is one for more than to
/// send to any of them.
fn used_so<'e>(
    hostname: &Arc<str>,
    endpoints: impl Iterator<Item = &'e Endpoint>,
    policy: Option<UpstreamPolicy>,
    here: Option<&Place>,
) -> (Vec<Endpoint>, Option<UpstreamPolicy>) {
    let mut policy = policy.unwrap_or_default();
    let (tls, proxy_protocol) = (policy.tls.take(), policy.proxy_protocol.take());
    let upkeep = policy.upkeep.clone();
    if policy.balancer == Balancer::Original {
        // Its endpoints are made of connections as they come.
        policy.tls.clone_from(&tls);
        policy.proxy_protocol = proxy_protocol;
    }
    let endpoints: Vec<Endpoint> = endpoints
        .map(|endpoint| Endpoint {
            proxy_protocol,
            upkeep: upkeep.clone(),
            ..secured(endpoint, tls.as_deref(), hostname)
        })
        .collect();
    // Requests to endpoints that are not just connected to take the way that knows policies.
    let is_special = |one: &Endpoint| one.tls.is_some() || one.proxy_protocol.is_some();
    let is_kept = endpoints.iter().any(is_special)
        || are_uneven(&endpoints)
        || policy != UpstreamPolicy::default() && distribution::matters(&policy, &endpoints, here);
    (endpoints, is_kept.then_some(policy))
}

/// Whether some get more than others.
fn are_uneven(endpoints: &[Endpoint]) -> bool {
    let mut pairs = endpoints.windows(2);
    pairs.any(|pair| pair[0].weight != pair[1].weight)
}

/// The endpoint, with the TLS that a rule asks for towards it.
fn secured(endpoint: &Endpoint, tls: Option<&ClientTls>, hostname: &Arc<str>) -> Endpoint {
    let workload = endpoint.workload.as_ref();
    let enrolled = workload.is_some_and(|workload| workload.enrolled);
    let tls = tls.and_then(|tls| tls.towards(hostname, enrolled));
    Endpoint {
        tls: tls.map(Arc::new),
        ..endpoint.clone()
    }
}

/// Whether a cluster's host still belongs to whom it did: Services and ServiceEntries may have the
/// same one.
fn same_owner(cluster: &Cluster, (namespace, name): &Name) -> bool {
    cluster.service.namespace == *namespace && cluster.service.name == *name
}

/// Whether the endpoints of two snapshots are the same.
pub(super) fn are_same(one: &[Endpoint], other: &[Endpoint]) -> bool {
    let same = |(a, b): (&Endpoint, &Endpoint)| {
        a.address == b.address
            && a.place == b.place
            && Arc::ptr_eq(&a.load, &b.load)
            && a.tls == b.tls
            && a.proxy_protocol == b.proxy_protocol
            && a.upkeep == b.upkeep
            && a.weight == b.weight
            && match (&a.workload, &b.workload) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (None, None) => true,
                _ => false,
            }
    };
    one.len() == other.len() && one.iter().zip(other).all(same)
}
