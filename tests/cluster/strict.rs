// SPDX-License-Identifier: Apache-2.0

//! Promise 4 for the kubelet and the API server: what they do with pods works under STRICT.

use mesh_tests::kube::{Cluster, Forward, Mesh, Namespace, Workload};

/// Closes a namespace to plaintext.
pub(crate) const STRICT: &str = "\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
";

/// A namespace that is enrolled and closed to plaintext.
#[track_caller]
pub(crate) fn closed(cluster: &Cluster, name: &str) -> Namespace {
    let namespace = Namespace::create(cluster, name);
    namespace.label("istio-injection=enabled");
    namespace.apply(STRICT);
    namespace
}

#[test]
fn probes_pass_and_nothing_is_restarted() {
    let cluster = Cluster::here();
    Mesh::on(&cluster);
    let namespace = closed(&cluster, "strict-probes");
    let server = Workload::new("server").replicas(2).with_liveness();
    namespace.start(&[&server]);
    // Three failures in a row, a second apart, are a restart.
    std::thread::sleep(std::time::Duration::from_secs(10));
    let states = namespace.ok(&[
        "get",
        "pods",
        "--output",
        "jsonpath={range .items[*].status.containerStatuses[*]}{.ready}/{.restartCount} {end}",
    ]);
    assert_eq!(states.trim(), "true/0 true/0", "{}", namespace.describe());
    namespace.start(&[&server.annotation("again", "1")]);
}

#[test]
fn exec_logs_and_port_forward_reach_a_meshed_pod() {
    let cluster = Cluster::here();
    Mesh::on(&cluster);
    let namespace = closed(&cluster, "strict-streams");
    namespace.start(&[&Workload::new("server")]);
    let usage = namespace.exec("deployment/server", &["/applications"]);
    assert!(usage.stderr.contains("usage"), "{usage:?}");
    assert!(namespace.run(&["logs", "deployment/server"]).ok());
    let forward = Forward::start(&namespace, "deployment/server", 8080);
    assert!(forward.get("/").starts_with("server-v1 HTTP/1.1"));
}
