// SPDX-License-Identifier: Apache-2.0

//! Rules that look other to some pods than to the rest of their namespace: Sidecars that do not import
//! them, DestinationRules with a workloadSelector.

use super::{
    fixture::{Mesh, canary, pod, pod_in, service},
    routes::{destination_rule, to, virtual_service},
};
use crate::{
    config::{Kind, ObjectKey},
    model::Balancer,
};

const WEB: (&str, &str, u16) = ("default", "web", 80);

fn namespace(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{istio-injection: enabled}}}}\n"
    )
}

fn sidecar(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{{spec}}}\n"
    )
}

/// `web` with subsets, a pod `other` besides `client`, and `till` in namespace shop, all enrolled.
fn world() -> String {
    let subsets = "host: web, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]";
    [
        namespace("default"),
        namespace("shop"),
        canary("web"),
        destination_rule("name: web", subsets),
        pod("other", "10.1.0.8", "app: other"),
        pod_in("shop", "till", "10.1.0.7", "app: till"),
    ]
    .concat()
}

/// A VirtualService of `shop` that sends everything for `web` to v2.
fn of_shop() -> String {
    let route = to("v2").replace("host: web", "host: web.default.svc.cluster.local");
    virtual_service(
        "name: web, namespace: shop",
        &format!("hosts: [web.default.svc.cluster.local], http: [{{{route}}}]"),
    )
}

const V2: &str = "v2@10.1.0.2:8080";
const ANY: &str = "*@10.1.0.1:8080";

#[track_caller]
fn check(mesh: &Mesh, want: [&str; 3]) {
    let found = ["client", "other", "till"].map(|pod| mesh.get(pod, WEB, "/"));
    assert_eq!(found, want);
}

#[test]
fn a_virtual_service_of_a_namespace_that_a_sidecar_does_not_import_does_not_count() {
    let mut mesh = Mesh::new(&(world() + &of_shop()));
    check(&mesh, [V2, V2, V2]);
    let selected = "workloadSelector: {labels: {app: client}}, egress: [{hosts: [./*]}]";
    mesh.apply(&sidecar("default", "own", selected));
    mesh.check_problems(&[]);
    check(&mesh, [ANY, V2, V2]);
    mesh.apply(&sidecar(
        "default",
        "own",
        &selected.replace("./*", "./*, shop/*"),
    ));
    check(&mesh, [V2, V2, V2]);
    // Its host need not be a Service of the namespace.
    let by_host = selected.replace("./*", "./*, shop/web.default.svc.cluster.local");
    mesh.apply(&sidecar("default", "own", &by_host));
    check(&mesh, [V2, V2, V2]);
    mesh.apply(&sidecar(
        "default",
        "own",
        &selected.replace("./*", "'*/*', '~shop/*'"),
    ));
    check(&mesh, [ANY, V2, V2]);
    mesh.delete(&ObjectKey {
        kind: Kind::Sidecar,
        namespace: "default".to_owned(),
        name: "own".to_owned(),
    });
    check(&mesh, [V2, V2, V2]);
}

#[test]
fn what_is_imported_counts_in_place_of_what_is_not() {
    let own = virtual_service(
        "name: z",
        &format!("hosts: [web], http: [{{{}}}]", to("v1")),
    );
    let mut mesh = Mesh::new(&(world() + &of_shop() + &own));
    let (v1, egress) = ("v1@10.1.0.1:8080", "egress: [{hosts: [./*]}]");
    // The first by name of those that count.
    check(&mesh, [V2, V2, V2]);
    mesh.apply(&sidecar("default", "default", egress));
    check(&mesh, [v1, v1, V2]);
}

#[test]
fn the_root_namespaces_sidecar_shows_each_client_its_own_namespace() {
    let root = sidecar(
        "istio-system",
        "default",
        "egress: [{hosts: [./*, default/*]}]",
    );
    let mut mesh = Mesh::new(&(world() + &of_shop()));
    mesh.apply(&root);
    mesh.check_problems(&[]);
    check(&mesh, [ANY, ANY, V2]);
}

#[test]
fn a_virtual_service_that_comes_later_does_not_count_either() {
    let root = sidecar("istio-system", "default", "egress: [{hosts: [default/*]}]");
    let mut mesh = Mesh::new(&(world() + &root));
    check(&mesh, [ANY, ANY, ANY]);
    mesh.apply(&of_shop());
    check(&mesh, [ANY, ANY, ANY]);
}

#[test]
fn a_destination_rule_with_a_workload_selector_is_for_the_clients_that_it_selects() {
    let chosen = |labels: &str, balancer: &str| {
        let spec = format!(
            "host: web, workloadSelector: {{matchLabels: {{{labels}}}}}, \
             trafficPolicy: {{loadBalancer: {{simple: {balancer}}}}}"
        );
        destination_rule("name: some", &spec)
    };
    let mut mesh = Mesh::new(&(world() + &chosen("app: client", "RANDOM")));
    mesh.check_problems(&[]);
    let used = |mesh: &Mesh| {
        ["client", "other", "till"].map(|pod| {
            let port = &mesh.service("default", "web").ports[0];
            let workload = mesh.workload(pod);
            let routes = port.routes_for(&workload)?;
            let rule = &routes.rules[0];
            match &rule.backends[0] {
                crate::model::Backend::Cluster { cluster, .. } => {
                    let upstream = cluster.upstream.as_ref()?;
                    Some(upstream.policy.balancer.clone())
                }
                _ => None,
            }
        })
    };
    assert_eq!(used(&mesh), [Some(Balancer::Random), None, None]);
    mesh.apply(&chosen("app: other", "ROUND_ROBIN"));
    assert_eq!(used(&mesh), [None, Some(Balancer::RoundRobin), None]);
    // A pod whose labels change changes sides.
    mesh.apply(&pod("client", "10.1.0.9", "app: other"));
    let round_robin = Some(Balancer::RoundRobin);
    assert_eq!(used(&mesh), [round_robin.clone(), round_robin, None]);
    mesh.delete(&ObjectKey {
        kind: Kind::DestinationRule,
        namespace: "default".to_owned(),
        name: "some".to_owned(),
    });
    assert_eq!(used(&mesh), [None, None, None]);
}

#[test]
fn a_destination_rule_with_a_workload_selector_is_never_exported() {
    let spec = "host: web, exportTo: ['*'], workloadSelector: {matchLabels: {app: till}}";
    let mesh = Mesh::new(&(world() + &destination_rule("name: some", spec)));
    mesh.check_problems(&[
        "spec.exportTo: a rule with a workloadSelector is for clients of its own",
    ]);
}

#[test]
fn a_rule_of_the_clients_namespace_counts_for_where_a_route_sends_it() {
    let api = service("api", "10.0.0.2") + &pod("api-1", "10.1.0.5", "app: api");
    let own = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
               metadata: {name: api, namespace: shop}\n\
               spec: {host: api.default.svc.cluster.local, trafficPolicy: {loadBalancer: {simple: RANDOM}}}\n";
    let route = virtual_service(
        "name: web",
        "hosts: [web], http: [{route: [{destination: {host: api}}]}]",
    );
    let mesh = Mesh::new(&(world() + &api + own + &route));
    mesh.check_problems(&[]);
    let port = &mesh.service("default", "web").ports[0];
    let plain = |pod: &str| port.is_plain(&mesh.workload(pod));
    assert!(plain("client") && !plain("till"));
}
