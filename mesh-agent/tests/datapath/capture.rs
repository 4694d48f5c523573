// SPDX-License-Identifier: Apache-2.0

//! Outbound: what is captured, once and for all, and what is not touched.

use std::{
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_agent::{
    datapath::OnAgentDeath,
    model::{OutboundPolicy, Scope},
};

use super::{
    Echo, Node, PORT, ask, both,
    pods::{Pod, counter, eventually, run, snapshot},
};

#[test]
fn captured_connections_are_carried_on_and_show_the_real_client() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let mut node = Node::new(OnAgentDeath::Closed);
    node.apply([client.workload(), server.workload()]);
    for to in both(&server, PORT) {
        let own = if to.is_ipv6() { client.v6 } else { client.v4 };
        let peer = ask(client.connect(to));
        assert_eq!(peer.ip(), own);
        assert!(
            (2048..32_048).contains(&peer.port()),
            "not the kernel's choice"
        );
    }
    let seen = node.relay().seen();
    let [v4, v6] = both(&server, PORT);
    for (inbound, to) in [(false, v4), (true, v4), (false, v6), (true, v6)] {
        let hits = seen
            .iter()
            .filter(|seen| seen.inbound == inbound && seen.orig_dst == to);
        assert_eq!(hits.count(), 1, "{inbound} {to}: {seen:?}");
    }
    let observation = node.datapath().observe();
    assert_eq!(counter(&observation, &client, "captured_syn"), 2);
    assert_eq!(counter(&observation, &server, "inbound_syn"), 2);
    assert!(counter(&observation, &client, "own_passed") > 0);
}

#[test]
fn connections_older_than_enrolment_are_left_alone() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let mut echoes = both(&server, PORT).map(|to| Echo::open(client.connect(to)));
    let mut node = Node::new(OnAgentDeath::Closed);
    node.apply([client.workload(), server.workload()]);
    for echo in &mut echoes {
        echo.check();
    }
    assert_eq!(node.relay().seen(), []);
    let observation = node.datapath().observe();
    assert_eq!(counter(&observation, &client, "captured_syn"), 0);
    assert_eq!(counter(&observation, &client, "captured_packet"), 0);
}

#[test]
fn destinations_outside_the_mesh_are_not_touched() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let mut node = Node::new(OnAgentDeath::Closed);
    let mut outside = server.workload();
    outside.enrolled = false;
    node.apply([client.workload(), outside]);
    for to in both(&server, PORT) {
        assert!(ask(client.connect(to)).port() >= 32_768);
    }
    assert_eq!(node.relay().seen(), []);
    let observation = node.datapath().observe();
    assert_eq!(counter(&observation, &client, "captured_syn"), 0);
    assert_eq!(counter(&observation, &client, "syn_passed"), 2);
    assert_eq!(observation.pods.len(), 1, "the other is not captured");
}

#[test]
fn of_a_pod_that_may_not_reach_what_nobody_has_everything_is_captured() {
    let (open, closed, server) = (Pod::new(), Pod::new(), Pod::new());
    server.app(PORT);
    let mut node = Node::new(OnAgentDeath::Closed);
    let mut bound = closed.workload();
    bound.scope = Arc::new(Scope {
        policy: OutboundPolicy::RegistryOnly,
        ..Scope::default()
    });
    node.apply([open.workload(), bound]);
    for to in both(&server, PORT) {
        assert!(ask(open.connect(to)).port() >= 32_768);
        ask(closed.connect(to));
    }
    let seen: Vec<_> = node.relay().seen().iter().map(|one| one.orig_dst).collect();
    assert_eq!(seen, both(&server, PORT));
    let observation = node.datapath().observe();
    assert_eq!(counter(&observation, &open, "syn_passed"), 2);
    assert_eq!(counter(&observation, &closed, "captured_syn"), 2);
    // And no longer than that.
    node.apply([open.workload(), closed.workload()]);
    for to in both(&server, PORT) {
        assert!(ask(closed.connect(to)).port() >= 32_768);
    }
    let observation = node.datapath().observe();
    assert_eq!(counter(&observation, &closed, "captured_syn"), 2);
}

#[test]
fn ports_of_hosts_without_addresses_are_captured_at_every_address() {
    const OTHER: u16 = PORT + 1;
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    server.app(OTHER);
    let mut node = Node::new(OnAgentDeath::Closed);
    let with = |ports: &[u16]| {
        let mut snapshot = snapshot([client.workload()]);
        for port in ports {
            snapshot.named.insert(*port, Arc::default());
        }
        snapshot
    };
    let mut captured = |ports: &[u16]| {
        let changes = node.datapath().apply(&with(ports));
        node.carry_out(changes);
        for port in [PORT, OTHER] {
            for to in both(&server, port) {
                ask(client.connect(to));
            }
        }
        counter(&node.datapath().observe(), &client, "captured_syn")
    };
    assert_eq!(captured(&[]), 0);
    assert_eq!(captured(&[PORT]), 2);
    assert_eq!(captured(&[PORT, OTHER]), 6);
    assert_eq!(captured(&[]), 6);
}

#[test]
fn a_client_port_works_again_after_the_server_closed_first() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let mut node = Node::new(OnAgentDeath::Closed);
    node.apply([client.workload(), server.workload()]);
    for to in both(&server, PORT) {
        for _ in 0..4 {
            let start = Instant::now();
            ask(client.connect_from(33_333, to));
            assert!(
                start.elapsed() < Duration::from_millis(900),
                "a SYN was lost"
            );
        }
    }
}

#[test]
fn syn_cookies_bring_no_connection_back_to_the_agent() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    for pod in [&client, &server] {
        run(&format!(
            "ip netns exec {} sysctl -qw net.ipv4.tcp_syncookies=2",
            pod.name
        ));
    }
    let mut node = Node::new(OnAgentDeath::Closed);
    node.apply([client.workload(), server.workload()]);
    for _ in 0..10 {
        for to in both(&server, PORT) {
            ask(client.connect(to));
        }
    }
    assert_eq!(node.relay().seen().len(), 40, "once per connection and hop");
}

#[test]
fn expected_tuples_live_as_long_as_their_sockets() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let mut node = Node::new(OnAgentDeath::Closed);
    node.apply([client.workload(), server.workload()]);
    let echoes = both(&server, PORT).map(|to| Echo::open(client.connect(to)));
    assert_eq!(node.datapath().observe().expected, 2);
    let connector = node.datapath().connector();
    assert!(connector.is_own_upstream(echoes[0].peer));
    drop(echoes);
    eventually("no tuple is expected", || {
        node.datapath().observe().expected == 0
    });
    let counters = node.datapath().observe().counters;
    assert_eq!(counters["expect_noted"], 2);
    assert_eq!(counters["expect_full"], 0);
}

#[test]
fn closed_flows_leave_their_measurements() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let mut node = Node::new(OnAgentDeath::Closed);
    node.apply([client.workload(), server.workload()]);
    let [to, _] = both(&server, PORT);
    ask(client.connect(to));
    eventually("the captured flow is recorded", || {
        let flows = node.datapath().observe().flows;
        let flow = flows.iter().find(|flow| flow.kind == "captured");
        flow.is_some_and(|flow| {
            flow.remote == to && flow.local.ip() == client.v4 && flow.rtt_us > 0
        })
    });
}

#[test]
fn a_captured_socket_never_falls_back_to_the_wire() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let mut node = Node::new(OnAgentDeath::Open);
    node.apply([client.workload(), server.workload()]);
    let [to, _] = both(&server, PORT);
    let mut echo = Echo::open(client.connect(to));
    echo.check();
    node.crash();
    let before = client.sent_packets();
    // Errors are what an application is to get here.
    let written = (0..100).filter(|_| echo.stream.write_all(b"secret").is_ok());
    assert!(written.count() < 100, "the connection ends with its agent");
    assert!(client.sent_packets() < before + 10, "packets went out");
}

#[test]
fn a_thousand_connections_at_once_do_not_collide() {
    mesh_agent::datapath::raise_open_files();
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let mut node = Node::new(OnAgentDeath::Closed);
    node.apply([client.workload(), server.workload()]);
    let mut echoes = Vec::new();
    for _ in 0..500 {
        echoes.extend(both(&server, PORT).map(|to| Echo::open(client.connect(to))));
    }
    for echo in &mut echoes {
        echo.check();
    }
    assert_eq!(node.datapath().observe().expected, 1000);
    drop(echoes);
    eventually("no tuple is expected", || {
        node.datapath().observe().expected == 0
    });
}
