// SPDX-License-Identifier: Apache-2.0

//! `proxy-config`: what becomes of a pod's connections and requests, in the terms of istioctl.
//!
//! Fields named like istioctl's columns hold what it would show there; the others are more than
//! it shows. Knows nothing of the data threads: they follow the same snapshot.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{opaque, pods};
use crate::model::{
    Backend, Cluster, HttpRoutes, HttpRule, ObjectRef, Protocol, Service, ServicePort, Snapshot,
    Workload,
};

/// Where mutual TLS between nodes arrives.
const HBONE_PORT: u16 = 15008;

/// The ports whose traffic is captured, in order, perhaps only those with number `only`.
fn ports(snapshot: &Snapshot, only: Option<u16>) -> Vec<(&Arc<Service>, &Arc<ServicePort>)> {
    let mut services: Vec<_> = snapshot
        .services
        .values()
        .filter(|service| service.captured)
        .collect();
    services.sort_by(|a, b| a.hostname.cmp(&b.hostname));
    services
        .into_iter()
        .flat_map(|service| service.ports.iter().map(move |port| (service, port)))
        .filter(|(_, port)| only.is_none_or(|only| only == port.number))
        .collect()
}

/// Addresses whose connections are captured, and where they go on.
pub(super) fn listeners(snapshot: &Snapshot, pod: &Workload, port: Option<u16>) -> Vec<Value> {
    let mut rows = Vec::new();
    for (service, port) in ports(snapshot, port) {
        let route = format!("Route: {}", route_name(service, port));
        let http = "Trans: raw_buffer; App: HTTP";
        let mut chains = Vec::new();
        if !port.is_opaque_for(pod) {
            chains.push((http.to_owned(), route));
        }
        if matches!(
            port.protocol,
            Protocol::Sniff | Protocol::Tcp | Protocol::Tls
        ) {
            chains.extend(opaque::chains(port, pod));
        }
        for address in &service.vips {
            for (condition, destination) in &chains {
                rows.push(json!({
                    "address": address,
                    "port": port.number,
                    "match": condition,
                    "destination": destination,
                    "direction": "outbound",
                }));
            }
        }
    }
    // As istioctl: by port, then address; a stable sort keeps chains in the order they are tried.
    rows.sort_by_key(|row| (row["port"].as_u64(), row["address"].to_string()));
    rows.extend(inbound(pod, port));
    rows
}

fn inbound(pod: &Workload, only: Option<u16>) -> Vec<Value> {
    let (default, own) = pods::modes(pod);
    let plaintext = |mode: &str| match mode {
        "STRICT" => "Refused (STRICT)",
        _ => "InboundPassthroughCluster",
    };
    let row = |address, port: Value, condition: &str, destination: &str| {
        json!({
            "address": address,
            "port": port,
            "match": condition,
            "destination": destination,
            "direction": "inbound",
        })
    };
    let mut rows = Vec::new();
    for address in &pod.addresses {
        if only.is_none_or(|only| only == HBONE_PORT) {
            rows.push(row(
                address,
                HBONE_PORT.into(),
                "Trans: tls; App: HBONE",
                "Inbound HBONE",
            ));
        }
        for (port, mode) in &own {
            if only.is_none_or(|only| only == *port) {
                rows.push(row(
                    address,
                    (*port).into(),
                    "Trans: raw_buffer",
                    plaintext(mode),
                ));
            }
        }
        match only {
            None => rows.push(row(
                address,
                "*".into(),
                "Trans: raw_buffer",
                plaintext(default),
            )),
            Some(only) if only != HBONE_PORT && !own.contains_key(&only) => {
                rows.push(row(
                    address,
                    only.into(),
                    "Trans: raw_buffer",
                    plaintext(default),
                ));
            }
            Some(_shown) => {}
        }
    }
    rows
}

/// Sets of endpoints that the pod's traffic can go to.
pub(super) fn clusters(snapshot: &Snapshot, pod: &Workload, port: Option<u16>) -> Vec<Value> {
    reachable(snapshot, pod, port)
        .into_values()
        .map(|cluster| {
            json!({
                "serviceFqdn": cluster.hostname,
                "port": cluster.port,
                "subset": cluster.subset.as_deref().unwrap_or("-"),
                "direction": "outbound",
                "type": "EDS",
                "destinationRule": cluster.rule.as_ref().map(dotted),
                "name": cluster.istio_name(),
                "endpoints": cluster.endpoints.len(),
            })
        })
        .collect()
}

/// Every cluster that a connection of `pod` can be sent to, by host name, port and subset.
fn reachable<'a>(
    snapshot: &'a Snapshot,
    pod: &Workload,
    only: Option<u16>,
) -> BTreeMap<(&'a str, u16, &'a str), &'a Arc<Cluster>> {
    let mut found = BTreeMap::new();
    for (_, port) in ports(snapshot, None) {
        let backends = port
            .routes_for(pod)
            .into_iter()
            .flat_map(|routes| &routes.rules)
            .flat_map(|rule| &rule.backends)
            .filter_map(|backend| match backend {
                Backend::Cluster { cluster, .. } => Some(cluster),
                Backend::Answer(_) | Backend::Redirect(_) | Backend::Refused(_) => None,
            });
        for cluster in [&port.cluster]
            .into_iter()
            .chain(&port.subsets)
            .chain(backends)
            .chain(opaque::clusters(port, pod))
        {
            if only.is_none_or(|only| only == cluster.port) {
                let subset = cluster.subset.as_deref().unwrap_or_default();
                // What a route of this pod's namespace names may differ from the Service's own.
                found.insert((&*cluster.hostname, cluster.port, subset), cluster);
            }
        }
    }
    found
}

/// Rules that choose a cluster for each request.
pub(super) fn routes(snapshot: &Snapshot, pod: &Workload, port: Option<u16>) -> Vec<Value> {
    ports(snapshot, port)
        .into_iter()
        .filter(|(_, port)| !port.is_opaque_for(pod))
        .flat_map(|(service, port)| {
            let name = route_name(service, port);
            match port.routes_for(pod) {
                Some(routes) => rules(&name, service, routes),
                None => vec![json!({
                    "name": name,
                    "domains": service.hostname,
                    "match": "/*",
                    "virtualService": null,
                    "rule": "default",
                    "destinations": [{ "cluster": port.cluster.istio_name(), "weight": 100 }],
                })],
            }
        })
        .collect()
}

fn rules(name: &str, service: &Service, routes: &HttpRoutes) -> Vec<Value> {
    let row = |rule: &HttpRule, condition: String| {
        json!({
            "name": name,
            "domains": service.hostname,
            "match": condition,
            "virtualService": dotted(&rule.origin),
            "rule": rule.name,
            "timeout": rule.timeout.map(|timeout| format!("{timeout:?}")),
            "destinations": destinations(rule),
        })
    };
    let rows = routes.rules.iter().flat_map(|rule| {
        if rule.matches.is_empty() {
            vec![row(rule, "/*".to_owned())]
        } else {
            let conditions = rule.matches.iter();
            conditions.map(|one| row(rule, one.to_string())).collect()
        }
    });
    rows.collect()
}

fn destinations(rule: &HttpRule) -> Vec<Value> {
    let weighted = rule.backends.iter().zip(&rule.weights);
    weighted
        .map(|(backend, weight)| match backend {
            Backend::Cluster { cluster, .. } => {
                json!({ "cluster": cluster.istio_name(), "weight": weight })
            }
            Backend::Redirect(redirect) => json!({
                "redirect": redirect.status,
                "scheme": redirect.scheme,
                "host": redirect.host,
                "port": redirect.port,
                "weight": weight,
            }),
            Backend::Answer(answer) => json!({
                "answer": answer.status.as_u16(),
                "weight": weight,
            }),
            Backend::Refused(refusal) => json!({
                "answer": refusal.status,
                "flag": refusal.flag.as_str(),
                "reason": refusal.reason,
                "weight": weight,
            }),
        })
        .collect()
}

/// Addresses behind the clusters. Only ready ones are in the snapshot.
pub(super) fn endpoints(snapshot: &Snapshot, pod: &Workload, port: Option<u16>) -> Vec<Value> {
    let mut rows = Vec::new();
    for cluster in reachable(snapshot, pod, None).into_values() {
        for endpoint in &cluster.endpoints {
            // Here a port means the address's or the Service's, whichever the reader has in mind.
            if port.is_some_and(|port| port != endpoint.address.port() && port != cluster.port) {
                continue;
            }
            let workload = endpoint.workload.as_ref();
            let tunnelled = workload.is_some_and(|workload| workload.enrolled);
            rows.push(json!({
                "endpoint": endpoint.address,
                "status": "HEALTHY",
                "outlierCheck": "OK",
                "cluster": cluster.istio_name(),
                "pod": workload.map(|workload| workload.dotted_name()),
                "node": workload.map(|workload| &workload.node),
                "protocol": if tunnelled { "HBONE" } else { "TCP" },
                "active": endpoint.load.current(),
            }));
        }
    }
    rows
}

/// The name under which a port's HTTP rules are shown.
fn route_name(service: &Service, port: &ServicePort) -> String {
    format!("{}:{}", service.hostname, port.number)
}

/// An object as istioctl shows it, with its kind unless the column says that already.
fn dotted(object: &ObjectRef) -> String {
    let name = format!("{}.{}", object.name, object.namespace);
    match &*object.kind {
        "VirtualService" | "DestinationRule" => name,
        kind => format!("{name} ({kind})"),
    }
}
