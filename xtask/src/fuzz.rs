// SPDX-License-Identifier: Apache-2.0

//! `cargo xtask fuzz [TARGET] [--seconds N | --minutes N]`: the agent's parsers of foreign bytes, with libFuzzer.
//!
//! Builds `tests/fuzz` with coverage once and runs one target, or all of them, two at a time. What
//! was found interesting is kept in `target/fuzz/corpus` for the next time; an input that breaks a
//! parser lies in `target/fuzz/artifacts`, and the command fails. Inputs that once did lie in `tests/fuzz/seeds`,
//! by target: every run begins with them, and so do the unit tests, which run the same targets for
//! some hundred inputs: this is for minutes and hours.
//! Invariant: no nightly and no further tool; coverage is a pass of the pinned compiler.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    command::{self, cargo},
    pins,
    setup::{self, Lacking, Scope},
};

mod feed;

/// How long each target runs if nobody says.
const SECONDS: u64 = 10;

/// How long all targets run together as a part of all tests.
const MINUTES_OF_TESTS: u64 = 5;

/// So many targets run at the same time: each has one thread.
const AT_ONCE: usize = 2;

/// What libFuzzer wants of the compiler.
const FLAGS: &str = "--cfg fuzzing \
    -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// How long to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    /// Each target.
    Seconds(u64),
    /// All targets together.
    Minutes(u64),
}

/// Where the fuzzer finds and leaves what.
struct Places {
    /// The fuzzer itself.
    built: PathBuf,
    /// What it leaves.
    found: PathBuf,
    /// What is in the repository.
    kept: PathBuf,
}

/// The command itself.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let (chosen, length) = read(words)?;
    let mut targets = targets()?;
    if let Some(name) = chosen {
        if !targets.contains(&name) {
            let known = targets.join(", ");
            let text = format!("no target {name:?}; there are: {known}");
            return Err(Lacking::usage(text));
        }
        targets = vec![name];
    }
    setup::ensure(&[Scope::Build])?;
    feed_all(&targets, length)
}

/// As a part of all tests: a while for each target.
pub(crate) fn for_tests(filter: Option<&str>) -> Result<()> {
    let mut targets = targets()?;
    targets.retain(|name| filter.is_none_or(|part| name.contains(part)));
    if targets.is_empty() {
        return Ok(());
    }
    feed_all(&targets, Length::Minutes(MINUTES_OF_TESTS))
}

fn read(words: &[String]) -> Result<(Option<String>, Length)> {
    let (mut chosen, mut length) = (None, Length::Seconds(SECONDS));
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut number = || {
            let number = words.next().and_then(|text| text.parse().ok());
            number.ok_or_else(|| Lacking::usage(format!("{word} takes a number")))
        };
        match word.as_str() {
            "--seconds" => length = Length::Seconds(number()?),
            "--minutes" => length = Length::Minutes(number()?),
            name if chosen.is_none() && !name.starts_with('-') => chosen = Some(name.to_owned()),
            other => return Err(Lacking::usage(format!("fuzz does not know {other:?}"))),
        }
    }
    Ok((chosen, length))
}

fn feed_all(targets: &[String], length: Length) -> Result<()> {
    let places = build()?;
    let each = length.of_each(targets.len());
    feed::all(&places, targets, each, AT_ONCE)
}

impl Length {
    /// For how long each of so many targets runs.
    fn of_each(self, targets: usize) -> Duration {
        let seconds = match self {
            Self::Seconds(seconds) => seconds,
            Self::Minutes(minutes) => {
                let rounds = u64::try_from(targets.div_ceil(AT_ONCE)).unwrap_or(u64::MAX);
                minutes * 60 / rounds.max(1)
            }
        };
        Duration::from_secs(seconds.max(1))
    }
}

fn build() -> Result<Places> {
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
    Ok(Places {
        built: directory.join(host).join("debug/parsers"),
        found: directory,
        kept: command::root().join("tests/fuzz"),
    })
}

/// The names in the table of the agent's targets.
fn targets() -> Result<Vec<String>> {
    let path = command::root().join("mesh-agent/src/fuzzing.rs");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    names(&text, &path)
}

fn names(text: &str, path: &Path) -> Result<Vec<String>> {
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

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_targets_are_those_of_the_agent() {
        let targets = targets().unwrap();
        for name in ["mux_frames", "hbone_server", "http1_request", "manifests"] {
            assert!(targets.iter().any(|known| known == name), "{targets:?}");
        }
        assert!(targets.len() >= 20, "{targets:?}");
    }

    #[test]
    fn what_is_kept_in_the_repository_is_of_targets_that_there_are() {
        let targets = targets().unwrap();
        for kind in ["seeds", "dictionaries"] {
            let directory = command::root().join("tests/fuzz").join(kind);
            // Without any input that broke a parser there is no directory for them.
            for entry in fs::read_dir(directory).into_iter().flatten() {
                let path = entry.unwrap().path();
                let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                assert!(targets.contains(&name), "{}", path.display());
            }
        }
    }

    #[test]
    fn minutes_are_divided_among_all_targets() {
        let (chosen, length) = read(&words("--minutes 5")).unwrap();
        assert_eq!((chosen, length), (None, Length::Minutes(5)));
        assert_eq!(length.of_each(20), Duration::from_secs(30));
        assert_eq!(length.of_each(1), Duration::from_secs(300));
        let (chosen, length) = read(&words("sniff --seconds 3600")).unwrap();
        assert_eq!(chosen.as_deref(), Some("sniff"));
        assert_eq!(length.of_each(20), Duration::from_secs(3600));
        assert!(read(&words("--seconds")).is_err());
    }
}
