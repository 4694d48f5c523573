// SPDX-License-Identifier: Apache-2.0

//! Sidecars: what the clients of which pods see.

use super::fixture::{Mesh, pod, pod_in, service};
use crate::{
    config::{Kind, ObjectKey},
    model::{Destination, OutboundPolicy, Workload},
};

fn sidecar(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{{spec}}}
"
    )
}

fn namespace(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{istio-injection: enabled}}}}\n"
    )
}

/// Services `web` of default, `cart` of shop and `api.example.com` of bank, and clients.
fn world() -> String {
    let cart = service("cart", "10.0.0.2").replace("{name: cart}", "{name: cart, namespace: shop}");
    let api = "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: bank}
spec: {hosts: [api.example.com], addresses: [10.0.0.3], resolution: NONE, ports: [{number: 80, name: http, protocol: HTTP}]}
";
    [
        namespace("default"),
        namespace("shop"),
        service("web", "10.0.0.1"),
        cart,
        api.to_owned(),
        pod("client", "10.1.0.1", "app: client"),
        pod("other", "10.1.0.2", "app: other"),
        pod_in("shop", "till", "10.1.0.3", "app: till"),
    ]
    .concat()
}

/// What a pod sees of web, cart and api.
#[track_caller]
fn seen(mesh: &Mesh, client: &str) -> String {
    let (snapshot, client) = (mesh.snapshot(), mesh.workload(client));
    let sees = |to: &str| {
        let found = snapshot.destination(to.parse().unwrap(), &client);
        matches!(found, Destination::Service(..))
    };
    let all = [
        ("web", "10.0.0.1:80"),
        ("cart", "10.0.0.2:80"),
        ("api", "10.0.0.3:80"),
    ];
    let seen = all.iter().filter(|(_, to)| sees(to)).map(|(name, _)| *name);
    seen.collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn check(hosts: &str, want: &str) {
    let egress = format!("egress: [{{hosts: [{hosts}]}}]");
    let mesh = Mesh::new(&(world() + &sidecar("default", "default", &egress)));
    mesh.check_problems(&[]);
    assert_eq!(seen(&mesh, "client"), want, "{hosts}");
    assert_eq!(seen(&mesh, "till"), "web cart api");
}

#[test]
fn hosts_are_seen_by_namespace_and_name() {
    check("'*/*'", "web cart api");
    check("./*", "web");
    check("shop/*", "cart");
    check("./*, bank/*", "web api");
    check("'*/api.example.com'", "api");
    check("'*/*.svc.cluster.local'", "web cart");
    check("'shop/*.example.com'", "");
    check("'~/*'", "");
}

#[test]
fn without_hosts_everything_is_seen() {
    let text = world() + &sidecar("default", "default", "outboundTrafficPolicy: {}");
    assert_eq!(seen(&Mesh::new(&text), "client"), "web cart api");
}

#[test]
fn the_most_particular_sidecar_counts() {
    let hosts = |hosts: &str| format!("egress: [{{hosts: [{hosts}]}}]");
    let of_client = format!(
        "workloadSelector: {{labels: {{app: client}}}}, {}",
        hosts("bank/*")
    );
    let mut mesh = Mesh::new(&world());
    let check = |mesh: &Mesh, client: &str, other: &str, till: &str| {
        mesh.check_problems(&[]);
        let all = ["client", "other", "till"].map(|pod| seen(mesh, pod));
        assert_eq!(all, [client, other, till]);
    };
    let all = "web cart api";
    check(&mesh, all, all, all);
    mesh.apply(&sidecar("istio-system", "default", &hosts("shop/*")));
    check(&mesh, "cart", "cart", "cart");
    mesh.apply(&sidecar("default", "default", &hosts("./*")));
    check(&mesh, "web", "web", "cart");
    mesh.apply(&sidecar("default", "client", &of_client));
    check(&mesh, "api", "web", "cart");
    let mut gone = |namespace: &str, name: &str| {
        mesh.delete(&ObjectKey {
            kind: Kind::Sidecar,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        });
    };
    gone("istio-system", "default");
    gone("default", "default");
    check(&mesh, "api", all, all);
}

#[test]
fn of_two_for_one_namespace_the_older_counts() {
    let one = sidecar("default", "one", "egress: [{hosts: [./*]}]");
    let one = one.replace(
        "{name: one,",
        "{name: one, creationTimestamp: '2026-01-02T00:00:00Z',",
    );
    let two = sidecar("default", "two", "egress: [{hosts: [shop/*]}]");
    let two = two.replace(
        "{name: two,",
        "{name: two, creationTimestamp: '2026-01-01T00:00:00Z',",
    );
    let mesh = Mesh::new(&(world() + &one + &two));
    mesh.check_problems(&["Error [IST0111] (Sidecar default/one test.yaml:"]);
    assert_eq!(seen(&mesh, "client"), "cart");
}

#[test]
fn what_becomes_of_the_rest_is_said_by_the_sidecar_else_by_the_mesh() {
    let policy = |spec: &str| {
        let mesh = Mesh::new(&(world() + &sidecar("default", "default", spec)));
        mesh.check_problems(&[]);
        mesh.workload("client").scope.policy
    };
    let egress = "egress: [{hosts: [./*]}]";
    assert_eq!(policy(egress), OutboundPolicy::AllowAny);
    let mode = |mode: &str| format!("outboundTrafficPolicy: {{{mode}}}, {egress}");
    assert_eq!(
        policy(&mode("mode: REGISTRY_ONLY")),
        OutboundPolicy::RegistryOnly
    );
    assert_eq!(policy(&mode("mode: ALLOW_ANY")), OutboundPolicy::AllowAny);
    // As Istio reads it.
    assert_eq!(policy(&mode("")), OutboundPolicy::RegistryOnly);
}

#[test]
fn what_is_not_seen_is_refused_where_only_what_is_known_may_be_reached() {
    let spec = "outboundTrafficPolicy: {mode: REGISTRY_ONLY}, egress: [{hosts: [./*]}]";
    let mesh = Mesh::new(&(world() + &sidecar("default", "default", spec)));
    let refuses = |client: &Workload, to: &str| {
        let snapshot = mesh.snapshot();
        snapshot.refuses(to.parse().unwrap(), client)
    };
    let client = mesh.workload("client");
    assert!(refuses(&client, "10.0.0.2:80"));
    assert!(refuses(&client, "10.1.0.3:8080"));
    assert!(!refuses(&client, "10.1.0.2:8080"));
    let till = mesh.workload("till");
    assert!(!refuses(&till, "10.0.0.2:80"));
    let found = |to: &str| mesh.snapshot().destination(to.parse().unwrap(), &client);
    assert!(matches!(found("10.1.0.3:8080"), Destination::Unknown));
    assert!(matches!(found("10.1.0.2:8080"), Destination::Workload(_)));
}

#[test]
fn what_has_no_effect_is_said() {
    let spec = "ingress: [{port: {number: 80}}], egress: [{port: {number: 80}, bind: 127.0.0.1, captureMode: NONE, hosts: [./*]}], \
                inboundConnectionPool: {}, outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: x}}";
    let mesh = Mesh::new(&(world() + &sidecar("default", "default", spec)));
    mesh.check_problems(&[
        "spec.ingress: not supported: ",
        "spec.inboundConnectionPool: not supported: ",
        "spec.outboundTrafficPolicy.egressProxy: not supported: ",
        "spec.egress[0].port: not supported: ",
        "spec.egress[0].bind: not supported: ",
        "spec.egress[0].captureMode: not supported: ",
    ]);
    assert_eq!(seen(&mesh, "client"), "web");
}

#[test]
fn a_broken_sidecar_changes_nothing() {
    for (hosts, problem) in [
        ("x", "\"x\" does not say of which namespace"),
        ("/x.y", "\"/x.y\" does not say of which namespace"),
        ("./x", "\"x\" is neither a full host name nor a wildcard"),
        (
            "'./*x'",
            "\"*x\" is neither a full host name nor a wildcard",
        ),
        ("", "names no host"),
    ] {
        let egress = format!("egress: [{{hosts: [{hosts}]}}]");
        let mut mesh =
            Mesh::new(&(world() + &sidecar("default", "default", "egress: [{hosts: [./*]}]")));
        mesh.apply(&sidecar("default", "default", &egress));
        mesh.check_problems(&[problem]);
        assert_eq!(seen(&mesh, "client"), "web");
    }
}
