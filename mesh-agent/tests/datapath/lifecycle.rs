// SPDX-License-Identifier: Apache-2.0

//! Crashes, successors, clean stops, pods that come and go and pods that tamper.

use std::{
    fs,
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use aya::programs::{ProgramInfo, SchedClassifier, tc::TcAttachType};
use mesh_agent::datapath::{Datapath, DatapathError, OnAgentDeath, Stop};

use super::{
    Echo, Node, PORT, ask, both,
    pods::{Pod, counter, eventually, output, snapshot},
    try_ask,
};

/// Whether the programs on a pod's interface are these, now or in a moment: a program that another
/// test is just starting has our descriptors until it is executed. Not looked at without tcx.
#[track_caller]
fn check_tcx(pod: &Pod, want: &[&str]) {
    eventually(&format!("{} has {want:?}", pod.name), || {
        attached(pod).is_none_or(|names| names == want)
    });
}

/// The names of the programs on a pod's interface, if the kernel has tcx.
fn attached(pod: &Pod) -> Option<Vec<String>> {
    pod.within(|| {
        let mut names = Vec::new();
        for side in [TcAttachType::Ingress, TcAttachType::Egress] {
            let (_, programs) = SchedClassifier::query_tcx(c"eth0", side).ok()?;
            let name = |program: &ProgramInfo| program.name_as_str().map(str::to_owned);
            names.extend(programs.iter().filter_map(name));
        }
        Some(names)
    })
}

/// As the kernel cuts their names.
const BOTH: &[&str] = &["guard_inbound", "capture_outboun"];

fn rules(pod: &Pod) -> String {
    let name = &pod.name;
    let rules = output(&format!("ip -n {name} rule")) + &output(&format!("ip -n {name} -6 rule"));
    let routes = output(&format!("ip -n {name} -4 route show table all"))
        + &output(&format!("ip -n {name} -6 route show table all"));
    let ours = |line: &&str| line.contains("7999") || line.contains("0x1e5a0000");
    let lines: Vec<_> = rules.lines().chain(routes.lines()).filter(ours).collect();
    lines.join("\n")
}

fn accept_local(pod: &Pod) -> String {
    pod.within(|| {
        let path = "/proc/sys/net/ipv4/conf/lo/accept_local";
        fs::read_to_string(path).expect("it is readable")
    })
}

#[test]
fn a_clean_stop_leaves_nothing() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let mut node = Node::new(OnAgentDeath::Closed);
    node.apply([client.workload(), server.workload()]);
    assert_eq!(rules(&client).lines().count(), 4);
    check_tcx(&client, BOTH);
    assert_eq!(accept_local(&client), "1\n");
    assert!(node.pins().exists());
    node.relay = None;
    node.datapath().stop(Stop::Remove);
    node.datapath = None;
    for pod in [&client, &server] {
        assert_eq!(rules(pod), "");
        check_tcx(pod, &[]);
        assert_eq!(accept_local(pod), "0\n");
    }
    assert!(!node.pins().exists());
    for to in both(&server, PORT) {
        assert!(ask(client.connect(to)).port() >= 32_768, "directly");
    }
}

#[test]
fn a_successor_takes_over_without_a_gap() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let mut node = Node::new(OnAgentDeath::Closed);
    let workloads = || [client.workload(), server.workload()];
    node.apply(workloads());
    let [to, _] = both(&server, PORT);
    let mut echo = Echo::open(client.connect(to));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let connecting = scope.spawn(|| {
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                let peer = ask(client.connect(to));
                assert!(peer.port() < 32_768, "passed both agents by");
                count += 1;
            }
            count
        });
        let old = node.succeed();
        node.apply(workloads());
        echo.check();
        eventually("the successor carries connections", || {
            node.relay().seen().len() > 20
        });
        echo.check();
        done.store(true, Ordering::Relaxed);
        let count: u32 = connecting.join().expect("no connection fails");
        assert!(count > 10);
        let observation = node.datapath().observe();
        for pod in [&client, &server] {
            for name in ["outbound_failed_closed", "inbound_failed_closed"] {
                assert_eq!(
                    counter(&observation, pod, name),
                    0,
                    "a lookup met no listener"
                );
            }
        }
        drop(old);
    });
    check_tcx(&client, BOTH);
}

#[test]
fn a_connection_begun_without_an_agent_is_carried_by_the_next() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let mut node = Node::new(OnAgentDeath::Closed);
    let workloads = || [client.workload(), server.workload()];
    node.apply(workloads());
    node.crash();
    let [to, _] = both(&server, PORT);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| client.within(|| TcpStream::connect(to)));
        // Its first SYN must meet no agent.
        eventually("the SYN was sent", || client.has_syn_sent());
        node.start();
        node.apply(workloads());
        let peer = ask(waiting.join().expect("it does not panic"));
        assert!(peer.port() < 32_768, "captured");
    });
    eventually("no tuple is expected, old or new", || {
        node.datapath().observe().expected == 0
    });
}

#[test]
fn a_second_agent_of_a_node_is_refused() {
    let node = Node::new(OnAgentDeath::Closed);
    let error = Datapath::start(&node.settings)
        .err()
        .expect("one is enough");
    assert!(matches!(error, DatapathError::InUse { .. }), "{error}");
}

#[test]
fn deleted_rules_fail_closed_and_are_put_back() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let mut node = Node::new(OnAgentDeath::Open);
    node.apply([client.workload(), server.workload()]);
    client.ip("rule del pref 50");
    client.ip("-6 rule del pref 50");
    client.ip("-6 route flush table 7999");
    for to in both(&server, PORT) {
        assert!(client.connect(to).and_then(try_ask).is_err(), "{to}");
    }
    node.reconcile();
    assert_eq!(node.datapath().observe().repairs, 3);
    for to in both(&server, PORT) {
        assert!(ask(client.connect(to)).port() < 32_768, "captured");
    }
    node.reconcile();
    assert_eq!(node.datapath().observe().repairs, 3, "nothing more to do");
}

#[test]
fn a_pod_that_leaves_the_mesh_keeps_its_connections() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let mut node = Node::new(OnAgentDeath::Closed);
    node.apply([client.workload(), server.workload()]);
    let mut echoes = both(&server, PORT).map(|to| Echo::open(client.connect(to)));
    let mut left = client.workload();
    left.enrolled = false;
    node.apply([left, server.workload()]);
    let before = node.relay().seen().len();
    for to in both(&server, PORT) {
        ask(client.connect(to));
    }
    let after = node.relay().seen();
    assert!(
        after[before..].iter().all(|seen| seen.inbound),
        "not captured"
    );
    node.reconcile();
    for echo in &mut echoes {
        echo.check();
    }
    assert_eq!(rules(&client).lines().count(), 4, "still needed");
    drop(echoes);
    eventually("the pod is drained", || {
        node.reconcile();
        node.datapath().observe().pods.len() == 1
    });
    assert_eq!(rules(&client), "");
    check_tcx(&client, &[]);
}

#[test]
fn a_pod_that_is_leaving_keeps_its_connections_over_a_hand_over() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let mut node = Node::new(OnAgentDeath::Closed);
    node.apply([client.workload(), server.workload()]);
    let mut echoes = both(&server, PORT).map(|to| Echo::open(client.connect(to)));
    let left = || {
        let mut left = client.workload();
        left.enrolled = false;
        left
    };
    node.apply([left(), server.workload()]);
    let old = node.succeed();
    node.apply([left(), server.workload()]);
    node.reconcile();
    for echo in &mut echoes {
        echo.check();
    }
    let captured = |node: &mut Node| counter(&node.datapath().observe(), &client, "captured_syn");
    let before = captured(&mut node);
    ask(client.connect(both(&server, PORT)[0]));
    assert_eq!(captured(&mut node), before, "not captured");
    drop(echoes);
    eventually(
        "the pod is drained, though the old agent still lives",
        || {
            node.reconcile();
            node.datapath().observe().pods.len() == 1
        },
    );
    check_tcx(&client, &[]);
    drop(old);
}

#[test]
fn a_pod_comes_back_into_the_mesh_while_it_drains() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let mut node = Node::new(OnAgentDeath::Closed);
    node.apply([client.workload(), server.workload()]);
    let [to, _] = both(&server, PORT);
    let mut echo = Echo::open(client.connect(to));
    node.apply([server.workload()]);
    node.apply([client.workload(), server.workload()]);
    assert!(ask(client.connect(to)).port() < 32_768, "captured");
    echo.check();
    node.reconcile();
    assert!(ask(client.connect(to)).port() < 32_768, "captured");
}

#[test]
fn pins_of_pods_that_are_gone_are_swept() {
    let (gone, kept) = (Pod::new(), Pod::new());
    let mut node = Node::new(OnAgentDeath::Closed);
    node.apply([gone.workload(), kept.workload()]);
    let pods = node
        .pins()
        .join(format!("v{}/pods", mesh_common::ABI_VERSION));
    assert_eq!(fs::read_dir(&pods).expect("it is there").count(), 2);
    node.crash();
    drop(gone);
    node.start();
    node.apply([kept.workload()]);
    assert_eq!(fs::read_dir(&pods).expect("it is there").count(), 1);
}

#[test]
fn a_new_sandbox_under_the_same_path_is_captured_anew() {
    let (mut client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let mut node = Node::new(OnAgentDeath::Closed);
    node.apply([client.workload(), server.workload()]);
    client.renew();
    node.apply([client.workload(), server.workload()]);
    let [to, _] = both(&server, PORT);
    assert!(ask(client.connect(to)).port() < 32_768, "captured");
}

#[test]
fn another_versions_links_are_taken_over() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let mut node = Node::new(OnAgentDeath::Closed);
    let workloads = || [client.workload(), server.workload()];
    let (outside, older) = (Pod::new(), Pod::new());
    outside.app(PORT);
    let mut older = Echo::open(older.connect(both(&server, PORT)[0]));
    node.apply(workloads());
    let mut passed = Echo::open(client.connect(both(&outside, PORT)[0]));
    node.crash();
    let own = node.pins().join(format!("v{}", mesh_common::ABI_VERSION));
    let other = node.pins().join("v0");
    fs::rename(&own, &other).expect("bpffs renames");
    node.start();
    node.apply(workloads());
    check_tcx(&client, BOTH);
    assert!(!other.exists());
    let pods = node.datapath().observe().pods.into_iter();
    let existing: Vec<_> = pods.flat_map(|pod| pod.existing).collect();
    let remotes: Vec<_> = existing.iter().map(|it| it.remote).collect();
    assert_eq!(remotes, [older.peer], "what the other decided stands");
    passed.check();
    older.check();
    let [to, _] = both(&server, PORT);
    assert!(ask(client.connect(to)).port() < 32_768, "captured");
    assert_eq!(node.relay().seen().len(), 2);
}

#[test]
fn an_interface_that_is_replaced_is_captured_anew() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let mut node = Node::new(OnAgentDeath::Closed);
    node.apply([client.workload(), server.workload()]);
    client.replace_interface();
    node.reconcile();
    for to in both(&server, PORT) {
        assert!(ask(client.connect(to)).port() < 32_768, "captured");
    }
}

#[test]
fn a_pod_that_cannot_be_captured_is_left_as_it_was() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    client.ip("link set lo down");
    let mut node = Node::new(OnAgentDeath::Closed);
    let changes = node.datapath().apply(&snapshot([client.workload()]));
    assert_eq!(node.carry_out(changes), (0, 0));
    let observation = node.datapath().observe();
    assert!(observation.pods[0].error.is_some());
    assert_eq!(rules(&client), "");
    assert_eq!(accept_local(&client), "0\n");
    check_tcx(&client, &[]);
    client.ip("link set lo up");
    node.reconcile();
    let observation = node.datapath().observe();
    assert_eq!(observation.pods[0].error, None, "tried again");
    check_tcx(&client, BOTH);
}
