// SPDX-License-Identifier: Apache-2.0

//! Command lines, right and wrong.

use clap::{CommandFactory, Parser, error::ErrorKind};

use super::*;

#[track_caller]
fn run(arguments: &[&str]) -> Result<RunSettings, clap::Error> {
    let base = ["mesh-agent", "run", "--node", "n1", "--config-dir", "/c"];
    match Settings::try_parse_from(base.iter().chain(arguments))?.command {
        Command::Run(settings) => Ok(*settings),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused(flag: &str, value: &str, reason: &str) {
    let error = run(&[flag, value]).expect_err("out of range").to_string();
    assert!(error.contains(flag), "names the flag: {error}");
    assert!(error.contains(reason), "says why: {error}");
}

#[test]
fn the_definition_of_the_command_line_is_consistent() {
    Settings::command().debug_assert();
}

#[test]
fn defaults_are_those_that_the_help_promises() {
    let settings = run(&[]).unwrap();
    assert_eq!(settings.authority.cert_ttl, Duration::from_secs(24 * 3600));
    assert_eq!(settings.drain_deadline, Duration::from_secs(10));
    assert_eq!(settings.authority.trust_domain, "cluster.local");
    assert_eq!(
        settings.admin_socket(),
        PathBuf::from("/run/mesh-agent/n1.sock")
    );
    assert_eq!(settings.metrics_address.to_string(), "127.0.0.1:15020");
    assert_eq!(settings.on_agent_death, OnAgentDeath::Closed);
    assert_eq!(settings.access_log, AccessLog::Text);
    assert_eq!(settings.tunnel, Tunnel::Mux);
    assert_eq!(settings.request_headers, AddedHeaders::Trace);
    assert_eq!(settings.path_normalization, Normalization::Base);
    assert_eq!(settings.stopping.on_stop, None);
    assert_eq!(settings.stopping.daemonset, "mesh-agent");
    assert_eq!(settings.stopping.namespace, "mesh-system");
    assert!((1..=4).contains(&settings.thread_count()));
}

#[test]
fn every_flag_is_taken() {
    let settings = run(&[
        "--ca-dir",
        "/ca",
        "--trust-domain",
        "td",
        "--cluster-domain",
        "cd",
        "--cert-ttl",
        "2s",
        "--threads",
        "3",
        "--admin-socket",
        "/s",
        "--metrics-address",
        "[::1]:0",
        "--pin-dir",
        "/sys/fs/bpf/x",
        "--cgroup",
        "/g",
        "--on-agent-death",
        "open",
        "--access-log",
        "json",
        "--log-level",
        "debug",
        "--log-format",
        "json",
        "--drain-deadline",
        "1m30s",
        "--tunnel",
        "hbone",
        "--outbound-policy",
        "registry-only",
        "--request-headers",
        "envoy",
        "--path-normalization",
        "decode-and-merge-slashes",
        "--on-stop",
        "leave",
        "--namespace",
        "mesh",
        "--daemonset",
        "agents",
    ])
    .unwrap();
    assert_eq!(settings.authority.cert_ttl, Duration::from_secs(2));
    assert_eq!(settings.thread_count(), 3);
    assert_eq!(settings.drain_deadline, Duration::from_secs(90));
    assert_eq!(settings.on_agent_death, OnAgentDeath::Open);
    assert_eq!(settings.admin_socket(), PathBuf::from("/s"));
    assert_eq!(settings.tunnel, Tunnel::Hbone);
    assert_eq!(settings.outbound_policy, Outbound::RegistryOnly);
    assert_eq!(settings.request_headers, AddedHeaders::Envoy);
    assert_eq!(
        settings.path_normalization,
        Normalization::DecodeAndMergeSlashes
    );
    assert_eq!(settings.stopping.on_stop, Some(OnStop::Leave));
}

#[test]
fn cleanup_needs_no_flag() {
    Settings::try_parse_from(["mesh-agent", "cleanup"]).unwrap();
    let line = ["mesh-agent", "cleanup", "--node", "n1", "--state-dir", "/s"];
    Settings::try_parse_from(line).unwrap();
}

#[test]
fn values_out_of_range_are_refused_with_flag_and_reason() {
    refused("--cert-ttl", "1s", "at least 2s");
    refused("--cert-ttl", "24", "units");
    refused("--drain-deadline", "1 s", "units");
    refused("--drain-deadline", "99999999999999999999d", "units");
    refused("--drain-deadline", "999999999999999999d", "longer");
    refused("--threads", "0", "from 1 to 256");
    refused("--metrics-address", "0.0.0.0:15020", "loopback");
    refused("--metrics-address", "15020", "ADDRESS:PORT");
    refused("--trust-domain", "Cluster.Local", "DNS name");
    assert!(value::node_name("../../etc").is_err());
}

#[test]
fn durations_add_up() {
    for (text, want_ms) in [
        ("500ms", 500),
        ("1h30m", 5_400_000),
        ("1d", 86_400_000),
        ("0s", 0),
    ] {
        assert_eq!(
            value::duration(text),
            Ok(Duration::from_millis(want_ms)),
            "{text}"
        );
    }
}

#[test]
fn a_missing_flag_is_a_usage_error() {
    let error = Settings::try_parse_from(["mesh-agent", "run"]).expect_err("--node is required");
    assert_eq!(error.kind(), ErrorKind::MissingRequiredArgument);
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn commands_take_a_socket_and_a_form() {
    for command in [
        vec!["status"],
        vec!["proxy-status"],
        vec!["verify"],
        vec!["proxy-config", "routes", "web.default", "--port", "80"],
        vec!["config", "dump"],
        vec!["log", "debug"],
        vec!["metrics"],
    ] {
        let line = [
            vec!["mesh-agent"],
            command,
            vec!["--socket", "/s", "-o", "yaml"],
        ]
        .concat();
        Settings::try_parse_from(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
    }
}
