// SPDX-License-Identifier: Apache-2.0

//! What has to hold on every kernel: the programs load, traffic is captured, encrypted and split.
//!
//! Two nodes, an agent on each, a client on one, two versions of a server on the other, and a pod
//! outside the mesh. Knows nothing of the kernel's version. Invariant: each check panics with
//! what it saw; what passed is said with the time since the start.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use mesh_tests::{Agent, App, Http1, Lab, Pod, Wire, client, wait};

/// For an emulated machine on a busy one.
const PATIENCE: Duration = Duration::from_secs(90);

const REQUESTS: usize = 100;

const MARKER: &str = "a-marker-nobody-else-would-write";

const ROUTES: &str = "
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata: {name: shop}
spec:
  host: shop
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: [shop]
  http:
  - route:
    - destination: {host: shop, subset: v1}
      weight: 90
    - destination: {host: shop, subset: v2}
      weight: 10
---
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
";

struct Progress(Instant);

impl Progress {
    fn say(&self, text: &str) {
        eprintln!("[{:5.1} s] {text}", self.0.elapsed().as_secs_f64());
    }
}

/// Runs all checks; returns a summary.
///
/// # Panics
/// When one of them fails.
pub(crate) fn run() -> String {
    let progress = Progress(Instant::now());
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    progress.say(&format!("Linux {}", release.trim()));
    let lab = Lab::new("smoke");
    let caller = lab.pod("caller").start();
    let stranger = lab.pod("stranger").outside().start();
    let servers = ["v1", "v2"].map(|version| {
        lab.pod(&format!("shop-{version}"))
            .on_b()
            .label("app", "shop")
            .label("version", version)
            .start()
    });
    let apps: Vec<App> = servers.iter().map(|pod| App::http(pod, 8080)).collect();
    let (v4, v6) = lab.service("shop").port("http", 80, 8080).create();
    lab.apply(ROUTES);
    progress.say("two nodes and four pods");
    let mut agents = [lab.a.launch_agent(&[]), lab.b.launch_agent(&[])];
    agents.iter().for_each(ready);
    let hooks = captured(&agents);
    progress.say(&format!(
        "both agents ready: every program is loaded ({hooks})"
    ));
    split(&caller, &format!("{v4}:80"));
    progress.say("90/10 exactly, on one connection");
    sealed(&lab, &caller, &v4);
    progress.say("only TLS on the wire");
    let answer = caller.run(|| client::get(&format!("[{v6}]:80"), "shop", "/"));
    same_peer(&answer.expect("IPv6 is answered").field("peer"), &caller.v6);
    progress.say("IPv6");
    let before: u64 = apps.iter().map(App::connections).sum();
    refused(&stranger, &servers[0]);
    let after: u64 = apps.iter().map(App::connections).sum();
    assert_eq!(
        before, after,
        "a connection of the stranger reached an application"
    );
    progress.say("plaintext is refused");
    counted(&agents);
    for agent in &mut agents {
        assert!(agent.stop(), "the agent did not stop by itself");
    }
    progress.say("both agents stopped");
    format!(
        "Linux {}, {hooks}: capture, mTLS, 90/10, STRICT",
        release.trim()
    )
}

/// Waits longer than other tests do: loading programs takes an emulated machine its time.
fn ready(agent: &Agent) {
    wait::until("an agent to be ready", PATIENCE, || {
        assert!(!agent.ended(), "the agent ended: {}", agent.log_tail());
        let log = agent.log();
        if log.contains("ready node=") {
            Ok(())
        } else {
            Err(log)
        }
    });
}

/// The one hook that both agents use; every pod in the mesh has to be captured.
fn captured(agents: &[Agent; 2]) -> String {
    let mut hooks = Vec::new();
    for (agent, expected) in agents.iter().zip([1, 2]) {
        let found = wait::until("pods to be captured", PATIENCE, || {
            let status = agent.admin_json("/status");
            let pods = status["pods"].as_array().cloned().unwrap_or_default();
            let captured = pods.iter().filter(|pod| pod["captured"] == true);
            let found: Vec<String> = captured
                .map(|pod| pod["hook"].as_str().unwrap_or_default().to_owned())
                .collect();
            if found.len() == expected {
                Ok(found)
            } else {
                Err(status.to_string())
            }
        });
        hooks.extend(found);
    }
    hooks.dedup();
    assert_eq!(hooks.len(), 1, "one kernel, one hook: {hooks:?}");
    hooks.remove(0)
}

/// Weights hold exactly over one hundred requests of one connection.
fn split(caller: &Pod, service: &str) {
    let seen = caller.run(|| {
        let mut connection = Http1::connect(service, "shop").expect("the service is reachable");
        let mut seen = BTreeMap::<String, usize>::new();
        for _ in 0..REQUESTS {
            let answer = connection.get("/").expect("a request is answered");
            assert_eq!(answer.status, 200, "{}", answer.text());
            same_peer(&answer.field("peer"), &caller.v4);
            *seen.entry(answer.field("version")).or_default() += 1;
        }
        seen
    });
    let expected = BTreeMap::from([("v1".to_owned(), 90), ("v2".to_owned(), 10)]);
    assert_eq!(seen, expected, "of {REQUESTS} requests");
}

#[track_caller]
fn same_peer(seen: &str, own: &str) {
    let seen: std::net::SocketAddr = seen.parse().expect("the server reports an address");
    assert_eq!(seen.ip().to_string(), own, "the server sees who calls");
}

/// What is sent cannot be read between the nodes.
fn sealed(lab: &Lab, caller: &Pod, address: &str) {
    let wire = Wire::listen(lab);
    let sent = caller.run(|| {
        Http1::connect(&format!("{address}:80"), "shop")?.request(
            "POST",
            "/",
            &[],
            MARKER.as_bytes(),
        )
    });
    assert_eq!(
        sent.expect("the marker is sent").json()["body_bytes"],
        MARKER.len()
    );
    let crossed = wire.stop();
    assert_eq!(
        crossed.hits(MARKER.as_bytes()),
        0,
        "the marker can be read on the wire"
    );
    let records = crossed
        .tls_records()
        .unwrap_or_else(|seen| panic!("{seen}"));
    assert!(records > 0, "nothing crossed the wire");
}

/// A pod outside the mesh gets no answer in plaintext.
fn refused(stranger: &Pod, server: &Pod) {
    let address = format!("{}:8080", server.v4);
    let answer = stranger.run(|| client::get(&address, "shop", "/"));
    assert!(
        answer.is_err(),
        "a stranger was answered in plaintext: {answer:?}"
    );
}

/// Both sides have counted the requests, as mutual TLS.
fn counted(agents: &[Agent; 2]) {
    let labels = [
        ("connection_security_policy", "mutual_tls"),
        ("reporter", "source"),
    ];
    let requests = agents[0].metric("istio_requests_total", &labels);
    // One hundred for the split, one marker, one by IPv6.
    let expected = 102.0;
    assert!(
        (requests - expected).abs() < 0.5,
        "{requests} requests counted, {expected} sent"
    );
}
