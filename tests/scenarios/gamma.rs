// SPDX-License-Identifier: Apache-2.0

//! Routes of the Gateway API on a Service: weights, redirects, rewrites, gRPC.

use mesh_tests::{client, foreign};

use crate::mesh::{Mesh, counts};

/// A mesh with a Service for each version, behind port 80.
#[track_caller]
fn with_versions(name: &str, flags: &[&str]) -> Mesh {
    let mesh = Mesh::with(name, flags, "");
    for version in ["v1", "v2"] {
        let name = format!("recommendations-{version}");
        let labels = [("app", "recommendations"), ("version", version)];
        mesh.lab
            .service(&name)
            .selector(&labels)
            .port("http", 80, 8080)
            .create();
    }
    mesh
}

/// A route of `kind` on `recommendations` with these rules, flow YAML.
fn route(kind: &str, port: u16, rules: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: recommendations, namespace: default}}
spec:
  parentRefs:
  - {{group: '', kind: Service, name: recommendations, port: {port}}}
  rules: [{rules}]
"
    )
}

#[test]
fn an_http_route_decides_with_its_own_weights() {
    let mesh = with_versions("gamma weights", &[]);
    let rules = "{backendRefs: [{name: recommendations-v1, port: 80, weight: 9}, \
                 {name: recommendations-v2, port: 80, weight: 1}]}";
    mesh.apply(&route("HTTPRoute", 80, rules));
    assert_eq!(mesh.get_many(1000), counts(900, 100));
}

#[test]
fn redirects_are_answered_on_the_clients_node() {
    let mesh = with_versions("gamma redirect", &["--access-log", "json"]);
    let rules = "
    {matches: [{path: {value: /host}}], filters: [{type: RequestRedirect, requestRedirect: \
     {hostname: example.org, statusCode: 301}}]},
    {matches: [{path: {value: /path}}], filters: [{type: RequestRedirect, requestRedirect: \
     {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]},
    {matches: [{path: {value: /tls}}], filters: [{type: RequestRedirect, requestRedirect: \
     {scheme: https, statusCode: 308}}]}";
    mesh.apply(&route("HTTPRoute", 80, rules));
    for (path, status, location) in [
        ("/host/a?b=c", 301, "http://example.org/host/a?b=c"),
        ("/path/a", 302, "http://recommendations/new/a"),
        ("/tls", 308, "https://recommendations/tls"),
    ] {
        let answer = mesh.get(path);
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert_eq!(answer.header("location"), Some(location), "{path}");
    }
    let log = mesh.a.wait_log("\"response_code\":308");
    assert!(!log.contains("\"response_code\":500"), "{log}");
    assert_eq!(mesh.get("/other").status, 404);
}

#[test]
fn a_rewritten_path_and_changed_headers_reach_the_server() {
    let mesh = with_versions("gamma rewrite", &[]);
    let rules = "
    {matches: [{path: {value: /old}}], filters: [{type: URLRewrite, urlRewrite: \
     {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}, {type: ResponseHeaderModifier, \
     responseHeaderModifier: {set: [{name: x-route, value: seen}]}}], \
     backendRefs: [{name: recommendations-v2, port: 80}]}";
    mesh.apply(&route("HTTPRoute", 80, rules));
    let answer = mesh.get("/old/a?b=c");
    assert_eq!(answer.field("version"), "v2");
    assert_eq!(answer.field("path"), "/a?b=c");
    assert_eq!(answer.header("x-route"), Some("seen"));
    // The route is the Service's: a pod's own address is not routed.
    let direct = format!("{}:8080", mesh.v1.v4);
    let answer = mesh
        .client
        .run(|| client::get(&direct, "recommendations", "/old"))
        .unwrap();
    assert_eq!(answer.header("x-route"), None);
}

/// What the Go client says when it calls `recommendations` behind a GRPCRoute with these rules.
#[track_caller]
fn call(name: &str, rules: &str) -> (String, String) {
    let mesh = Mesh::start(name);
    let servers = [(&mesh.v1, "v1"), (&mesh.v2, "v2")].map(|(pod, version)| {
        let labels = [("app", "recommendations"), ("version", version)];
        mesh.lab
            .service(&format!("recommendations-{version}"))
            .selector(&labels)
            .port("grpc", 7070, 7070)
            .create();
        foreign::go(&mesh.lab, pod, 7070)
    });
    mesh.lab
        .service("shop")
        .selector(&[("app", "recommendations")])
        .port("grpc", 7070, 7070)
        .create();
    let route =
        route("GRPCRoute", 7070, rules).replace("name: recommendations, p", "name: shop, p");
    mesh.apply(&route);
    let go = foreign::go_program();
    let ran = mesh
        .client
        .exec(go.to_str().unwrap(), &["unary", "shop:7070", "500"]);
    drop(servers);
    (ran.stdout, ran.stderr)
}

#[test]
fn grpc_calls_are_split_by_weight_although_a_backend_of_none_is_missing() {
    let rules = "{matches: [{method: {service: lab.Echo, method: Unary}}], backendRefs: [\
                 {name: recommendations-v1, port: 7070, weight: 70}, \
                 {name: recommendations-v2, port: 7070, weight: 30}, \
                 {name: recommendations-v3, port: 7070, weight: 0}]}";
    let (said, error) = call("gamma grpc", rules);
    assert_eq!(
        said, "350 recommendations-v1 x\n150 recommendations-v2 x\n",
        "{error}"
    );
}

#[test]
fn a_grpc_call_without_backend_is_unavailable_and_without_match_unimplemented() {
    let rules = "{backendRefs: [{name: nobody, port: 7070}]}";
    let (_, error) = call("gamma unavailable", rules);
    assert!(error.contains("code = Unavailable"), "{error}");
    let rules = "{matches: [{method: {service: other.Service}}], \
                 backendRefs: [{name: recommendations-v1, port: 7070}]}";
    let (_, error) = call("gamma unimplemented", rules);
    assert!(error.contains("code = Unimplemented"), "{error}");
}
