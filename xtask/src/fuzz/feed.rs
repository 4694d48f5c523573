// SPDX-License-Identifier: Apache-2.0

//! Runs the fuzzer, a few targets at a time, and says of each what it did.
//!
//! What libFuzzer prints goes to a file per target, of which the figures are read; of a target that broke,
//! the end is shown. Knows nothing of how the fuzzer is built.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::Places;
use crate::command::program;

/// No parser may take more than this for one input.
const LONGEST_SECONDS: u64 = 25;

/// No parser may make the fuzzer take more memory than this.
const MOST_MEBIBYTES: u64 = 2048;

/// How often is looked who has ended; processor time is as of the last look.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// `USER_HZ`, which is the same wherever Linux runs.
const TICKS_PER_SECOND: u64 = 100;

/// So many of the last lines are shown of a target that broke.
const LAST_LINES: usize = 30;

/// A fuzzer that runs.
struct Running {
    target: String,
    child: Child,
    started: Instant,
    cpu: Duration,
    log: PathBuf,
    artifacts: PathBuf,
}

/// Runs all targets, `at_once` at a time, each for `length`. Fails if any of them broke; the others run all the same.
pub(super) fn all(
    places: &Places,
    targets: &[String],
    length: Duration,
    at_once: usize,
) -> Result<()> {
    eprintln!(
        "{} targets, {} s each, {at_once} at a time",
        targets.len(),
        length.as_secs()
    );
    let mut waiting = targets.iter();
    let (mut running, mut broken) = (Vec::new(), Vec::new());
    loop {
        while running.len() < at_once
            && let Some(target) = waiting.next()
        {
            running.push(start(places, target, length)?);
        }
        if running.is_empty() {
            break;
        }
        thread::sleep(LOOK_INTERVAL);
        let mut going = Vec::new();
        for mut one in running {
            match one.look()? {
                None => going.push(one),
                Some(status) => broken.extend(one.conclude(status)?),
            }
        }
        running = going;
    }
    if !broken.is_empty() {
        bail!("{}", broken.join("; "));
    }
    Ok(())
}

fn start(places: &Places, target: &str, length: Duration) -> Result<Running> {
    let found = |kind: &str| places.found.join(kind).join(target);
    let (corpus, seeds, artifacts) = (found("corpus"), found("seeds"), found("artifacts"));
    let logs = places.found.join("logs");
    for one in [&corpus, &seeds, &artifacts, &logs] {
        fs::create_dir_all(one).with_context(|| format!("cannot make {}", one.display()))?;
    }
    let log = logs.join(format!("{target}.log"));
    let output = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
    let mut fuzzer = program(&places.built);
    fuzzer
        .env("MESH_FUZZ_TARGET", target)
        .env("MESH_FUZZ_SEEDS", &seeds)
        // The first directory is written to, all are read.
        .args([&corpus, &seeds]);
    let kept = places.kept.join("seeds").join(target);
    if kept.is_dir() {
        fuzzer.arg(kept);
    }
    let dictionary = places
        .kept
        .join("dictionaries")
        .join(format!("{target}.dict"));
    if dictionary.is_file() {
        fuzzer.arg(format!("-dict={}", dictionary.display()));
    }
    fuzzer
        .arg(format!("-max_total_time={}", length.as_secs()))
        .arg(format!("-timeout={LONGEST_SECONDS}"))
        .arg(format!("-rss_limit_mb={MOST_MEBIBYTES}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg("-print_final_stats=1");
    let errors = output.try_clone().context("share the log")?;
    let child = fuzzer
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .with_context(|| format!("start {}", places.built.display()))?;
    Ok(Running {
        target: target.to_owned(),
        child,
        started: Instant::now(),
        cpu: Duration::ZERO,
        log,
        artifacts,
    })
}

impl Running {
    /// How it ended, if it did.
    fn look(&mut self) -> Result<Option<ExitStatus>> {
        let ended = self.child.try_wait().context("wait for a fuzzer")?;
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        if let Some(cpu) = stat.ok().and_then(|stat| processor_time(&stat)) {
            self.cpu = cpu;
        }
        Ok(ended)
    }

    /// Says what it did; what broke, if something did.
    fn conclude(self, status: ExitStatus) -> Result<Option<String>> {
        let log = fs::read(&self.log).with_context(|| format!("read {}", self.log.display()))?;
        let log = String::from_utf8_lossy(&log);
        eprintln!(
            "    {:<18}{} in {} s, {} s of processor time",
            self.target,
            Figures::read(&log),
            self.started.elapsed().as_secs(),
            self.cpu.as_secs(),
        );
        if status.success() {
            return Ok(None);
        }
        let lines: Vec<&str> = log.lines().collect();
        for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
            eprintln!("        {line}");
        }
        let input = match written(&log) {
            Some(path) => format!("the input is {path}"),
            None => format!(
                "see {} and {}",
                self.log.display(),
                self.artifacts.display()
            ),
        };
        Ok(Some(format!("{} broke ({status}): {input}", self.target)))
    }
}

/// What a fuzzer prints of itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures<'a> {
    executions: &'a str,
    edges: &'a str,
    features: &'a str,
    corpus: &'a str,
}

impl<'a> Figures<'a> {
    /// The last of each.
    fn read(log: &'a str) -> Self {
        let mut figures = Self::default();
        for line in log.lines() {
            if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
                figures.executions = count.trim();
            }
            let mut words = line.split_ascii_whitespace();
            while let Some(word) = words.next() {
                let place = match word {
                    "cov:" => &mut figures.edges,
                    "ft:" => &mut figures.features,
                    "corp:" => &mut figures.corpus,
                    _ => continue,
                };
                *place = words.next().unwrap_or_default();
            }
        }
        figures
    }
}

impl std::fmt::Display for Figures<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} inputs, {} edges, {} features, corpus {}",
            self.executions, self.edges, self.features, self.corpus
        )
    }
}

/// Where the input that broke a parser was written.
fn written(log: &str) -> Option<&str> {
    log.lines().rev().find_map(|line| {
        line.split_once("Test unit written to ")
            .map(|(_, path)| path)
    })
}

/// User's and system's, of a line of `/proc/PID/stat`.
fn processor_time(stat: &str) -> Option<Duration> {
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis(
        (user + system) * 1000 / TICKS_PER_SECOND,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
INFO: Running with entropic power schedule (0xFF, 100).
#2\tINITED cov: 12 ft: 13 corp: 1/1b exec/s: 0 rss: 39Mb
#524288\tpulse  cov: 210 ft: 900 corp: 120/34Kb lim: 4096 exec/s: 262144 rss: 90Mb
#600000\tDONE   cov: 211 ft: 901 corp: 121/34Kb lim: 4096 exec/s: 200000 rss: 91Mb
stat::number_of_executed_units: 600000
stat::average_exec_per_sec:     200000
";

    #[test]
    fn the_last_figures_count() {
        let want = Figures {
            executions: "600000",
            edges: "211",
            features: "901",
            corpus: "121/34Kb",
        };
        assert_eq!(Figures::read(LOG), want);
    }

    #[test]
    fn the_input_that_broke_a_parser_is_named() {
        let log = "x\nartifact_prefix='/a/'; Test unit written to /a/crash-1\nBase64: eA==\n";
        assert_eq!(written(log), Some("/a/crash-1"));
        assert_eq!(written(LOG), None);
    }

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a ) b) R 1 7 7 0 -1 4194560 10 0 0 0 250 50 0 0 20 0";
        assert_eq!(processor_time(stat), Some(Duration::from_secs(3)));
        assert_eq!(processor_time(""), None);
    }

    #[test]
    fn figures_of_nothing_are_empty() {
        assert_eq!(Figures::read(""), Figures::default());
    }
}
