// SPDX-License-Identifier: Apache-2.0

//! Promise 4: nothing in plaintext that should not be. Who is let in, by which rule, and what the
//! wire shows.

use mesh_tests::{App, Http1, Lab, Pod, Wire, client};

use crate::mesh::{Mesh, Pods, peer_authentication};

/// Whether plaintext from `outsider` gets through to `server` on 8080; a refusal must come before
/// the application sees a connection.
#[track_caller]
fn plaintext_passes(outsider: &Pod, server: &Pod, app: &App) -> bool {
    plaintext_passes_on(outsider, server, 8080, app)
}

#[track_caller]
fn plaintext_passes_on(outsider: &Pod, server: &Pod, port: u16, app: &App) -> bool {
    let before = app.connections();
    let address = format!("{}:{port}", server.v4);
    let answer = outsider.run(|| client::get(&address, "plain", "/"));
    match answer {
        Ok(answer) => {
            assert_eq!(answer.status, 200, "{}", answer.text());
            true
        }
        Err(error) => {
            assert_eq!(
                app.connections(),
                before,
                "refused ({error}), but the application saw it"
            );
            false
        }
    }
}

/// The mesh of these scenarios, with a pod outside of it.
#[track_caller]
fn with_outsider(name: &str) -> (Mesh, Pod) {
    let mesh = Mesh::start(name);
    let outsider = mesh.lab.pod("outsider").outside().start();
    mesh.settle();
    (mesh, outsider)
}

#[test]
fn permissive_accepts_both_and_strict_only_the_mesh() {
    let (mesh, outsider) = with_outsider("mtls modes");
    assert!(
        plaintext_passes(&outsider, &mesh.v1, &mesh.apps[0]),
        "the default is PERMISSIVE"
    );
    for (mode, passes) in [("STRICT", false), ("PERMISSIVE", true), ("STRICT", false)] {
        mesh.apply(&peer_authentication("default", mode));
        assert_eq!(
            plaintext_passes(&outsider, &mesh.v1, &mesh.apps[0]),
            passes,
            "{mode}"
        );
        assert_eq!(mesh.get("/").status, 200, "{mode}");
    }
}

#[test]
fn a_policy_of_the_mesh_covers_all_and_the_narrower_one_wins() {
    let (mesh, outsider) = with_outsider("mtls levels");
    mesh.apply(&peer_authentication("istio-system", "STRICT"));
    assert!(!plaintext_passes(&outsider, &mesh.v1, &mesh.apps[0]));
    mesh.apply(&peer_authentication("default", "PERMISSIVE"));
    assert!(plaintext_passes(&outsider, &mesh.v1, &mesh.apps[0]));
    mesh.apply(
        "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: only-v2, namespace: default}
spec:
  selector: {matchLabels: {version: v2}}
  mtls: {mode: STRICT}
",
    );
    assert!(plaintext_passes(&outsider, &mesh.v1, &mesh.apps[0]));
    assert!(!plaintext_passes(&outsider, &mesh.v2, &mesh.apps[1]));
}

#[test]
fn a_port_may_be_excepted() {
    let (mesh, outsider) = with_outsider("mtls port");
    let other = App::http(&mesh.v1, 8081);
    mesh.apply(
        "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: v1, namespace: default}
spec:
  selector: {matchLabels: {version: v1}}
  mtls: {mode: STRICT}
  portLevelMtls:
    8081: {mode: PERMISSIVE}
",
    );
    assert!(!plaintext_passes_on(
        &outsider,
        &mesh.v1,
        8080,
        &mesh.apps[0]
    ));
    assert!(plaintext_passes_on(&outsider, &mesh.v1, 8081, &other));
}

#[test]
fn legacy_policies_are_obeyed() {
    let (mesh, outsider) = with_outsider("mtls legacy");
    mesh.apply(
        "
apiVersion: \"authentication.istio.io/v1alpha1\"
kind: \"MeshPolicy\"
metadata:
  name: \"default\"
spec:
  peers:
  - mtls: {}
",
    );
    assert!(
        !plaintext_passes(&outsider, &mesh.v1, &mesh.apps[0]),
        "MeshPolicy with mtls: {{}}"
    );
    // A namespace's Policy without peers takes the mesh's away.
    let policy = |peers: &str| {
        format!(
            "
apiVersion: authentication.istio.io/v1alpha1
kind: Policy
metadata: {{name: default, namespace: default}}
spec:
  peers: {peers}
"
        )
    };
    mesh.apply(&policy("[]"));
    assert!(
        plaintext_passes(&outsider, &mesh.v1, &mesh.apps[0]),
        "Policy without peers"
    );
    mesh.apply(&policy("[{mtls: null}]"));
    assert!(
        !plaintext_passes(&outsider, &mesh.v1, &mesh.apps[0]),
        "Policy with mtls: null"
    );
    mesh.apply(&policy("[{mtls: {mode: PERMISSIVE}}]"));
    assert!(
        plaintext_passes(&outsider, &mesh.v1, &mesh.apps[0]),
        "Policy with PERMISSIVE"
    );
    mesh.apply(&peer_authentication("default", "STRICT"));
    assert!(
        !plaintext_passes(&outsider, &mesh.v1, &mesh.apps[0]),
        "PeerAuthentication wins"
    );
}

#[test]
fn a_server_outside_the_mesh_is_reached_in_every_mode() {
    let mesh = Mesh::start("mtls out");
    let legacy = mesh.lab.pod("legacy").outside().on_b().start();
    let _app = App::http(&legacy, 8080);
    mesh.lab
        .service("legacy")
        .namespace("outside")
        .selector(&[])
        .port("http", 80, 8080)
        .create();
    mesh.lab.apply(&format!(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: legacy, namespace: outside, labels: {{kubernetes.io/service-name: legacy}}}}
addressType: IPv4
ports: [{{name: http, port: 8080, protocol: TCP}}]
endpoints:
- addresses: [{}]
  conditions: {{ready: true}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: legacy, namespace: outside}}
spec:
  hosts: [legacy]
  http:
  - route:
    - destination: {{host: legacy}}
",
        legacy.v4
    ));
    for mode in ["PERMISSIVE", "STRICT"] {
        mesh.apply(&peer_authentication("default", mode));
        for address in [
            mesh.service("legacy.outside", 80),
            format!("{}:8080", legacy.v4),
        ] {
            let answer = mesh
                .client
                .run(|| client::get(&address, "legacy.outside", "/"));
            let answer = answer.unwrap_or_else(|error| panic!("{mode} {address}: {error}"));
            assert_eq!(answer.field("pod"), "legacy", "{mode} {address}");
            let peer: std::net::SocketAddr = answer.field("peer").parse().unwrap();
            assert_eq!(peer.ip().to_string(), mesh.client.v4, "{mode} {address}");
        }
    }
}

#[test]
fn the_wire_between_enrolled_pods_shows_tls_records_alone() {
    let mesh = Mesh::with("mtls wire", &[], &peer_authentication("default", "STRICT"));
    let wire = Wire::listen(&mesh.lab);
    let service = mesh.service("recommendations", 80);
    for address in [
        service,
        format!("{}:8080", mesh.v2.v4),
        format!("[{}]:8080", mesh.v2.v6),
    ] {
        mesh.client.run(|| {
            let mut http = Http1::connect(&address, "recommendations").unwrap();
            for _ in 0..20 {
                let answer = http.request(
                    "POST",
                    "/",
                    &[("X-Marker", "in-a-header-77")],
                    b"in-a-body-77",
                );
                assert_eq!(answer.unwrap().status, 200);
            }
        });
    }
    let crossed = wire.stop();
    assert_eq!(
        crossed.hits(b"in-a-header-77") + crossed.hits(b"in-a-body-77"),
        0
    );
    assert_eq!(crossed.hits(b"HTTP/1.1"), 0);
    let records = crossed.tls_records().unwrap();
    assert!(records > 120, "{records} records for 60 requests");
}

#[test]
fn the_tunnel_offers_tls_1_3_alone_and_post_quantum_keys_first() {
    let pods = Pods::start("mtls hello");
    // From before the first tunnel on.
    let wire = Wire::listen(&pods.lab);
    let mesh = pods.enrol(&[]);
    assert_eq!(mesh.get("/").status, 200);
    let crossed = wire.stop();
    let hellos = crossed
        .streams
        .iter()
        .filter(|(name, _)| name.ends_with(":15008"));
    let hellos: Vec<_> = hellos.map(|(_, stream)| stream).collect();
    assert!(!hellos.is_empty());
    for hello in hellos {
        let has = |wanted: &[u8]| hello.windows(wanted.len()).any(|window| window == wanted);
        // Extension supported_versions with one entry, 0x0304 (RFC 8446, 4.2.1).
        assert!(has(&[0x00, 0x2b, 0x00, 0x03, 0x02, 0x03, 0x04]));
        // Extension supported_groups: the first is X25519MLKEM768, 0x11ec.
        let groups = hello
            .windows(8)
            .any(|window| matches!(window, [0x00, 0x0a, 0x00, _, 0x00, _, 0x11, 0xec]));
        assert!(groups, "no supported_groups that begin with X25519MLKEM768");
    }
}

#[test]
fn a_client_cannot_speak_plaintext_to_the_tunnel_port() {
    let (mesh, outsider) = with_outsider("mtls tunnel port");
    let address = format!("{}:15008", mesh.v1.v4);
    let answer = outsider.run(|| client::get(&address, "tunnel", "/"));
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(mesh.apps[0].connections(), 0);
}

#[test]
fn the_nodes_probes_pass_under_strict_and_nothing_else_of_the_node_does() {
    let lab = Lab::new("mtls probes");
    lab.apply(&peer_authentication("default", "STRICT"));
    let probed = lab.pod("probed").on_b().probe(8080).start();
    let (health, other) = (App::http(&probed, 8080), App::http(&probed, 8081));
    let agents = [lab.a.start_agent(&[]), lab.b.start_agent(&[])];
    lab.settle(&[&agents[0], &agents[1]]);
    let ask = |port: u16| {
        let address = format!("{}:{port}", probed.v4);
        lab.b
            .netns
            .run(|| client::get(&address, "probe", "/healthz"))
    };
    for _ in 0..20 {
        assert_eq!(ask(8080).unwrap().status, 200);
    }
    assert_eq!(health.connections(), 20);
    assert!(ask(8081).is_err(), "a port that no probe names");
    assert_eq!(other.connections(), 0);
    // The other node's address is no probe either.
    let address = format!("{}:8080", probed.v4);
    assert!(
        lab.a
            .netns
            .run(|| client::get(&address, "probe", "/healthz"))
            .is_err()
    );
}

#[test]
fn the_servers_node_knows_the_client_by_its_certificate() {
    let mesh = Mesh::start("mtls identity");
    mesh.get_many(5);
    let labels = [
        ("reporter", "destination"),
        (
            "source_principal",
            "spiffe://cluster.local/ns/default/sa/client",
        ),
        (
            "destination_principal",
            "spiffe://cluster.local/ns/default/sa/recommendations",
        ),
        ("connection_security_policy", "mutual_tls"),
    ];
    mesh_tests::wait::until("the metric", mesh_tests::wait::PATIENCE, || {
        let opened = mesh.b.metric("istio_tcp_connections_opened_total", &labels)
            + mesh.b.metric("istio_requests_total", &labels);
        if opened > 0.0 {
            Ok(())
        } else {
            Err(mesh.b.admin("/metrics").text())
        }
    });
}

#[test]
fn pods_of_one_node_are_under_the_same_rules() {
    let pods = Pods::start("mtls same node");
    let near = pods.lab.pod("near").start();
    let app = App::http(&near, 8080);
    let outsider = pods.lab.pod("outsider").outside().start();
    pods.lab.apply(&peer_authentication("default", "STRICT"));
    let mesh = pods.enrol(&[]);
    assert!(!plaintext_passes(&outsider, &near, &app));
    let address = format!("{}:8080", near.v4);
    let answer = mesh
        .client
        .run(|| client::get(&address, "near", "/"))
        .unwrap();
    let peer: std::net::SocketAddr = answer.field("peer").parse().unwrap();
    assert_eq!(peer.ip().to_string(), mesh.client.v4);
}
