// SPDX-License-Identifier: Apache-2.0

//! Services and their endpoints.

use std::net::SocketAddr;

use super::fixture::{Mesh, client_in, pod, pod_in, service};
use crate::model::Destination;

fn addresses(mesh: &Mesh, name: &str) -> Vec<String> {
    let service = mesh.service("default", name);
    let endpoints = &service.ports[0].cluster.endpoints;
    endpoints
        .iter()
        .map(|endpoint| endpoint.address.to_string())
        .collect()
}

#[test]
fn endpoints_are_the_ready_pods_that_the_service_selects() {
    let unready = pod("c", "10.1.0.3", "app: web").replace(
        "status: {",
        "status: {conditions: [{type: Ready, status: \"False\"}], ",
    );
    let leaving = pod("d", "10.1.0.4", "app: web").replace(
        "name: d,",
        "name: d, deletionTimestamp: \"2026-01-01T00:00:00Z\",",
    );
    let text = [
        service("web", "10.0.0.1"),
        pod("a", "10.1.0.1", "app: web"),
        pod("b", "10.1.0.2", "app: other"),
        pod_in("other", "e", "10.1.0.5", "app: web"),
        unready,
        leaving,
    ]
    .concat();
    assert_eq!(addresses(&Mesh::new(&text), "web"), ["10.1.0.1:8080"]);
    let all = text.replace(
        "clusterIP: 10.0.0.1",
        "publishNotReadyAddresses: true, clusterIP: 10.0.0.1",
    );
    assert_eq!(addresses(&Mesh::new(&all), "web").len(), 3);
}

#[test]
fn a_target_port_may_be_a_name_and_defaults_to_the_port() {
    let pods = pod("a", "10.1.0.1", "app: web");
    let named = service("web", "10.0.0.1").replace("targetPort: 8080", "targetPort: web");
    assert_eq!(
        addresses(&Mesh::new(&(named + &pods)), "web"),
        ["10.1.0.1:8080"]
    );
    let none = service("web", "10.0.0.1").replace(", targetPort: 8080", "");
    assert_eq!(
        addresses(&Mesh::new(&(none + &pods)), "web"),
        ["10.1.0.1:80"]
    );
    let unknown = service("web", "10.0.0.1").replace("targetPort: 8080", "targetPort: nope");
    assert!(addresses(&Mesh::new(&(unknown + &pods)), "web").is_empty());
}

#[test]
fn a_service_without_selector_has_no_derived_endpoints() {
    let text = service("web", "10.0.0.1").replace("selector: {app: web}, ", "");
    assert!(
        addresses(
            &Mesh::new(&(text + &pod("a", "10.1.0.1", "app: web"))),
            "web"
        )
        .is_empty()
    );
}

#[test]
fn slices_win_over_selected_pods() {
    let slice = "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints:
- {addresses: [10.1.0.7]}
- {addresses: [10.1.0.8], conditions: {ready: false}}
ports: [{name: http, port: 9000}, {name: other, port: 1}, {name: http, port: 2, protocol: UDP}]
";
    let text = service("web", "10.0.0.1")
        + &pod("a", "10.1.0.1", "app: web")
        + &pod("b", "10.1.0.7", "")
        + slice;
    let mesh = Mesh::new(&text);
    assert_eq!(addresses(&mesh, "web"), ["10.1.0.7:9000"]);
    let service = mesh.service("default", "web");
    let workload = service.ports[0].cluster.endpoints[0].workload.clone();
    assert_eq!(&*workload.expect("the pod is known").name, "b");
}

#[test]
fn an_address_and_port_of_a_service_is_found() {
    let mesh = Mesh::new(&(service("web", "10.0.0.1") + &pod("a", "10.1.0.1", "app: web")));
    let snapshot = mesh.snapshot();
    let at = |port| {
        snapshot.destination(
            SocketAddr::from(([10, 0, 0, 1], port)),
            &client_in("default"),
        )
    };
    assert!(
        matches!(at(80), Destination::Service(service, port) if &*service.hostname == "web.default.svc.cluster.local" && port.number == 80)
    );
    assert!(matches!(at(81), Destination::Unknown));
}

#[test]
fn only_tcp_ports_and_cluster_addresses_count() {
    let text = service("web", "None")
        .replace("ports: [", "ports: [{name: dns, protocol: UDP, port: 53}, ");
    let mesh = Mesh::new(&(text + &pod("a", "10.1.0.1", "app: web")));
    let service = mesh.service("default", "web");
    assert!(service.vips.is_empty());
    assert_eq!(service.ports.len(), 1);
    assert_eq!(addresses(&mesh, "web"), ["10.1.0.1:8080"]);
}

#[test]
fn each_family_of_a_dual_stack_service_has_its_own_endpoints() {
    let dual = service("web", "10.0.0.1")
        .replace("clusterIP: 10.0.0.1", "clusterIPs: [\"fd00::a\", 10.0.0.1]");
    let both = pod("a", "10.1.0.1", "app: web").replace(
        "podIP: 10.1.0.1",
        "podIPs: [{ip: 10.1.0.1}, {ip: \"fd00::1\"}]",
    );
    let mesh = Mesh::new(&(dual + &both));
    let snapshot = mesh.snapshot();
    for (vip, want) in [
        ("10.0.0.1:80", "10.1.0.1:8080"),
        ("[fd00::a]:80", "[fd00::1]:8080"),
    ] {
        let (_, port) = &snapshot.by_vip[&vip.parse().unwrap()];
        let all: Vec<_> = port
            .cluster
            .endpoints
            .iter()
            .map(|one| one.address.to_string())
            .collect();
        assert_eq!(all, [want]);
    }
    assert_eq!(
        addresses(&mesh, "web"),
        ["[fd00::1]:8080"],
        "the first address family is shown"
    );
}

#[test]
fn a_service_is_captured_when_an_endpoint_is_enrolled_or_a_route_attached() {
    let plain = service("web", "10.0.0.1") + &pod("a", "10.1.0.1", "app: web");
    assert!(!Mesh::new(&plain).service("default", "web").captured);
    let enrolled = plain.replace(
        "labels: {app: web}",
        "labels: {app: web, mesh-agent.io/enrolled: \"true\"}",
    );
    assert!(Mesh::new(&enrolled).service("default", "web").captured);
    let unready = enrolled.replace(
        "status: {",
        "status: {conditions: [{type: Ready, status: \"False\"}], ",
    );
    let waiting = Mesh::new(&unready).service("default", "web");
    assert!(
        waiting.captured,
        "capture does not come and go with readiness"
    );
    assert!(waiting.ports[0].cluster.endpoints.is_empty());
    let routed = plain
        + "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec: {hosts: [web], http: [{route: [{destination: {host: web}}]}]}
";
    assert!(Mesh::new(&routed).service("default", "web").captured);
}

#[test]
fn two_services_with_one_address_are_reported() {
    let mesh = Mesh::new(&(service("a", "10.0.0.1") + &service("b", "10.0.0.1")));
    mesh.check_problems(&["(Service default/b test.yaml:7) spec.clusterIPs: 10.0.0.1 is also the address of Service default/a"]);
}

#[test]
fn a_service_without_a_selector_has_the_endpoints_that_its_slices_list() {
    let text = [
        service("bare", "10.0.0.7").replace("selector: {app: bare}, ", ""),
        pod("other", "10.1.0.1", "app: other"),
        "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: by-hand, labels: {kubernetes.io/service-name: bare}}
addressType: IPv4
endpoints: [{addresses: [10.1.0.1]}, {addresses: [192.0.2.1]}, {addresses: [192.0.2.2], conditions: {ready: false}}]
ports: [{name: http, port: 9090}]
---
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {istio-injection: enabled}}
"
        .to_owned(),
    ];
    let mesh = Mesh::new(&text.concat());
    mesh.check_problems(&[]);
    let service = mesh.service("default", "bare");
    let cluster = &service.ports[0].cluster;
    let shown = cluster.endpoints.iter().map(|endpoint| {
        let workload = endpoint.workload.as_ref();
        let enrolled = workload.is_some_and(|workload| workload.enrolled);
        format!("{} {enrolled}", endpoint.address)
    });
    let shown: Vec<String> = shown.collect();
    // An enrolled pod is one however it came to be listed: it is reached by mutual TLS.
    assert_eq!(shown, ["10.1.0.1:9090 true", "192.0.2.1:9090 false"]);
    assert!(service.captured);
}
