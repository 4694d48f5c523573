// SPDX-License-Identifier: Apache-2.0

//! The benchmark itself: what it says about no mesh and about the agent is whole, on any machine.
//!
//! Times are not judged here: they belong to `cargo xtask bench`.

use std::{fs, process::Command};

use mesh_tests::{agent, command::run};
use serde_json::Value;

/// A short run, as JSON; Envoy is left out, since tests do without it.
fn short_run() -> Value {
    let name = format!("mesh-bench-{}.json", std::process::id());
    let file = std::env::temp_dir().join(name);
    let mut bench = Command::new(env!("CARGO_BIN_EXE_mesh-bench"));
    bench.args(["--planes", "direct,agent,same-agent"]);
    bench.args(["--only", "idle,h1_c16,grpc_c16,fixed_1000,bulk"]);
    bench.args(["--rounds", "1", "--seconds", "1", "--fixed-seconds", "1"]);
    // The first sample of each counts, however busy the machine is.
    bench.args(["--quiet-below", "1000", "--json"]).arg(&file);
    bench.env("MESH_AGENT_BIN", agent::binary());
    let ran = run(&mut bench);
    assert!(ran.ok(), "{}{}", ran.stderr, ran.stdout);
    let text = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[track_caller]
fn figure(report: &Value, measure: &str, plane: &str, figure: &str) -> f64 {
    let found = &report["measures"][measure]["planes"][plane]["figures"][figure]["median"];
    found
        .as_f64()
        .unwrap_or_else(|| panic!("no {figure} of {plane} in {measure}: {report:#}"))
}

#[test]
fn every_measure_gives_its_figures_and_nothing_fails() {
    let report = short_run();
    assert_eq!(report["failures"], Value::Array(Vec::new()));
    let wire = |plane: &str| report["planes"][plane]["wire"].to_string();
    assert!(wire("direct").contains("clear text"), "{}", wire("direct"));
    assert!(wire("agent").contains("encrypted"), "{}", wire("agent"));
    for plane in ["direct", "agent", "same-agent"] {
        for measure in ["h1_c16", "grpc_c16"] {
            assert!(figure(&report, measure, plane, "rps") > 0.0);
            assert_eq!(figure(&report, measure, plane, "errors"), 0.0);
            let proxies = figure(&report, measure, plane, "proxy_cpu_s_10k");
            assert_eq!(proxies > 0.0, plane.ends_with("agent"), "{plane}");
        }
        assert!(figure(&report, "fixed_1000", plane, "p50_us") > 0.0);
        assert!(figure(&report, "bulk", plane, "gbps") > 0.0);
    }
    let (two, one) = ("agent", "same-agent");
    assert!(figure(&report, "idle", two, "rss_mib") > figure(&report, "idle", one, "rss_mib"));
}
