// SPDX-License-Identifier: Apache-2.0

//! How each measure is taken: which tool, with which words, and what its figures are.
//!
//! Knows nothing of rounds and planes' insides. Invariant: a figure's name says its unit.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{
    account::{self, Memory},
    application, load,
    options::Options,
    plan::{Load, Measure},
    plane::Plane,
    rival::Flood,
    sample::{self, Job, PER_10K, PER_GIB, Ran},
    stage::{GRPC, HOST, HTTP1, HTTP2, TCP},
    statistics::{Figures, quantile},
    tool,
};

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
const TEN_THOUSAND: f64 = 10_000.0;

/// Connections at a fixed rate.
const FIXED_CONNECTIONS: u32 = 16;

/// Requests in the first half second at a fixed rate do not count.
const WARM_UP: f64 = 0.5;

/// Figures, and what part of the machine others used meanwhile.
pub(super) type Taken = Result<(Figures, f64), String>;

/// Takes one sample.
///
/// # Errors
/// What the tool complained about.
pub(super) fn take(plane: &Plane, measure: &Measure, options: &Options) -> Taken {
    let seconds = options.seconds;
    let with_memory = measure.key == "h1_c64";
    match measure.load {
        Load::Idle => {
            thread::sleep(REST.saturating_sub(plane.since.elapsed()));
            Ok((memory_figures(&account::memory(&plane.pids())), 0.0))
        }
        Load::Http1 { connections } => {
            let command = wrk(plane, connections, seconds, &[], "/");
            requests(plane, command, seconds, with_memory, tool::wrk)
        }
        Load::Large { connections } => {
            let command = wrk(plane, connections, seconds, &[], "/large");
            large(plane, command, seconds)
        }
        Load::NewConnections => {
            let command = wrk(plane, 16, seconds, &["-H", "Connection: close"], "/");
            requests(plane, command, seconds, false, tool::wrk)
        }
        Load::Http2 { connections } => {
            let mut command = h2load(plane, connections, seconds);
            command.arg(format!("http://{HOST}:{HTTP2}/"));
            requests(plane, command, seconds, false, tool::h2load)
        }
        Load::Grpc { connections } => {
            let mut command = h2load(plane, connections, seconds);
            command.args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
            command.arg("-d").arg(plane.stage.grpc_body());
            command.arg(format!("http://{HOST}:{GRPC}{}", application::METHOD));
            requests(plane, command, seconds, false, tool::h2load)
        }
        Load::Fixed { rate } => fixed(plane, rate, options.fixed_seconds),
        Load::Neighbour { flood } => neighbour(plane, flood, options.fixed_seconds),
        Load::Bulk => bulk(plane, seconds),
        Load::Hold { connections } => hold(plane, connections),
    }
}

fn wrk(plane: &Plane, connections: u32, seconds: u32, more: &[&str], path: &str) -> Command {
    let mut command = plane.stage.client.command("wrk");
    command.args(["-t", threads(connections), "-c", &connections.to_string()]);
    command.args(["-d", &format!("{seconds}s"), "--timeout", "5s"]);
    command
        .args(more)
        .arg(format!("http://{HOST}:{HTTP1}{path}"));
    command
}

fn h2load(plane: &Plane, connections: u32, seconds: u32) -> Command {
    let mut command = plane.stage.client.command("h2load");
    command.args(["-t", threads(connections), "-c", &connections.to_string()]);
    command.args(["-m", "10", "-D", &seconds.to_string()]);
    command
}

fn threads(connections: u32) -> &'static str {
    if connections > 1 { "2" } else { "1" }
}

/// A tool that asks as fast as it can.
fn requests(
    plane: &Plane,
    command: Command,
    seconds: u32,
    with_memory: bool,
    understand: impl Fn(&str) -> Result<tool::Requests, String>,
) -> Taken {
    let job = job(command, f64::from(seconds), with_memory);
    let ran = sample::run(plane, job)?;
    let found = understand(&ran.output)?;
    let mut figures = ran.cost(found.answered, TEN_THOUSAND, &PER_10K);
    let rate = found.rate.unwrap_or(found.answered / f64::from(seconds));
    figures.extend([("rps", rate), ("errors", found.errors)]);
    if let Some(memory) = ran.memory {
        figures.extend(memory_figures(&memory));
    }
    Ok((figures, ran.foreign))
}

/// Requests for the large body: bytes count, not requests.
fn large(plane: &Plane, command: Command, seconds: u32) -> Taken {
    let ran = sample::run(plane, job(command, f64::from(seconds), false))?;
    let found = tool::wrk(&ran.output)?;
    let bytes = found.answered * 1024.0 * 1024.0;
    let rate = found.rate.unwrap_or(0.0);
    let mut figures = ran.cost(bytes, GIB, &PER_GIB);
    let gbps = rate * 1024.0 * 1024.0 * 8.0 / 1e9;
    figures.extend([("rps", rate), ("gbps", gbps), ("errors", found.errors)]);
    Ok((figures, ran.foreign))
}

fn fixed(plane: &Plane, rate: u32, seconds: u32) -> Taken {
    let seconds = f64::from(seconds);
    let address = plane.stage.address(HTTP1).to_string();
    let mut command = own_tool(plane);
    command.args(["fixed", &address, HOST]);
    for number in [
        f64::from(FIXED_CONNECTIONS),
        f64::from(rate),
        seconds,
        WARM_UP,
    ] {
        command.arg(number.to_string());
    }
    let ran = sample::run(plane, job(command, seconds + WARM_UP, false))?;
    let found = tool::fixed(&ran.output)?;
    // The warm-up's requests cost as much as the counted ones.
    let asked = f64::from(rate) * (seconds + WARM_UP);
    let mut figures = ran.cost(asked, TEN_THOUSAND, &PER_10K);
    for (name, thousandths) in QUANTILES {
        figures.insert(name, quantile(&found.microseconds, *thousandths));
    }
    figures.extend([("errors", found.errors), ("late", found.late)]);
    Ok((figures, ran.foreign))
}

/// Requests per second of a neighbour.
const NEIGHBOUR_RATE: u32 = 1000;

/// Before a flood is one, and after what is measured beside it, in seconds.
const FLOOD_MARGIN: u32 = 5;

/// Latencies beside a flood, and by how much that moves them. What it costs says nothing: it is the flood's.
fn neighbour(plane: &Plane, flood: Flood, seconds: u32) -> Taken {
    let rival = plane.stage.rival.as_ref();
    let rival = rival.ok_or("nobody is there who floods")?;
    let (alone, foreign) = fixed(plane, NEIGHBOUR_RATE, seconds)?;
    let mut flooding = rival.flood(flood, seconds + FLOOD_MARGIN)?;
    let (mut figures, _) = fixed(plane, NEIGHBOUR_RATE, seconds)?;
    if !flooding.goes_on() {
        return Err("the flood ended too early".to_owned());
    }
    figures.retain(|name, _| *name == "errors" || QUANTILES.iter().any(|(known, _)| known == name));
    for (moved, of) in [("p50_moved", "p50_us"), ("p99_moved", "p99_us")] {
        figures.insert(moved, figures[of] / alone[of].max(1.0));
    }
    Ok((figures, foreign))
}

/// Names of latencies, and which of a thousand each is.
pub(super) const QUANTILES: &[(&str, usize)] = &[
    ("p50_us", 500),
    ("p90_us", 900),
    ("p99_us", 990),
    ("p999_us", 999),
];

fn bulk(plane: &Plane, seconds: u32) -> Taken {
    let mut command = plane.stage.client.command("iperf3");
    command.args(["--client", HOST, "--port", &TCP.to_string(), "--json"]);
    command.args(["--time", &seconds.to_string()]);
    let ran: Ran = sample::run(plane, job(command, f64::from(seconds), false))?;
    let found = tool::iperf3(&ran.output)?;
    let mut figures = ran.cost(found.bytes, GIB, &PER_GIB);
    figures.extend([("gbps", found.bits_per_second / 1e9), ("errors", 0.0)]);
    Ok((figures, ran.foreign))
}

/// How long a plane rests from its start and its first requests before it counts as idle.
const REST: Duration = Duration::from_secs(5);

/// How long connections idle before memory is looked at.
const SETTLE: Duration = Duration::from_secs(1);

/// Seconds after which connections are let go whatever happens, for `timeout`.
const HOLD_AT_MOST: &str = "60";

fn hold(plane: &Plane, connections: u32) -> Taken {
    let before = account::memory(&plane.pids());
    let address = plane.stage.address(HTTP1).to_string();
    let own = own_program();
    let mut command = plane.stage.client.command("timeout");
    command.arg(HOLD_AT_MOST).arg(own).arg(load::VERB);
    command.args(["hold", &address, HOST, &connections.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().map_err(|error| format!("hold: {error}"))?;
    let mut line = String::new();
    let read = child
        .stdout
        .take()
        .map(|out| BufReader::new(out).read_line(&mut line));
    let opened = start.elapsed().as_secs_f64();
    thread::sleep(SETTLE);
    let after = account::memory(&plane.pids());
    drop(child.stdin.take());
    crate::command::stop(&mut child, Duration::from_secs(5));
    let (held, failed) = tool::held(&line).map_err(|error| format!("{error} ({read:?})"))?;
    let mut figures = memory_figures(&after);
    let grown = (after.anonymous - before.anonymous) * 1024.0;
    figures.extend([
        ("errors", failed),
        ("open_s", opened),
        ("anon_kib_per_connection", grown / held.max(1.0)),
    ]);
    Ok((figures, 0.0))
}

fn memory_figures(memory: &Memory) -> Figures {
    Figures::from([
        ("rss_mib", memory.resident),
        ("anon_mib", memory.anonymous),
        ("pss_mib", memory.proportional),
    ])
}

/// Our own load tool, in the client's pod.
fn own_tool(plane: &Plane) -> Command {
    let mut command = plane.stage.client.command(own_program());
    command.arg(load::VERB);
    command
}

fn own_program() -> PathBuf {
    std::env::current_exe().expect("a program knows its own path")
}

fn job(command: Command, seconds: f64, with_memory: bool) -> Job {
    Job {
        command,
        seconds,
        with_memory,
    }
}
