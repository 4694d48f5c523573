// SPDX-License-Identifier: Apache-2.0

//! Promise 4, against a pod that is root in its network namespace (NET_ADMIN, NET_RAW): what it can take
//! away is its own, what it cannot is everybody else's.
//!
//! Each test says what the pod gains, too, where it gains something. What it claims and to whom is in
//! `claims`; here is what it does to its namespace.

use mesh_tests::{App, Lab, Pod, Wire, client, foreign::PYTHON, netns::Netns, wait};

use crate::mesh::{Mesh, peer_authentication};

mod claims;

const RAW_CLIENT: &str = include_str!("hostile/raw_client.py");

/// The mesh, and an enrolled pod on the client's node that means harm.
#[track_caller]
pub(crate) fn with_evil(name: &str, manifests: &str) -> (Mesh, Pod) {
    let mesh = Mesh::with(name, &[], manifests);
    let evil = mesh.lab.pod("evil").start();
    mesh.settle();
    (mesh, evil)
}

/// A request to the first server's own address. What the application sees is counted by [`App`].
fn ask(pod: &Pod, mesh: &Mesh) -> std::io::Result<client::Response> {
    let address = format!("{}:8080", mesh.v1.v4);
    pod.run(|| client::get(&address, "a-marker-in-the-host", "/"))
}

/// Whether the client, on the same node, is served through the mesh as ever.
#[track_caller]
fn check_neighbour(mesh: &Mesh) {
    let wire = Wire::listen(&mesh.lab);
    assert_eq!(ask(&mesh.client, mesh).unwrap().status, 200);
    let crossed = wire.stop();
    assert_eq!(crossed.hits(b"a-marker-in-the-host"), 0);
    crossed.tls_records().unwrap();
}

fn connections(mesh: &Mesh) -> u64 {
    mesh.apps.iter().map(App::connections).sum()
}

fn repairs(mesh: &Mesh) -> u64 {
    let status = mesh.a.admin_json("/status");
    status["node"]["kernelState"]["repairs"].as_u64().unwrap()
}

/// The row of a pod of node a in `status`.
pub(crate) fn row(mesh: &Mesh, pod: &Pod) -> serde_json::Value {
    let status = mesh.a.admin_json("/status");
    let mut rows = status["pods"].as_array().unwrap().iter();
    let row = rows.find(|row| row["name"] == pod.dotted_name().as_str());
    row.cloned().unwrap_or_default()
}

#[test]
fn a_pod_that_deletes_filters_and_qdiscs_stays_captured_or_is_again_at_once() {
    let (mesh, evil) = with_evil("hostile tc", "");
    for words in [
        "filter del dev eth0 egress",
        "filter del dev eth0 ingress",
        "qdisc del dev eth0 clsact",
        "qdisc replace dev eth0 clsact",
        "qdisc replace dev eth0 root pfifo",
        "qdisc del dev eth0 root",
    ] {
        // What is not there cannot be deleted.
        evil.exec("tc", &words.split(' ').collect::<Vec<_>>());
    }
    let by_link = row(&mesh, &evil)["hook"] == "tcx";
    let captured = || {
        let wire = Wire::listen(&mesh.lab);
        assert_eq!(ask(&evil, &mesh).unwrap().status, 200);
        wire.stop().hits(b"a-marker-in-the-host") == 0
    };
    if by_link {
        assert!(captured(), "a link is not the pod's to remove");
        assert_eq!(repairs(&mesh), 0);
    } else {
        wait::until_true("the filters to be put back", wait::PATIENCE, captured);
    }
    check_neighbour(&mesh);
}

#[test]
fn a_pod_that_deletes_rules_and_routes_stops_itself_until_they_are_put_back_and_that_is_told() {
    let (mesh, evil) = with_evil("hostile rules", "");
    let wire = Wire::listen(&mesh.lab);
    for words in [
        "rule del pref 50",
        "-6 rule del pref 50",
        "route flush table 7999",
        "-6 route flush table 7999",
    ] {
        let ran = evil.exec("ip", &words.split(' ').collect::<Vec<_>>());
        assert!(ran.ok(), "{words}: {}", ran.stderr);
    }
    // Until then its first segments are lost, and sent again.
    wait::until("its traffic to flow again", wait::PATIENCE, || {
        ask(&evil, &mesh).map(|answer| assert_eq!(answer.status, 200))
    });
    assert_eq!(ask(&mesh.client, &mesh).unwrap().status, 200);
    let crossed = wire.stop();
    assert_eq!(crossed.hits(b"a-marker-in-the-host"), 0, "never around");
    crossed.tls_records().unwrap();
    mesh.a.wait_log("put back what a pod had removed");
    assert!(repairs(&mesh) >= 2, "{}", repairs(&mesh));
}

#[test]
fn a_pod_that_removes_accept_local_stops_itself_until_it_is_put_back() {
    let (mesh, evil) = with_evil("hostile sysctl", "");
    let wire = Wire::listen(&mesh.lab);
    evil.netns.sysctl("ipv4/conf/lo/accept_local", "0");
    wait::until("its traffic to flow again", wait::PATIENCE, || {
        ask(&evil, &mesh).map(|answer| assert_eq!(answer.status, 200))
    });
    assert_eq!(wire.stop().hits(b"a-marker-in-the-host"), 0);
    check_neighbour(&mesh);
}

/// What the raw client of `evil` gets from the first server.
#[track_caller]
fn raw(evil: &Pod, mesh: &Mesh, way: &str) -> String {
    let gateway = "10.244.1.1";
    let arguments = ["-c", RAW_CLIENT, "eth0", gateway, &evil.v4, &mesh.v1.v4];
    let ran = evil.exec(PYTHON, &[&arguments[..], &["8080", way]].concat());
    assert!(ran.ok(), "{}", ran.stderr);
    ran.stdout.trim().to_owned()
}

#[test]
fn a_packet_socket_gets_around_capture_and_is_nobody_to_whom_it_reaches() {
    let (mesh, evil) = with_evil("hostile raw", "");
    // Through the egress program even forged segments go to the agent.
    let wire = Wire::listen(&mesh.lab);
    assert_eq!(raw(&evil, &mesh, "through"), "silence");
    assert_eq!(wire.stop().hits(b"in-a-raw-header-77"), 0);
    // What it can: to leave the mesh, as a pod that was never in it.
    let wire = Wire::listen(&mesh.lab);
    let said = raw(&evil, &mesh, "around");
    assert!(said.starts_with("answer HTTP/1.1 200"), "{said}");
    assert!(said.contains(&format!("\"peer\":\"{}:", evil.v4)), "{said}");
    assert!(wire.stop().hits(b"in-a-raw-header-77") > 0);
    // What it cannot: to be somebody there, or to be let in where one must be.
    let before = connections(&mesh);
    mesh.apply(&claims::only(&["evil", "client"]));
    assert_eq!(raw(&evil, &mesh, "around"), "reset");
    mesh.lab.delete("AuthorizationPolicy", "default", "only");
    mesh.apply(&peer_authentication("default", "STRICT"));
    assert_eq!(raw(&evil, &mesh, "around"), "reset");
    assert_eq!(connections(&mesh), before, "the application saw it");
    let named = [("source_principal", claims::identity("evil"))];
    let labels = named.each_ref().map(|(key, value)| (*key, &**value));
    for series in ["istio_tcp_connections_opened_total", "istio_requests_total"] {
        let seen = mesh.b.metric(series, &labels);
        assert!(seen < 1.0, "plaintext was attributed to an identity");
    }
    check_neighbour(&mesh);
}

/// A request from a socket whose packets have the mark of captured ones: ADDRESS PORT SOURCE.
const MARKED_CLIENT: &str = r#"
import socket, sys
SO_MARK, CAPTURED = 36, 0x1E5A0000
stream = socket.socket()
stream.settimeout(5)
stream.setsockopt(socket.SOL_SOCKET, SO_MARK, CAPTURED)
stream.bind((sys.argv[3], 0))
try:
    stream.connect((sys.argv[1], int(sys.argv[2])))
    stream.sendall(b"GET / HTTP/1.1\r\nHost: a-marker-in-the-host\r\nConnection: close\r\n\r\n")
    answer = b""
    while chunk := stream.recv(65536):
        answer += chunk
    print(answer.decode())
except OSError as error:
    print("failed", error)
"#;

#[test]
fn the_mark_of_captured_packets_set_by_a_pod_itself_leads_to_the_agent_as_that_pod() {
    let (mesh, evil) = with_evil("hostile mark", "");
    let wire = Wire::listen(&mesh.lab);
    let marked = || {
        let arguments = ["-c", MARKED_CLIENT, &mesh.v1.v4, "8080", &evil.v4];
        evil.exec(PYTHON, &arguments).stdout
    };
    let said = marked();
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    assert!(said.contains(&format!("\"peer\":\"{}:", evil.v4)), "{said}");
    let before = connections(&mesh);
    mesh.apply(&claims::only(&["client"]));
    let said = marked();
    assert!(said.starts_with("failed"), "{said}");
    assert_eq!(connections(&mesh), before);
    mesh.apply(&claims::only(&["evil"]));
    let said = marked();
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    let crossed = wire.stop();
    assert_eq!(crossed.hits(b"a-marker-in-the-host"), 0);
    crossed.tls_records().unwrap();
}

#[test]
fn an_interface_that_a_pod_takes_into_a_namespace_of_its_own_takes_the_capture_along() {
    let (mesh, evil) = with_evil("hostile move", "");
    let inner = Netns::create(&format!("{}-inner", evil.netns.name()));
    evil.netns
        .ip(&format!("link set eth0 netns {}\n", inner.name()));
    inner.ip(&format!(
        "link set eth0 up\n\
         addr add {}/32 dev eth0\n\
         route add default via 10.244.1.1 dev eth0 onlink\n",
        evil.v4
    ));
    let before = connections(&mesh);
    let wire = Wire::listen(&mesh.lab);
    let address = format!("{}:8080", mesh.v1.v4);
    let answer = inner.run(|| client::get(&address, "a-marker-in-the-host", "/"));
    assert!(answer.is_err(), "nobody takes it from there: {answer:?}");
    let crossed = wire.stop();
    let to_server = crossed.streams.keys().filter(|name| name.contains(":8080"));
    assert_eq!(to_server.count(), 0, "never around");
    assert_eq!(connections(&mesh), before);
    check_neighbour(&mesh);
    // And it is told, though to no harm of the node.
    let reason = |row: serde_json::Value| row["reason"].as_str().unwrap_or_default().to_owned();
    wait::until_true("status to tell", wait::PATIENCE, || {
        reason(row(&mesh, &evil)).contains("interface eth0 is not in its network namespace")
    });
    assert_eq!(verdict(&mesh, &evil).0, "not ok");
    assert_eq!(mesh.a.admin_json("/ready")["ready"], true);
    // Whatever else takes its name and its place has no part in it.
    evil.netns.ip("link add eth0 type veth peer name other\n");
    mesh.a.wait_log("moved out of its pod's namespace");
    assert_eq!(row(&mesh, &evil)["captured"], false);
    evil.netns.ip("link del eth0\n");
    inner.ip(&format!("link set eth0 netns {}\n", evil.netns.name()));
    wait::until_true("the pod to be captured again", wait::PATIENCE, || {
        row(&mesh, &evil)["captured"] == true
    });
}

/// What a counter of the kernel says about a pod of node a.
fn counter(mesh: &Mesh, pod: &Pod, name: &str) -> u64 {
    row(mesh, pod)["counters"][name].as_u64().unwrap()
}

/// What `verify` says of a pod of node a: its verdict, and why.
fn verdict(mesh: &Mesh, pod: &Pod) -> (String, String) {
    let answer = mesh.a.admin_json("/verify");
    let mut rows = answer["pods"].as_array().unwrap().iter();
    let row = rows.find(|row| row["name"] == pod.dotted_name().as_str());
    let row = row.cloned().unwrap_or_default();
    let verdict = row["verdict"].as_str().unwrap_or_default();
    (verdict.to_owned(), row["reasons"].to_string())
}

#[test]
fn a_pod_that_kills_the_agents_listeners_in_it_gets_new_ones_and_that_is_told() {
    let (mesh, evil) = with_evil("hostile kill", "");
    assert_eq!(ask(&evil, &mesh).unwrap().status, 200);
    assert_eq!(verdict(&mesh, &evil), ("ok".to_owned(), "[]".to_owned()));
    let before = repairs(&mesh);
    let wire = Wire::listen(&mesh.lab);
    for round in 1..=2 {
        let ran = evil.exec("ss", &["--kill", "--tcp", "--listening"]);
        let listeners = ran.stdout.matches(":15001").count();
        assert!(listeners > 0, "{}{}", ran.stdout, ran.stderr);
        wait::until_true("listeners to be opened again", wait::PATIENCE, || {
            repairs(&mesh) >= before + round
        });
        wait::until("its traffic to flow again", wait::PATIENCE, || {
            ask(&evil, &mesh).map(|answer| assert_eq!(answer.status, 200))
        });
        assert_eq!(row(&mesh, &evil)["captured"], true);
    }
    assert_eq!(wire.stop().hits(b"a-marker-in-the-host"), 0, "never around");
    mesh.a
        .wait_log("opened listeners again that were ended in a pod's namespace");
    check_neighbour(&mesh);
}

#[test]
fn what_finds_no_listener_is_counted_and_keeps_the_verdict_from_being_good() {
    let (mesh, evil) = with_evil("hostile missed", "");
    let kill_and_ask = || {
        evil.exec("ss", &["--kill", "--tcp", "--listening"]);
        let url = format!("http://{}:8080/", mesh.v1.v4);
        evil.curl(&["--max-time", "1", &url]);
        counter(&mesh, &evil, "outbound_failed_closed")
    };
    // The agent may be quicker than the pod.
    wait::until_true("a connection to find none", wait::PATIENCE, || {
        kill_and_ask() > 0
    });
    let labels = [("direction", "outbound"), ("reason", "no_listener")];
    wait::until_true("the metric", wait::PATIENCE, || {
        mesh.a.metric("mesh_agent_capture_missed_total", &labels) > 0.0
    });
    let (verdict, why) = verdict(&mesh, &evil);
    assert_eq!(verdict, "not ok");
    assert!(why.contains("were refused, as no agent listened"), "{why}");
    check_neighbour(&mesh);
}

/// A pod that is in none of the agents' hands, so that its connections to port 15008 are its own.
#[track_caller]
pub(crate) fn uncaptured(lab: &Lab, name: &str) -> Pod {
    let pod = lab.pod(name).account("evil");
    pod.annotation("sidecar.istio.io/inject", "false").start()
}
