// SPDX-License-Identifier: Apache-2.0

//! The main job end to end, on one mesh: the first scenario to look at when many fail.

use mesh_tests::Wire;

use crate::mesh::{Mesh, counts, peer_authentication, split};

#[test]
fn curl_is_captured_split_encrypted_and_seen_as_itself() {
    let mesh = Mesh::with("slice", &[], &split(90, 10));
    let outsider = mesh.lab.pod("outsider").outside().start();
    let wire = Wire::listen(&mesh.lab);
    let said = mesh
        .client
        .curl(&["--data", "a-marker-in-the-body", "http://recommendations/"]);
    assert!(said.ok(), "{}", said.stderr);
    let said: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let peer: std::net::SocketAddr = said["peer"].as_str().unwrap().parse().unwrap();
    assert_eq!(peer.ip().to_string(), mesh.client.v4);
    let crossed = wire.stop();
    assert_eq!(crossed.hits(b"a-marker-in-the-body"), 0);
    assert!(crossed.tls_records().unwrap() > 3);

    // Nine more complete the first ten; from here on the schedule begins anew.
    assert_eq!(mesh.get_many(9).values().sum::<usize>(), 9);
    assert_eq!(mesh.get_many(1000), counts(900, 100));

    let direct = format!("http://{}:8080/", mesh.v1.v4);
    mesh.apply(&peer_authentication("default", "STRICT"));
    let before = mesh.apps[0].connections();
    let refused = outsider.curl(&[&direct]);
    assert!(!refused.ok(), "{}", refused.stdout);
    assert_eq!(mesh.apps[0].connections(), before);
    assert_eq!(mesh.get("/").status, 200);
    mesh.apply(&peer_authentication("default", "PERMISSIVE"));
    let accepted = outsider.curl(&[&direct]);
    assert!(accepted.ok(), "{}", accepted.stderr);
}
