// SPDX-License-Identifier: Apache-2.0

//! Routes for connections that are carried as bytes: `tls` and `tcp` of VirtualServices, TCPRoutes and
//! TLSRoutes.

use std::collections::BTreeMap;

use super::{
    fixture::{Mesh, client_in, service},
    http_routes::backends,
    routes::{WEB, destination_rule, virtual_service, web},
};
use crate::model::{Client, OpaqueDecision, Opening};

const NOT_TLS: Opening<'static> = Opening::Other;

fn asking(name: &str) -> Opening<'_> {
    Opening::Tls(Some(name))
}

/// The mesh of `yaml`, the Service `web` with a port of this name.
fn with_port(port: &str, yaml: &str) -> Mesh {
    let all = backends().replace("ports: [{name: http,", &format!("ports: [{{name: {port},"));
    Mesh::new(&(yaml.to_owned() + &all))
}

/// Where a connection to a Service's port goes, as `<subset or *>@<first endpoint>` or `<flag>`.
#[track_caller]
fn carried(
    mesh: &Mesh,
    client: &str,
    (namespace, name, number): (&str, &str, u16),
    opening: Opening<'_>,
) -> String {
    let workload = mesh.workload(client);
    let service = mesh.service(namespace, name);
    let port = service.ports.iter().find(|port| port.number == number);
    let client = Client {
        workload: &workload,
    };
    let port = port.expect("the port exists");
    match port.decide_bytes(&client, service.vips[0], opening) {
        OpaqueDecision::Forward(cluster) => {
            let endpoint = cluster.endpoints.first();
            let endpoint = endpoint.map_or("nothing".to_owned(), |one| one.address.to_string());
            format!("{}@{endpoint}", cluster.subset.as_deref().unwrap_or("*"))
        }
        OpaqueDecision::Refuse(refusal) => refusal.flag.as_str().to_owned(),
    }
}

#[track_caller]
fn check(mesh: &Mesh, client: &str, opening: Opening<'_>, want: &str) {
    assert_eq!(carried(mesh, client, WEB, opening), want, "{opening:?}");
}

fn to(subset: &str) -> String {
    format!("route: [{{destination: {{host: web, subset: {subset}}}}}]")
}

fn virtual_web(rules: &str) -> String {
    virtual_service(
        "name: web",
        &format!("hosts: [web, '*.svc.cluster.local'], {rules}"),
    )
}

const V1: &str = "v1@10.1.0.1:8080";
const V2: &str = "v2@10.1.0.2:8080";
const ALL: &str = "*@10.1.0.1:8080";

#[test]
fn a_tcp_rule_draws_once_for_each_connection() {
    let rule = "tcp: [{route: [{destination: {host: web, subset: v1}, weight: 90}, \
                {destination: {host: web, subset: v2}, weight: 10}]}]";
    let mesh = with_port("tcp", &virtual_web(rule));
    mesh.check_problems(&[]);
    assert!(mesh.service("default", "web").captured);
    let mut shares = BTreeMap::new();
    for _ in 0..100 {
        let share: &mut usize = shares
            .entry(carried(&mesh, "client", WEB, NOT_TLS))
            .or_default();
        *share += 1;
    }
    assert_eq!(shares, BTreeMap::from([(V1.into(), 90), (V2.into(), 10)]));
}

#[test]
fn tcp_conditions_are_on_port_client_and_address() {
    let rules = format!(
        "tcp: [{{match: [{{port: 81}}], {0}}}, {{match: [{{gateways: [other]}}], {0}}}, \
         {{match: [{{destinationSubnets: [10.9.0.0/16]}}], {0}}}, \
         {{match: [{{sourceLabels: {{app: other}}}}, {{sourceNamespace: shop}}], {0}}}, \
         {{match: [{{port: 80, destinationSubnets: [10.0.0.1], sourceLabels: {{app: client}}}}], {1}}}]",
        to("v1"),
        to("v2")
    );
    let mesh = with_port("tcp", &virtual_web(&rules));
    mesh.check_problems(&[]);
    check(&mesh, "client", NOT_TLS, V2);
    check(&mesh, "shopper", NOT_TLS, V1);
    // Whoever no rule is for goes where everybody goes without rules.
    check(&mesh, "web-v1", NOT_TLS, ALL);
}

#[test]
fn tls_goes_by_the_name_that_the_client_asks_for() {
    let rules = format!(
        "tls: [{{match: [{{sniHosts: [a.svc.cluster.local]}}], {}}}, \
         {{match: [{{port: 80, sniHosts: ['*.svc.cluster.local']}}], {}}}]",
        to("v1"),
        to("v2")
    );
    let mesh = with_port("tls", &virtual_web(&rules));
    mesh.check_problems(&[]);
    check(&mesh, "client", asking("a.svc.cluster.local"), V1);
    check(&mesh, "client", asking("b.c.svc.cluster.local"), V2);
    for other in [asking("svc.cluster.local"), Opening::Tls(None), NOT_TLS] {
        check(&mesh, "client", other, "NR");
    }
}

#[test]
fn tls_rules_for_other_clients_leave_a_client_where_it_would_go() {
    let rules = format!(
        "tls: [{{match: [{{sniHosts: [web], sourceNamespace: shop}}], {}}}]",
        to("v2")
    );
    let mesh = with_port("https", &virtual_web(&rules));
    check(&mesh, "shopper", asking("web"), V2);
    check(&mesh, "shopper", asking("other"), "NR");
    check(&mesh, "client", asking("other"), ALL);
}

#[test]
fn each_list_counts_at_ports_of_its_protocol() {
    let rules = format!(
        "tls: [{{match: [{{sniHosts: ['*.svc.cluster.local']}}], {}}}], tcp: [{{{}}}]",
        to("v1"),
        to("v2")
    );
    let check = |port: &str, opening, want: &str| {
        let mesh = with_port(port, &virtual_web(&rules));
        assert_eq!(carried(&mesh, "client", WEB, opening), want, "{port}");
    };
    check("tcp", asking("a.svc.cluster.local"), V2);
    check("tls", asking("a.svc.cluster.local"), V1);
    check("tls", NOT_TLS, "NR");
    // Where nothing is declared both count: TLS by its name, the rest by `tcp`.
    check("web", asking("a.svc.cluster.local"), V1);
    check("web", asking("other"), V2);
    check("web", NOT_TLS, V2);
}

#[test]
fn rules_that_no_port_suits_are_reported() {
    let rules = format!("tcp: [{{{}}}]", to("v1"));
    let mesh = with_port("http", &virtual_web(&rules));
    mesh.check_problems(&["spec.tcp: never reached: no port of web.default"]);
    let rules = format!("tls: [{{match: [{{sniHosts: [web]}}], {}}}]", to("v1"));
    let mesh = with_port("tcp", &virtual_web(&rules));
    mesh.check_problems(&["spec.tls: never reached: no port of web.default"]);
    check(&mesh, "client", asking("web"), ALL);
}

#[test]
fn what_is_not_well_formed_is_refused() {
    for (rules, problem) in [
        ("tcp: [{}]", "spec.tcp[0].route: must have a destination"),
        (
            "tls: [{route: [{destination: {host: web}}]}]",
            "spec.tls[0].match: a rule for TLS must say for which names",
        ),
        (
            "tls: [{match: [{port: 80}], route: [{destination: {host: web}}]}]",
            "spec.tls[0].match[0].sniHosts: must be set",
        ),
        (
            "tls: [{match: [{sniHosts: [other.org]}], route: [{destination: {host: web}}]}]",
            "other.org is none of spec.hosts",
        ),
        (
            "tls: [{match: [{sniHosts: [a.*.com]}], route: [{destination: {host: web}}]}]",
            "\"a.*.com\" is no host name",
        ),
        (
            "tcp: [{match: [{destinationSubnets: [10.0.0.0/40]}], route: [{destination: {host: web}}]}]",
            "neither a subnet nor an address",
        ),
        (
            "tcp: [{route: [{destination: {host: web}, weight: 0}, {destination: {host: web}}]}]",
            "add up to 0",
        ),
        (
            "tcp: [{match: [{sourceSubnet: 10.0.0.0/8}], route: [{destination: {host: web}}]}]",
            "sourceSubnet: not supported: ",
        ),
    ] {
        with_port("web", &virtual_web(rules)).check_problems(&[problem]);
    }
}

#[test]
fn a_backend_that_is_missing_resets_its_share() {
    let rules = "tcp: [{route: [{destination: {host: nobody}}]}]";
    let mesh = with_port("tcp", &virtual_web(rules));
    mesh.check_problems(&["its share of connections is reset with NC"]);
    check(&mesh, "client", NOT_TLS, "NC");
}

#[test]
fn rules_for_bytes_and_for_requests_may_be_in_different_objects() {
    let http = virtual_service(
        "name: http",
        &format!("hosts: [web], http: [{{{}}}]", to("v1")),
    );
    let bytes = virtual_service(
        "name: tcp",
        &format!("hosts: [web], tcp: [{{{}}}]", to("v2")),
    );
    let mesh = with_port("web", &(http + &bytes));
    mesh.check_problems(&[]);
    assert_eq!(mesh.get("client", WEB, "/"), V1);
    check(&mesh, "client", NOT_TLS, V2);
}

#[test]
fn a_rule_of_the_clients_namespace_shapes_bytes_for_its_clients() {
    let rule = destination_rule(
        "name: own, namespace: shop",
        "host: web.default.svc.cluster.local, trafficPolicy: {connectionPool: {tcp: {maxConnections: 3}}}",
    );
    let mesh = with_port("tcp", &rule);
    mesh.check_problems(&[]);
    let port = &mesh.service("default", "web").ports[0];
    let own = port
        .opaque
        .routes_for(&client_in("shop"))
        .expect("a policy of its own");
    assert_eq!(own.otherwise.limits().connections, Some(3));
    assert!(port.opaque.routes_for(&client_in("default")).is_none());
    assert_eq!(port.cluster.limits().connections, None);
}

/// A route of the kind for `web`.
fn route(kind: &str, place: &str, rest: &str) -> String {
    let version = if kind == "TCPRoute" { "v1alpha2" } else { "v1" };
    format!(
        "---\napiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{{place}}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: web, namespace: default}}], {rest}}}\n"
    )
}

fn weighted(v1: u32, v2: u32) -> String {
    format!(
        "rules: [{{backendRefs: [{{name: web-v1, namespace: default, port: 80, weight: {v1}}}, \
         {{name: web-v2, namespace: default, port: 80, weight: {v2}}}]}}]"
    )
}

const TO_V1: &str = "*@10.1.0.1:8080";
const TO_V2: &str = "*@10.1.0.2:8080";

#[test]
fn a_tcp_route_splits_connections_and_beats_a_virtual_service() {
    let yaml = route("TCPRoute", "name: web", &weighted(1, 3))
        + &virtual_web(&format!("tcp: [{{{}}}]", to("v1")));
    let mesh = with_port("tcp", &yaml);
    mesh.check_problems(&["TCPRoute default/web decides at port 80 of Service default/web"]);
    let drawn: Vec<String> = (0..4)
        .map(|_| carried(&mesh, "client", WEB, NOT_TLS))
        .collect();
    assert_eq!(drawn.iter().filter(|one| *one == TO_V2).count(), 3);
    assert_eq!(drawn.iter().filter(|one| *one == TO_V1).count(), 1);
}

#[test]
fn a_tcp_route_takes_all_connections_where_no_protocol_is_declared() {
    let mesh = with_port("web", &route("TCPRoute", "name: web", &weighted(0, 1)));
    mesh.check_problems(&[]);
    let port = &mesh.service("default", "web").ports[0];
    assert!(port.is_opaque_for(&mesh.workload("client")));
    check(&mesh, "client", NOT_TLS, TO_V2);
    let mesh = with_port("http", &route("TCPRoute", "name: web", &weighted(0, 1)));
    mesh.check_problems(&["Service default/web declares HTTP there: the route is not attached"]);
}

#[test]
fn a_consumers_route_is_for_its_clients() {
    let yaml = route("TCPRoute", "name: web", &weighted(1, 0))
        + &route("TCPRoute", "name: own, namespace: shop", &weighted(0, 1));
    let mesh = with_port("tcp", &yaml);
    mesh.check_problems(&[]);
    check(&mesh, "client", NOT_TLS, TO_V1);
    check(&mesh, "shopper", NOT_TLS, TO_V2);
}

#[test]
fn tls_routes_share_a_port_by_name_and_beat_tcp_routes() {
    let yaml = route(
        "TLSRoute",
        "name: wide",
        &format!("hostnames: ['*.example.com'], {}", weighted(1, 0)),
    ) + &route(
        "TLSRoute",
        "name: narrow",
        &format!(
            "hostnames: [a.example.com, '*.example.com'], {}",
            weighted(0, 1)
        ),
    ) + &route("TCPRoute", "name: tcp", &weighted(1, 0));
    let mesh = with_port("tls", &yaml);
    mesh.check_problems(&[
        "TLSRoute default/narrow decides about *.example.com",
        "TLSRoute default/narrow decides at port 80",
    ]);
    check(&mesh, "client", asking("a.example.com"), TO_V2);
    check(&mesh, "client", asking("b.example.com"), TO_V2);
    check(&mesh, "client", asking("example.com"), "NR");
    check(&mesh, "client", NOT_TLS, "NR");
}

#[test]
fn a_tls_route_without_host_names_takes_all_tls() {
    for port in ["https", "web", "tcp"] {
        let mesh = with_port(port, &route("TLSRoute", "name: web", &weighted(0, 1)));
        check(&mesh, "client", Opening::Tls(None), TO_V2);
        check(&mesh, "client", asking("any"), TO_V2);
        check(&mesh, "client", NOT_TLS, "NR");
    }
}

#[test]
fn a_route_without_weight_or_with_broken_backends_resets() {
    let mesh = with_port("tcp", &route("TCPRoute", "name: web", &weighted(0, 0)));
    check(&mesh, "client", NOT_TLS, "NC");
    let nobody = "rules: [{backendRefs: [{name: nobody, port: 80}]}]";
    let mesh = with_port("tcp", &route("TCPRoute", "name: web", nobody));
    mesh.check_problems(&["its share of connections is reset with NC"]);
    check(&mesh, "client", NOT_TLS, "NC");
    let bucket = "rules: [{backendRefs: [{kind: Bucket, name: nobody}]}, {backendRefs: []}]";
    let mesh = with_port("tcp", &route("TCPRoute", "name: web", bucket));
    mesh.check_problems(&[
        "Bucket is not a Service: its share of connections is reset",
        "spec.rules[1]: never reached",
    ]);
    check(&mesh, "client", NOT_TLS, "NC");
}

#[test]
fn a_service_without_routes_goes_on_as_before() {
    let mesh = Mesh::new(&(web() + &service("other", "10.0.0.7")));
    let port = &mesh.service("default", "web").ports[0];
    assert!(port.opaque.all().next().is_none());
    check(&mesh, "client", NOT_TLS, ALL);
}
