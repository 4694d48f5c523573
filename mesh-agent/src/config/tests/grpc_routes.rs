// SPDX-License-Identifier: Apache-2.0

//! GRPCRoutes decide, also beside HTTPRoutes.

use http::{HeaderMap, HeaderValue};

use super::{
    fixture::Mesh,
    http_routes::{TO_V1, TO_V2, backend, backends, gateway},
    routes::WEB,
};

/// A GRPCRoute to `web`.
fn grpc(place: &str, rules: &str) -> String {
    gateway(place, rules).replace("kind: HTTPRoute", "kind: GRPCRoute")
}

#[track_caller]
fn check(rules: &str, calls: &[(&str, &str)]) {
    let mesh = Mesh::new(&(grpc("name: web", rules) + &backends()));
    mesh.check_problems(&[]);
    for (path, want) in calls {
        assert_eq!(mesh.get("client", WEB, path), *want, "{path} with {rules}");
    }
}

fn to(version: &str, method: &str) -> String {
    format!(
        "{{matches: [{{method: {{{method}}}}}], {}}}",
        backend(version)
    )
}

#[test]
fn a_method_is_matched_by_service_and_name() {
    let rules = [
        to("v1", "service: shop.Cart"),
        to("v2", "service: shop.Cart, method: Add"),
        to(
            "v2",
            "type: RegularExpression, service: \"shop[.](A|B)\", method: \"Get.*\"",
        ),
        to("v1", "method: Health"),
    ]
    .join(", ");
    check(
        &rules,
        &[
            ("/shop.Cart/List", TO_V1),
            ("/shop.Cart/Add", TO_V2),
            ("/shop.Cart/add", TO_V1),
            ("/shop.CartX/Add", "404 NR"),
            ("/shop.A/GetOne", TO_V2),
            ("/shop.C/GetOne", "404 NR"),
            ("/any.Thing/Health", TO_V1),
            ("/any.Thing/HealthX", "404 NR"),
        ],
    );
}

#[test]
fn a_longer_service_beats_more_headers() {
    let headers = "{headers: [{name: a, value: \"1\"}, {name: b, value: \"2\"}]}";
    let rules = format!(
        "{{matches: [{headers}], {}}}, {}",
        backend("v1"),
        to("v2", "service: shop.Cart")
    );
    let mesh = Mesh::new(&(grpc("name: web", &rules) + &backends()));
    let mut sent = HeaderMap::new();
    sent.insert("a", HeaderValue::from_static("1"));
    sent.insert("b", HeaderValue::from_static("2"));
    for (path, want) in [("/shop.Cart/Add", TO_V2), ("/other/Add", TO_V1)] {
        assert_eq!(mesh.get_with("client", WEB, path, &sent), want);
    }
}

#[test]
fn what_has_no_backend_is_unavailable() {
    for (backends_of_rule, want) in [
        ("{name: nobody, port: 80}", "503 NC"),
        ("{name: web-v1, port: 80, weight: 0}", "503 -"),
        ("{kind: Bucket, group: example.com, name: x}", "503 NC"),
        (
            "{name: web-v1, port: 80, weight: 70}, {name: nobody, port: 80, weight: 0}",
            TO_V1,
        ),
    ] {
        let rule = format!("{{backendRefs: [{backends_of_rule}]}}");
        let mesh = Mesh::new(&(grpc("name: web", &rule) + &backends()));
        assert_eq!(mesh.get("client", WEB, "/a/B"), want, "{rule}");
    }
    let rule = format!(
        "{{filters: [{{type: URLRewrite, urlRewrite: {{}}}}], {}}}",
        backend("v1")
    );
    let mesh = Mesh::new(&(grpc("name: web", &rule) + &backends()));
    assert_eq!(mesh.get("client", WEB, "/a/B"), "503 -");
}

#[test]
fn a_grpc_route_wins_over_an_http_route_at_its_port() {
    let http = gateway("name: http", &format!("{{{}}}", backend("v1")));
    let mesh =
        Mesh::new(&(http + &grpc("name: grpc", &format!("{{{}}}", backend("v2"))) + &backends()));
    assert_eq!(mesh.get("client", WEB, "/"), TO_V2);
    mesh.check_problems(&["Warning [MESH0005] (HTTPRoute default/http test.yaml:2) spec.parentRefs[0]: GRPCRoute default/grpc decides at port 80 of Service default/web"]);
}
