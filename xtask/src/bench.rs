// SPDX-License-Identifier: Apache-2.0

//! `cargo xtask bench`: sets the machine up, builds the agent as it is shipped, gets an Envoy to
//! compare it with, and becomes the benchmark.
//!
//! Knows nothing of what is measured. Invariant: standard output belongs to the benchmark alone,
//! and its signals and its exit code are ours, because it takes our place.

use std::{
    env,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    artefacts::{self, Profile},
    command::program,
    envoy, instructions,
    setup::{self, Lacking, Scope},
};

/// Words that ask the benchmark something: nothing but itself is needed to answer.
const QUESTIONS: &[&str] = &["--list", "--help", "-h"];

/// The command itself; returns only when there is something wrong.
pub(crate) fn run(words: &[String]) -> Result<()> {
    if words.iter().any(|word| word == "--instructions") {
        return instructions::run();
    }
    let (given, rest) = agent(words)?;
    if rest.iter().any(|word| QUESTIONS.contains(&word.as_str())) {
        setup::ensure(&[Scope::Build])?;
        return become_bench(program(&artefacts::build("mesh-tests", "mesh-bench")?).args(rest));
    }
    Lacking::unless_root("the benchmark makes network namespaces and loads kernel programs")?;
    setup::ensure(&[Scope::Build, Scope::Nodes, Scope::Benchmark])?;
    let envoy = match env::var_os("ENVOY_BIN") {
        Some(path) => PathBuf::from(path),
        None => envoy::get()?,
    };
    let agent = match given {
        Some(path) => path,
        None => artefacts::agent_of(Profile::Release)?,
    };
    let bench = artefacts::build("mesh-tests", "mesh-bench")?;
    let mut command = program(&bench);
    // Files that it is told to write are where the caller is.
    command.current_dir(env::current_dir().context("the working directory is gone")?);
    command.env("MESH_AGENT_BIN", agent).env("ENVOY_BIN", envoy);
    become_bench(command.args(rest))
}

/// Returns only when it cannot be started.
fn become_bench(command: &mut Command) -> Result<()> {
    let failed = command.exec();
    Err(failed).with_context(|| format!("start {}", command.get_program().display()))
}

/// The agent after `--agent`, which is measured as it is, and the words for the benchmark.
fn agent(words: &[String]) -> Result<(Option<PathBuf>, Vec<String>)> {
    let mut rest = words.to_vec();
    let Some(at) = rest.iter().position(|word| word == "--agent") else {
        return Ok((None, rest));
    };
    rest.remove(at);
    if at == rest.len() {
        return Err(Lacking::usage("bench: --agent needs a path".to_owned()));
    }
    let path = rest.remove(at);
    let whole = Path::new(&path).canonicalize();
    let whole = whole.with_context(|| format!("bench --agent {path}"))?;
    ensure!(whole.is_file(), "bench --agent {path}: not a file");
    Ok((Some(whole), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn an_agent_to_measure_is_taken_out_of_the_words() {
        let own = env::current_exe().expect("a program knows its own path");
        let line = format!("--quick --agent {} --rounds 2", own.display());
        let (agent, rest) = agent(&words(&line)).expect("it is there");
        assert_eq!(agent, own.canonicalize().ok());
        assert_eq!(rest, words("--quick --rounds 2"));
    }

    #[test]
    fn an_agent_that_is_not_there_is_an_error() {
        assert!(agent(&words("--agent")).is_err());
        assert!(agent(&words("--agent /nowhere/agent")).is_err());
        assert_eq!(agent(&words("--quick")).expect("nothing named").0, None);
    }
}
