// SPDX-License-Identifier: Apache-2.0

//! Certificates are replaced with traffic running, and nothing is lost.

use std::time::Duration;

use mesh_tests::{Load, Wire, wait};

use crate::mesh::{Mesh, peer_authentication, split};

#[test]
fn certificates_rotate_every_two_seconds_under_load_without_a_failure() {
    let manifests = format!(
        "{}---{}",
        split(50, 50),
        peer_authentication("default", "STRICT")
    );
    // Renewed at half of its life.
    let mesh = Mesh::with("rotation", &["--cert-ttl", "4s"], &manifests);
    let address = mesh.service("recommendations", 80);
    let serials = || -> Vec<String> {
        let status = mesh.a.admin_json("/status");
        let certificates = status["certificates"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        certificates
            .iter()
            .map(|one| one["serial"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let first = serials();
    assert!(!first.is_empty(), "{}", mesh.a.admin("/status").text());
    let load = Load::start(&mesh.client, &address, "recommendations", "/", 4);
    let mut generations = 0;
    let mut last = first;
    wait::until("five rotations", Duration::from_secs(30), || {
        let now = serials();
        if now != last {
            generations += 1;
            last = now;
        }
        if generations >= 5 {
            Ok(())
        } else {
            Err(generations)
        }
    });
    let tally = load.stop();
    tally.assert_no_failures();
    assert!(tally.answered > 1000, "{}", tally.answered);
    let wire = Wire::listen(&mesh.lab);
    assert_eq!(mesh.get("/").status, 200);
    wire.stop().tls_records().unwrap();
}
