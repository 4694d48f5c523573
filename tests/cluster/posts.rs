// SPDX-License-Identifier: Apache-2.0

//! Promise 2: the commands people know, word for word, and the manifests as they stand in
//! `tests/seeds`.

use std::collections::BTreeMap;

use mesh_tests::{
    kube::{Cluster, Mesh, Namespace, PATIENCE, Workload},
    wait,
};

const RECOMMENDATIONS: &str = include_str!("../seeds/01-recommendations.yaml");
const PEER_AUTHENTICATION: &str = include_str!("../seeds/00-peer-authentication.yaml");
const POLICY: &str = include_str!("../seeds/03-policy.yaml");

/// Manifests that go when the test is over.
struct Applied<'a>(&'a Cluster, &'static str);

impl<'a> Applied<'a> {
    #[track_caller]
    fn new(cluster: &'a Cluster, manifests: &'static str) -> Self {
        cluster.apply(manifests);
        Self(cluster, manifests)
    }
}

impl Drop for Applied<'_> {
    fn drop(&mut self) {
        self.0.delete(self.1);
    }
}

/// `default`, enrolled, with two versions of `recommendations` and a client on the first node.
#[track_caller]
fn shop(cluster: &Cluster) -> Namespace {
    let namespace = Namespace::default(cluster);
    let nodes = cluster.nodes();
    cluster.ok(&["label", "namespace", "default", "istio-injection=enabled"]);
    namespace.start(&[
        &Workload::version("recommendations", "v1").on(&nodes[0]),
        &Workload::version("recommendations", "v2").on(&nodes[1]),
        &Workload::new("client").on(&nodes[0]),
    ]);
    namespace
}

/// How often each pod answered.
#[track_caller]
fn versions(namespace: &Namespace, count: u32) -> BTreeMap<String, u32> {
    let ran = namespace.get("deployment/client", "http://recommendations/", count);
    assert!(ran.ok(), "{ran:?}");
    let mut seen = BTreeMap::new();
    for line in ran.stdout.lines() {
        let mut words = line.split(' ');
        let count: u32 = words.next().and_then(|word| word.parse().ok()).unwrap();
        let (status, name) = (words.next().unwrap(), words.next().unwrap_or_default());
        *seen.entry(format!("{status} {name}")).or_default() += count;
    }
    seen
}

#[test]
fn recommendations_are_split_ninety_ten() {
    let cluster = Cluster::here();
    Mesh::on(&cluster);
    let namespace = shop(&cluster);
    let _applied = Applied::new(&cluster, RECOMMENDATIONS);
    let want = BTreeMap::from([
        ("200 recommendations-v1".to_owned(), 90),
        ("200 recommendations-v2".to_owned(), 10),
    ]);
    // The route may take a moment to arrive; from then on every hundred is split exactly.
    wait::until("the route to arrive", PATIENCE, || {
        let seen = versions(&namespace, 100);
        if seen == want { Ok(()) } else { Err(seen) }
    });
    for _ in 0..5 {
        assert_eq!(versions(&namespace, 100), want);
    }
}

/// `manifest` closes the pods of `default` to plaintext, and to nothing else.
#[track_caller]
fn check_strict(manifest: &'static str) {
    let cluster = Cluster::here();
    Mesh::on(&cluster);
    let namespace = shop(&cluster);
    let outside = Namespace::create(&cluster, "outsiders");
    outside.start(&[&Workload::new("client"), &Workload::new("legacy")]);
    let url = "http://recommendations.default/";
    let client = "deployment/client";
    outside
        .answers(client, url, 5, "recommendations-v")
        .unwrap();
    let _applied = Applied::new(&cluster, manifest);
    // Refused is a connection that brings no answer, whatever it would have been.
    let ask = || outside.get(client, url, 1);
    wait::until("plaintext to be refused", PATIENCE, || {
        let ran = ask();
        if ran.ok() { Err(ran.stdout) } else { Ok(()) }
    });
    for _ in 0..10 {
        let ran = ask();
        assert!(
            !ran.ok() && ran.stdout.is_empty(),
            "plaintext came through: {ran:?}"
        );
    }
    let inside = "http://recommendations/";
    namespace
        .answers(client, inside, 10, "recommendations-v")
        .unwrap();
    let out = "http://legacy.outsiders/";
    namespace.answers(client, out, 10, "legacy-v1").unwrap();
    outside
        .answers(client, "http://legacy/", 10, "legacy-v1")
        .unwrap();
}

#[test]
fn the_peer_authentication_closes_its_namespace() {
    check_strict(PEER_AUTHENTICATION);
}

#[test]
fn the_policy_closes_its_namespace() {
    check_strict(POLICY);
}
