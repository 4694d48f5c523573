// SPDX-License-Identifier: Apache-2.0

//! The project's chores: `cargo xtask help`.
//!
//! Owns the list of commands and the exit codes: 0 done, 1 something failed, 2 the machine
//! lacks something (or the command line is wrong). One file per command. Invariant: compiles
//! with the compiler a machine happens to have, because it installs the pinned one; so
//! `anyhow` is its only dependency.

use std::{env, process::ExitCode};

use anyhow::Result;

mod artefacts;
mod bench;
mod chart;
mod check;
mod cluster;
mod command;
mod conformance;
mod demo;
mod envoy;
mod fuzz;
mod generate;
mod image;
mod instructions;
mod kernels;
mod linked;
mod lint;
mod pins;
mod programs;
mod setup;
mod test;

const HELP: &str = "\
cargo xtask COMMAND

  setup [build]                           install what the other commands need, or the build alone; says what and why
  check                                   format, clippy, lint, documentation, dependencies: what CI runs
  lint                                    only the rules of layout and module direction
  test [KIND] [FILTER]                    all tests (default), or one kind; FILTER as for cargo test
  fuzz [TARGET] [--seconds N|--minutes N] the parsers of foreign bytes, with libFuzzer: all, or one; 10 seconds each,
                                          N seconds each, or N minutes for all together
  gen [--check]                           write what is made from types (deploy/crds), or only compare
  demo [--keep] [--json]                  two nodes, real traffic, the story in a table
  bench [--quick] [OPTIONS]               the agent beside two Envoy sidecars and no mesh, measured in one run;
                                          options: mesh-agent/docs/benchmarks.md
  cluster up|down                         a real Kubernetes of two nodes on this machine
  cluster load IMAGE.tar...               gives its nodes images
  cluster kubectl ARGUMENTS...            talks to it
  image [--out FILE] [--release]          the agent as a container image, for `cluster load`
  conformance [--skip-extended]           Gateway API's mesh suite against the agent in a cluster
  help                                    this

Kinds of tests:
  unit     beside the code; needs no root
  netns    real agents on two nodes made of network namespaces; needs root
  fuzz     the parsers of foreign bytes, for some minutes; see the command
  chart    the Helm chart makes the same objects as the kustomization; builds Helm the first time
  kernels  boots Debian's 6.1 and 6.12 kernels under qemu, loads every program, runs a smoke test
  kube     the agent in a real two-node Kubernetes; needs root, and five minutes the first time to
           build Kubernetes; `test kube --keep` leaves the cluster for the next run
  istiod   the same with Istio's own certificate authority instead of ours; not one of `all`, as it takes
           another six minutes the first time to build Istio's control plane

Exit code: 0 done, 1 something failed, 2 the machine lacks something (it says what).
";

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    match dispatch(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            match error.downcast_ref::<setup::Lacking>() {
                Some(_) => ExitCode::from(2),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn dispatch(words: &[String]) -> Result<()> {
    let (command, rest) = match words.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", words),
    };
    match command {
        "setup" => setup::run(rest),
        "check" => check::run(rest),
        "lint" => lint::run(rest),
        "test" => test::run(rest),
        "gen" => generate::run(rest),
        "fuzz" => fuzz::run(rest),
        "demo" => demo::run(rest),
        "bench" => bench::run(rest),
        "cluster" => cluster::run(rest),
        "conformance" => conformance::run(rest),
        "image" => image::run(rest),
        "help" | "--help" | "-h" => {
            help();
            Ok(())
        }
        other => {
            eprint!("{HELP}");
            Err(setup::Lacking::usage(format!("unknown command {other:?}")))
        }
    }
}

#[allow(
    clippy::print_stdout,
    reason = "help is what was asked for: it goes to standard output"
)]
fn help() {
    print!("{HELP}");
}
