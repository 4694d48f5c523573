// SPDX-License-Identifier: Apache-2.0

//! Promise 9: the agents are replaced under load, and no request fails and no connection breaks.

use mesh_tests::{
    kube::{Cluster, Mesh, PATIENCE, PodLoad, Workload},
    wait,
};

use crate::strict::closed;

/// The same pods on a port of which the mesh knows nothing but that it is TCP.
const OPAQUE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: opaque}
spec:
  selector: {app: server}
  ports: [{name: tcp, port: 81, targetPort: 8080}]
";

#[test]
fn the_agents_are_replaced_under_load_and_nothing_fails() {
    let cluster = Cluster::here();
    let mesh = Mesh::on(&cluster);
    let namespace = closed(&cluster, "upgraded");
    let nodes = cluster.nodes();
    namespace.start(&[
        &Workload::new("server").on(&nodes[1]),
        &Workload::new("client").on(&nodes[0]),
    ]);
    namespace.apply(OPAQUE);
    wait::until("the mesh to be between them", PATIENCE, || {
        let ran = namespace.get("deployment/client", "http://opaque:81/", 1);
        if ran.ok() { Ok(()) } else { Err(ran) }
    });
    let before: Vec<String> = nodes.iter().map(|node| mesh.agent_on(node)).collect();
    let loads = [
        ("load", "http://server/"),
        ("short", "http://server/"),
        ("short", "http://opaque:81/"),
        ("hold", "ws://server/ws"),
        ("hold", "ws://opaque:81/ws"),
    ]
    .map(|(kind, url)| PodLoad::of(&namespace, "deployment/client", kind, url, 2));
    let ran = mesh.run(&["rollout", "restart", "daemonset/mesh-agent"]);
    assert!(ran.ok(), "{ran:?}");
    mesh.wait_for_successors(&before);
    // Predecessors stay as long as their connections, and no longer.
    for pod in &before {
        let ran = mesh.run(&["get", pod, "--output=name"]);
        assert!(ran.ok(), "{pod} has left its connections: {ran:?}");
    }
    for load in loads {
        load.stop().assert_all_answered(100);
    }
    for pod in &before {
        let ran = mesh.run(&["wait", "--for=delete", pod, "--timeout=90s"]);
        assert!(ran.ok(), "{pod}: {ran:?}");
    }
    namespace
        .answers("deployment/client", "http://server/", 10, "server-v1")
        .unwrap();
}

/// Restarts all agents and waits until the new ones serve; returns whom they followed.
#[track_caller]
fn replace_agents(mesh: &Mesh, nodes: &[String]) -> Vec<String> {
    let before: Vec<String> = nodes.iter().map(|node| mesh.agent_on(node)).collect();
    mesh.ok(&["rollout", "restart", "daemonset/mesh-agent"]);
    mesh.wait_for_successors(&before);
    before
}

#[test]
fn a_second_rollout_does_not_wait_for_the_connections_of_the_first() {
    let cluster = Cluster::here();
    let mesh = Mesh::on(&cluster);
    let namespace = closed(&cluster, "upgraded-twice");
    let nodes = cluster.nodes();
    namespace.start(&[
        &Workload::new("server").on(&nodes[1]),
        &Workload::new("client").on(&nodes[0]),
    ]);
    let hold = || PodLoad::of(&namespace, "deployment/client", "hold", "ws://server/ws", 2);
    let first = hold();
    let mut leaving = replace_agents(&mesh, &nodes);
    let second = hold();
    leaving.extend(replace_agents(&mesh, &nodes));
    // What is waited for by default is their connections.
    let ran = mesh.run(&["rollout", "status", "daemonset/mesh-agent", "--timeout=2s"]);
    assert!(!ran.ok(), "{ran:?}");
    for pod in &leaving {
        let ran = mesh.run(&["get", pod, "--output=name"]);
        assert!(ran.ok(), "{pod} has left its connections: {ran:?}");
    }
    for load in [first, second] {
        load.stop().assert_all_answered(20);
    }
    mesh.wait();
}
