// SPDX-License-Identifier: Apache-2.0

//! ExternalName Services as destinations.

use std::net::IpAddr;

use super::fixture::{Mesh, canary, pod, service};
use crate::config::names::Answer;

fn alias(name: &str, of: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{type: ExternalName, externalName: {of}, ports: [{{name: http, port: 80}}]}}
"
    )
}

/// Requests to `web` go to `host`.
fn rule(host: &str) -> String {
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web}}
spec: {{hosts: [web], http: [{{route: [{{destination: {{host: {host}, port: {{number: 80}}}}}}]}}]}}
"
    )
}

#[track_caller]
fn check(mesh: &Mesh, want: &str) {
    assert_eq!(mesh.get("client", ("default", "web", 80), "/"), want);
}

fn resolve(mesh: &mut Mesh, name: &str, addresses: &[[u8; 4]]) {
    mesh.answer(Answer {
        name: name.into(),
        addresses: addresses.iter().map(|one| IpAddr::from(*one)).collect(),
    });
}

#[test]
fn a_service_of_the_cluster_is_reached_by_its_other_name() {
    let cart = [
        service("cart", "10.0.0.5"),
        pod("cart-0", "10.1.0.7", "app: cart"),
    ];
    let to_cart = "cart.default.svc.cluster.local";
    let text = [canary("web"), alias("old", to_cart), rule("old")].concat();
    let mut mesh = Mesh::new(&text);
    check(&mesh, "*@nothing");
    mesh.apply(&cart.concat());
    mesh.check_problems(&[]);
    check(&mesh, "*@10.1.0.7:8080");
    mesh.apply(&alias("old", &to_cart.to_uppercase()));
    check(&mesh, "*@10.1.0.7:8080");
    // One after the other, and in a circle.
    mesh.apply(&(alias("older", "old.default.svc.cluster.local") + &rule("older")));
    check(&mesh, "*@10.1.0.7:8080");
    mesh.apply(&alias("old", "older.default.svc.cluster.local"));
    check(&mesh, "*@nothing");
}

#[test]
fn a_name_that_nobody_has_is_resolved() {
    let text = [canary("web"), alias("api", "api.example.com."), rule("api")];
    let mut mesh = Mesh::new(&text.concat());
    mesh.check_problems(&[]);
    check(&mesh, "*@nothing");
    resolve(&mut mesh, "api.example.com", &[[192, 0, 2, 1]]);
    check(&mesh, "*@192.0.2.1:80");
    resolve(&mut mesh, "api.example.com", &[[192, 0, 2, 2]]);
    check(&mesh, "*@192.0.2.2:80");
    // A ServiceEntry for it decides, once there is one.
    mesh.apply(
        "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api}
spec: {hosts: [api.example.com], resolution: STATIC, endpoints: [{address: 192.0.2.9}], ports: [{number: 80, name: http, protocol: HTTP}]}
",
    );
    check(&mesh, "*@192.0.2.9:80");
}

#[test]
fn what_is_no_name_is_said() {
    let text = [canary("web"), alias("api", "192.0.2.1"), rule("api")];
    let mesh = Mesh::new(&text.concat());
    mesh.check_problems(&["spec.externalName: \"192.0.2.1\" is no host name"]);
    check(&mesh, "*@nothing");
}

#[test]
fn routes_of_the_gateway_api_do_not_follow_it() {
    let route = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec: {parentRefs: [{group: '', kind: Service, name: web}], rules: [{backendRefs: [{name: api, port: 80}]}]}
";
    let text = [
        canary("web"),
        alias("api", "web.default.svc.cluster.local"),
        route.to_owned(),
    ];
    let mesh = Mesh::new(&text.concat());
    mesh.check_problems(&["default/api is an ExternalName Service"]);
    check(&mesh, "500 NC");
}
