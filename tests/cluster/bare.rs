// SPDX-License-Identifier: Apache-2.0

//! The cluster itself, without the mesh: what every other test takes for granted.

use mesh_tests::kube::{Cluster, Forward, Namespace, Workload};

#[test]
fn both_nodes_are_ready() {
    let cluster = Cluster::here();
    let conditions = cluster.ok(&[
        "get",
        "nodes",
        "--output",
        "jsonpath={range .items[*]}{.status.conditions[?(@.type==\"Ready\")].status} {end}",
    ]);
    assert_eq!(conditions.trim(), "True True");
}

#[test]
fn a_service_leads_to_pods_of_both_nodes_by_its_name() {
    let cluster = Cluster::here();
    let namespace = Namespace::create(&cluster, "bare-service");
    let nodes = cluster.nodes();
    let (near, far) = (
        Workload::version("server", "v1").on(&nodes[0]),
        Workload::version("server", "v2").on(&nodes[1]),
    );
    let client = Workload::new("client").on(&nodes[0]);
    namespace.start(&[&near, &far, &client]);
    for url in [
        "http://server/",
        "http://server.bare-service/",
        "http://server.bare-service.svc.cluster.local/",
    ] {
        let mut seen = String::new();
        // Each call is a connection, and kube-proxy throws a coin for each.
        for _ in 0..20 {
            let ran = namespace.get("deployment/client", url, 1);
            assert!(ran.ok(), "{url}: {ran:?}");
            seen.push_str(&ran.stdout);
        }
        assert!(
            seen.contains("server-v1") && seen.contains("server-v2"),
            "{url}: {seen}"
        );
    }
}

#[test]
fn exec_logs_and_port_forward_reach_a_pod() {
    let cluster = Cluster::here();
    let namespace = Namespace::create(&cluster, "bare-streams");
    namespace.start(&[&Workload::new("server")]);
    let usage = namespace.exec("deployment/server", &["/applications"]);
    assert_eq!(usage.code, 2, "{usage:?}");
    assert!(usage.stderr.contains("usage"), "{usage:?}");
    assert!(namespace.run(&["logs", "deployment/server"]).ok());
    let forward = Forward::start(&namespace, "deployment/server", 8080);
    assert!(forward.get("/").starts_with("server-v1 HTTP/1.1"));
}
