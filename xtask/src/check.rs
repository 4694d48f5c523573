// SPDX-License-Identifier: Apache-2.0

//! `cargo xtask check`: everything that can be said about the sources without running them.
//!
//! Knows nothing of tests. Invariants: all steps run, whatever the first ones say; needs no root,
//! and no network once the dependencies are there.

use anyhow::{Context, Result};

use crate::{
    command::{self, Steps, cargo, program, run as execute},
    generate, lint, pins,
    setup::{self, Lacking, Scope},
};

/// Packages for the host; the kernel programs are built for BPF only.
const HOST: &[&str] = &["--locked", "--workspace", "--exclude", "mesh-ebpf"];

/// How long the database of advisories may take.
const FETCH_SECONDS: &str = "120";

/// The command itself.
pub(crate) fn run(words: &[String]) -> Result<()> {
    if let Some(word) = words.first() {
        return Err(Lacking::usage(format!(
            "check takes no arguments, got {word:?}"
        )));
    }
    setup::ensure(&[Scope::Build, Scope::Check])?;
    let mut steps = Steps::new("check");
    steps.step("format", format);
    steps.step("lint", lint::check);
    steps.step("clippy, host", clippy_host);
    steps.step("clippy, kernel programs", clippy_kernel);
    steps.step("documentation", documentation);
    steps.step("dependencies", dependencies);
    steps.step("advisories", advisories);
    steps.step("generated files", generate::check);
    steps.finish()
}

fn format() -> Result<()> {
    execute(cargo(&pins::NIGHTLY).args(["fmt", "--all", "--", "--check"]))
}

fn clippy_host() -> Result<()> {
    let mut clippy = cargo(&pins::STABLE);
    clippy
        .arg("clippy")
        .args(HOST)
        // What needs root to run is in none of all targets.
        .args(["--all-targets", "--test", "datapath"])
        .args(["--", "-D", "warnings"]);
    execute(&mut clippy)
}

fn clippy_kernel() -> Result<()> {
    let mut clippy = cargo(&pins::NIGHTLY);
    clippy.args(["clippy", "--locked", "--package", "mesh-ebpf"]);
    clippy.args([
        "--target",
        "bpfel-unknown-none",
        "-Z",
        "build-std=core",
        "--",
        "-D",
        "warnings",
    ]);
    execute(&mut clippy)
}

fn documentation() -> Result<()> {
    let mut doc = cargo(&pins::STABLE);
    execute(
        doc.arg("doc")
            .args(HOST)
            .arg("--no-deps")
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

/// What is known against the versions that are locked, where there is a network to ask by: everything else can be
/// checked without one.
fn advisories() -> Result<()> {
    let deny = setup::cargo_deny().context("cargo-deny vanished since set-up")?;
    let mut fetch = program("timeout");
    fetch.arg(FETCH_SECONDS).arg(&deny).args(["fetch", "db"]);
    if command::output(&mut fetch).is_none() {
        eprintln!("    the database of advisories cannot be reached: nothing was looked up");
        return Ok(());
    }
    let mut command = program(deny);
    command.env("RUSTUP_TOOLCHAIN", pins::STABLE.name);
    execute(command.args(["--workspace", "--locked", "check", "advisories"]))
}

fn dependencies() -> Result<()> {
    let deny = setup::cargo_deny().context("cargo-deny vanished since set-up")?;
    let mut command = program(deny);
    command.env("RUSTUP_TOOLCHAIN", pins::STABLE.name);
    execute(command.args([
        "--workspace",
        "--locked",
        "check",
        "bans",
        "licenses",
        "sources",
    ]))?;
    // The fuzzer has a lock file of its own, which must follow the agent's dependencies.
    let fuzzer = [
        "fetch",
        "--locked",
        "--manifest-path",
        "tests/fuzz/Cargo.toml",
    ];
    execute(cargo(&pins::STABLE).args(fuzzer))
}
