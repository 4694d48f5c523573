// SPDX-License-Identifier: Apache-2.0

//! Removing the mesh leaves nothing on the nodes, and pods that run go on without it.

use std::{fs, path::Path};

use mesh_tests::{
    command::run,
    kube::{Cluster, Mesh, Namespace, PATIENCE, PodProcess, Workload},
    wait,
};

/// Where agents have files, each under the name of its node.
const PLACES: [&str; 3] = [
    "/sys/fs/bpf/mesh-agent",
    "/run/mesh-agent",
    "/var/lib/mesh-agent",
];

/// What there is of the agents of `nodes`; of other nodes of this machine there may be more. The
/// directories that the kubelet made for them may stay, empty: where a container may not reach the
/// node's root they cannot be removed from within.
fn left(nodes: &[String]) -> Vec<String> {
    let mut left = Vec::new();
    for place in PLACES {
        let Ok(entries) = fs::read_dir(place) else {
            continue;
        };
        let entries: Vec<String> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        let of_these = |entry: &&String| nodes.iter().any(|node| entry.starts_with(node.as_str()));
        left.extend(
            entries
                .iter()
                .filter(of_these)
                .map(|entry| format!("{place}/{entry}")),
        );
    }
    left
}

/// What capture changes in the network of the first pod of `app`.
#[track_caller]
fn network(namespace: &Namespace, app: &str) -> String {
    let process = PodProcess::application(&namespace.field_of(app, "metadata.uid"));
    let looks: [(&str, &[&str]); 6] = [
        ("ip", &["rule", "show"]),
        ("ip", &["-6", "rule", "show"]),
        ("ip", &["route", "show", "table", "all"]),
        ("tc", &["qdisc", "show", "dev", "eth0"]),
        ("tc", &["filter", "show", "dev", "eth0", "ingress"]),
        ("cat", &["/proc/sys/net/ipv4/conf/eth0/accept_local"]),
    ];
    let mut text = String::new();
    for (program, words) in looks {
        let ran = run(process.network(program).args(words));
        text.push_str(&format!(
            "{program} {}\n{}{}",
            words.join(" "),
            ran.stdout,
            ran.stderr
        ));
    }
    text
}

#[test]
fn an_uninstalled_mesh_leaves_nothing_and_its_pods_go_on() {
    let cluster = Cluster::here();
    let mesh = Mesh::on(&cluster);
    let namespace = Namespace::create(&cluster, "uninstalled");
    let nodes = cluster.nodes();
    namespace.start(&[
        &Workload::new("server").on(&nodes[1]),
        &Workload::new("client").on(&nodes[0]),
    ]);
    let networks = || ["server", "client"].map(|app| network(&namespace, app));
    let before = networks();
    namespace.label("istio-injection=enabled");
    wait::until("the capture", PATIENCE, || {
        let now = networks();
        if now.iter().zip(&before).all(|(now, then)| now != then) {
            return Ok(());
        }
        Err(now)
    });
    for node in &nodes {
        for place in PLACES {
            assert!(Path::new(place).join(node).exists() || place.starts_with("/run"));
        }
    }
    let asked = || namespace.answers("deployment/client", "http://server/", 5, "server-v1");
    wait::until("answers through the mesh", PATIENCE, asked);
    mesh.uninstall();
    assert_eq!(left(&nodes), Vec::<String>::new());
    assert_eq!(networks(), before);
    asked().unwrap();
    // It comes back as if it had never been there.
    Mesh::on(&cluster);
    wait::until("answers through the mesh again", PATIENCE, asked);
}
