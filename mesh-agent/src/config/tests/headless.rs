// SPDX-License-Identifier: Apache-2.0

//! Services without an address of their own: what is opened to their endpoints.

use super::fixture::{Mesh, client_in, pod, service};
use crate::{
    config::{Kind, ObjectKey},
    model::{Balancer, Destination},
};

/// A headless Service of `default` for `app: db`, with a port `http` 80 to 8080.
fn headless(name: &str) -> String {
    service(name, "None").replace(&format!("app: {name}"), "app: db")
}

/// A headless Service `db` and its pods.
fn db() -> String {
    [
        headless("db"),
        pod("db-0", "10.1.0.1", "app: db"),
        pod("db-1", "10.1.0.2", "app: db"),
    ]
    .concat()
}

fn rule(host: &str, to: &str) -> String {
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {host}}}
spec: {{hosts: [{host}], http: [{{route: [{{destination: {{host: {to}}}}}]}}]}}
"
    )
}

/// What a connection to `to` is, as clients in `namespace` see it: a Service and its port, or a pod.
#[track_caller]
fn check(mesh: &Mesh, to: &str, namespace: &str, want: &str) {
    let found = mesh
        .snapshot()
        .destination(to.parse().unwrap(), &client_in(namespace));
    let found = match found {
        Destination::Service(service, port) => format!("{} {}", service.name, port.number),
        Destination::Workload(workload) => workload.name.to_string(),
        Destination::Unknown => "nobody".to_owned(),
    };
    assert_eq!(found, want, "{to}");
}

#[test]
fn an_endpoint_of_a_headless_service_is_its_port() {
    let mut mesh = Mesh::new(&db());
    check(&mesh, "10.1.0.1:8080", "default", "default/db 80");
    check(&mesh, "10.1.0.2:8080", "default", "default/db 80");
    check(&mesh, "10.1.0.1:9090", "default", "db-0");
    check(&mesh, "10.1.0.3:8080", "default", "nobody");
    mesh.apply(&pod("db-1", "10.1.0.3", "app: db"));
    check(&mesh, "10.1.0.2:8080", "default", "nobody");
    check(&mesh, "10.1.0.3:8080", "default", "default/db 80");
    mesh.apply(&service("db", "10.0.0.1"));
    check(&mesh, "10.1.0.1:8080", "default", "db-0");
    mesh.apply(&headless("db"));
    check(&mesh, "10.1.0.1:8080", "default", "default/db 80");
    mesh.delete(&ObjectKey {
        kind: Kind::Service,
        namespace: "default".to_owned(),
        name: "db".to_owned(),
    });
    check(&mesh, "10.1.0.1:8080", "default", "db-0");
}

#[test]
fn of_several_headless_services_the_first_has_an_endpoint() {
    let mut mesh = Mesh::new(&(db() + &headless("cache")));
    check(&mesh, "10.1.0.1:8080", "default", "default/cache 80");
    mesh.delete(&ObjectKey {
        kind: Kind::Service,
        namespace: "default".to_owned(),
        name: "cache".to_owned(),
    });
    check(&mesh, "10.1.0.1:8080", "default", "default/db 80");
}

#[test]
fn clients_of_other_namespaces_see_what_is_exported() {
    let hidden = db().replace(
        "metadata: {name: db}",
        "metadata: {name: db, annotations: {networking.istio.io/exportTo: .}}",
    );
    let mesh = Mesh::new(&hidden);
    check(&mesh, "10.1.0.1:8080", "default", "default/db 80");
    check(&mesh, "10.1.0.1:8080", "bank", "db-0");
}

#[test]
fn its_own_clients_stay_where_they_connected_to_and_others_are_balanced() {
    let texts = [
        db(),
        rule("db", "db"),
        service("web", "10.0.0.1"),
        rule("web", "db"),
    ];
    let mesh = Mesh::new(&texts.concat());
    mesh.check_problems(&[]);
    let balancer = |service: &str| {
        let port = mesh.service("default", service).ports[0].clone();
        let routes = port.routes.clone().expect("it has a route");
        let text = format!("{:?}", routes.rules);
        (text.contains("Original"), port)
    };
    let (original, port) = balancer("db");
    assert!(original);
    let upstream = port.cluster.upstream.as_ref().expect("it is used so");
    assert_eq!(upstream.policy.balancer, Balancer::Original);
    assert!(!balancer("web").0);
}

#[test]
fn pods_outside_of_the_mesh_are_captured_where_a_rule_asks_for_it() {
    let captured = |text: &str| {
        let mesh = Mesh::new(text);
        let snapshot = mesh.snapshot();
        snapshot.by_endpoint[&"10.1.0.1:8080".parse().unwrap()].captured
    };
    let outside = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {istio-injection: disabled}}\n";
    assert!(!captured(&(db() + outside)));
    assert!(captured(&(db() + outside + &rule("db", "db"))));
    // An enrolled pod is captured at every port anyway.
    let inside = outside.replace("disabled", "enabled");
    assert!(!captured(&(db() + &inside + &rule("db", "db"))));
}
