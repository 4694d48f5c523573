// SPDX-License-Identifier: Apache-2.0

//! What a LocalRateLimit is for.

use http::HeaderMap;

use super::{
    fixture::{Mesh, canary, service},
    routes::{WEB, destination_rule},
};
use crate::{
    config::{Kind, ObjectKey},
    model::Decision,
};

fn limit(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: mesh-agent.io/v1alpha1\nkind: LocalRateLimit\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

fn route(name: &str, parent: &str, path: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: {parent}}}], rules: [{{matches: [{{path: {{value: {path}}}}}], \
         backendRefs: [{{name: web, port: 80}}]}}]}}\n"
    )
}

/// The names of the limits of `GET path`.
#[track_caller]
fn check(mesh: &Mesh, path: &str, want: &[&str]) {
    let decided = mesh.decide("client", WEB, "GET", path, &HeaderMap::new());
    let plain = decided.is_plain();
    let Decision::Forward { treatment, .. } = decided else {
        panic!("{decided:?}");
    };
    let limits = treatment.iter().flat_map(|treatment| &treatment.limits);
    let names: Vec<&str> = limits.map(|limit| &*limit.origin.name).collect();
    assert_eq!(names, want, "{path}");
    assert_eq!(plain, want.is_empty(), "{path}");
}

const SERVICE: &str = "targetRef: {kind: Service, name: web}, requests: 10";
const ROUTE: &str = "targetRef: {group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}, requests: 5, unit: Minute, burst: 1, perClient: true";

fn deleted(name: &str) -> ObjectKey {
    ObjectKey {
        kind: Kind::LocalRateLimit,
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

#[test]
fn a_service_is_limited_with_and_without_routes() {
    let mut mesh = Mesh::new(&(canary("web") + &limit("all", SERVICE)));
    mesh.check_problems(&[]);
    check(&mesh, "/", &["all"]);
    mesh.apply(&route("a", "web", "/a"));
    check(&mesh, "/a", &["all"]);
    mesh.delete(&deleted("all"));
    check(&mesh, "/a", &[]);
}

#[test]
fn a_service_is_limited_for_clients_with_a_rule_of_their_own() {
    let rule = destination_rule(
        "name: web",
        "host: web, exportTo: ['.'], trafficPolicy: {loadBalancer: {simple: RANDOM}}",
    );
    let mesh = Mesh::new(&(canary("web") + &rule + &limit("all", SERVICE)));
    let service = mesh.service("default", "web");
    let port = &service.ports[0];
    let special = port.consumer_routes.iter().map(|(_, routes)| routes);
    for routes in special.chain(&port.routes) {
        let limited = |rule: &crate::model::HttpRule| rule.treatment.is_some();
        assert!(routes.rules.iter().all(limited), "{routes:?}");
    }
    assert!(port.routes.is_some());
}

#[test]
fn a_route_is_limited_and_no_other() {
    let yaml = canary("web") + &route("a", "web", "/a") + &route("b", "web", "/b");
    let mut mesh = Mesh::new(&(yaml + &limit("one", ROUTE)));
    mesh.check_problems(&[]);
    check(&mesh, "/a", &["one"]);
    check(&mesh, "/b", &[]);
    mesh.apply(&limit("all", SERVICE));
    check(&mesh, "/a", &["all", "one"]);
    check(&mesh, "/b", &["all"]);
}

#[test]
fn a_limit_follows_its_route_to_another_service() {
    let yaml = canary("web") + &service("other", "10.0.0.7") + &limit("one", ROUTE);
    let mut mesh = Mesh::new(&(yaml + &route("a", "other", "/")));
    mesh.apply(&route("a", "web", "/"));
    check(&mesh, "/", &["one"]);
    mesh.delete(&deleted("one"));
    check(&mesh, "/", &[]);
}

#[test]
fn a_limit_of_nothing_is_reported() {
    let nowhere = "targetRef: {kind: Service, name: nowhere}, requests: 1";
    for (spec, want) in [
        (
            nowhere,
            "spec.targetRef: there is no Service default/nowhere",
        ),
        (ROUTE, "spec.targetRef: there is no HTTPRoute default/a"),
        (
            "targetRef: {kind: Pod, name: web}, requests: 1",
            "\"Pod\" of group \"\" cannot be limited",
        ),
        (
            "targetRef: {kind: Service, name: web}",
            "requests and burst must be above 0",
        ),
        ("requests: 1", "spec.targetRef.name: must be set"),
        (
            "targetRef: {kind: Service, name: web}, requests: 1, unit: Day",
            "unit",
        ),
    ] {
        let mesh = Mesh::new(&(canary("web") + &limit("x", spec)));
        let problems = mesh.problems().join("\n");
        assert!(problems.contains(want), "no {want:?} in {problems}");
    }
}

#[test]
fn a_service_of_bytes_has_no_requests_to_limit() {
    let bytes = canary("web").replace("name: http, port: 80", "name: tcp, port: 80");
    Mesh::new(&(bytes + &limit("all", SERVICE)))
        .check_problems(&["all ports of the Service carry bytes"]);
}
