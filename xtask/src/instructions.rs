// SPDX-License-Identifier: Apache-2.0

//! `cargo xtask bench --instructions`: how many instructions the hot pieces of the data path take.
//!
//! Counted by valgrind's callgrind, so the same on a busy machine as on a quiet one, and the same tomorrow: what
//! time cannot show of a small change. Not what the processor needs for them, and not with its newest
//! instructions: callgrind knows fewer than the processor has.
//! Invariant: what starting and ending the program takes is not counted.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{
    artefacts::PROFILE,
    command::{self, cargo, program},
    pins,
    setup::{self, Scope},
};

/// A piece is done so often, and then so often: the difference counts.
const TIMES: [u64; 2] = [100, 1_100];

/// The command itself.
#[allow(
    clippy::print_stdout,
    reason = "the table was asked for: it goes to standard output"
)]
pub(crate) fn run() -> Result<()> {
    setup::ensure(&[Scope::Build, Scope::Benchmark])?;
    let pieces = build()?;
    let names = command::output(program(&pieces).arg("--names"));
    let names = names.context("the benchmark does not say which pieces there are")?;
    println!("| piece | instructions |\n| --- | ---: |");
    for name in names.lines() {
        let [few, many] = TIMES.map(|times| count(&pieces, name, times));
        let each = (many?.saturating_sub(few?)) / (TIMES[1] - TIMES[0]);
        println!("| {name} | {each} |");
    }
    Ok(())
}

/// Builds the benchmark of the pieces and returns its path.
fn build() -> Result<PathBuf> {
    let mut build = cargo(&pins::STABLE);
    build.args(["bench", "--locked", "--no-run", "--profile", PROFILE.name()]);
    build.args(["--package", "mesh-agent", "--features", "fuzzing"]);
    build.args(["--bench", "pieces"]);
    let ended = build.output().context("start cargo")?;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure!(ended.status.success(), "{said}");
    let path = executable(&said).with_context(|| format!("cargo built no benchmark: {said}"))?;
    Ok(command::root().join(path))
}

/// What cargo says that it built.
fn executable(said: &str) -> Option<&str> {
    let line = said
        .lines()
        .find(|line| line.contains("benches/pieces.rs"))?;
    line.rsplit_once('(')?.1.strip_suffix(')')
}

/// All instructions of a process that does a piece so often.
fn count(pieces: &Path, name: &str, times: u64) -> Result<u64> {
    let mut valgrind = program("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    valgrind
        .arg(pieces)
        .args(["--count", name, &times.to_string()]);
    let ended = valgrind.output().context("start valgrind")?;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure!(ended.status.success(), "{name}: valgrind: {said}");
    collected(&said).with_context(|| format!("{name}: valgrind counted nothing: {said}"))
}

/// The number in callgrind's last words.
fn collected(said: &str) -> Option<u64> {
    let line = said.lines().rev().find(|line| line.contains("Collected"))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_in_cargos_last_words() {
        let said = "    Finished `fast` profile in 1s\n  Executable benches/pieces.rs (target/fast/deps/pieces-12)\n";
        assert_eq!(executable(said), Some("target/fast/deps/pieces-12"));
        assert_eq!(executable("    Finished\n"), None);
    }

    #[test]
    fn the_count_is_in_callgrinds_last_words() {
        let said = "==7== Events    : Ir\n==7== Collected : 1234567\n==7== \n";
        assert_eq!(collected(said), Some(1_234_567));
        assert_eq!(collected("==7== Events    : Ir\n"), None);
    }
}
