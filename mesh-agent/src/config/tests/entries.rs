// SPDX-License-Identifier: Apache-2.0

//! ServiceEntries and WorkloadEntries.

mod endpoints;

use std::{net::SocketAddr, sync::Arc};

use super::fixture::{Mesh, canary, client_in, pod, pod_in, service};
use crate::{
    config::names::Answer,
    model::{Destination, Protocol, Service, Told},
};

/// A ServiceEntry of `default` for `api.example.com`, with a port `http` 80.
fn entry(rest: &str) -> String {
    entry_named("api", "api.example.com", rest)
}

fn entry_named(name: &str, host: &str, rest: &str) -> String {
    let own = match rest.contains("addresses") {
        true => "",
        false => "addresses: [240.9.9.9], ",
    };
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec: {{hosts: [\"{host}\"], ports: [{{number: 80, name: http, protocol: HTTP}}], {own}{rest}}}
"
    )
}

fn workload_entry(name: &str, address: &str, rest: &str) -> String {
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {name}}}
spec: {{address: {address}, {rest}}}
"
    )
}

fn addresses(service: &Service) -> Vec<String> {
    let endpoints = &service.ports[0].cluster.endpoints;
    endpoints
        .iter()
        .map(|one| one.address.to_string())
        .collect()
}

#[track_caller]
fn check(text: &str, want: &[&str]) {
    let mesh = Mesh::new(text);
    mesh.check_problems(&[]);
    assert_eq!(addresses(&mesh.service("default", "api.example.com")), want);
}

fn resolve(mesh: &mut Mesh, name: &str, last: &[[u8; 4]]) {
    let answer = Answer {
        name: name.into(),
        addresses: last.iter().map(|one| (*one).into()).collect(),
    };
    mesh.answer(answer);
}

/// Whose a connection from `default` to a socket is.
#[track_caller]
fn owner(mesh: &Mesh, to: &str, namespace: &str) -> Option<Arc<str>> {
    let to: SocketAddr = to.parse().unwrap();
    match mesh.snapshot().destination(to, &client_in(namespace)) {
        Destination::Service(service, _) => Some(Arc::clone(&service.hostname)),
        Destination::Workload(_) | Destination::Unknown => None,
    }
}

#[test]
fn endpoints_of_a_static_entry_are_those_that_it_lists() {
    check(
        &entry(
            "resolution: STATIC, endpoints: [{address: 10.2.0.1}, {address: 10.2.0.2, ports: {http: 8080}}]",
        ),
        &["10.2.0.1:80", "10.2.0.2:8080"],
    );
    let other = entry("resolution: STATIC, endpoints: [{address: 10.2.0.1}]")
        .replace("protocol: HTTP", "protocol: HTTP, targetPort: 9000");
    check(&other, &["10.2.0.1:9000"]);
    check(&entry("resolution: STATIC"), &[]);
}

#[test]
fn an_address_of_an_entry_is_captured_like_a_service_s() {
    let text = entry(
        "addresses: [240.1.0.1, 240.1.0.2/32], resolution: STATIC, endpoints: [{address: 10.2.0.1}]",
    );
    let mesh = Mesh::new(&text);
    let service = mesh.service("default", "api.example.com");
    assert!(service.captured);
    assert_eq!(service.ports[0].protocol, Protocol::Http);
    for address in ["240.1.0.1:80", "240.1.0.2:80"] {
        assert_eq!(
            owner(&mesh, address, "other").as_deref(),
            Some("api.example.com")
        );
    }
    assert_eq!(owner(&mesh, "240.1.0.1:81", "other"), None);
}

#[test]
fn an_entry_that_is_not_exported_is_nothing_to_other_namespaces() {
    let text = entry("exportTo: [\".\"], addresses: [240.1.0.1], resolution: NONE");
    let mesh = Mesh::new(&text);
    assert_eq!(
        owner(&mesh, "240.1.0.1:80", "default").as_deref(),
        Some("api.example.com")
    );
    assert_eq!(owner(&mesh, "240.1.0.1:80", "other"), None);
}

#[test]
fn a_service_is_seen_where_its_annotation_says() {
    let text = service("web", "10.0.0.1").replace(
        "{name: web}",
        "{name: web, annotations: {networking.istio.io/exportTo: \"., shop\"}}",
    );
    let mesh = Mesh::new(&text);
    mesh.check_problems(&[]);
    for (namespace, sees) in [("default", true), ("shop", true), ("other", false)] {
        let found = owner(&mesh, "10.0.0.1:80", namespace);
        assert_eq!(found.is_some(), sees, "{namespace}");
    }
}

#[test]
fn an_enrolled_pod_at_an_endpoint_is_known() {
    let text =
        entry("location: MESH_INTERNAL, resolution: STATIC, endpoints: [{address: 10.1.0.1}]");
    let mesh = Mesh::new(&(text + &pod("a", "10.1.0.1", "")));
    let service = mesh.service("default", "api.example.com");
    let workload = service.ports[0].cluster.endpoints[0].workload.clone();
    assert_eq!(&*workload.expect("the pod is known").name, "a");
}

#[test]
fn endpoints_are_where_the_host_resolves_to() {
    let mut mesh = Mesh::new(&entry("resolution: DNS"));
    assert_eq!(
        addresses(&mesh.service("default", "api.example.com")),
        [""; 0]
    );
    resolve(
        &mut mesh,
        "api.example.com",
        &[[192, 0, 2, 1], [192, 0, 2, 2]],
    );
    let known = ["192.0.2.1:80", "192.0.2.2:80"];
    assert_eq!(
        addresses(&mesh.service("default", "api.example.com")),
        known
    );
    resolve(&mut mesh, "other.example.com", &[[192, 0, 2, 9]]);
    assert_eq!(
        addresses(&mesh.service("default", "api.example.com")),
        known
    );
    // What it resolves to stays known while the entry changes.
    mesh.apply(&entry(
        "resolution: DNS, location: MESH_EXTERNAL, addresses: [240.0.0.1]",
    ));
    assert_eq!(
        addresses(&mesh.service("default", "api.example.com")),
        known
    );
    mesh.check_problems(&[]);
}

#[test]
fn endpoints_with_names_are_resolved() {
    let text = entry(
        "resolution: DNS, endpoints: [{address: one.example.com, ports: {http: 8080}}, {address: 10.2.0.1}]",
    );
    let mut mesh = Mesh::new(&text);
    resolve(&mut mesh, "one.example.com", &[[192, 0, 2, 1]]);
    let known = ["10.2.0.1:80", "192.0.2.1:8080"];
    assert_eq!(
        addresses(&mesh.service("default", "api.example.com")),
        known
    );
}

#[test]
fn an_entry_selects_pods_and_workload_entries_of_its_namespace() {
    let text = [
        entry("resolution: STATIC, workloadSelector: {labels: {app: api}}"),
        pod("a", "10.1.0.1", "app: api"),
        pod("b", "10.1.0.2", "app: other"),
        pod_in("other", "c", "10.1.0.3", "app: api"),
        workload_entry(
            "vm",
            "10.2.0.1",
            "labels: {app: api, version: v2}, ports: {http: 8080}",
        ),
        workload_entry("no", "10.2.0.2", "labels: {app: other}"),
    ]
    .concat();
    check(&text, &["10.1.0.1:80", "10.2.0.1:8080"]);
    let mesh = Mesh::new(&text);
    let service = mesh.service("default", "api.example.com");
    let vm = service.ports[0].cluster.endpoints[1].workload.clone();
    let vm = vm.expect("it has labels");
    assert_eq!((&*vm.name, &*vm.canonical_revision), ("vm", "v2"));
    assert!(!vm.enrolled);
}

#[test]
fn a_workload_entry_that_comes_and_goes_is_followed() {
    let mut mesh = Mesh::new(&entry(
        "resolution: STATIC, workloadSelector: {labels: {app: api}}",
    ));
    let vm = workload_entry("vm", "10.2.0.1", "labels: {app: api}");
    mesh.apply(&vm);
    assert_eq!(
        addresses(&mesh.service("default", "api.example.com")),
        ["10.2.0.1:80"]
    );
    mesh.apply(&vm.replace("app: api", "app: web"));
    assert_eq!(
        addresses(&mesh.service("default", "api.example.com")),
        [""; 0]
    );
}

#[test]
fn what_expects_the_mesh_s_tls_gets_no_plaintext() {
    let label = "labels: {security.istio.io/tlsMode: istio}";
    let text = entry(&format!(
        "resolution: STATIC, endpoints: [{{address: 10.1.0.1, {label}}}, {{address: 10.2.0.1, {label}}}]"
    ));
    let namespace = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {istio-injection: enabled}}\n";
    let mesh = Mesh::new(&(text + namespace + &pod("a", "10.1.0.1", "")));
    mesh.check_problems(&["spec.endpoints[0].labels", "spec.endpoints[1].labels"]);
    assert_eq!(
        addresses(&mesh.service("default", "api.example.com")),
        ["10.1.0.1:80"]
    );
}

#[test]
fn without_resolution_traffic_goes_on_to_where_it_was_sent() {
    let mesh = Mesh::new(&entry("addresses: [192.0.2.7], resolution: NONE"));
    let service = mesh.service("default", "api.example.com");
    let to = "192.0.2.7:80".parse().unwrap();
    let found = service.ports[0].cluster.original(to, || None);
    assert_eq!(found.map(|one| one.address), Some(to));
}

#[test]
fn virtual_services_and_destination_rules_are_for_hosts_of_entries() {
    let rule = "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: api}
spec: {host: api.example.com, subsets: [{name: v2, labels: {version: v2}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: api}
spec:
  hosts: [api.example.com]
  http:
  - match: [{uri: {prefix: /two}}]
    route: [{destination: {host: api.example.com, subset: v2}}]
  - match: [{uri: {prefix: /web}}]
    route: [{destination: {host: web}}]
  - route: [{destination: {host: api.example.com}}]
";
    let text = [
        canary("web"),
        entry("addresses: [240.0.0.1], resolution: STATIC, endpoints: [{address: 10.2.0.1, labels: {version: v1}}, {address: 10.2.0.2, labels: {version: v2}}]"),
        rule.to_owned(),
    ]
    .concat();
    let mesh = Mesh::new(&text);
    mesh.check_problems(&[]);
    let api = ("default", "api.example.com", 80);
    assert_eq!(mesh.get("client", api, "/two"), "v2@10.2.0.2:80");
    assert_eq!(mesh.get("client", api, "/web"), "*@10.1.0.1:8080");
    assert_eq!(mesh.get("client", api, "/"), "*@10.2.0.1:80");
}

#[test]
fn of_two_entries_with_one_host_the_older_decides() {
    let text = entry("resolution: STATIC, endpoints: [{address: 10.2.0.1}]")
        + &entry_named(
            "zapi",
            "api.example.com",
            "resolution: STATIC, endpoints: [{address: 10.2.0.2}]",
        );
    let mut mesh = Mesh::new(&text);
    mesh.check_problems(&["(ServiceEntry default/zapi test.yaml:7) spec.hosts: ServiceEntry default/api has the host api.example.com too"]);
    assert_eq!(
        addresses(&mesh.service("default", "api.example.com")),
        ["10.2.0.1:80"]
    );
    mesh.delete(&crate::config::ObjectKey {
        kind: crate::config::Kind::ServiceEntry,
        namespace: "default".to_owned(),
        name: "api".to_owned(),
    });
    assert_eq!(
        addresses(&mesh.service("default", "api.example.com")),
        ["10.2.0.2:80"]
    );
    mesh.check_problems(&[]);
}

#[test]
fn a_service_beats_an_entry_with_its_host() {
    let text = service("web", "10.0.0.1")
        + &entry_named(
            "web",
            "web.default.svc.cluster.local",
            "addresses: [240.0.0.1], resolution: NONE",
        );
    let mesh = Mesh::new(&text);
    mesh.check_problems(&["a Service has the host web.default.svc.cluster.local too"]);
    assert_eq!(owner(&mesh, "240.0.0.1:80", "default"), None);
}

#[test]
fn what_makes_no_sense_is_rejected() {
    for (rest, want) in [
        (
            "resolution: NONE, endpoints: [{address: 10.2.0.1}]",
            "spec.endpoints: resolution NONE",
        ),
        (
            "resolution: STATIC, endpoints: [{address: one.example.com}]",
            "spec.endpoints[0].address",
        ),
        (
            "resolution: DYNAMIC_DNS",
            "spec.resolution: not supported: ",
        ),
        (
            "resolution: STATIC, endpoints: [{address: 10.2.0.1}], workloadSelector: {labels: {a: b}}",
            "exclude each other",
        ),
    ] {
        Mesh::new(&entry(rest)).check_problems(&[want]);
    }
    for host in ["api", "*", "a.*.b"] {
        Mesh::new(&entry_named("api", host, "")).check_problems(&["spec.hosts[0]"]);
    }
    Mesh::new(&entry_named("api", "*.example.com", "resolution: DNS"))
        .check_problems(&["many names"]);
}

#[test]
fn locality_says_where_an_endpoint_is() {
    let node = "---\napiVersion: v1\nkind: Node\nmetadata: {name: node-a, labels: {topology.kubernetes.io/region: eu}}\n";
    let listed = "resolution: STATIC, endpoints: [{address: 10.2.0.1, locality: us/b/c}, {address: 10.2.0.2, locality: us}, {address: 10.1.0.7}, {address: 10.2.0.3}]";
    let text = entry(listed) + node + &pod("there", "10.1.0.7", "app: x");
    let mesh = Mesh::new(&text);
    mesh.check_problems(&[]);
    let places = |mesh: &Mesh| -> Vec<String> {
        let port = &mesh.service("default", "api.example.com").ports[0];
        let of = |one: &crate::model::Endpoint| {
            let place = one.place.as_deref().cloned().unwrap_or_default();
            format!("{}/{}/{}", place.region, place.zone, place.subzone)
        };
        port.cluster.endpoints.iter().map(of).collect()
    };
    assert_eq!(places(&mesh), ["eu//", "us/b/c", "us//", "//"]);
    let selecting = entry("resolution: STATIC, workloadSelector: {labels: {app: vm}}")
        + &workload_entry("vm", "10.2.0.1", "labels: {app: vm}, locality: eu/a");
    assert_eq!(places(&Mesh::new(&selecting)), ["eu/a/"]);
}

#[test]
fn what_has_no_effect_is_said() {
    let text =
        entry("resolution: STATIC, endpoints: [{address: 10.2.0.1, network: n, locality: a/b}]");
    Mesh::new(&text).check_problems(&["spec.endpoints[0].network"]);
}

/// Which host a connection or request of `default` is for that is opened to an address of nobody.
#[track_caller]
fn named(mesh: &Mesh, to: &str, told: &Told, name: &str) -> Option<Arc<str>> {
    let to: SocketAddr = to.parse().unwrap();
    let snapshot = mesh.snapshot();
    let found = snapshot
        .named
        .get(&to.port())?
        .find(name, told, &client_in("default"))?;
    Some(Arc::clone(&found.service.hostname))
}

#[test]
fn hosts_without_addresses_are_told_by_name() {
    let tls = entry_named("tls", "*.example.com", "addresses: [], resolution: NONE").replace(
        "number: 80, name: http, protocol: HTTP",
        "number: 443, name: tls, protocol: TLS",
    );
    let text = [
        entry("addresses: [], resolution: DNS"),
        entry_named("all", "*.example.com", "addresses: [], resolution: NONE"),
        tls.replace("name: tls}", "name: tls, namespace: other}"),
    ]
    .concat();
    let mesh = Mesh::new(&text);
    let host = |name: &str| named(&mesh, "192.0.2.1:80", &Told::Host, name);
    assert_eq!(host("API.example.com").as_deref(), Some("api.example.com"));
    assert_eq!(host("b.example.com").as_deref(), Some("*.example.com"));
    assert_eq!(host("example.com"), None);
    assert_eq!(
        named(&mesh, "192.0.2.1:80", &Told::ServerName, "api.example.com"),
        None
    );
}

#[test]
fn a_tls_port_is_told_by_the_server_name() {
    let text = entry("addresses: [], resolution: NONE").replace(
        "number: 80, name: http, protocol: HTTP",
        "number: 443, name: tls, protocol: TLS",
    );
    let mesh = Mesh::new(&text);
    mesh.check_problems(&[]);
    let found = named(&mesh, "192.0.2.1:443", &Told::ServerName, "api.example.com");
    assert_eq!(found.as_deref(), Some("api.example.com"));
}

#[test]
fn an_address_in_a_range_is_the_entry_s() {
    let text = entry("addresses: [192.0.2.0/24], resolution: NONE") + &pod("a", "192.0.2.9", "");
    let mesh = Mesh::new(&text);
    mesh.check_problems(&[]);
    let to = |text| owner(&mesh, text, "default");
    assert_eq!(to("192.0.2.7:80").as_deref(), Some("api.example.com"));
    assert_eq!(to("192.0.3.7:80"), None);
    assert_eq!(to("192.0.2.7:81"), None);
    // A pod's address is its own.
    assert_eq!(to("192.0.2.9:80"), None);
}

#[test]
fn a_port_of_bytes_without_addresses_is_the_entry_s_at_every_address() {
    let text = entry("addresses: [], resolution: NONE").replace("protocol: HTTP", "protocol: TCP");
    let mesh = Mesh::new(&text);
    assert_eq!(
        owner(&mesh, "192.0.2.7:80", "default").as_deref(),
        Some("api.example.com")
    );
}

#[test]
fn clients_of_each_family_get_endpoints_that_they_can_reach() {
    let mut mesh = Mesh::new(&entry("addresses: [], resolution: DNS"));
    resolve(&mut mesh, "api.example.com", &[[192, 0, 2, 1]]);
    let snapshot = mesh.snapshot();
    for to in ["198.51.100.1:80", "[2001:db8::1]:80"] {
        let to = to.parse().unwrap();
        let port = snapshot.elsewhere(to, &client_in("default"), "api.example.com:80");
        let endpoint = port.cluster.endpoints[0].address.to_string();
        assert_eq!(endpoint, "192.0.2.1:80", "{to}");
    }
}
