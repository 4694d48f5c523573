// SPDX-License-Identifier: Apache-2.0

//! Promise 8, the planned half: an agent is replaced under load, and nobody notices.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    time::Duration,
};

use mesh_tests::{
    Agent, App, Load,
    app::Habit,
    client, command,
    load::{Http2Load, Streams},
    wait,
};

use crate::mesh::{Mesh, peer_authentication, split};

/// Longer than any of these tests.
const LONG: &[&str] = &["--drain-deadline", "120s"];

/// How long an old agent may take to end once nothing holds it.
const END: Duration = Duration::from_secs(30);

/// Everything at once: short connections, kept ones, HTTP/2, and TCP streams; between the nodes,
/// and within one.
struct Mixed {
    short: Load,
    kept: Load,
    near: Load,
    http2: Http2Load,
    streams: Streams,
    _apps: [App; 2],
    _near: mesh_tests::Pod,
}

impl Mixed {
    #[track_caller]
    fn start(mesh: &Mesh) -> Self {
        let near = mesh.lab.pod("near").label("app", "near").start();
        let app = App::http(&near, 8080);
        mesh.lab.service("near").port("http", 80, 8080).create();
        let (echo, tcp) = echo(mesh);
        let http = mesh.service("recommendations", 80);
        let host = "recommendations";
        let mixed = Self {
            short: Load::start_short(&mesh.client, &http, host, "/", 3),
            kept: Load::start(&mesh.client, &http, host, "/", 3),
            near: Load::start(&mesh.client, &mesh.service("near", 80), "near", "/", 2),
            http2: Http2Load::start(&mesh.client, &http, host, "/", 8),
            streams: Streams::start(&mesh.client, &tcp, 3),
            _apps: [echo, app],
            _near: near,
        };
        mixed.go_on();
        mixed
    }

    /// Waits until every kind has got some further.
    #[track_caller]
    fn go_on(&self) {
        let (http2, bytes) = (self.http2.answered(), self.streams.bytes());
        self.short.wait_for(50);
        self.kept.wait_for(50);
        self.near.wait_for(50);
        wait::until_true("HTTP/2 requests to be answered", wait::PATIENCE, || {
            self.http2.answered() >= http2 + 50
        });
        wait::until_true("streams to go on", wait::PATIENCE, || {
            self.streams.bytes() >= bytes + 100_000
        });
    }

    /// # Panics
    /// When one request or connection failed.
    #[track_caller]
    fn stop(self) {
        for (kind, tally) in [
            ("short", self.short.stop()),
            ("kept", self.kept.stop()),
            ("near", self.near.stop()),
            ("http/2", self.http2.stop()),
        ] {
            eprintln!("{kind}: {} answered", tally.answered);
            tally.assert_no_failures();
        }
        eprintln!("streams: {} bytes", self.streams.bytes());
        self.streams.stop();
    }
}

/// An echo server in one of the pods on node b, and the address of its service.
#[track_caller]
fn echo(mesh: &Mesh) -> (App, String) {
    let echo = App::tcp(&mesh.v1, 9000, Habit::Echo);
    mesh.lab
        .service("echo")
        .selector(&[("version", "v1")])
        .port("tcp", 9000, 9000)
        .create();
    mesh.settle();
    (echo, mesh.service("echo", 9000))
}

/// Starts a successor in the place of `agent`, and returns the old one.
#[track_caller]
fn succeed(node: &mesh_tests::Node, agent: &mut Agent, flags: &[&str]) -> Agent {
    let successor = node.launch_agent(flags);
    successor.wait_log_ready();
    std::mem::replace(agent, successor)
}

#[track_caller]
fn check_ends(mut old: Agent) {
    wait::until("the old agent to end", END, || {
        if old.ended() {
            Ok(())
        } else {
            Err(old.log_tail())
        }
    });
    assert_eq!(old.wait_exit(), 0, "{}", old.log_tail());
}

/// Upgrades under mixed load: nothing fails, and the old agents end when the load has ended.
#[track_caller]
fn check_upgrade(name: &str, upgrade: fn(&mut Mesh) -> Vec<Agent>) {
    let manifests = format!(
        "{}---{}",
        split(50, 50),
        peer_authentication("default", "STRICT")
    );
    let mut mesh = Mesh::with(name, LONG, &manifests);
    let load = Mixed::start(&mesh);
    let old = upgrade(&mut mesh);
    load.go_on();
    load.stop();
    for agent in old {
        check_ends(agent);
    }
    assert_eq!(mesh.get("/").status, 200);
}

#[test]
fn the_servers_agent_is_replaced_without_a_failure() {
    check_upgrade("upgrade b", |mesh| {
        vec![succeed(&mesh.lab.b, &mut mesh.b, LONG)]
    });
}

#[test]
fn the_clients_agent_is_replaced_without_a_failure() {
    check_upgrade("upgrade a", |mesh| {
        vec![succeed(&mesh.lab.a, &mut mesh.a, LONG)]
    });
}

#[test]
fn both_agents_are_replaced_at_once_without_a_failure() {
    check_upgrade("upgrade both", |mesh| {
        let (a, b) = (mesh.lab.a.launch_agent(LONG), mesh.lab.b.launch_agent(LONG));
        a.wait_log_ready();
        b.wait_log_ready();
        vec![
            std::mem::replace(&mut mesh.a, a),
            std::mem::replace(&mut mesh.b, b),
        ]
    });
}

#[test]
fn five_replacements_in_a_row_lose_nothing() {
    check_upgrade("upgrade five", |mesh| {
        let mut old = Vec::new();
        for round in 0..5 {
            old.push(if round % 2 == 0 {
                succeed(&mesh.lab.b, &mut mesh.b, LONG)
            } else {
                succeed(&mesh.lab.a, &mut mesh.a, LONG)
            });
        }
        old
    });
}

#[test]
fn kept_connections_move_to_the_new_agent_while_load_goes_on() {
    for at_server in [true, false] {
        let mut mesh = Mesh::with("upgrade kept", LONG, "");
        let address = mesh.service("recommendations", 80);
        let kept = Load::start(&mesh.client, &address, "recommendations", "/", 4);
        let http2 = Http2Load::start(&mesh.client, &address, "recommendations", "/", 4);
        kept.wait_for(100);
        let old = if at_server {
            succeed(&mesh.lab.b, &mut mesh.b, LONG)
        } else {
            succeed(&mesh.lab.a, &mut mesh.a, LONG)
        };
        // Nothing holds the old one but requests, which never stop: all of it must move.
        check_ends(old);
        kept.wait_for(100);
        kept.stop().assert_no_failures();
        http2.stop().assert_no_failures();
    }
}

#[test]
fn a_connection_that_outlives_the_drain_deadline_is_reset() {
    let flags = &["--drain-deadline", "5s"];
    let mut mesh = Mesh::with("upgrade deadline", flags, "");
    let (_echo, address) = echo(&mesh);
    let mut stream = mesh.client.run(|| client::connect(&address)).unwrap();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let old = succeed(&mesh.lab.a, &mut mesh.a, flags);
    stream.write_all(b"y").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    // A read with a deadline also ends when another program of the tests does.
    let error = loop {
        match stream.read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => break other.unwrap_err(),
        }
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    check_ends(old);
    assert_eq!(mesh.get("/").status, 200);
}

#[test]
fn a_pod_that_leaves_after_the_hand_over_is_released_though_the_old_agent_drains() {
    let mut mesh = Mesh::with("upgrade release", LONG, "");
    let (_echo, address) = echo(&mesh);
    let streams = Streams::start(&mesh.client, &address, 1);
    let old = succeed(&mesh.lab.b, &mut mesh.b, LONG);
    let held = std::fs::read_dir(format!("/proc/{}/fd", old.pid())).unwrap();
    let links = held
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .filter(|target| target.to_string_lossy().contains("bpf_link"));
    assert_eq!(links.count(), 0, "they would stay attached");
    mesh.v2
        .patch(&serde_json::json!({"metadata": {"labels": {"istio.io/dataplane-mode": "none"}}}));
    wait::until("the pod to be free of rules", END, || {
        let rules = mesh.v2.exec("ip", &["rule", "show"]).stdout;
        if rules.contains("fwmark") {
            Err(rules)
        } else {
            Ok(())
        }
    });
    assert!(!old.ended(), "it carries a stream");
    streams.stop();
    check_ends(old);
}

#[test]
fn an_agent_that_hangs_is_not_replaced() {
    let mesh = Mesh::start("upgrade hang");
    mesh.a.freeze(true);
    let mut second = mesh.lab.a.launch_agent(&[]);
    let code = second.wait_exit();
    mesh.a.freeze(false);
    assert_eq!(code, 1, "{}", second.log_tail());
    let log = second.log();
    assert!(
        log.contains("has not let go within") && log.contains("nothing was changed"),
        "{log}"
    );
    assert_eq!(mesh.get("/").status, 200);
}

#[test]
fn a_stop_that_leaves_the_node_keeps_strict_closed_until_the_next_agent() {
    let flags = &["--on-stop", "leave"];
    let manifests = peer_authentication("default", "STRICT");
    let mut mesh = Mesh::with("upgrade leave", flags, &manifests);
    let outsider = mesh.lab.pod("outsider").outside().start();
    mesh.settle();
    assert_eq!(mesh.get("/").status, 200);
    assert!(mesh.b.stop(), "{}", mesh.b.log_tail());
    assert!(mesh.lab.b.pin_directory().exists());
    let address = format!("{}:8080", mesh.v1.v4).parse().unwrap();
    let patience = Duration::from_secs(1);
    let opened = outsider.run(|| std::net::TcpStream::connect_timeout(&address, patience));
    assert!(opened.is_err(), "plaintext passed while no agent ran");
    mesh.b = mesh.lab.b.start_agent(flags);
    mesh.settle();
    assert_eq!(mesh.get("/").status, 200);
}

#[test]
fn an_agent_that_was_told_to_stop_still_hands_over() {
    let flags = &["--on-stop", "leave", "--drain-deadline", "60s"];
    let mut mesh = Mesh::with("upgrade late", flags, "");
    let load = Mixed::start(&mesh);
    // Their streams live until the load ends.
    let mut all_old = Vec::new();
    for node in ["b", "a"] {
        let (place, agent) = if node == "b" {
            (&mesh.lab.b, &mut mesh.b)
        } else {
            (&mesh.lab.a, &mut mesh.a)
        };
        agent.terminate();
        agent.wait_log("serving on");
        let old = succeed(place, agent, flags);
        old.wait_log("letting go");
        all_old.push(old);
    }
    load.go_on();
    load.stop();
    all_old.into_iter().for_each(check_ends);
}

#[test]
fn cleanup_removes_what_a_dead_agent_left_and_nothing_of_a_living_one() {
    let mut mesh = Mesh::start("upgrade cleanup");
    let pins = mesh.lab.b.pin_directory().display().to_string();
    let socket = mesh.b.socket().display().to_string();
    let cleanup = || {
        let mut command = std::process::Command::new(mesh_tests::agent::binary());
        command.args(["cleanup", "--pin-dir", &pins, "--admin-socket", &socket]);
        command::run(&mut command)
    };
    let refused = cleanup();
    assert_eq!(refused.code, 1, "{}", refused.stdout);
    assert!(
        refused.stderr.contains("stop it first"),
        "{}",
        refused.stderr
    );
    assert_eq!(mesh.get("/").status, 200);
    mesh.b.kill();
    let done = cleanup();
    assert!(done.ok(), "{}", done.stderr);
    assert!(
        done.stdout.contains("rules and routes in"),
        "{}",
        done.stdout
    );
    assert!(!mesh.lab.b.pin_directory().exists());
    let rules = mesh.v1.exec("ip", &["rule", "show"]).stdout;
    assert!(!rules.contains("fwmark"), "{rules}");
    mesh.a.stop();
    let address = format!("{}:8080", mesh.v1.v4);
    let answer = mesh
        .client
        .run(|| client::get(&address, "direct", "/"))
        .unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(cleanup().stdout, "nothing to remove\n");
}
