// SPDX-License-Identifier: Apache-2.0

//! VirtualServices and DestinationRules decide.

use http::{HeaderMap, HeaderValue};

use super::fixture::{Mesh, canary, pod, pod_in};

pub(super) const WEB: (&str, &str, u16) = ("default", "web", 80);

/// A VirtualService; `place` is metadata, `spec` flow YAML.
pub(super) fn virtual_service(place: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{{place}}}\nspec: {{{spec}}}\n"
    )
}

pub(super) fn destination_rule(place: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{{place}}}\nspec: {{{spec}}}\n"
    )
}

pub(super) fn to(subset: &str) -> String {
    format!("route: [{{destination: {{host: web, subset: {subset}}}}}]")
}

fn subsets() -> String {
    destination_rule(
        "name: web",
        "host: web, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}, {name: v3, labels: {version: v3}}]",
    )
}

/// `canary("web")` with its subsets and a client in namespace `shop`.
pub(super) fn web() -> String {
    canary("web") + &subsets() + &pod_in("shop", "shopper", "10.1.1.9", "app: shopper")
}

const V1: &str = "v1@10.1.0.1:8080";
const V2: &str = "v2@10.1.0.2:8080";

#[test]
fn rules_are_tried_in_the_order_written() {
    let rules = format!(
        "hosts: [web], http: [{{match: [{{uri: {{prefix: /v2}}}}], {}}}, {{match: [{{headers: {{end-user: {{exact: jason}}}}}}, {{queryParams: {{canary: {{}}}}}}], {}}}, {{match: [{{port: 81}}], {}}}, {{match: [{{gateways: [other]}}], {}}}, {{match: [{{uri: {{exact: /one}}}}], {}}}]",
        to("v2"),
        to("v2"),
        to("v2"),
        to("v2"),
        to("v1")
    );
    let mesh = Mesh::new(&(virtual_service("name: web", &rules) + &web()));
    mesh.check_problems(&[]);
    assert_eq!(mesh.get("client", WEB, "/v2example"), V2);
    assert_eq!(mesh.get("client", WEB, "/?canary"), V2);
    assert_eq!(mesh.get("client", WEB, "/one"), V1);
    assert_eq!(mesh.get("client", WEB, "/other"), "404 NR");
    let mut headers = HeaderMap::new();
    headers.insert("end-user", HeaderValue::from_static("jason"));
    assert_eq!(mesh.get_with("client", WEB, "/one", &headers), V2);
}

#[test]
fn a_subset_that_selects_no_pod_has_no_endpoint() {
    let text = virtual_service(
        "name: web",
        &format!("hosts: [web], http: [{{{}}}]", to("v3")),
    );
    let mesh = Mesh::new(&(text + &web()));
    assert_eq!(mesh.get("client", WEB, "/"), "v3@nothing");
}

#[test]
fn destinations_that_do_not_exist_are_not_clusters() {
    for (destination, field) in [
        (
            "host: nobody",
            "spec.http[0].route[0].destination.host: no Service has the host nobody.default.svc.cluster.local",
        ),
        (
            "host: web.default",
            "spec.http[0].route[0].destination.host: no Service has the host web.default",
        ),
        (
            "host: web, subset: v9",
            "spec.http[0].route[0].destination.subset: no DestinationRule defines subset v9",
        ),
        (
            "host: web, port: {number: 81}",
            "spec.http[0].route[0].destination.port: web.default.svc.cluster.local has no TCP port 81",
        ),
    ] {
        let text = virtual_service(
            "name: web",
            &format!("hosts: [web], http: [{{route: [{{destination: {{{destination}}}}}]}}]"),
        );
        let mesh = Mesh::new(&(text + &web()));
        assert_eq!(mesh.get("client", WEB, "/"), "503 NC");
        mesh.check_problems(&[field]);
    }
}

#[test]
fn a_destination_port_defaults_to_the_only_one_or_the_one_connected_to() {
    let two = "---
apiVersion: v1
kind: Service
metadata: {name: two}
spec: {clusterIP: 10.0.0.2, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}, {name: http-alt, port: 90, targetPort: 9090}]}
";
    let route = |host: &str, to: &str| {
        virtual_service(
            &format!("name: {host}"),
            &format!("hosts: [{host}], http: [{{route: [{{destination: {{host: {to}}}}}]}}]"),
        )
    };
    let mesh = Mesh::new(&(route("two", "two") + &route("web", "two") + two + &web()));
    assert_eq!(
        mesh.get("client", ("default", "two", 90), "/"),
        "*@10.1.0.1:9090"
    );
    assert_eq!(mesh.get("client", WEB, "/"), "*@10.1.0.1:8080");
    let mesh = Mesh::new(&(route("two", "web") + two + &web()));
    assert_eq!(
        mesh.get("client", ("default", "two", 90), "/"),
        "*@10.1.0.1:8080"
    );
    mesh.check_problems(&[]);
}

#[test]
fn a_port_must_be_chosen_where_none_is_the_one_connected_to() {
    let two = "---
apiVersion: v1
kind: Service
metadata: {name: two}
spec: {clusterIP: 10.0.0.2, ports: [{name: http, port: 81}, {name: http-alt, port: 82}]}
";
    let text = virtual_service(
        "name: web",
        "hosts: [web], http: [{route: [{destination: {host: two}}]}]",
    );
    let mesh = Mesh::new(&(text + two + &web()));
    mesh.check_problems(&[
        "Error [IST0101] (VirtualService default/web test.yaml:2) spec.http[0].route[0].destination.port",
        "Error [IST0112] (VirtualService default/web test.yaml:2) spec.http[0].route[0].destination.port",
    ]);
    assert_eq!(mesh.get("client", WEB, "/"), "503 NC");
}

#[test]
fn a_destination_without_weight_may_be_missing() {
    let text = virtual_service(
        "name: web",
        "hosts: [web], http: [{route: [{destination: {host: web, subset: v1}, weight: 1}, {destination: {host: nobody}, weight: 0}]}]",
    );
    let mesh = Mesh::new(&(text + &web()));
    mesh.check_problems(&[]);
    assert_eq!(mesh.get("client", WEB, "/"), V1);
}

#[test]
fn weights_of_nothing_are_refused_and_of_one_do_not_count() {
    let route = |weights: &str| {
        virtual_service(
            "name: web",
            &format!("hosts: [web], http: [{{route: [{weights}]}}]"),
        )
    };
    let one = "{destination: {host: web, subset: v1}, weight: 0}";
    let mesh = Mesh::new(&(route(one) + &web()));
    assert_eq!(mesh.get("client", WEB, "/"), V1);
    let mesh = Mesh::new(&(route(&format!("{one}, {one}")) + &web()));
    mesh.check_problems(&["Error [IST0106] (VirtualService default/web test.yaml:2) spec.http[0].route: the weights of the destinations add up to 0"]);
    assert_eq!(
        mesh.get("client", WEB, "/"),
        "*@10.1.0.1:8080",
        "there is no good state of the route"
    );
}

#[test]
fn a_schedule_goes_on_over_snapshots() {
    let text = virtual_service(
        "name: web",
        "hosts: [web], http: [{route: [{destination: {host: web, subset: v1}, weight: 90}, {destination: {host: web, subset: v2}, weight: 10}]}]",
    );
    let mut mesh = Mesh::new(&(text + &web()));
    let mut to_v2 = 0;
    for round in 0..100 {
        mesh.apply(&pod(
            &format!("churn-{round}"),
            &format!("10.2.0.{round}"),
            "",
        ));
        to_v2 += usize::from(mesh.get("client", WEB, "/") == V2);
    }
    assert_eq!(to_v2, 10);
}

#[test]
fn of_several_virtual_services_the_most_specific_then_the_oldest_decides() {
    let to_web = |subset: &str| {
        format!(
            "http: [{{{}}}]",
            to(subset).replace("host: web", "host: web.default.svc.cluster.local")
        )
    };
    let wild = virtual_service(
        "name: a, namespace: shop",
        &format!("hosts: [\"*.cluster.local\"], {}", to_web("v3")),
    );
    let old = virtual_service(
        "name: z, creationTimestamp: \"2020-01-01T00:00:00Z\"",
        &format!("hosts: [web], {}", to_web("v1")),
    );
    let new = virtual_service(
        "name: b, creationTimestamp: \"2021-01-01T00:00:00Z\"",
        &format!("hosts: [web.default.svc.cluster.local], {}", to_web("v2")),
    );
    let mesh = Mesh::new(&(wild.clone() + &web()));
    assert_eq!(mesh.get("client", WEB, "/"), "v3@nothing");
    let mesh = Mesh::new(&(wild + &new + &old + &web()));
    assert_eq!(mesh.get("client", WEB, "/"), V1);
    mesh.check_problems(&["Error [IST0109] (VirtualService default/b test.yaml:7) spec.hosts[0]: VirtualService default/z has the host"]);
}

#[test]
fn a_virtual_service_is_seen_where_it_is_exported_to() {
    let exported = |export: &str| {
        let text = virtual_service(
            "name: web",
            &format!(
                "hosts: [web], exportTo: [{export}], http: [{{{}}}]",
                to("v2")
            ),
        );
        let mesh = Mesh::new(&(text + &web()));
        (mesh.get("client", WEB, "/"), mesh.get("shopper", WEB, "/"))
    };
    let whole = "*@10.1.0.1:8080".to_owned();
    assert_eq!(exported("\"*\""), (V2.to_owned(), V2.to_owned()));
    assert_eq!(exported("\".\""), (V2.to_owned(), whole.clone()));
    assert_eq!(exported("shop"), (whole.clone(), V2.to_owned()));
    assert_eq!(exported("\"~\""), (whole.clone(), whole));
}

#[test]
fn a_virtual_service_for_gateways_only_does_nothing_here() {
    let text = virtual_service(
        "name: web",
        &format!(
            "hosts: [web], gateways: [ingress], http: [{{{}}}]",
            to("v2")
        ),
    );
    assert_eq!(
        Mesh::new(&(text.clone() + &web())).get("client", WEB, "/"),
        "*@10.1.0.1:8080"
    );
    let both = text.replace("[ingress]", "[ingress, mesh]");
    assert_eq!(Mesh::new(&(both + &web())).get("client", WEB, "/"), V2);
}

#[test]
fn the_clients_own_destination_rule_comes_first() {
    let route = virtual_service(
        "name: web",
        &format!("hosts: [web], http: [{{{}}}]", to("v1")),
    );
    let own = destination_rule(
        "name: web, namespace: shop",
        "host: web.default.svc.cluster.local, subsets: [{name: v1, labels: {version: v2}}]",
    );
    let mesh = Mesh::new(&(route.clone() + &own + &web()));
    assert_eq!(mesh.get("client", WEB, "/"), V1);
    assert_eq!(mesh.get("shopper", WEB, "/"), "v1@10.1.0.2:8080");
    let root = destination_rule(
        "name: web, namespace: istio-system",
        "host: \"*.local\", subsets: [{name: v1, labels: {version: v2}}]",
    );
    let bare = canary("web") + &pod_in("shop", "shopper", "10.1.1.9", "");
    let mesh = Mesh::new(&(route + &root + &bare));
    assert_eq!(mesh.get("client", WEB, "/"), "v1@10.1.0.2:8080");
}

#[test]
fn subsets_of_several_rules_for_one_host_are_united_and_the_oldest_wins() {
    let route = |subset| {
        virtual_service(
            "name: web",
            &format!("hosts: [web], http: [{{{}}}]", to(subset)),
        )
    };
    let old = destination_rule(
        "name: z, creationTimestamp: \"2020-01-01T00:00:00Z\"",
        "host: web, subsets: [{name: a, labels: {version: v1}}]",
    );
    let new = destination_rule(
        "name: b, creationTimestamp: \"2021-01-01T00:00:00Z\"",
        "host: web, subsets: [{name: a, labels: {version: v2}}, {name: b, labels: {version: v2}}]",
    );
    let all = old + &new + &canary("web");
    assert_eq!(
        Mesh::new(&(route("a") + &all)).get("client", WEB, "/"),
        "a@10.1.0.1:8080"
    );
    assert_eq!(
        Mesh::new(&(route("b") + &all)).get("client", WEB, "/"),
        "b@10.1.0.2:8080"
    );
}

#[test]
fn fields_without_effect_are_reported_by_name() {
    let spec = format!(
        "hosts: [web], http: [{{match: [{{uri: {{prefix: /}}, statPrefix: x}}], headers: {{request: {{set: {{x: '%REQ(y)%'}}}}}}, {}}}]",
        to("v1")
    );
    let rule = destination_rule(
        "name: web",
        "host: web, trafficPolicy: {loadBalancer: {simple: RANDOM, zoneAwareLbSetting: {}}, tunnel: {}, tls: {mode: MUTUAL, credentialName: 'configmap://a'}}, subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}]",
    );
    let mesh = Mesh::new(&(virtual_service("name: web", &spec) + &rule + &canary("web")));
    mesh.check_problems(&[
        "spec.http[0].headers.request.set[x]",
        "spec.trafficPolicy.loadBalancer.zoneAwareLbSetting",
        "spec.trafficPolicy.tunnel",
        "Error [MESH0003] (DestinationRule default/web test.yaml:7) spec.trafficPolicy.tls.credentialName",
    ]);
    assert_eq!(mesh.get("client", WEB, "/"), V1);
}

#[test]
fn timeouts_and_header_changes_are_part_of_the_decision() {
    let spec = "hosts: [web], http: [{timeout: 1.5s, headers: {request: {set: {x-a: \"1\", Host: y}}}, route: [{destination: {host: web}, headers: {response: {remove: [x-b]}}}]}]";
    let mesh = Mesh::new(&(virtual_service("name: web", spec) + &web()));
    mesh.check_problems(&[]);
    let rule = &mesh.service("default", "web").ports[0]
        .routes
        .clone()
        .unwrap()
        .rules[0];
    assert_eq!(rule.timeout, Some(std::time::Duration::from_millis(1_500)));
    let crate::model::Backend::Cluster {
        edits: Some(edits),
        rewrite: Some(rewrite),
        ..
    } = &rule.backends[0]
    else {
        panic!("{:?}", rule.backends);
    };
    assert_eq!(rewrite.authority.as_ref().unwrap().as_str(), "y");
    assert_eq!((edits.request.len(), edits.response.len()), (1, 1));
}

#[test]
fn http_rules_do_not_touch_ports_declared_tcp() {
    let text = virtual_service(
        "name: web",
        &format!("hosts: [web], http: [{{{}}}]", to("v1")),
    );
    let tcp = web().replace("name: http,", "name: tcp-x,");
    assert!(
        Mesh::new(&(text + &tcp)).service("default", "web").ports[0]
            .routes
            .is_none()
    );
}

#[test]
fn a_rule_behind_a_catch_all_is_reported() {
    let spec = format!(
        "hosts: [web], http: [{{{}}}, {{match: [{{uri: {{prefix: /x}}}}], {}}}]",
        to("v1"),
        to("v2")
    );
    let mesh = Mesh::new(&(virtual_service("name: web", &spec) + &web()));
    mesh.check_problems(&[
        "Warning [IST0130] (VirtualService default/web test.yaml:2) spec.http[1]: never reached",
    ]);
}

#[test]
fn what_envoy_would_fill_in_is_sent_as_it_is_written_and_said() {
    let spec = format!(
        "hosts: [web], http: [{{headers: {{request: {{set: {{x-from: \"%REQ(x-a)%\"}}}}}}, {}}}]",
        to("v1")
    );
    let mesh = Mesh::new(&(virtual_service("name: web", &spec) + &web()));
    mesh.check_problems(&[
        "commands (%REQ(x)%) are Envoy's own language; \"%REQ(x-a)%\" is sent as it is written",
    ]);
    assert_eq!(mesh.get("client", WEB, "/"), "v1@10.1.0.1:8080");
}
