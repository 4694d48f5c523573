// SPDX-License-Identifier: Apache-2.0

//! `proxy-config` of what is carried as bytes: conditions, and where each of them leads.
//!
//! Knows nothing of requests.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::model::{Cluster, OpaqueBackend, OpaqueRoutes, OpaqueRule, ServicePort, Workload};

/// Condition and destination of each rule for bytes of `pod` at `port`, in the order they are tried.
pub(super) fn chains(port: &ServicePort, pod: &Workload) -> Vec<(String, String)> {
    let to = |cluster: &Cluster| format!("Cluster: {}", cluster.istio_name());
    let Some(routes) = port.opaque.routes_for(pod) else {
        return vec![("ALL".to_owned(), to(&port.cluster))];
    };
    let mut chains: Vec<(String, String)> = routes.rules.iter().flat_map(rows).collect();
    if !routes.rules.iter().any(takes_all) {
        chains.push(("ALL".to_owned(), to(&routes.otherwise)));
    }
    chains
}

fn takes_all(rule: &OpaqueRule) -> bool {
    rule.matches.is_empty() || rule.matches.iter().any(|one| one.is_catch_all())
}

fn rows(rule: &OpaqueRule) -> Vec<(String, String)> {
    let backends = rule.backends.iter().zip(&rule.weights);
    let backends: Vec<String> = backends
        .map(|(backend, weight)| match backend {
            OpaqueBackend::Cluster(cluster) => format!("{} ({weight})", cluster.istio_name()),
            OpaqueBackend::Refused(refusal) => format!("{} ({weight})", refusal.flag.as_str()),
        })
        .collect();
    let destination = match rule.backends.as_slice() {
        [OpaqueBackend::Cluster(only)] => format!("Cluster: {}", only.istio_name()),
        _ => format!("Clusters: {}", backends.join(", ")),
    };
    match rule.matches.as_slice() {
        [] => vec![("ALL".to_owned(), destination)],
        matches => matches
            .iter()
            .map(|one| (one.to_string(), destination.clone()))
            .collect(),
    }
}

/// The clusters that bytes of `pod` can be sent to at `port` besides its own.
pub(super) fn clusters<'p>(
    port: &'p ServicePort,
    pod: &Workload,
) -> impl Iterator<Item = &'p Arc<Cluster>> {
    let routes = port.opaque.routes_for(pod).into_iter();
    routes.flat_map(|routes| {
        let backends = routes.rules.iter().flat_map(|rule| &rule.backends);
        let clusters = backends.filter_map(|backend| match backend {
            OpaqueBackend::Cluster(cluster) => Some(cluster),
            OpaqueBackend::Refused(_) => None,
        });
        [&routes.otherwise].into_iter().chain(clusters)
    })
}

/// All rules, for the dump.
pub(super) fn dump(port: &ServicePort) -> Value {
    let shown = |routes: &OpaqueRoutes| {
        let rules = routes.rules.iter().flat_map(|rule| {
            let of_rule = rows(rule).into_iter();
            of_rule
                .map(|(condition, to)| json!({ "rule": rule.name, "match": condition, "to": to }))
        });
        json!({
            "origin": routes.origin.to_string(),
            "rules": rules.collect::<Vec<_>>(),
            "otherwise": routes.otherwise.istio_name(),
        })
    };
    let consumers = port.opaque.consumers.iter();
    let consumers = consumers.map(
        |(namespace, routes)| json!({ "clientNamespace": namespace, "routes": shown(routes) }),
    );
    json!({
        "routes": port.opaque.routes.as_ref().map(|routes| shown(routes)),
        "consumerRoutes": consumers.collect::<Vec<_>>(),
    })
}
