// SPDX-License-Identifier: Apache-2.0

//! The benchmark: data planes side by side in one run, each between its own two pods.
//!
//! Every plane is up all the time; measures are taken in turn, plane after plane and round after
//! round, so that what the machine does meanwhile meets all of them. Knows nothing of how a plane
//! works but how it is started. Invariants: a plane is only measured after it was seen to answer
//! and its wire was looked at; what a load tool calls a failure is counted and shown; everything
//! is bounded in time.

pub mod application;
pub mod load;
pub mod options;

mod account;
mod certificates;
mod congestion;
mod envoy;
mod json;
mod measure;
mod peer;
mod plan;
mod plane;
mod plot;
mod ratios;
mod report;
mod rival;
mod round;
mod sample;
mod stage;
mod statistics;
mod tool;
mod wire_check;

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub use self::options::Options;
use self::{
    account::Machine,
    plane::{Plane, Wanted},
    report::Facts,
    round::Rounds,
};

/// Files that 5,000 connections through three programs of one machine take, and some.
const OPEN_FILES: u64 = 65_536;

/// Says on standard error what is going on, with the time since the start.
struct Progress(Instant);

impl Progress {
    fn say(&self, what: &str) {
        eprintln!("[{:5.1} s] {what}", self.0.elapsed().as_secs_f64());
    }
}

/// Whether the files that are asked for can be written: to be found out before the work.
///
/// # Errors
/// Which cannot, and why.
pub fn check_files(options: &Options) -> Result<(), String> {
    for path in [&options.json, &options.plot].into_iter().flatten() {
        let opened = fs::OpenOptions::new().append(true).create(true).open(path);
        opened.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// Runs the benchmark, prints its tables, and says whether all of it could be measured.
///
/// # Panics
/// When the machine cannot carry it: no root, no namespaces, no nginx.
pub fn run(options: &Options) -> bool {
    let progress = Progress(Instant::now());
    raise_open_files();
    let mut facts = Facts::new(options);
    let mut planes = Vec::new();
    for wanted in &options.planes {
        match bring_up(wanted, options, &progress) {
            Ok((plane, wire)) => {
                facts.wire.insert(plane.name.clone(), wire);
                facts.congestion_control = plane.stage.congestion_control();
                planes.push(plane);
            }
            Err(reason) => facts.failures.push(format!("{}: {reason}", wanted.name())),
        }
    }
    if !planes.is_empty() && facts.congestion_control != options.congestion {
        let (has, wanted) = (&facts.congestion_control, &options.congestion);
        progress.say(&format!(
            "TCP has {has}: this system does not give namespaces {wanted}"
        ));
    }
    let mut rounds = Rounds::new(options, &planes, &progress);
    rounds.take_all(&mut facts.failures);
    let samples = rounds.into_samples();
    progress.say("cleaning up");
    planes.into_iter().for_each(Plane::down);
    facts.seconds = progress.0.elapsed().as_secs_f64();
    print(&report::markdown(&facts, &samples));
    write_files(options, &facts, &samples) && facts.failures.is_empty()
}

/// Sets up one plane and looks at its wire; what goes wrong is said, and costs only this plane.
fn bring_up(
    wanted: &Wanted,
    options: &Options,
    progress: &Progress,
) -> Result<(Plane, String), String> {
    progress.say(&format!("{}: {}", wanted.name(), wanted.about()));
    sample::guarded(|| {
        let plane = Plane::up(wanted, options);
        let wire = wire_check::look(&plane)?;
        progress.say(&format!("{}: wire: {wire}", plane.name));
        if options.loss > 0.0 && !wanted.one_node {
            plane.stage.lose(options.loss);
        }
        Ok((plane, wire))
    })
}

/// Writes what was asked for; whether that went well.
fn write_files(options: &Options, facts: &Facts, samples: &statistics::Samples) -> bool {
    let mut written = true;
    let files = [
        (&options.json, json::document(facts, samples)),
        (&options.plot, plot::svg(&ratios::all(samples))),
    ];
    for (path, text) in files {
        if let Some(path) = path
            && let Err(error) = fs::write(path, text)
        {
            eprintln!("error: {}: {error}", path.display());
            written = false;
        }
    }
    written
}

/// Children inherit the limit: load tools, applications and proxies alike.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let wanted = Rlimit {
        current: Some(OPEN_FILES.min(hard)),
        maximum: limit.maximum,
    };
    if limit.current.is_some_and(|current| current < OPEN_FILES) {
        // With a lower limit the measures with many connections fail, and say so.
        setrlimit(Resource::Nofile, wanted).unwrap_or(());
    }
}

/// Waits until others leave the machine alone, `patience` at most.
fn wait_quiet(share: f64, patience: Duration) {
    const LOOK: Duration = Duration::from_millis(200);
    let start = Instant::now();
    while start.elapsed() < patience {
        let before = Machine::now();
        std::thread::sleep(LOOK);
        if Machine::now().share_since(&before) <= share {
            break;
        }
    }
}

#[allow(clippy::print_stdout, reason = "the result is what was asked for")]
fn print(text: &str) {
    println!("{text}");
}
