// SPDX-License-Identifier: Apache-2.0

//! Which endpoints come first, from the labels of nodes to the choice.

use std::collections::BTreeMap;

use http::HeaderMap;

use super::{
    fixture::{Mesh, pod},
    routes::{WEB, destination_rule},
};
use crate::{
    config::{Kind, ObjectKey},
    model::{Ask, Cluster, Decision},
};

fn node(name: &str, place: &str) -> String {
    let mut parts = place.split('/');
    let mut part = || parts.next().unwrap_or_default();
    let (region, zone) = (part(), part());
    format!(
        "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{topology.kubernetes.io/region: '{region}', \
         topology.kubernetes.io/zone: '{zone}'}}}}\n"
    )
}

fn on(node: &str, pod: &str) -> String {
    pod.replace("nodeName: node-a", &format!("nodeName: {node}"))
}

/// A Service `web` with a pod on each of four nodes: eu/a (this one), eu/a, eu/b and us/a.
fn mesh(annotations: &str, field: &str, rest: &str) -> Mesh {
    let service = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, annotations: {{{annotations}}}}}\n\
         spec: {{clusterIP: 10.0.0.1, selector: {{app: web}}, {field} ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n"
    );
    let labels = |version: &str| format!("app: web, version: {version}");
    let mut text = service
        + &node("node-a", "eu/a")
        + &node("node-b", "eu/a")
        + &node("node-c", "eu/b")
        + &node("node-d", "us/a")
        + &pod("client", "10.1.0.9", "version: v2");
    for (name, address, version) in [
        ("node-a", "10.1.0.1", "v1"),
        ("node-b", "10.1.0.2", "v1"),
        ("node-c", "10.1.0.3", "v2"),
        ("node-d", "10.1.0.4", "v2"),
    ] {
        let pod = pod(&format!("web-{name}"), address, &labels(version));
        text += &on(name, &pod);
    }
    Mesh::new(&(text + rest))
}

fn cluster(mesh: &Mesh) -> std::sync::Arc<Cluster> {
    match mesh.decide("client", WEB, "GET", "/", &HeaderMap::new()) {
        Decision::Forward { cluster, .. } => cluster,
        other => panic!("{other:?}"),
    }
}

/// The last numbers of the addresses that are used, each with the percentage of requests.
#[track_caller]
fn check(mesh: &Mesh, want: &[(u8, usize)]) {
    let cluster = cluster(mesh);
    let client = mesh.workload("client");
    let ask = Ask {
        labels: Some(&client.labels),
        ..Ask::default()
    };
    let mut random = fastrand::Rng::with_seed(3);
    let mut counts = BTreeMap::<u8, usize>::new();
    for _ in 0..10_000 {
        let chosen = cluster.choose(&ask, |n| random.usize(..n), &[]).unwrap();
        let last = chosen.address.ip().to_string();
        let last = last.rsplit('.').next().unwrap().parse().unwrap();
        *counts.entry(last).or_default() += 1;
    }
    let shares: Vec<(u8, usize)> = counts
        .into_iter()
        .map(|(last, count)| (last, (count + 250) / 500 * 5))
        .collect();
    assert_eq!(shares, want);
}

const ALL: [(u8, usize); 4] = [(1, 25), (2, 25), (3, 25), (4, 25)];

#[track_caller]
fn check_all(mesh: &Mesh) {
    let cluster = cluster(mesh);
    let spread = cluster.upstream.as_ref().map(|used| &used.policy.spread);
    assert!(spread.is_none(), "{spread:?}");
}

#[test]
fn traffic_distribution_prefers_the_zone() {
    for field in ["PreferClose", "PreferSameZone"] {
        let mesh = mesh("", &format!("trafficDistribution: {field},"), "");
        mesh.check_problems(&[]);
        check(&mesh, &[(1, 50), (2, 50)]);
    }
    let annotation = "networking.istio.io/traffic-distribution: PreferClose";
    check(&mesh(annotation, "", ""), &[(1, 50), (2, 50)]);
    check_all(&mesh("", "", ""));
}

#[test]
fn traffic_distribution_prefers_the_node() {
    let mesh = mesh("", "trafficDistribution: PreferSameNode,", "");
    check(&mesh, &[(1, 100)]);
    let plain = cluster(&mesh);
    let near = plain.endpoints[0].address;
    let other = plain.choose(&Ask::default(), |_| 0, &[near]).unwrap();
    assert_eq!(other.address.to_string(), "10.1.0.2:8080");
}

#[test]
fn traffic_distribution_of_a_namespace_is_for_its_services() {
    let namespace = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: default, annotations: \
                     {networking.istio.io/traffic-distribution: PreferClose}}\n";
    let mut mesh = mesh("", "", "");
    mesh.apply(namespace);
    check(&mesh, &[(1, 50), (2, 50)]);
    let any = mesh_any(namespace);
    check_all(&any);
}

fn mesh_any(rest: &str) -> Mesh {
    mesh("networking.istio.io/traffic-distribution: Any", "", rest)
}

#[test]
fn a_distribution_that_is_not_known_is_reported() {
    let mesh = mesh("", "trafficDistribution: PreferFar,", "");
    mesh.check_problems(&["spec.trafficDistribution: \"PreferFar\" is not known"]);
    check_all(&mesh);
}

#[test]
fn hints_of_slices_count_in_topology_mode_auto() {
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {name: web, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nendpoints:\n\
         - {addresses: [10.1.0.1], hints: {forZones: [{name: b}]}}\n\
         - {addresses: [10.1.0.3], hints: {forZones: [{name: a}]}}\n\
         ports: [{name: http, port: 8080}]\n";
    let auto = "service.kubernetes.io/topology-mode: Auto";
    check(&mesh(auto, "", slice), &[(3, 100)]);
    check_all(&mesh("", "", slice));
}

#[test]
fn a_slice_says_where_an_endpoint_is_that_is_no_pod() {
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {name: web, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nendpoints:\n\
         - {addresses: [192.0.2.1], nodeName: node-d}\n- {addresses: [192.0.2.2], nodeName: node-b}\n\
         ports: [{name: http, port: 8080}]\n";
    let mut mesh = mesh("", "trafficDistribution: PreferClose,", slice);
    check(&mesh, &[(2, 100)]);
    mesh.apply(&(node("node-b", "us/x") + &node("node-d", "eu/a")));
    check(&mesh, &[(1, 100)]);
}

#[test]
fn a_node_that_moves_or_goes_is_another_place() {
    let mut mesh = mesh("", "trafficDistribution: PreferClose,", "");
    mesh.apply(&node("node-b", "us/b"));
    check(&mesh, &[(1, 100)]);
    mesh.apply(&node("node-a", "us/b"));
    check(&mesh, &[(1, 50), (2, 50)]);
    mesh.delete(&ObjectKey {
        kind: Kind::Node,
        namespace: String::new(),
        name: "node-a".to_owned(),
    });
    check_all(&mesh);
}

fn rule(policy: &str) -> String {
    destination_rule(
        "name: web",
        &format!("host: web, trafficPolicy: {{{policy}}}"),
    )
}

#[test]
fn locality_failover_is_the_default_with_outlier_detection() {
    let nearest = mesh("", "", &rule("outlierDetection: {}"));
    nearest.check_problems(&[]);
    check(&nearest, &[(1, 50), (2, 50)]);
    let off = "outlierDetection: {}, loadBalancer: {localityLbSetting: {enabled: false}}";
    check(&mesh("", "", &rule(off)), &ALL);
    let field = "trafficDistribution: PreferSameNode,";
    check(&mesh("", field, &rule("outlierDetection: {}")), &[(1, 100)]);
    check(&mesh("", field, &rule(off)), &ALL);
}

#[test]
fn locality_failover_needs_outlier_detection() {
    let setting =
        "loadBalancer: {simple: RANDOM, localityLbSetting: {failover: [{from: eu, to: us}]}}";
    let mesh = mesh("", "", &rule(setting));
    mesh.check_problems(&[
        "loadBalancer.localityLbSetting.failover: has no effect without outlierDetection",
    ]);
    check(&mesh, &ALL);
}

#[test]
fn locality_failover_priority_compares_labels() {
    let of = |labels: &str| {
        let text = format!(
            "outlierDetection: {{}}, loadBalancer: {{localityLbSetting: {{failoverPriority: [{labels}]}}}}"
        );
        mesh("", "", &rule(&text))
    };
    check(&of("version"), &[(3, 50), (4, 50)]);
    check(&of("version, topology.kubernetes.io/region"), &[(3, 100)]);
    check(&of("version=v1, kubernetes.io/hostname"), &[(1, 100)]);
}

#[test]
fn locality_distribute_shares() {
    let text = "loadBalancer: {localityLbSetting: {distribute: [{from: eu/*, to: {eu/a/*: 60, us/*: 40}}]}}";
    check(&mesh("", "", &rule(text)), &[(1, 30), (2, 30), (4, 40)]);
    let other = text.replace("from: eu/*", "from: us/*");
    check_all(&mesh("", "", &rule(&other)));
}

#[test]
fn locality_settings_that_contradict_themselves_are_refused() {
    for (setting, want) in [
        (
            "distribute: [{from: eu, to: {eu: 100}}], failover: [{from: eu, to: us}]",
            "distribute excludes failover",
        ),
        (
            "distribute: [{from: eu, to: {eu: 90}}]",
            "the shares add up to 90",
        ),
        (
            "distribute: [{from: eu, to: {eu: 100}}, {from: eu/a, to: {eu: 100}}]",
            "distribute[1].from: overlaps",
        ),
        (
            "distribute: [{from: eu, to: {eu: 50, eu/a: 50}}]",
            "overlaps with another place",
        ),
        (
            "distribute: [{from: '*/a', to: {eu: 100}}]",
            "is not a place",
        ),
        ("failover: [{from: eu, to: eu}]", "are not two regions"),
        (
            "failover: [{from: eu, to: us}], failoverPriority: [topology.kubernetes.io/region]",
            "exclude each other",
        ),
    ] {
        let text =
            format!("outlierDetection: {{}}, loadBalancer: {{localityLbSetting: {{{setting}}}}}");
        mesh("", "", &rule(&text)).check_problems(&[want]);
    }
}
