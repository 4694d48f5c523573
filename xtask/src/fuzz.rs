// SPDX-License-Identifier: Apache-2.0

//! `cargo xtask fuzz [TARGET] [--seconds N]`: the agent's parsers of foreign bytes, with libFuzzer.
//!
//! Builds `tests/fuzz` with coverage and runs one target, or all of them one after the other. What
//! was found interesting is kept in `target/fuzz/corpus` for the next time; an input that breaks a
//! parser lies in `target/fuzz/artifacts`, and the command fails. The same targets run for some
//! hundred inputs in the unit tests: this is for minutes and hours.
//! Invariant: no nightly and no further tool; coverage is a pass of the pinned compiler.

use std::{env, fs, path::Path};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    command::{self, cargo, program},
    pins,
    setup::{self, Lacking, Scope},
};

/// How long each target runs if nobody says.
const SECONDS: u64 = 10;

/// No parser may take more than this for one input.
const LONGEST_SECONDS: u64 = 10;

/// What libFuzzer wants of the compiler.
const FLAGS: &str = "--cfg fuzzing \
    -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// The command itself.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let (mut chosen, mut seconds) = (None, SECONDS);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seconds" => {
                let number = words.next().and_then(|text| text.parse().ok());
                seconds =
                    number.ok_or_else(|| Lacking::usage("--seconds takes a number".to_owned()))?;
            }
            name if chosen.is_none() && !name.starts_with('-') => chosen = Some(name),
            other => return Err(Lacking::usage(format!("fuzz does not know {other:?}"))),
        }
    }
    let targets = targets()?;
    if let Some(name) = chosen.filter(|name| !targets.iter().any(|known| known == name)) {
        let known = targets.join(", ");
        return Err(Lacking::usage(format!(
            "no target {name:?}; there are: {known}"
        )));
    }
    setup::ensure(&[Scope::Build])?;
    let directory = command::target().join("fuzz");
    let host = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let mut build = cargo(&pins::STABLE);
    build
        .args([
            "build",
            "--locked",
            "--manifest-path",
            "tests/fuzz/Cargo.toml",
        ])
        // Build scripts and macros are not to be instrumented: a target keeps the flags from them.
        .args(["--target", &host])
        .arg("--target-dir")
        .arg(&directory)
        .env("RUSTFLAGS", FLAGS)
        .env("AYA_BUILD_SKIP", "1");
    command::run(&mut build)?;
    let built = directory.join(host).join("debug/parsers");
    for target in targets {
        if chosen.is_none_or(|name| name == target) {
            feed(&built, &directory, &target, seconds)?;
        }
    }
    Ok(())
}

fn feed(built: &Path, directory: &Path, target: &str, seconds: u64) -> Result<()> {
    let corpus = directory.join("corpus").join(target);
    let artifacts = directory.join("artifacts").join(target);
    for one in [&corpus, &artifacts] {
        fs::create_dir_all(one).with_context(|| format!("cannot make {}", one.display()))?;
    }
    let mut fuzzer = program(built);
    fuzzer
        .env("MESH_FUZZ_TARGET", target)
        .arg(&corpus)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={LONGEST_SECONDS}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-print_final_stats=1", "-verbosity=0"]);
    command::run(&mut fuzzer)
        .with_context(|| format!("{target}: the input lies in {}", artifacts.display()))
}

/// The names in the table of the agent's targets.
fn targets() -> Result<Vec<String>> {
    let path = command::root().join("mesh-agent/src/fuzzing.rs");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let Some((_, table)) = text.split_once("pub const TARGETS") else {
        bail!("{} has no table of targets", path.display());
    };
    let table = table.split_once("\n];").map_or(table, |(table, _)| table);
    // A name is the first text of an entry, and alone has no prefix.
    let names = table.split('(').filter_map(|entry| {
        let entry = entry.trim_start().strip_prefix('"')?;
        Some(entry.split_once('"')?.0.to_owned())
    });
    let names: Vec<String> = names.collect();
    ensure!(!names.is_empty(), "the table of targets is empty");
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_targets_are_those_of_the_agent() {
        let targets = targets().unwrap();
        assert!(
            targets.iter().any(|name| name == "mux_frames"),
            "{targets:?}"
        );
        assert!(targets.len() >= 10, "{targets:?}");
    }
}
