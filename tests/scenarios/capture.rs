// SPDX-License-Identifier: Apache-2.0

//! Promises 1 and 6: who is captured, from when on, and who is left alone.

use std::io::{Read as _, Write as _};

use mesh_tests::{
    App, Wire,
    app::{Habit, habit},
    client, wait,
};

use crate::mesh::{Mesh, Pods};

/// Whether a request of the client crosses the link in plaintext.
#[track_caller]
fn crosses_in_plaintext(mesh: &Mesh) -> bool {
    let wire = Wire::listen(&mesh.lab);
    let address = format!("{}:8080", mesh.v1.v4);
    let answer = mesh
        .client
        .run(|| client::get(&address, "a-marker-in-the-host", "/"));
    assert_eq!(answer.unwrap().status, 200);
    wire.stop().hits(b"a-marker-in-the-host") > 0
}

#[test]
fn a_namespace_is_enrolled_and_released_while_its_pods_run() {
    let pods = Pods::start("capture enrol");
    pods.lab.manifests.namespace("default", &[]);
    let mesh = pods.enrol(&[]);
    assert!(crosses_in_plaintext(&mesh));
    for (labels, plaintext) in [
        (vec![("istio-injection", "enabled")], false),
        (vec![], true),
        (vec![("istio.io/dataplane-mode", "ambient")], false),
        (vec![("mesh-agent.io/enrolled", "false")], true),
        (vec![("mesh-agent.io/enrolled", "true")], false),
    ] {
        mesh.lab.manifests.namespace("default", &labels);
        mesh.settle();
        assert_eq!(crosses_in_plaintext(&mesh), plaintext, "{labels:?}");
    }
}

#[test]
fn a_pod_that_opts_out_is_left_alone() {
    let pods = Pods::start("capture opt out");
    let opted_out = pods
        .lab
        .pod("opted-out")
        .annotation("sidecar.istio.io/inject", "false")
        .start();
    let labelled = pods
        .lab
        .pod("labelled")
        .label("istio.io/dataplane-mode", "none")
        .start();
    let mesh = pods.enrol(&[]);
    for pod in [&opted_out, &labelled] {
        let wire = Wire::listen(&mesh.lab);
        let address = format!("{}:8080", mesh.v1.v4);
        let answer = pod
            .run(|| client::get(&address, "a-marker-in-the-host", "/"))
            .unwrap();
        assert_eq!(answer.status, 200);
        assert!(
            wire.stop().hits(b"a-marker-in-the-host") > 0,
            "{}",
            pod.name
        );
    }
}

#[test]
fn a_pod_that_comes_later_is_captured_too() {
    let mesh = Mesh::start("capture later");
    let late = mesh.lab.pod("late").start();
    mesh.settle();
    let wire = Wire::listen(&mesh.lab);
    let address = mesh.service("recommendations", 80);
    let answer = late
        .run(|| client::get(&address, "recommendations", "/"))
        .unwrap();
    let peer: std::net::SocketAddr = answer.field("peer").parse().unwrap();
    assert_eq!(peer.ip().to_string(), late.v4);
    wire.stop().tls_records().unwrap();
}

#[test]
fn a_connection_from_before_enrolment_lives_on() {
    let pods = Pods::start("capture before");
    pods.lab.manifests.namespace("default", &[]);
    let _echo = App::tcp(&pods.v1, 9000, Habit::Echo);
    let mesh = pods.enrol(&[]);
    let address = format!("{}:9000", mesh.v1.v4);
    let mut stream = mesh.client.run(|| client::connect(&address)).unwrap();
    let mut exchange = |text: &[u8]| {
        stream.write_all(text).unwrap();
        let mut echoed = vec![0; text.len()];
        stream.read_exact(&mut echoed).unwrap();
        assert_eq!(echoed, text);
    };
    exchange(b"before");
    mesh.lab
        .manifests
        .namespace("default", &[("istio-injection", "enabled")]);
    mesh.settle();
    assert!(!crosses_in_plaintext(&mesh));
    exchange(b"after");
    exchange(&habit::pattern(0, 100_000));
}

#[test]
fn what_is_not_in_the_mesh_is_not_touched() {
    let mesh = Mesh::start("capture untouched");
    let outsider = mesh.lab.pod("outsider").outside().on_b().start();
    let _far = App::tcp(&outsider, 9000, Habit::Peer);
    let (node, _) = mesh.lab.b.addresses();
    let listener = mesh
        .lab
        .b
        .netns
        .run(|| std::net::TcpListener::bind(("0.0.0.0", 9000)))
        .unwrap();
    mesh.settle();
    let captured = || mesh.a.metric("istio_tcp_connections_opened_total", &[]);
    let before = captured();
    let local = mesh.client.run(|| {
        let stream = client::connect(&format!("{node}:9000")).unwrap();
        stream.local_addr().unwrap()
    });
    // The very port the client chose: nobody stood in between.
    let (_stream, peer) = listener.accept().unwrap();
    assert_eq!(peer, local);
    assert_eq!(captured(), before, "the proxy has seen it");
}

#[test]
fn an_address_nobody_has_fails_as_without_a_mesh() {
    let mesh = Mesh::start("capture nobody");
    let refused = mesh
        .client
        .run(|| client::connect(&format!("{}:9999", mesh.lab.b.addresses().0)));
    assert_eq!(
        refused.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
}

#[test]
fn the_kernel_is_asked_what_is_captured() {
    let mesh = Mesh::start("capture observed");
    mesh.get_many(3);
    let status = mesh.a.cli(&["status"]);
    assert!(status.ok(), "{}", status.stderr);
    assert!(status.stdout.contains("client"), "{}", status.stdout);
    let observed = mesh.a.admin_json("/status").to_string();
    assert!(
        observed.contains("tcx") || observed.contains("clsact"),
        "{observed}"
    );
}

#[test]
fn an_application_that_calls_itself_is_not_captured() {
    let mesh = Mesh::start("capture itself");
    for address in ["127.0.0.1:8080".to_owned(), format!("{}:8080", mesh.v1.v4)] {
        let answer = mesh.v1.run(|| client::get(&address, "self", "/"));
        let answer = answer.unwrap_or_else(|error| panic!("{address}: {error}"));
        assert_eq!(answer.status, 200, "{address}");
    }
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let mesh = Mesh::with("capture hairpin", &[], &crate::mesh::split(100, 0));
    let address = mesh.service("recommendations", 80);
    for _ in 0..10 {
        let answer = mesh
            .v1
            .run(|| client::get(&address, "recommendations", "/"))
            .unwrap();
        assert_eq!(answer.field("version"), "v1");
    }
}

#[test]
fn deleted_pods_leave_nothing_at_the_agent() {
    let mesh = Mesh::start("capture churn");
    let warm = mesh.lab.pod("churn-0").start();
    mesh.settle();
    warm.delete();
    mesh.settle();
    // Programs are loaded ahead for pods to come, one after the other; files are counted when that is done.
    let files = mesh.a.open_files_at_rest();
    let turns = 12;
    for turn in 1..=turns {
        let pod = mesh.lab.pod(&format!("churn-{turn}")).start();
        mesh.settle();
        let address = mesh.service("recommendations", 80);
        assert_eq!(
            pod.run(|| client::get(&address, "recommendations", "/"))
                .unwrap()
                .status,
            200
        );
        pod.delete();
        mesh.settle();
    }
    wait::until("files to be closed", wait::PATIENCE, || {
        let now = mesh.a.open_files();
        if now < files + turns {
            Ok(())
        } else {
            Err((files, now))
        }
    });
}
