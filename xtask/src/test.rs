// SPDX-License-Identifier: Apache-2.0

//! `cargo xtask test`: unit tests, real agents on real nodes, other kernels, a real cluster.
//!
//! Knows nothing of what is tested. Invariants: a missing privilege fails, it never passes
//! silently; all kinds run, whatever the first ones say. The scenarios run in a mount namespace
//! of their own, with their own bpffs and `/run/netns`, so whatever they leave behind goes with it.

use std::{env, ffi::OsString, fs, path::PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{
    artefacts, chart,
    command::{self, Steps, cargo, program},
    envoy, fuzz, kernels, pins,
    setup::{self, Lacking, Scope},
};

mod kube;

/// The scenarios' own mounts: kind and place.
const PRIVATE: &[(&str, &str)] = &[("bpf", "/sys/fs/bpf"), ("tmpfs", "/run/netns")];

/// Tells the inner half of `test netns` which mount namespace the outer half is in.
const OUTER_MOUNTS: &str = "XTASK_OUTER_MOUNTS";

/// The command itself.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let first = words.split_first();
    match first.map(|(kind, rest)| (kind.as_str(), rest)) {
        Some(("kube", rest)) => return kube::run(&kube::KUBE, rest),
        Some(("istiod", rest)) => return kube::run(&kube::ISTIOD, rest),
        _ => {}
    }
    let (kind, filter) = match words {
        [] => ("all", None),
        [kind] => (kind.as_str(), None),
        [kind, filter] => (kind.as_str(), Some(filter.as_str())),
        _ => return Err(Lacking::usage("test takes a kind and a filter".to_owned())),
    };
    match kind {
        "unit" => {
            setup::ensure(&[Scope::Build, Scope::Benchmark])?;
            unit(filter)
        }
        "netns" => {
            may_run_agents()?;
            setup::ensure(&[
                Scope::Build,
                Scope::Nodes,
                Scope::Applications,
                Scope::Benchmark,
            ])?;
            netns(filter)
        }
        "kernels" => {
            setup::ensure(&[Scope::Build, Scope::Kernels])?;
            kernels::run(filter)
        }
        "chart" => chart::run(),
        "fuzz" => {
            setup::ensure(&[Scope::Build])?;
            fuzz::for_tests(filter)
        }
        "inside" => inside(filter),
        "all" => {
            may_run_agents()?;
            setup::ensure(&[
                Scope::Build,
                Scope::Nodes,
                Scope::Applications,
                Scope::Benchmark,
                Scope::Kernels,
                Scope::Cluster,
            ])?;
            let mut steps = Steps::new("test");
            steps.step("unit", || unit(filter));
            steps.step("netns", || netns(filter));
            steps.step("chart", chart::run);
            steps.step("fuzz", || fuzz::for_tests(filter));
            steps.step("kernels", || kernels::run(filter));
            steps.step("kube", || kube::of_all(filter));
            steps.finish()
        }
        other => Err(Lacking::usage(format!(
            "no tests of kind {other:?}: unit, netns, fuzz, kernels, chart, kube, istiod or all"
        ))),
    }
}

fn may_run_agents() -> Result<()> {
    Lacking::unless_root("the scenarios make network namespaces and load kernel programs")
}

fn unit(filter: Option<&str>) -> Result<()> {
    let mut test = cargo(&pins::STABLE);
    test.args([
        "test",
        "--locked",
        "--workspace",
        "--exclude",
        "mesh-ebpf",
        "--lib",
        "--bins",
    ]);
    test.args(["--no-fail-fast", "--"]).args(filter);
    // What HTTP/1.1 is compared with.
    command::run(test.env("ENVOY_BIN", envoy::get()?))
}

/// Builds outside, where cargo's directories are, then goes on inside.
fn netns(filter: Option<&str>) -> Result<()> {
    artefacts::agent()?;
    command::run(scenarios().arg("--no-run"))?;
    command::run(kernel_side().arg("--no-run"))?;
    let own = env::current_exe().context("find our own program")?;
    let mut again = program("unshare");
    again
        .args(["--mount", "--propagation", "private", "--"])
        .arg(own);
    again.env(OUTER_MOUNTS, mounts()?);
    command::run(again.args(["test", "inside"]).args(filter))
}

/// Runs the scenarios, in the mount namespace that [`netns`] made.
fn inside(filter: Option<&str>) -> Result<()> {
    let outer = env::var_os(OUTER_MOUNTS).context("`test inside` is for `test netns` to call")?;
    ensure!(outer != mounts()?, "the mount namespace is not a new one");
    for (kind, place) in PRIVATE {
        fs::create_dir_all(place).with_context(|| format!("make {place}"))?;
        command::run(program("mount").args(["-t", kind, kind, place]))?;
    }
    let agent = command::target()
        .join(artefacts::PROFILE.name())
        .join("mesh-agent");
    let mut steps = Steps::new("test netns");
    steps.step("scenarios", || {
        let mut test = scenarios();
        test.args(["--no-fail-fast", "--"]).args(filter);
        test.env("MESH_AGENT_BIN", agent);
        command::run(test.env("PATH", path_with_go()?))
    });
    steps.step("kernel side", || {
        let mut test = kernel_side();
        command::run(test.args(["--no-fail-fast", "--"]).args(filter))
    });
    steps.finish()
}

/// Our `PATH`, with the Go that is new enough before any other.
fn path_with_go() -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = setup::go_directory()
        .into_iter()
        .chain(env::split_paths(&path));
    env::join_paths(places).context("put Go into PATH")
}

/// Real agents on real nodes. One package at a time: what others ask of shared dependencies
/// would have everything built once more.
fn scenarios() -> std::process::Command {
    let mut command = cargo(&pins::STABLE);
    command.args(["test", "--locked", "--profile", artefacts::PROFILE.name()]);
    command.args(["--package", "mesh-tests", "--test", "scenarios"]);
    command
}

/// The kernel programs and what attaches them; of what the unit tests were built from.
fn kernel_side() -> std::process::Command {
    let mut command = cargo(&pins::STABLE);
    command.args(["test", "--locked", "--workspace", "--exclude", "mesh-ebpf"]);
    command.args(["--test", "datapath"]);
    command
}

/// Which mount namespace we are in.
fn mounts() -> Result<PathBuf> {
    fs::read_link("/proc/self/ns/mnt").context("read our mount namespace")
}
