// SPDX-License-Identifier: Apache-2.0

//! HTTPRoutes decide, also beside VirtualServices.

use http::{HeaderMap, HeaderValue};

use super::{
    fixture::{Mesh, service},
    routes::{WEB, to, virtual_service, web},
};

pub(super) fn http_route(place: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{{place}}}\nspec: {{{spec}}}\n"
    )
}

/// An HTTPRoute to `web` whose backends are Services `web-v1` and `web-v2`.
pub(super) fn gateway(place: &str, rules: &str) -> String {
    http_route(
        place,
        &format!(
            "parentRefs: [{{group: \"\", kind: Service, name: web, namespace: default, port: 80}}], rules: [{rules}]"
        ),
    )
}

pub(super) fn backends() -> String {
    let one = |name: &str, address: &str, version: &str| {
        service(name, address).replace(
            &format!("selector: {{app: {name}}}"),
            &format!("selector: {{app: web, version: {version}}}"),
        )
    };
    web() + &one("web-v1", "10.0.1.1", "v1") + &one("web-v2", "10.0.1.2", "v2")
}

pub(super) fn backend(version: &str) -> String {
    format!("backendRefs: [{{name: web-{version}, namespace: default, port: 80}}]")
}

pub(super) const TO_V1: &str = "*@10.1.0.1:8080";
pub(super) const TO_V2: &str = "*@10.1.0.2:8080";

#[test]
fn http_route_matches_are_ranked_as_the_specification_says() {
    let rules = format!(
        "{{{}}}, {{matches: [{{path: {{value: /v2}}}}, {{headers: [{{name: Version, value: two}}]}}], {}}}, {{matches: [{{path: {{type: Exact, value: /v2/x}}}}], {}}}",
        backend("v1"),
        backend("v2"),
        backend("v1")
    );
    let mesh = Mesh::new(&(gateway("name: web", &rules) + &backends()));
    mesh.check_problems(&[]);
    for (path, want) in [
        ("/", TO_V1),
        ("/v2example", TO_V1),
        ("/v2", TO_V2),
        ("/v2/", TO_V2),
        ("/v2/x", TO_V1),
    ] {
        assert_eq!(mesh.get("client", WEB, path), want, "{path}");
    }
    let mut headers = HeaderMap::new();
    headers.insert("version", HeaderValue::from_static("two"));
    assert_eq!(
        mesh.get_with("client", WEB, "/", &headers),
        TO_V2,
        "a header beats a prefix of equal length"
    );
}

#[test]
fn an_http_route_without_a_match_for_the_request_is_not_found() {
    let rules = format!("{{matches: [{{path: {{value: /a}}}}], {}}}", backend("v1"));
    let mesh = Mesh::new(&(gateway("name: web", &rules) + &backends()));
    assert_eq!(mesh.get("client", WEB, "/b"), "404 NR");
}

#[test]
fn an_http_route_wins_over_a_virtual_service() {
    let old = virtual_service(
        "name: web",
        &format!("hosts: [web], http: [{{{}}}]", to("v2")),
    );
    let mesh =
        Mesh::new(&(old + &gateway("name: web", &format!("{{{}}}", backend("v1"))) + &backends()));
    assert_eq!(mesh.get("client", WEB, "/"), TO_V1);
    mesh.check_problems(&["Warning [MESH0005] (VirtualService default/web test.yaml:2) spec.hosts: HTTPRoute default/web decides at port 80 of Service default/web"]);
}

#[test]
fn consumer_routes_are_for_clients_of_their_namespace_alone() {
    let producer = gateway("name: web", &format!("{{{}}}", backend("v1")));
    let consumer = gateway(
        "name: own, namespace: shop",
        &format!(
            "{{matches: [{{path: {{value: /own}}}}], {}}}",
            backend("v2")
        ),
    );
    let mesh = Mesh::new(&(producer + &consumer + &backends()));
    mesh.check_problems(&[]);
    assert_eq!(mesh.get("client", WEB, "/own"), TO_V1);
    assert_eq!(mesh.get("shopper", WEB, "/own"), TO_V2);
    assert_eq!(
        mesh.get("shopper", WEB, "/"),
        "404 NR",
        "routes of different groups are not merged"
    );
}

#[test]
fn invalid_backends_answer_500_for_their_share() {
    for (backend, want) in [
        ("{name: nobody, port: 80}", "500 NC"),
        ("{name: web-v1}", "500 NC"),
        ("{name: web-v1, port: 81}", "500 NC"),
        ("{kind: Bucket, group: example.com, name: x}", "500 NC"),
        ("{name: web-v1, port: 80, weight: 0}", "500 -"),
        (
            "{name: web-v1, port: 80}, {name: nobody, port: 80, weight: 0}",
            TO_V1,
        ),
    ] {
        let mesh = Mesh::new(
            &(gateway("name: web", &format!("{{backendRefs: [{backend}]}}")) + &backends()),
        );
        assert_eq!(mesh.get("client", WEB, "/"), want, "{backend}");
        let is_error = want.ends_with("NC");
        assert_eq!(
            mesh.problems().len(),
            usize::from(is_error),
            "{:#?}",
            mesh.problems()
        );
    }
    let mesh = Mesh::new(&(gateway("name: web", "{}") + &backends()));
    assert_eq!(
        mesh.get("client", WEB, "/"),
        "500 -",
        "a rule without backends"
    );
}

#[test]
fn http_route_weights_are_exact_and_shared_by_the_matches_of_a_rule() {
    let rules = "{matches: [{path: {value: /a}}, {path: {value: /b}}], backendRefs: [{name: web-v1, port: 80, weight: 70}, {name: web-v2, port: 80, weight: 30}]}";
    let mesh = Mesh::new(&(gateway("name: web", rules) + &backends()));
    let to_v2 = (0..100)
        .filter(|n| mesh.get("client", WEB, if n % 3 == 0 { "/a" } else { "/b" }) == TO_V2)
        .count();
    assert_eq!(to_v2, 30);
}

#[test]
fn parents_that_do_not_exist_are_reported() {
    for (parent, text) in [
        (
            "name: nobody, group: \"\", kind: Service",
            "there is no Service default/nobody",
        ),
        (
            "name: web, group: \"\", kind: Service, port: 81",
            "Service default/web has no such TCP port",
        ),
        (
            "name: web, group: \"\", kind: Service, sectionName: x",
            "Service default/web has no such TCP port",
        ),
        ("name: web", "a route is not attached to a Gateway"),
    ] {
        let mesh = Mesh::new(
            &(http_route(
                "name: web",
                &format!("parentRefs: [{{{parent}}}], rules: [{{{}}}]", backend("v1")),
            ) + &backends()),
        );
        mesh.check_problems(&[text]);
        assert_eq!(mesh.get("client", WEB, "/"), "*@10.1.0.1:8080");
    }
}

#[test]
fn filters_and_actions_that_are_not_supported_answer_500() {
    let redirect = virtual_service("name: web", "hosts: [web], http: [{redirect: {uri: /x}}]");
    let mesh = Mesh::new(&(redirect + &web()));
    assert_eq!(mesh.get("client", WEB, "/"), "500 -");
    mesh.check_problems(&["Error [MESH0003] (VirtualService default/web test.yaml:2) spec.http[0].redirect: not supported yet"]);
    let mirror = gateway(
        "name: web",
        &format!(
            "{{filters: [{{type: RequestMirror, requestMirror: {{}}}}], {}}}",
            backend("v1")
        ),
    );
    let mesh = Mesh::new(&(mirror + &backends()));
    assert_eq!(mesh.get("client", WEB, "/"), "500 -");
    mesh.check_problems(&["spec.rules[0].filters[0]: RequestMirror is not supported yet"]);
}

#[test]
fn redirects_say_where_to() {
    for (filter, path, want) in [
        (
            "hostname: example.org",
            "/a?b",
            "302 http://example.org/a?b",
        ),
        ("statusCode: 308", "/a", "308 http://web/a"),
        ("scheme: https, statusCode: 301", "/a", "301 https://web/a"),
        ("port: 8083", "/a", "302 http://web:8083/a"),
        (
            "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}",
            "/a",
            "302 http://web/new/a",
        ),
        (
            "path: {type: ReplaceFullPath, replaceFullPath: /new}",
            "/a?b",
            "302 http://web/new?b",
        ),
        ("statusCode: 200", "/a", "500 -"),
        ("scheme: ftp", "/a", "500 -"),
        ("hostname: \"a:80\"", "/a", "500 -"),
        ("path: {type: ReplaceFullPath}", "/a", "500 -"),
    ] {
        let rule =
            format!("{{filters: [{{type: RequestRedirect, requestRedirect: {{{filter}}}}}]}}");
        let mesh = Mesh::new(&(gateway("name: web", &rule) + &backends()));
        assert_eq!(mesh.get("client", WEB, path), want, "{filter}");
        let broken = usize::from(want == "500 -");
        assert_eq!(mesh.problems().len(), broken, "{:#?}", mesh.problems());
    }
}

#[test]
fn a_redirect_keeps_the_port_of_the_service() {
    let services = backends().replace("port: 80, targetPort", "port: 8000, targetPort");
    let rule = "{filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org}}]}";
    let route = gateway("name: web", rule).replace("port: 80}", "port: 8000}");
    let mesh = Mesh::new(&(route + &services));
    let web = ("default", "web", 8000);
    assert_eq!(mesh.get("client", web, "/"), "302 http://example.org:8000/");
}

#[test]
fn a_prefix_is_replaced_only_where_one_was_matched() {
    let rule = format!(
        "{{matches: [{{path: {{type: Exact, value: /a}}}}], filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /b}}}}}}], {}}}",
        backend("v1")
    );
    let mesh = Mesh::new(&(gateway("name: web", &rule) + &backends()));
    assert_eq!(mesh.get("client", WEB, "/a"), "500 -");
    mesh.check_problems(&["spec.rules[0].filters[0]: ReplacePrefixMatch needs matches of type PathPrefix: requests that match the rule are answered with 500"]);
}

#[test]
fn a_broken_filter_of_a_backend_costs_its_share_alone() {
    let rule = "{backendRefs: [{name: web-v1, port: 80}, {name: web-v2, port: 80, filters: [{type: RequestMirror, requestMirror: {}}]}]}";
    let mesh = Mesh::new(&(gateway("name: web", rule) + &backends()));
    let shares = mesh.shares("client", WEB, 10);
    assert_eq!(
        shares,
        [("500 NC".to_owned(), 5), (TO_V1.to_owned(), 5)].into()
    );
    mesh.check_problems(&["spec.rules[0].backendRefs[1].filters[0]: RequestMirror is not supported yet: its share of requests is answered with 500"]);
}
