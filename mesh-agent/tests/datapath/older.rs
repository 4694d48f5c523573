// SPDX-License-Identifier: Apache-2.0

//! Connections that are older than the capture: whichever agent looks finds them, and no others.

use std::{
    fs,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
};

use mesh_agent::{
    datapath::{Datapath, Direction, OnAgentDeath},
    model::{InboundPolicy, MtlsMode, Workload},
};

use super::{
    Echo, Node, PORT, both,
    pods::{self, Pod, eventually},
    relay::Relay,
};

const PROBE_PORT: u16 = 9090;

/// An agent that drains, if there is one.
type Old = Option<(Datapath, Relay)>;

fn crash(node: &mut Node) -> Old {
    node.crash();
    node.start();
    None
}

fn hand_over(node: &mut Node) -> Old {
    Some(node.succeed())
}

fn with(mode: MtlsMode, pod: &Pod) -> Workload {
    Workload {
        inbound: InboundPolicy {
            default: mode,
            ..InboundPolicy::default()
        },
        probe_ports: vec![PROBE_PORT],
        ..pod.workload()
    }
}

/// The connections of a pod that are said to be older, by their other ends.
#[track_caller]
fn older(node: &mut Node, pod: &Pod) -> Vec<(Direction, SocketAddr)> {
    let pods = node.datapath().observe().pods.into_iter();
    let mut pods = pods.filter(|it| it.uid == pod.uid());
    let pod = pods.next().expect("the pod is observed");
    let mut older: Vec<_> = pod
        .existing
        .iter()
        .map(|it| (it.direction, it.remote))
        .collect();
    older.sort();
    older
}

/// Waits for what an agent that is gone had open to be over, as that goes around nothing.
#[track_caller]
fn check_older(node: &mut Node, pod: &Pod, want: &[(Direction, SocketAddr)]) {
    eventually(&format!("{want:?} are older"), || older(node, pod) == want);
}

#[track_caller]
fn missed(node: &mut Node, pod: &Pod, direction: Direction) -> u64 {
    let pods = node.datapath().observe().pods.into_iter();
    let mut pods = pods.filter(|it| it.uid == pod.uid());
    let pod = pods.next().expect("the pod is observed");
    pod.books.missed[&(direction, "older")]
}

/// What everything is opened between: a pod that is captured, another of the mesh, one outside.
struct Pods {
    server: Pod,
    member: Pod,
    outside: Pod,
}

impl Pods {
    fn new() -> Self {
        let [server, member, outside] = [Pod::new(), Pod::new(), Pod::new()];
        for pod in [&server, &member, &outside] {
            pod.app(PORT);
        }
        server.app(PROBE_PORT);
        Self {
            server,
            member,
            outside,
        }
    }

    fn apply(&self, node: &mut Node, mode: MtlsMode) {
        node.apply([with(mode, &self.server), self.member.workload()]);
    }

    /// From outside, in both families.
    fn inbound(&self) -> [Echo; 2] {
        both(&self.server, PORT).map(|to| Echo::open(self.outside.connect(to)))
    }

    /// To `pod`, likewise.
    fn outbound(&self, pod: &Pod) -> [Echo; 2] {
        both(pod, PORT).map(|to| Echo::open(self.server.connect(to)))
    }

    /// Within the pod, and the node's probes: what the agent has no part in.
    fn let_through(&self) -> Vec<Echo> {
        let loopback = SocketAddr::from(([127, 0, 0, 1], PORT));
        let mut echoes = vec![Echo::open(self.server.connect(loopback))];
        echoes.extend(self.outbound(&self.server));
        let probes = both(&self.server, PROBE_PORT);
        echoes.extend(probes.map(|to| Echo::open(TcpStream::connect(to))));
        echoes
    }
}

/// Those of `inbound` and to `outside`, as they are said to be older.
fn want(inbound: &[Echo], outbound: &[SocketAddr]) -> Vec<(Direction, SocketAddr)> {
    let inbound = inbound.iter().map(|it| (Direction::Inbound, it.peer));
    let outbound = outbound.iter().map(|it| (Direction::Outbound, *it));
    let mut want: Vec<_> = outbound.chain(inbound).collect();
    want.sort();
    want
}

#[track_caller]
fn check_successor(follow: fn(&mut Node) -> Old) {
    let pods = Pods::new();
    let mut node = Node::new(OnAgentDeath::Closed);
    let mut before = pods.inbound();
    let mut within = pods.let_through();
    let mut outward = pods.outbound(&pods.outside);
    pods.apply(&mut node, MtlsMode::Permissive);
    let mut wanted = want(&before, &both(&pods.outside, PORT));
    // Known as a probe only since there is an agent.
    let early_probes = within.split_off(within.len() - 2);
    wanted.extend(want(&early_probes, &[]));
    wanted.sort();
    assert_eq!(older(&mut node, &pods.server), wanted);

    // What comes now is decided about, and stays so.
    let captured = (pods.inbound(), pods.outbound(&pods.member));
    let mut passed = pods.outbound(&pods.outside);
    within.extend(pods.let_through());
    let old = follow(&mut node);
    pods.apply(&mut node, MtlsMode::Permissive);
    check_older(&mut node, &pods.server, &wanted);
    check_older(&mut node, &pods.member, &[]);
    assert_eq!(missed(&mut node, &pods.server, Direction::Outbound), 2);
    before.iter_mut().for_each(Echo::check);

    pods.apply(&mut node, MtlsMode::Strict);
    let outbound = want(&[], &both(&pods.outside, PORT));
    assert_eq!(older(&mut node, &pods.server), outbound);
    for mut echo in before.into_iter().chain(early_probes) {
        assert!(echo.is_over(), "from {}", echo.peer);
    }
    outward.iter_mut().chain(&mut passed).for_each(Echo::check);
    within.iter_mut().for_each(Echo::check);
    if old.is_some() {
        let (inbound, outbound) = captured;
        inbound
            .into_iter()
            .chain(outbound)
            .for_each(|mut echo| echo.check());
    }
}

#[test]
fn after_a_crash_the_next_agent_finds_what_is_older_than_the_capture_and_ends_it_where_it_must() {
    check_successor(crash);
}

#[test]
fn after_a_hand_over_the_next_agent_finds_the_same_and_leaves_what_the_old_one_carries() {
    check_successor(hand_over);
}

#[test]
fn what_was_let_in_while_there_was_no_agent_is_found_by_the_next() {
    let pods = Pods::new();
    let mut node = Node::new(OnAgentDeath::Open);
    pods.apply(&mut node, MtlsMode::Permissive);
    assert_eq!(older(&mut node, &pods.server), []);
    node.crash();
    let mut let_in = pods.inbound();
    node.start();
    pods.apply(&mut node, MtlsMode::Permissive);
    assert_eq!(older(&mut node, &pods.server), want(&let_in, &[]));
    pods.apply(&mut node, MtlsMode::Strict);
    assert!(let_in.iter_mut().all(Echo::is_over));
}

#[test]
fn what_was_let_in_while_a_pod_was_out_of_the_mesh_is_older_once_it_is_back() {
    let pods = Pods::new();
    let mut node = Node::new(OnAgentDeath::Closed);
    pods.apply(&mut node, MtlsMode::Permissive);
    let mut kept = pods.outbound(&pods.member);
    node.apply([pods.member.workload()]);
    let mut let_in = pods.inbound();
    let mut let_out = pods.outbound(&pods.outside);
    pods.apply(&mut node, MtlsMode::Permissive);
    let outside = both(&pods.outside, PORT);
    assert_eq!(older(&mut node, &pods.server), want(&let_in, &outside));
    pods.apply(&mut node, MtlsMode::Strict);
    assert!(let_in.iter_mut().all(Echo::is_over));
    kept.iter_mut().chain(&mut let_out).for_each(Echo::check);
}

#[test]
fn what_an_application_never_closes_is_no_older_for_its_other_end_being_gone() {
    const CLOSE_WAIT: &str = " 08 ";
    let (client, server) = (Pod::new(), Pod::new());
    let listener = server.listen(PORT);
    let mut node = Node::new(OnAgentDeath::Closed);
    node.apply([server.workload()]);
    let clients = both(&server, PORT).map(|to| client.connect(to).expect("connects"));
    for client in &clients {
        client.shutdown(Shutdown::Write).expect("it is connected");
    }
    let _accepted = [listener.accept(), listener.accept()];
    let sockets = || fs::read_to_string("/proc/thread-self/net/tcp6").expect("it is readable");
    let ended = || server.within(sockets).matches(CLOSE_WAIT).count();
    // The agent has one of this family, too, as long as it lives.
    eventually("the ends have come", || ended() == 3);
    crash(&mut node);
    node.apply([server.workload()]);
    eventually("the agent's are gone", || ended() == 2);
    assert_eq!(older(&mut node, &server), []);
}

/// Has connections stay half open until their first bytes come.
#[expect(unsafe_code, reason = "socket2 does not have the option")]
fn defer(listener: &TcpListener) {
    let seconds: libc::c_int = 30;
    // SAFETY: the descriptor is open; the value is live and of the size that is given.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            std::ptr::from_ref(&seconds).cast(),
            4,
        )
    };
    assert_eq!(result, 0);
}

#[test]
fn a_connection_that_is_begun_before_the_capture_and_open_only_after_it_is_older() {
    let (client, server) = (Pod::new(), Pod::new());
    let listener = server.listen(PORT);
    defer(&listener);
    pods::serve(listener);
    let mut node = Node::new(OnAgentDeath::Closed);
    let begun = both(&server, PORT).map(|to| client.connect(to));
    node.apply([with(MtlsMode::Permissive, &server)]);
    assert_eq!(older(&mut node, &server), []);
    assert_eq!(missed(&mut node, &server, Direction::Inbound), 0);

    let mut open = begun.map(Echo::open);
    let newer = both(&server, PORT).map(|to| Echo::open(client.connect(to)));
    assert_eq!(older(&mut node, &server), want(&open, &[]));
    node.reconcile();
    assert_eq!(missed(&mut node, &server, Direction::Inbound), 2);
    assert_eq!(node.relay().seen().len(), newer.len());

    node.apply([with(MtlsMode::Strict, &server)]);
    assert!(open.iter_mut().all(Echo::is_over));
    eventually("none is left", || older(&mut node, &server).is_empty());
}
