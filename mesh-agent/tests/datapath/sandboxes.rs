// SPDX-License-Identifier: Apache-2.0

//! Pods that are found by their cgroups: real cgroups, processes and namespaces, no runtime.

use std::{
    fs,
    net::IpAddr,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use mesh_agent::{
    datapath::{Direction, ExistingConnection, OnAgentDeath, PodObservation},
    model::{InboundPolicy, MtlsMode, Workload, WorkloadUid},
};

use super::{
    Echo, Node, PORT, ask, both,
    kubelet::Kubelet,
    pods::{Pod, eventually, snapshot},
};

impl Node {
    /// Applies, and says how many pods were captured and released.
    fn apply_all(&mut self, workloads: impl IntoIterator<Item = Workload>) -> (usize, usize) {
        let changes = self.datapath().apply(&snapshot(workloads));
        self.carry_out(changes)
    }

    /// Waits for sandboxes to come or go, and follows as the agent does, until something changes.
    #[track_caller]
    fn follow(&mut self) -> (usize, usize) {
        let events = self.datapath().sandbox_events();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.expect("there are descriptors");
        loop {
            runtime.block_on(async {
                let changed = tokio::time::timeout(Duration::from_secs(10), events.changed());
                changed.await.expect("a sandbox comes or goes");
            });
            let changes = self.datapath().follow_sandboxes();
            let changed = self.carry_out(changes);
            if changed != (0, 0) {
                return changed;
            }
        }
    }

    fn pod(&mut self, uid: &WorkloadUid) -> PodObservation {
        let observation = self.datapath().observe();
        let pod = observation.pods.into_iter().find(|pod| pod.uid == *uid);
        pod.expect("the pod is observed")
    }
}

#[test]
fn a_pod_is_captured_by_its_uid_before_its_address_is_known() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let kubelet = Kubelet::new();
    let mut node = kubelet.node();
    let mut sandbox = kubelet.sandbox();
    let workload = sandbox.workload(&client);
    assert_eq!(
        node.apply_all([workload.clone(), server.workload()]),
        (1, 0)
    );
    let waiting = node.pod(&sandbox.uid);
    assert!(
        waiting.waits && waiting.captured_since.is_none(),
        "{waiting:?}"
    );

    let began = Instant::now();
    sandbox.begin(&client);
    assert_eq!(node.follow(), (1, 0));
    println!("captured {:?} after its process was begun", began.elapsed());
    for to in both(&server, PORT) {
        assert!(ask(client.connect(to)).port() < 32_768, "captured");
    }
    let known = Workload {
        addresses: vec![client.v4, client.v6],
        ..workload
    };
    assert_eq!(
        node.apply_all([known, server.workload()]),
        (0, 0),
        "it stays"
    );
    assert_eq!(node.pod(&sandbox.uid).error, None);
}

#[test]
fn twenty_pods_are_captured_within_milliseconds() {
    const PODS: usize = 20;
    let kubelet = Kubelet::new();
    let mut node = kubelet.node();
    let pods: Vec<Pod> = (0..PODS).map(|_| Pod::new()).collect();
    let mut sandboxes: Vec<_> = pods.iter().map(|_| kubelet.sandbox()).collect();
    let pairs = || sandboxes.iter().zip(&pods);
    let workloads: Vec<_> = pairs()
        .map(|(sandbox, pod)| sandbox.workload(pod))
        .collect();
    node.apply_all(workloads);
    let mut took = Vec::new();
    for (sandbox, pod) in sandboxes.iter_mut().zip(&pods) {
        let began = Instant::now();
        sandbox.begin(pod);
        assert_eq!(node.follow(), (1, 0));
        took.push(began.elapsed());
    }
    took.sort();
    println!("median {:?}, longest {:?}", took[PODS / 2], took[PODS - 1]);
}

#[test]
fn a_pod_with_another_address_than_its_status_says_is_let_go() {
    let client = Pod::new();
    let kubelet = Kubelet::new();
    let mut node = kubelet.node();
    let mut sandbox = kubelet.sandbox();
    sandbox.begin(&client);
    let workload = sandbox.workload(&client);
    eventually("it is captured", || {
        node.apply_all([workload.clone()]).0 == 1
    });
    let wrong = Workload {
        addresses: vec![IpAddr::from([10, 9, 9, 9])],
        ..workload
    };
    assert_eq!(node.apply_all([wrong]), (0, 1));
    let observation = node.datapath().observe();
    assert_eq!(observation.refused_sandboxes, 1);
    let error = observation.pods[0].error.as_deref().expect("it is wrong");
    assert!(error.contains("10.9.9.9"), "{error}");
    node.reconcile();
    assert_eq!(node.datapath().observe().refused_sandboxes, 1, "said once");
}

#[test]
fn a_process_with_a_namespace_of_its_own_is_not_the_sandbox() {
    let (client, other) = (Pod::new(), Pod::new());
    let kubelet = Kubelet::new();
    let mut node = kubelet.node();
    let mut sandbox = kubelet.sandbox();
    sandbox.begin(&client);
    // The start of processes is counted in hundredths of a second.
    std::thread::sleep(Duration::from_millis(20));
    sandbox.app(&other);
    let workload = sandbox.workload(&client);
    eventually("it is captured", || {
        node.apply_all([workload.clone()]).0 == 1
    });
    assert_eq!(node.pod(&sandbox.uid).netns, Some(client.netns.id()));
}

#[test]
fn a_pod_in_the_nodes_namespace_has_no_sandbox() {
    let client = Pod::new();
    let kubelet = Kubelet::new();
    let mut node = kubelet.node();
    let mut sandbox = kubelet.sandbox();
    sandbox.run("app", Path::new("sleep"), None);
    let workload = sandbox.workload(&client);
    node.apply_all([workload]);
    std::thread::sleep(Duration::from_millis(100));
    node.reconcile();
    assert!(node.pod(&sandbox.uid).waits);
}

#[test]
fn a_namespace_is_one_pods_only() {
    let client = Pod::new();
    let kubelet = Kubelet::new();
    let mut node = kubelet.node();
    let (mut first, mut second) = (kubelet.sandbox(), kubelet.sandbox());
    first.begin(&client);
    let workloads = [first.workload(&client), second.workload(&client)];
    eventually("one is captured", || {
        node.apply_all(workloads.clone()).0 == 1
    });
    second.begin(&client);
    eventually("the other is refused", || {
        node.apply_all(workloads.clone());
        node.pod(&second.uid)
            .error
            .is_some_and(|error| error.contains(&*first.uid.0))
    });
    assert_eq!(node.pod(&first.uid).error, None);
}

#[test]
fn a_pod_whose_sandbox_is_gone_is_released_and_its_successor_captured() {
    let mut client = Pod::new();
    let kubelet = Kubelet::new();
    let mut node = kubelet.node();
    let mut sandbox = kubelet.sandbox();
    sandbox.begin(&client);
    let workload = sandbox.workload(&client);
    eventually("it is captured", || {
        node.apply_all([workload.clone()]).0 == 1
    });
    drop(sandbox);
    assert_eq!(node.follow(), (0, 1));
    let pods = node
        .pins()
        .join(format!("v{}/pods", mesh_common::ABI_VERSION));
    assert_eq!(fs::read_dir(&pods).expect("it is there").count(), 0);
    // The same name and address, another pod.
    client.renew();
    let mut sandbox = kubelet.sandbox();
    node.apply_all([sandbox.workload(&client)]);
    sandbox.begin(&client);
    assert_eq!(node.follow(), (1, 0));
    assert_eq!(node.pod(&sandbox.uid).netns, Some(client.netns.id()));
}

#[test]
fn a_new_sandbox_of_the_same_pod_is_captured_anew() {
    let mut client = Pod::new();
    let kubelet = Kubelet::new();
    let mut node = kubelet.node();
    let mut sandbox = kubelet.sandbox();
    sandbox.begin(&client);
    let workload = sandbox.workload(&client);
    eventually("it is captured", || {
        node.apply_all([workload.clone()]).0 == 1
    });
    client.renew();
    sandbox.kill();
    sandbox.begin(&client);
    assert_eq!(node.follow(), (1, 1));
    assert_eq!(node.pod(&sandbox.uid).netns, Some(client.netns.id()));
}

#[test]
fn the_first_containers_start_is_told_beside_the_capture() {
    let (early, late) = (Pod::new(), Pod::new());
    let kubelet = Kubelet::new();
    let mut node = kubelet.node();
    let mut sandboxes = [kubelet.sandbox(), kubelet.sandbox()];
    sandboxes[0].begin(&early);
    sandboxes[1].begin(&late);
    sandboxes[1].app(&late);
    std::thread::sleep(Duration::from_millis(30));
    let workloads = [sandboxes[0].workload(&early), sandboxes[1].workload(&late)];
    let mut captured = 0;
    eventually("both are captured", || {
        captured += node.apply_all(workloads.clone()).0;
        captured == 2
    });
    std::thread::sleep(Duration::from_millis(30));
    sandboxes[0].app(&early);
    let uids: [WorkloadUid; 2] = sandboxes.each_ref().map(|sandbox| sandbox.uid.clone());
    let mut starts = || -> Option<[(SystemTime, SystemTime); 2]> {
        let mut read = |uid| {
            let pod = node.pod(uid);
            Some((pod.captured_since?, pod.first_container?))
        };
        Some([read(&uids[0])?, read(&uids[1])?])
    };
    eventually("both have a container", || starts().is_some());
    let [(early_capture, early_start), (late_capture, late_start)] =
        starts().expect("both have a container");
    assert!(early_capture < early_start);
    assert!(late_capture > late_start);
}

#[test]
fn a_successor_adopts_a_pod_that_was_found_by_its_uid() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let kubelet = Kubelet::new();
    let mut node = kubelet.node();
    let mut sandbox = kubelet.sandbox();
    sandbox.begin(&client);
    let workloads = || [sandbox.workload(&client), server.workload()];
    eventually("it is captured", || {
        node.apply_all(workloads());
        node.pod(&sandbox.uid).captured_since.is_some()
    });
    let since = node
        .pod(&sandbox.uid)
        .captured_since
        .expect("it is captured");
    node.crash();
    node.start();
    assert_eq!(node.apply_all(workloads()), (2, 0), "known at once");
    let again = node
        .pod(&sandbox.uid)
        .captured_since
        .expect("it is captured");
    let apart = again
        .duration_since(since)
        .unwrap_or_else(|early| early.duration());
    assert!(
        apart < Duration::from_millis(50),
        "captured all the time: {apart:?}"
    );
    let [to, _] = both(&server, PORT);
    assert!(ask(client.connect(to)).port() < 32_768, "captured");
}

#[test]
fn connections_older_than_the_capture_are_listed_and_ended_at_the_deadline() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let mut node = Node::new(OnAgentDeath::Closed);
    let mut older = both(&server, PORT).map(|to| Echo::open(client.connect(to)));
    node.apply([client.workload()]);
    let [to, _] = both(&server, PORT);
    let mut newer = Echo::open(client.connect(to));
    let existing = node.pod(&client.uid()).existing;
    let mut remotes: Vec<_> = existing.iter().map(|it| it.remote).collect();
    remotes.sort();
    assert_eq!(remotes, both(&server, PORT));
    node.reconcile();
    older.iter_mut().for_each(Echo::check);

    let limited = Workload {
        close_existing_after: Some(Duration::ZERO),
        ..client.workload()
    };
    node.apply([limited]);
    node.reconcile();
    assert!(node.pod(&client.uid()).existing.is_empty());
    for echo in &mut older {
        assert!(echo.is_over(), "to {}", echo.peer);
    }
    newer.check();
}

#[test]
fn plaintext_older_than_the_capture_goes_on_where_it_is_let_in_and_ends_where_the_port_is_strict() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let mut node = Node::new(OnAgentDeath::Closed);
    let mut older = both(&server, PORT).map(|to| Echo::open(client.connect(to)));
    let with = |mode| Workload {
        inbound: InboundPolicy {
            default: mode,
            ..InboundPolicy::default()
        },
        ..server.workload()
    };
    node.apply([with(MtlsMode::Permissive)]);
    node.reconcile();
    older.iter_mut().for_each(Echo::check);
    let seen = node.pod(&server.uid());
    let inbound = |it: &ExistingConnection| it.direction == Direction::Inbound;
    assert_eq!(seen.existing.len(), 2);
    assert!(seen.existing.iter().all(inbound), "{:?}", seen.existing);
    let missed = seen.books.missed[&(Direction::Inbound, "older")];
    assert_eq!(missed, 2);

    node.apply([with(MtlsMode::Strict)]);
    assert!(node.pod(&server.uid()).existing.is_empty());
    for echo in &mut older {
        assert!(echo.is_over(), "to {}", echo.peer);
    }
}

/// Whether what `client` opens to `server` now is held, and captured once `meanwhile` is done and the
/// agent follows.
#[track_caller]
fn check_held(node: &mut Node, client: &Pod, server: &Pod, meanwhile: impl FnOnce()) {
    std::thread::scope(|scope| {
        let waiting = both(server, PORT).map(|to| scope.spawn(move || ask(client.connect(to))));
        eventually("both are held", || {
            node.datapath().observe().counters["early_held"] >= 2
        });
        meanwhile();
        assert_eq!(node.follow(), (1, 0));
        for peer in waiting.map(|waiting| waiting.join().expect("it does not panic")) {
            assert!(peer.port() < 32_768, "captured after all");
        }
    });
    let observation = node.datapath().observe();
    assert_eq!((observation.held, observation.overdue_holds), (0, 0));
}

#[test]
fn what_a_pod_opens_before_its_capture_waits_for_it() {
    let (client, stranger, server) = (Pod::new(), Pod::new(), Pod::new());
    server.app(PORT);
    let kubelet = Kubelet::new();
    let mut node = kubelet.node();
    let mut sandbox = kubelet.sandbox();
    let workload = sandbox.workload(&client);
    node.apply_all([workload.clone(), server.workload()]);
    sandbox.begin(&client);
    // Found, and not captured: nobody follows yet.
    eventually("it is held", || node.datapath().observe().held == 1);
    check_held(&mut node, &client, &server, || {
        for to in both(&server, PORT) {
            ask(stranger.connect(to));
        }
    });
}

#[test]
fn what_a_pod_opens_before_it_is_found_waits_for_its_capture() {
    let server = Pod::new();
    server.app(PORT);
    let kubelet = Kubelet::new();
    let mut node = kubelet.node();
    let mut client = Pod::new();
    let mut sandbox = kubelet.sandbox();
    node.apply_all([sandbox.workload(&client), server.workload()]);
    // After the pod is waited for, as a runtime makes it.
    client.renew();
    let began = SystemTime::now();
    check_held(&mut node, &client, &server, || sandbox.begin(&client));
    let since = node.pod(&sandbox.uid).held_since.expect("it was held");
    assert!(since < began, "all the time");
}

#[test]
fn a_new_namespace_that_is_no_pods_is_let_go_while_pods_are_waited_for() {
    let server = Pod::new();
    server.app(PORT);
    let kubelet = Kubelet::new();
    let mut node = kubelet.node();
    let (client, mut stranger) = (Pod::new(), Pod::new());
    let sandbox = kubelet.sandbox();
    node.apply_all([sandbox.workload(&client)]);
    stranger.renew();
    for to in both(&server, PORT) {
        assert!(ask(stranger.connect(to)).port() >= 32_768, "directly");
    }
    let observation = node.datapath().observe();
    assert!(observation.counters["early_held"] >= 1);
    let since = Instant::now();
    ask(stranger.connect(both(&server, PORT)[0]));
    println!("the next one took {:?}", since.elapsed());
}

#[test]
fn a_pod_that_is_not_to_be_captured_is_not_held() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let kubelet = Kubelet::new();
    let mut node = kubelet.node();
    let mut sandbox = kubelet.sandbox();
    let workload = Workload {
        enrolled: false,
        ..sandbox.workload(&client)
    };
    node.apply_all([workload]);
    sandbox.begin(&client);
    for to in both(&server, PORT) {
        assert!(ask(client.connect(to)).port() >= 32_768, "directly");
    }
    assert_eq!(node.datapath().observe().counters["early_held"], 0);
}
