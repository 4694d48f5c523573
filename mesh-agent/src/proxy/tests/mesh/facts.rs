// SPDX-License-Identifier: Apache-2.0

//! Workloads, clusters and rules as tests want them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use crate::model::{
    Backend, Cluster, Endpoint, EndpointLoad, HttpRule, ObjectRef, OpaqueBackend, OpaqueMatch,
    OpaquePort, OpaqueRule, Position, Protocol, Refusal, Schedule, ServiceName, ServicePort,
    SpiffeId, Workload, WorkloadUid,
};

/// A workload of the name, not enrolled, with no address.
pub(in crate::proxy) fn workload(name: &str) -> Workload {
    Workload {
        uid: WorkloadUid(format!("uid-{name}").into()),
        name: name.into(),
        namespace: "default".into(),
        identity: SpiffeId::new("cluster.local", "default", name),
        node: "node".into(),
        addresses: Vec::new(),
        labels: Default::default(),
        owner: name.into(),
        canonical_service: name.into(),
        canonical_revision: "latest".into(),
        enrolled: false,
        netns: None,
        host_network: false,
        ready: true,
        probe_ports: Vec::new(),
        close_existing_after: None,
        inbound: Default::default(),
        scope: Default::default(),
    }
}

/// A cluster of the endpoints.
pub(in crate::proxy::tests) fn cluster(endpoints: &[SocketAddr]) -> Arc<Cluster> {
    let endpoints = endpoints.iter().map(|address| (*address, None)).collect();
    cluster_of(endpoints)
}

/// A cluster of endpoints with workloads behind them.
pub(in crate::proxy::tests) fn cluster_of(
    endpoints: Vec<(SocketAddr, Option<Arc<Workload>>)>,
) -> Arc<Cluster> {
    let endpoints = endpoints.into_iter().map(|(address, workload)| Endpoint {
        address,
        workload,
        place: None,
        tls: None,
        proxy_protocol: None,
        upkeep: None,
        weight: 1,
        load: Arc::new(EndpointLoad::default()),
    });
    Arc::new(Cluster::new(
        ServiceName::new("default", "shop"),
        "shop.default.svc.cluster.local".into(),
        80,
        None,
        None,
        endpoints.collect(),
    ))
}

/// A rule for every request.
pub(in crate::proxy::tests) fn rule(
    backends: Vec<(u32, Backend)>,
    timeout: Option<Duration>,
) -> HttpRule {
    let (weights, backends): (Vec<u32>, Vec<Backend>) = backends.into_iter().unzip();
    HttpRule {
        name: "rule".into(),
        origin: origin(),
        matches: Vec::new(),
        schedule: Schedule::new(&weights, Position::default()),
        backends,
        weights,
        timeout,
        treatment: None,
    }
}

/// A rule for the connections that meet one of `matches`.
pub(in crate::proxy::tests) fn opaque_rule(
    matches: Vec<OpaqueMatch>,
    backends: Vec<(u32, OpaqueBackend)>,
) -> OpaqueRule {
    let (weights, backends): (Vec<u32>, Vec<OpaqueBackend>) = backends.into_iter().unzip();
    OpaqueRule {
        name: "rule".into(),
        origin: origin(),
        matches,
        schedule: Schedule::new(&weights, Position::default()),
        backends,
        weights,
    }
}

/// A port of a Service without routes.
pub(in crate::proxy::tests) fn port(protocol: Protocol, cluster: Arc<Cluster>) -> ServicePort {
    ServicePort {
        number: 80,
        name: "".into(),
        protocol,
        cluster,
        subsets: Vec::new(),
        consumer_routes: Vec::new(),
        routes: None,
        opaque: OpaquePort::default(),
    }
}

pub(super) fn origin() -> ObjectRef {
    ObjectRef {
        kind: "VirtualService".into(),
        namespace: "default".into(),
        name: "shop".into(),
    }
}

pub(in crate::proxy::tests) fn to(cluster: Arc<Cluster>) -> Backend {
    Backend::Cluster {
        cluster,
        edits: None,
        rewrite: None,
        treatment: None,
    }
}

pub(in crate::proxy::tests) fn refused(status: u16, flag: crate::model::ResponseFlag) -> Backend {
    Backend::Refused(Refusal {
        status,
        flag,
        reason: "for the test".into(),
        route: "rule".into(),
    })
}
