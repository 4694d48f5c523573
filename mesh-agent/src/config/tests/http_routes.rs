// SPDX-License-Identifier: Apache-2.0

//! HTTPRoutes decide, also beside VirtualServices.

use http::{HeaderMap, HeaderValue};

use super::{
    fixture::{Mesh, client_in, service},
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
fn filters_that_are_not_supported_answer_500() {
    let mirror = gateway(
        "name: web",
        &format!(
            "{{filters: [{{type: ExternalAuth, externalAuth: {{}}}}], {}}}",
            backend("v1")
        ),
    );
    let mesh = Mesh::new(&(mirror + &backends()));
    assert_eq!(mesh.get("client", WEB, "/"), "500 -");
    mesh.check_problems(&["spec.rules[0].filters[0]: ExternalAuth is not supported: "]);
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
    let rule = "{backendRefs: [{name: web-v1, port: 80}, {name: web-v2, port: 80, filters: [{type: ExternalAuth, externalAuth: {}}]}]}";
    let mesh = Mesh::new(&(gateway("name: web", rule) + &backends()));
    let shares = mesh.shares("client", WEB, 10);
    assert_eq!(
        shares,
        [("500 NC".to_owned(), 5), (TO_V1.to_owned(), 5)].into()
    );
    mesh.check_problems(&["spec.rules[0].backendRefs[1].filters[0]: ExternalAuth is not supported: authorization is asked where a request arrives"]);
}

/// What else is done with requests of a route whose only rule is this.
#[track_caller]
fn treatment(rule: &str) -> std::sync::Arc<crate::model::Treatment> {
    let rule = format!("{{{rule}, {}}}", backend("v1"));
    let mesh = Mesh::new(&(gateway("name: web", &rule) + &backends()));
    mesh.check_problems(&[]);
    match mesh.decide("client", WEB, "GET", "/", &HeaderMap::new()) {
        crate::model::Decision::Forward {
            treatment: Some(treatment),
            ..
        } => treatment,
        other => panic!("{other:?}"),
    }
}

#[test]
fn request_mirror_copies_all_or_a_share() {
    let mirror = |share: &str| {
        let filter = format!(
            "filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: web-v2, namespace: default, port: 80}}{share}}}}}]"
        );
        treatment(&filter).mirrors.clone()
    };
    let share = |percent| crate::model::Share::percent(percent).unwrap();
    for (written, want) in [
        ("", 100.0),
        (", percent: 42", 42.0),
        (", fraction: {numerator: 1, denominator: 8}", 12.5),
        (", fraction: {numerator: 3}", 3.0),
    ] {
        let mirrors = mirror(written);
        assert_eq!(mirrors[0].share, share(want), "{written}");
        assert_eq!(&*mirrors[0].cluster.service.name, "web-v2");
    }
}

/// What else is done with requests to each of two backends, the second with filters of its own.
#[track_caller]
fn of_backends(of_rule: &str, own: &str) -> [Option<std::sync::Arc<crate::model::Treatment>>; 2] {
    let rule = format!(
        "{{filters: [{of_rule}], backendRefs: [{{name: web-v1, port: 80}}, {{name: web-v2, port: 80, filters: [{own}]}}]}}"
    );
    let mesh = Mesh::new(&(gateway("name: web", &rule) + &backends()));
    mesh.check_problems(&[]);
    [(); 2].map(
        |()| match mesh.decide("client", WEB, "GET", "/", &HeaderMap::new()) {
            crate::model::Decision::Forward { treatment, .. } => treatment,
            other => panic!("{other:?}"),
        },
    )
}

#[test]
fn request_mirror_on_a_backend_copies_its_own_requests_besides_the_rules() {
    let mirror = |name: &str| {
        format!(
            "{{type: RequestMirror, requestMirror: {{backendRef: {{name: {name}, port: 80}}}}}}"
        )
    };
    let [first, second] = of_backends("", &mirror("web-v1"));
    assert!(first.is_none());
    assert_eq!(second.unwrap().mirrors.len(), 1);
    let [first, second] = of_backends(&mirror("web-v2"), &mirror("web-v1"));
    assert_eq!(first.unwrap().mirrors.len(), 1);
    let names = second.unwrap();
    let names = names.mirrors.iter().map(|one| &*one.cluster.service.name);
    assert_eq!(names.collect::<Vec<_>>(), ["web-v2", "web-v1"]);
}

#[test]
fn cors_on_a_backend_answers_its_share_of_preflights() {
    let cors = "{type: CORS, cors: {allowOrigins: [\"https://a\"]}}";
    let [first, second] = of_backends("", cors);
    assert!(first.is_none());
    assert!(second.unwrap().cors.is_some());
    let rule = format!(
        "{{backendRefs: [{{name: web-v1, port: 80, weight: 0}}, {{name: web-v2, port: 80, filters: [{cors}]}}]}}"
    );
    let mesh = Mesh::new(&(gateway("name: web", &rule) + &backends()));
    let mut headers = HeaderMap::new();
    headers.insert("origin", HeaderValue::from_static("https://a"));
    let method = HeaderValue::from_static("PUT");
    headers.insert("access-control-request-method", method);
    match mesh.decide("client", WEB, "OPTIONS", "/", &headers) {
        crate::model::Decision::Answer { answer, .. } => {
            assert_eq!(answer.headers["access-control-allow-origin"], "https://a");
        }
        other => panic!("{other:?}"),
    }
    assert!(!mesh.service("default", "web").ports[0].is_plain(&client_in("default")));
    let rule = format!(
        "{{filters: [{cors}], backendRefs: [{{name: web-v1, port: 80, filters: [{cors}]}}]}}"
    );
    let mesh = Mesh::new(&(gateway("name: web", &rule) + &backends()));
    mesh.check_problems(&["backendRefs[0].filters[0]: there is a CORS filter already"]);
}

#[test]
fn request_mirror_is_refused_where_it_means_nothing() {
    for (mirror, want) in [
        (
            "{backendRef: {name: web-v2, port: 80}, percent: 101}",
            "more than all requests",
        ),
        (
            "{backendRef: {name: web-v2, port: 80}, percent: 1, fraction: {numerator: 1}}",
            "percent and fraction exclude each other",
        ),
    ] {
        let rule = format!(
            "{{filters: [{{type: RequestMirror, requestMirror: {mirror}}}], {}}}",
            backend("v1")
        );
        let mesh = Mesh::new(&(gateway("name: web", &rule) + &backends()));
        mesh.check_problems(&[want]);
        assert_eq!(mesh.get("client", WEB, "/"), "500 -", "{mirror}");
    }
}

#[test]
fn retry_has_codes_attempts_backoff_and_the_time_of_one_try() {
    let rule = "retry: {codes: [500, 503], attempts: 3, backoff: 100ms}, \
                timeouts: {request: 10s, backendRequest: 2s}";
    let policy = treatment(rule).retry.clone().unwrap();
    assert_eq!(policy.attempts, 3);
    assert_eq!(
        policy.per_try_timeout,
        Some(std::time::Duration::from_secs(2))
    );
    assert_eq!(policy.base_interval, std::time::Duration::from_millis(100));
    assert_eq!(treatment("retry: {}").retry.as_ref().unwrap().attempts, 2);
    for (retry, want) in [
        ("{codes: [200]}", "codes: 200 is no status of an error"),
        ("{attempts: 101}", "attempts: 101 is more than 100"),
        ("{backoff: x}", "backoff: \"x\" is not a duration"),
    ] {
        let rule = format!("{{retry: {retry}, {}}}", backend("v1"));
        Mesh::new(&(gateway("name: web", &rule) + &backends())).check_problems(&[want]);
    }
}

#[test]
fn cors_answers_preflights_by_the_gateway_apis_rules() {
    let cors = |policy: &str, origin: &'static str| {
        let rule = format!(
            "{{filters: [{{type: CORS, cors: {policy}}}], {}}}",
            backend("v1")
        );
        let mesh = Mesh::new(&(gateway("name: web", &rule) + &backends()));
        mesh.check_problems(&[]);
        let mut headers = HeaderMap::new();
        headers.insert("origin", HeaderValue::from_static(origin));
        headers.insert(
            "access-control-request-method",
            HeaderValue::from_static("PUT"),
        );
        match mesh.decide("client", WEB, "OPTIONS", "/", &headers) {
            crate::model::Decision::Answer { answer, .. } => answer.headers.clone(),
            other => panic!("{other:?}"),
        }
    };
    let said = cors(
        "{allowOrigins: [\"https://*.example\"], allowMethods: [\"*\"]}",
        "https://a.b.example",
    );
    assert_eq!(said["access-control-allow-origin"], "https://a.b.example");
    assert_eq!(said["access-control-allow-methods"], "*");
    assert_eq!(said["access-control-max-age"], "5");
    let said = cors(
        "{allowOrigins: [\"*\"], allowCredentials: true, allowMethods: [\"*\"], maxAge: 9}",
        "https://x",
    );
    assert_eq!(said["access-control-allow-methods"], "PUT");
    assert_eq!(said["access-control-max-age"], "9");
    assert!(cors("{allowOrigins: [\"https://*.example\"]}", "https://example").is_empty());
}
