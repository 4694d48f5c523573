// SPDX-License-Identifier: Apache-2.0

//! Promise 11: what the agent lets people see, by its command line, metrics and access log.

use mesh_tests::wait;
use serde_json::Value;

use crate::mesh::{Mesh, split};

/// What a command prints; it must succeed.
#[track_caller]
fn shown(mesh: &Mesh, arguments: &[&str]) -> String {
    let ran = mesh.a.cli(arguments);
    assert!(
        ran.ok(),
        "{arguments:?} ended with {}: {}",
        ran.code,
        ran.stderr
    );
    ran.stdout
}

#[track_caller]
fn check_shown(mesh: &Mesh, arguments: &[&str], words: &[&str]) {
    let text = shown(mesh, arguments);
    for word in words {
        assert!(text.contains(word), "no {word:?} in {arguments:?}:\n{text}");
    }
}

#[test]
fn every_command_answers_in_every_form() {
    let mesh = Mesh::with("inside forms", &[], &split(90, 10));
    mesh.get_many(10);
    for arguments in [
        vec!["status"],
        vec!["proxy-status"],
        vec!["proxy-config", "listeners", "client"],
        vec!["proxy-config", "clusters", "client"],
        vec!["proxy-config", "routes", "client.default"],
        vec!["proxy-config", "endpoints", "client", "--port", "80"],
        vec!["config", "dump"],
    ] {
        for form in ["table", "json", "yaml"] {
            let with_form = [&arguments[..], &["-o", form]].concat();
            let text = shown(&mesh, &with_form);
            assert!(!text.trim().is_empty(), "{with_form:?}");
            if form == "json" {
                let parsed = serde_json::from_str::<Value>(&text);
                assert!(parsed.is_ok(), "{with_form:?}: {parsed:?}: {text}");
            }
        }
    }
}

#[test]
fn a_pods_configuration_is_shown_as_istioctl_shows_it() {
    let mesh = Mesh::with("inside columns", &[], &split(90, 10));
    check_shown(
        &mesh,
        &["proxy-status"],
        &["client.default", "SYNCED", "CDS", "LDS"],
    );
    check_shown(
        &mesh,
        &["proxy-config", "clusters", "client"],
        &[
            "SERVICE FQDN",
            "SUBSET",
            "recommendations.default.svc.cluster.local",
            "v1",
            "v2",
        ],
    );
    let (one, two) = (
        format!("{}:8080", mesh.v1.v4),
        format!("{}:8080", mesh.v2.v4),
    );
    check_shown(
        &mesh,
        &["proxy-config", "endpoints", "client"],
        &[&one, &two, "ENDPOINT"],
    );
    check_shown(
        &mesh,
        &["proxy-config", "routes", "client"],
        &["recommendations", "VIRTUAL SERVICE"],
    );
    check_shown(
        &mesh,
        &["status"],
        &[
            "client.default",
            "spiffe://cluster.local/ns/default/sa/client",
        ],
    );
}

#[test]
fn requests_are_counted_with_the_standard_labels() {
    let mesh = Mesh::with("inside metrics", &["--access-log", "json"], &split(90, 10));
    mesh.get_many(100);
    let labels = |version: &'static str| {
        [
            ("reporter", "source"),
            ("response_code", "200"),
            ("request_protocol", "http"),
            ("source_workload_namespace", "default"),
            (
                "source_principal",
                "spiffe://cluster.local/ns/default/sa/client",
            ),
            (
                "destination_service",
                "recommendations.default.svc.cluster.local",
            ),
            ("destination_service_name", "recommendations"),
            ("destination_version", version),
            ("connection_security_policy", "mutual_tls"),
        ]
    };
    wait::until("the metrics", wait::PATIENCE, || {
        let seen =
            ["v1", "v2"].map(|version| mesh.a.metric("istio_requests_total", &labels(version)));
        if seen == [90.0, 10.0] {
            Ok(())
        } else {
            Err((seen, mesh.a.admin("/metrics").text()))
        }
    });
    let count = mesh.a.metric(
        "istio_request_duration_milliseconds_count",
        &[("reporter", "source")],
    );
    assert!((count - 100.0).abs() < f64::EPSILON, "{count}");
    // One line per request; a thread of its own writes them, a little later.
    wait::until("a line per request", wait::PATIENCE, || {
        let log = mesh.a.log();
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        match lines.filter(|line| line["response_code"] == 200).count() {
            100 => Ok(()),
            other => Err(other),
        }
    });
}

#[test]
fn the_log_level_changes_while_the_agent_runs() {
    let mesh = Mesh::start("inside log");
    check_shown(&mesh, &["log"], &["info"]);
    shown(&mesh, &["log", "debug"]);
    check_shown(&mesh, &["log"], &["debug"]);
    let wrong = mesh.a.cli(&["log", "shout=loudly=x"]);
    assert!(!wrong.ok(), "{}", wrong.stdout);
}

#[test]
fn only_root_may_ask() {
    let mesh = Mesh::start("inside socket");
    let metadata = std::fs::metadata(mesh.a.socket()).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn metrics_and_readiness_are_on_a_loopback_port_of_the_node() {
    let mesh = Mesh::start("inside scrape");
    let get = |path: &str| {
        let answer = mesh
            .lab
            .a
            .netns
            .run(|| mesh_tests::client::get("127.0.0.1:15020", "localhost", path));
        answer.unwrap()
    };
    assert_eq!(get("/ready").status, 200);
    let metrics = get("/metrics");
    assert_eq!(metrics.status, 200);
    assert!(
        metrics.text().contains("mesh_agent_captured"),
        "{}",
        metrics.text()
    );
}

#[test]
fn the_kernels_counters_move_with_traffic() {
    let mesh = Mesh::start("inside counters");
    let counters = || mesh.a.admin_json("/status")["pods"].to_string();
    let before = counters();
    mesh.get_many(10);
    assert_ne!(before, counters(), "ten requests left no trace");
}
