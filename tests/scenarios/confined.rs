// SPDX-License-Identifier: Apache-2.0

//! What the agent gave up when it had started: read of its threads, while it does all of its work.

use std::{fs, path::Path};

use mesh_tests::{Agent, App, Secret, Told, client, secret::P256_PKCS8, wait};

use crate::mesh::{Mesh, ask, peer_authentication, split};

/// As the kernel numbers them, see `deploy/agent.yaml`.
const NET_ADMIN: u64 = 1 << 12;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;

/// Which an agent without a container has besides.
const DAC_READ_SEARCH: u64 = 1 << 2;

/// Longer than any of these tests.
const LONG: &[&str] = &["--drain-deadline", "120s"];

/// What the kernel says of one thread, under `name`.
#[track_caller]
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let found = status.lines().find_map(|line| line.strip_prefix(name));
    found
        .unwrap_or_else(|| panic!("no {name} in {status}"))
        .trim()
}

#[track_caller]
fn check_thread(status: &str) {
    let name = field(status, "Name:");
    let mask = match name.starts_with("data-") {
        true => SYS_ADMIN | NET_ADMIN,
        false => SYS_ADMIN | NET_ADMIN | SYS_PTRACE | DAC_READ_SEARCH,
    };
    for set in ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
        let found = u64::from_str_radix(field(status, set), 16).unwrap();
        assert_eq!(found & !mask, 0, "{name}: {set} {found:x}");
    }
    assert_eq!(field(status, "NoNewPrivs:"), "1", "{name}");
    // 2 is a filter.
    assert_eq!(field(status, "Seccomp:"), "2", "{name}");
}

/// Every thread is confined, and no memory is ever dumped.
#[track_caller]
fn check_confined(agent: &Agent) {
    let process = Path::new("/proc").join(agent.pid().to_string());
    let mut names = Vec::new();
    for thread in fs::read_dir(process.join("task")).unwrap() {
        // A thread may have ended since it was listed.
        let status = fs::read_to_string(thread.unwrap().path().join("status"));
        if let Ok(status) = status {
            check_thread(&status);
            names.push(field(&status, "Name:").to_owned());
        }
    }
    for wanted in ["data-0", "control", "sandboxes", "spares"] {
        assert!(names.iter().any(|name| name == wanted), "{names:?}");
    }
    let limits = fs::read_to_string(process.join("limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let core: Vec<&str> = core.unwrap().split_whitespace().collect();
    assert_eq!(core[4..6], ["0", "0"], "{limits}");
    let log = agent.log();
    assert!(
        !log.contains("privileges than it needs") && !log.contains("stay allowed"),
        "{log}"
    );
}

/// A pod that starts now is captured: it reaches a server that takes nobody else.
#[track_caller]
fn check_captured(mesh: &Mesh, name: &str) {
    let late = mesh.lab.pod(name).label("app", name).start();
    let app = App::http(&late, 8080);
    mesh.lab.service(name).port("http", 80, 8080).create();
    mesh.settle();
    let to = mesh.service("recommendations", 80);
    let answer = late
        .run(|| client::get(&to, "recommendations", "/"))
        .unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let from = mesh.service(name, 80);
    let answer = mesh.client.run(|| client::get(&from, name, "/")).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    drop(app);
}

#[test]
fn an_agent_that_gave_up_what_it_does_not_need_captures_carries_and_hands_over() {
    let manifests = format!(
        "{}---{}",
        split(50, 50),
        peer_authentication("default", "STRICT")
    );
    let mut mesh = Mesh::with("confined", LONG, &manifests);
    check_confined(&mesh.a);
    check_confined(&mesh.b);
    mesh.get_many(20);
    check_captured(&mesh, "late");
    let outsider = mesh.lab.pod("outsider").outside().start();
    let direct = format!("{}:8080", mesh.v1.v4);
    let plain = outsider.run(|| client::get(&direct, "recommendations", "/"));
    assert!(plain.is_err(), "{plain:?}");

    let successor = mesh.lab.a.launch_agent(LONG);
    successor.wait_log_ready();
    let old = std::mem::replace(&mut mesh.a, successor);
    check_confined(&mesh.a);
    mesh.get_many(20);
    check_captured(&mesh, "later");
    wait::until_true("the old agent to end", wait::PATIENCE, || old.ended());
    // Maps can be read: what the kernel counted is told.
    let counted = mesh.a.admin("/metrics").text();
    assert!(counted.contains("mesh_agent_"), "{counted}");
}

/// Everything that an agent tells to whoever may ask, and what it wrote.
fn told(agent: &Agent) -> String {
    let mut told = agent.log();
    for path in [
        "/status",
        "/proxy-status",
        "/proxy-config/listeners?pod=client",
        "/proxy-config/clusters?pod=client",
        "/proxy-config/routes?pod=client",
        "/proxy-config/endpoints?pod=client",
        "/config",
        "/config_dump",
        "/problems",
        "/metrics",
        "/log",
    ] {
        told.push_str(&agent.admin(path).text());
    }
    told
}

#[test]
fn neither_keys_nor_tokens_are_in_logs_or_dumps() {
    const TOKEN: &str = "c2VjcmV0LXRva2VuLW9mLW5vYm9keQ";
    let flags = ["--log-level", "trace", "--access-log", "json"];
    let mesh = Mesh::with("confined secrets", &flags, &split(50, 50));
    let service = format!("http://{}/", mesh.service("recommendations", 80));
    let bearer = format!("Authorization: Bearer {TOKEN}");
    assert_eq!(ask(&mesh.client, &service, &[&bearer]).0, "200");
    // A key of a workload is never written here: whatever begins as one would be one.
    let mut secrets = vec![Secret::new(TOKEN.as_bytes()), Secret::new(P256_PKCS8)];
    for file in fs::read_dir(mesh.lab.directory().join("ca")).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap_or_default();
        if text.contains("BEGIN PRIVATE KEY") {
            secrets.push(Secret::of_key(&text));
        }
    }
    assert_eq!(secrets.len(), 3, "the authority's key is in one file");
    for agent in [&mesh.a, &mesh.b] {
        let told = told(agent);
        assert!(told.contains("recommendations"), "it tells something");
        assert!(!told.contains("PRIVATE KEY"), "a key is told");
        let told = Told::new(told.into_bytes());
        for secret in &secrets {
            assert!(!told.tells(secret), "{secret:?} is told");
        }
    }
}
