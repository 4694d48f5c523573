// SPDX-License-Identifier: Apache-2.0

//! A pod gets the address of one that has ended: it is served, and seen by others, as who it is.

use std::{fs, net::Ipv4Addr, path::PathBuf};

use mesh_tests::{
    kube::{Cluster, Mesh, Namespace, PATIENCE, Workload},
    wait,
};

use crate::strict::closed;

/// How often the new pod is asked and asks.
const REQUESTS: u32 = 10;

/// Makes `address` the next that a pod of `node` gets. It must be free.
#[track_caller]
fn make_next(cluster: &Cluster, node: &str, address: Ipv4Addr) {
    let notes: PathBuf = cluster
        .directory()
        .join(format!("{node}/addresses/xtask-{node}"));
    wait::until("the address to be free", PATIENCE, || {
        let note = notes.join(address.to_string());
        if note.exists() { Err(note) } else { Ok(()) }
    });
    let last = Ipv4Addr::from(u32::from(address) - 1);
    fs::write(notes.join("last_reserved_ip.0"), last.to_string()).unwrap();
}

/// Who the connections were between that `node` accepted from the mesh for `address`.
#[track_caller]
fn accepted(mesh: &Mesh, node: &str, address: &str) -> Vec<(String, String)> {
    let value = |line: &str, key: &str| {
        let rest = line.split_once(&format!(" {key}=\"")).unwrap_or_default().1;
        let identity = rest.split('"').next().unwrap_or_default();
        identity.rsplit('/').next().unwrap_or_default().to_owned()
    };
    mesh.access_log(node, address)
        .iter()
        .filter(|line| line.contains(&format!(" dst.addr={address}:")))
        .filter(|line| line.contains("direction=\"inbound\" security=\"mutual_tls\""))
        .map(|line| (value(line, "src.identity"), value(line, "dst.identity")))
        .collect()
}

/// Asks from a pod of `from` on connections of its own.
#[track_caller]
fn ask(namespace: &Namespace, from: &str, to: &str) {
    for _ in 0..REQUESTS {
        namespace
            .answers(
                &format!("deployment/{from}"),
                &format!("http://{to}/"),
                1,
                &format!("{to}-v1"),
            )
            .unwrap();
    }
}

#[test]
fn a_pod_at_the_address_of_another_is_who_it_is() {
    let cluster = Cluster::here();
    let mesh = Mesh::on(&cluster);
    let namespace = closed(&cluster, "reused");
    let nodes = cluster.nodes();
    for account in ["first", "second", "peer"] {
        namespace.account(account);
    }
    let peer = Workload::new("peer").on(&nodes[0]).account("peer");
    let first = Workload::new("first").on(&nodes[1]).account("first");
    namespace.start(&[&peer, &first]);
    ask(&namespace, "peer", "first");
    ask(&namespace, "first", "peer");
    let address = namespace.field_of("first", "status.podIP");
    namespace.ok(&["delete", "deployment", "first"]);
    namespace.ok(&["wait", "--for=delete", "pod", "--selector=app=first"]);
    make_next(&cluster, &nodes[1], address.parse().unwrap());
    let second = Workload::new("second").on(&nodes[1]).account("second");
    namespace.start(&[&second]);
    assert_eq!(namespace.field_of("second", "status.podIP"), address);
    // From the first request on, in both directions.
    ask(&namespace, "second", "peer");
    ask(&namespace, "peer", "second");
    let of = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    let far = namespace.field_of("peer", "status.podIP");
    let seen = wait::until("the access log", PATIENCE, || {
        let seen = (
            accepted(&mesh, &nodes[1], &address),
            accepted(&mesh, &nodes[0], &far),
        );
        let done = seen.0.contains(&of("peer", "second")) && seen.1.contains(&of("second", "peer"));
        if done { Ok(seen) } else { Err(seen) }
    });
    // Nobody else was at that address: the old pod before, the new one after.
    let (to_it, from_it) = &seen;
    let old = to_it.iter().rposition(|it| *it == of("peer", "first"));
    let new = to_it.iter().position(|it| *it == of("peer", "second"));
    assert!(old < new, "{to_it:?}");
    let known = [of("peer", "first"), of("peer", "second")];
    assert!(to_it.iter().all(|it| known.contains(it)), "{to_it:?}");
    let known = [of("first", "peer"), of("second", "peer")];
    assert!(from_it.iter().all(|it| known.contains(it)), "{from_it:?}");
}
