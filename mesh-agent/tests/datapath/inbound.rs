// SPDX-License-Identifier: Apache-2.0

//! Inbound: who gets to the application, and who only says so.

use std::net::{SocketAddr, TcpStream};

use mesh_agent::{datapath::OnAgentDeath, model::MtlsMode};

use super::{
    Echo, Node, PORT, ask, both,
    pods::{Pod, counter, eventually},
    try_ask,
};

const OTHER_PORT: u16 = 9090;

#[test]
fn probes_of_the_node_pass_to_declared_ports_only() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    server.app(OTHER_PORT);
    let mut workload = server.workload();
    workload.probe_ports = vec![PORT];
    workload.inbound.default = MtlsMode::Strict;
    let mut node = Node::new(OnAgentDeath::Closed);
    node.apply([client.workload(), workload]);
    for to in both(&server, PORT) {
        ask(TcpStream::connect(to));
    }
    let mapped = format!("[::ffff:{}]:{PORT}", server.v4);
    let mapped: SocketAddr = mapped.parse().expect("it is an address");
    ask(TcpStream::connect(mapped));
    assert_eq!(node.relay().seen(), []);
    for to in both(&server, OTHER_PORT) {
        ask(TcpStream::connect(to));
    }
    assert_eq!(node.relay().seen().len(), 2, "not declared: the agent's");
    for to in both(&server, PORT) {
        ask(client.connect(to));
    }
    assert_eq!(node.relay().seen().len(), 6, "not the node: the agent's");
    assert_eq!(node.datapath().observe().counters["host_flow_noted"], 3);
}

#[test]
fn a_pod_reaches_itself_without_the_agent() {
    let server = Pod::new();
    server.app(PORT);
    let mut node = Node::new(OnAgentDeath::Closed);
    node.apply([server.workload()]);
    for to in both(&server, PORT) {
        assert_eq!(ask(server.connect(to)).ip(), to.ip());
    }
    for to in ["127.0.0.1", "::1"] {
        let to = SocketAddr::new(to.parse().expect("an address"), PORT);
        ask(server.connect(to));
    }
    assert_eq!(node.relay().seen(), []);
}

#[test]
fn other_addresses_of_a_pod_are_left_alone() {
    let (outside, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let mut workload = server.workload();
    let second = workload.addresses.pop().expect("it has two");
    let mut node = Node::new(OnAgentDeath::Closed);
    node.apply([workload]);
    ask(outside.connect(SocketAddr::new(second, PORT)));
    assert_eq!(node.relay().seen(), []);
}

/// What an outsider gets from a strict and from a permissive port when the agent is gone.
#[track_caller]
fn check_death(on_agent_death: OnAgentDeath, strict: bool, permissive: bool) {
    let (outside, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    server.app(OTHER_PORT);
    let mut workload = server.workload();
    workload.inbound.ports.insert(PORT, MtlsMode::Strict);
    let mut node = Node::new(on_agent_death);
    node.apply([workload]);
    ask(outside.connect(SocketAddr::new(server.v4, OTHER_PORT)));
    node.crash();
    for (port, want) in [(PORT, strict), (OTHER_PORT, permissive)] {
        for to in both(&server, port) {
            let got = outside.connect(to).and_then(try_ask).is_ok();
            assert_eq!(got, want, "{to}");
        }
    }
    node.start();
}

#[test]
fn strict_ports_stay_closed_when_the_agent_is_gone_and_others_open() {
    check_death(OnAgentDeath::Open, false, true);
}

#[test]
fn all_ports_are_closed_when_the_agent_is_gone_if_so_declared() {
    check_death(OnAgentDeath::Closed, false, false);
}

#[test]
fn outbound_passes_when_the_agent_is_gone_if_so_declared() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let mut node = Node::new(OnAgentDeath::Open);
    node.apply([client.workload(), server.workload()]);
    node.crash();
    for to in both(&server, PORT) {
        assert!(ask(client.connect(to)).port() >= 32_768, "directly");
    }
    node.start();
}

#[test]
fn a_forged_tuple_of_the_agents_is_dropped() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let mut node = Node::new(OnAgentDeath::Closed);
    node.apply([client.workload(), server.workload()]);
    let [to, _] = both(&server, PORT);
    let mut echo = Echo::open(client.connect(to));
    server.inject(&syn(echo.peer, to));
    eventually("the forged packet is dropped", || {
        let observation = node.datapath().observe();
        counter(&observation, &server, "guard_dropped") == 1
    });
    echo.check();
}

/// An IPv4 SYN; the kernel fills in what it sends raw, but for TCP's checksum.
fn syn(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (std::net::IpAddr::V4(source), std::net::IpAddr::V4(destination)) = (from.ip(), to.ip())
    else {
        panic!("only IPv4 is forged here");
    };
    let mut tcp = Vec::new();
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0x10, 0, 0, 0, 0, 0]);
    let mut packet = vec![0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(tcp);
    packet
}
