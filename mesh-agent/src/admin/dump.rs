// SPDX-License-Identifier: Apache-2.0

//! The whole configuration, what is wrong with it, and what pods hold of their budgets, as JSON.

use serde_json::{Value, json};

use super::{opaque, pods, status};
use crate::{
    config::{Problem, Report},
    model::{
        Backend, Cluster, HttpRoutes, HttpRule, ObjectRef, Protocol, Service, ServicePort,
        Snapshot, Workload,
    },
    proxy::ProxyView,
};

/// `/config`.
pub(super) fn config(snapshot: &Snapshot, report: &Report, proxy: &ProxyView) -> Value {
    let mut workloads: Vec<_> = snapshot.workloads.values().collect();
    workloads.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let mut services: Vec<_> = snapshot.services.values().collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    json!({
        "generation": snapshot.generation,
        "node": snapshot.node,
        "workloads": workloads.into_iter().map(|it| workload(it, proxy)).collect::<Vec<_>>(),
        "services": services.into_iter().map(|it| service(it)).collect::<Vec<_>>(),
        "problems": problems(report),
    })
}

/// `/problems`.
pub(super) fn problems(report: &Report) -> Value {
    report.problems.iter().map(problem).collect()
}

fn problem(problem: &Problem) -> Value {
    json!({
        "severity": problem.severity.as_str(),
        "code": problem.code,
        "object": problem.object.as_ref().map(ToString::to_string),
        "origin": problem.origin.to_string(),
        "field": problem.field,
        "text": problem.text,
        "fix": problem.fix,
        "line": problem.to_string(),
    })
}

fn workload(pod: &Workload, proxy: &ProxyView) -> Value {
    let (mode, ports) = pods::modes(pod);
    json!({
        "uid": pod.uid.0,
        "name": pod.name,
        "namespace": pod.namespace,
        "node": pod.node,
        "addresses": pod.addresses,
        "identity": pod.identity.as_str(),
        "enrolled": pod.enrolled,
        "ready": pod.ready,
        "hostNetwork": pod.host_network,
        "netns": pod.netns,
        "labels": pod.labels,
        "owner": pod.owner,
        "canonicalService": pod.canonical_service,
        "canonicalRevision": pod.canonical_revision,
        "probePorts": pod.probe_ports,
        "inbound": { "mode": mode, "ports": ports },
        "authorizationPolicies": pods::policies(pod),
        "requestAuthentications": pods::authentications(pod),
        "budgets": proxy.budgets.get(&pod.uid).map(|of_it| status::budgets(Some(of_it))),
    })
}

fn service(service: &Service) -> Value {
    json!({
        "name": service.name.name,
        "namespace": service.name.namespace,
        "hostname": service.hostname,
        "vips": service.vips,
        "captured": service.captured,
        "ports": service.ports.iter().map(|it| port(it)).collect::<Vec<_>>(),
    })
}

fn port(port: &ServicePort) -> Value {
    let consumers = port
        .consumer_routes
        .iter()
        .map(|(namespace, rules)| json!({ "clientNamespace": namespace, "routes": routes(rules) }));
    json!({
        "number": port.number,
        "name": port.name,
        "protocol": protocol(port.protocol),
        "cluster": cluster(&port.cluster),
        "subsets": port.subsets.iter().map(|it| cluster(it)).collect::<Vec<_>>(),
        "routes": port.routes.as_ref().map(|it| routes(it)),
        "consumerRoutes": consumers.collect::<Vec<_>>(),
        "opaque": opaque::dump(port),
    })
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "HTTP",
        Protocol::Http2 => "HTTP2",
        Protocol::Grpc => "GRPC",
        Protocol::Tcp => "TCP",
        Protocol::Tls => "TLS",
        Protocol::Sniff => "by the first bytes",
    }
}

fn cluster(cluster: &Cluster) -> Value {
    let endpoints = cluster.endpoints.iter().map(|endpoint| {
        json!({
            "address": endpoint.address,
            "workload": endpoint.workload.as_ref().map(|it| it.dotted_name()),
        })
    });
    json!({
        "name": cluster.istio_name(),
        "rule": cluster.rule.as_ref().map(object),
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

fn routes(routes: &HttpRoutes) -> Value {
    json!({
        "origin": object(&routes.origin),
        "rules": routes.rules.iter().map(rule).collect::<Vec<_>>(),
    })
}

fn rule(rule: &HttpRule) -> Value {
    let backends = rule
        .backends
        .iter()
        .zip(&rule.weights)
        .map(|(backend, weight)| match backend {
            Backend::Cluster {
                cluster,
                edits,
                rewrite,
                treatment: _,
            } => json!({
                "weight": weight,
                "cluster": cluster.istio_name(),
                "endpoints": cluster.endpoints.len(),
                "editsHeaders": edits.is_some(),
                "rewritesUrl": rewrite.is_some(),
            }),
            Backend::Redirect(redirect) => json!({
                "weight": weight,
                "redirect": redirect.status,
            }),
            Backend::Answer(answer) => json!({
                "weight": weight,
                "answer": answer.status.as_u16(),
            }),
            Backend::Refused(refusal) => json!({
                "weight": weight,
                "answer": refusal.status,
                "flag": refusal.flag.as_str(),
                "reason": refusal.reason,
            }),
        });
    json!({
        "name": rule.name,
        "origin": object(&rule.origin),
        "matches": rule.matches.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "backends": backends.collect::<Vec<_>>(),
        "timeout": rule.timeout.map(|timeout| format!("{timeout:?}")),
    })
}

fn object(object: &ObjectRef) -> String {
    object.to_string()
}
