// SPDX-License-Identifier: Apache-2.0

//! Load that needs a tool of our own: requests at a fixed rate, and connections that idle.
//!
//! A program of its own (`mesh-bench load ...`), so that its CPU time is not the benchmark's.
//! Knows nothing of meshes. Invariant of `fixed`: a stall is not hidden. Requests are planned
//! evenly over time; a latency runs from the sending, or, when the answer before it came too late
//! to send in time, from the moment that was planned.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    num::NonZeroU64,
    thread,
    time::{Duration, Instant},
};

use rustix::thread::set_current_timer_slack;
use serde_json::json;

mod exchange;

use self::exchange::Exchange;

/// The word that makes `mesh-bench` this tool.
pub const VERB: &str = "load";

/// Until all connections are open and the first request is due.
const LEAD: Duration = Duration::from_millis(300);

/// After so many failures on one connection the rest would fail too.
const MOST_FAILURES: u32 = 50;

/// What `mesh-bench load` was asked to do.
#[derive(Debug, PartialEq)]
pub enum Task {
    /// Requests at a fixed rate.
    Fixed(Fixed),
    /// Connections that have had one request and idle until standard input ends.
    Hold(Hold),
}

/// Requests at a fixed rate.
#[derive(Clone, Debug, PartialEq)]
pub struct Fixed {
    server: Server,
    connections: u32,
    /// Requests per second over all connections.
    rate: f64,
    seconds: f64,
    /// Requests of so many seconds at the start are not counted.
    warm_up: f64,
}

/// Connections to hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Hold {
    server: Server,
    connections: u32,
}

/// Whom to ask.
#[derive(Clone, Debug, PartialEq)]
struct Server {
    address: SocketAddr,
    host: String,
}

/// Reads the words after `mesh-bench load`.
///
/// # Errors
/// What is wrong with them.
pub fn parse(words: &[String]) -> Result<Task, String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let server = |address: &str, host: &str| {
        let address = address
            .parse()
            .map_err(|error| format!("address {address:?}: {error}"))?;
        let host = host.to_owned();
        Ok::<_, String>(Server { address, host })
    };
    match words[..] {
        ["fixed", address, host, connections, rate, seconds, warm_up] => Ok(Task::Fixed(Fixed {
            server: server(address, host)?,
            connections: number(connections)?,
            rate: number(rate)?,
            seconds: number(seconds)?,
            warm_up: number(warm_up)?,
        })),
        ["hold", address, host, connections] => Ok(Task::Hold(Hold {
            server: server(address, host)?,
            connections: number(connections)?,
        })),
        _ => Err(
            "load: fixed ADDRESS HOST CONNECTIONS RATE SECONDS WARM_UP, \
                  or hold ADDRESS HOST CONNECTIONS"
                .to_owned(),
        ),
    }
}

fn number<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|error| format!("number {text:?}: {error}"))
}

/// Carries out a task and prints what came of it.
///
/// # Errors
/// When standard output or input fails.
pub fn run(task: &Task) -> io::Result<()> {
    match task {
        Task::Fixed(fixed) => fixed.run(),
        Task::Hold(hold) => hold.run(),
    }
}

/// What one connection saw.
#[derive(Debug, Default)]
struct Seen {
    microseconds: Vec<u32>,
    failures: u32,
    late: u32,
}

impl Fixed {
    fn run(&self) -> io::Result<()> {
        let start = Instant::now() + LEAD;
        let mut all = Seen::default();
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.connections)
                .map(|index| scope.spawn(move || self.connection(index, start)))
                .collect();
            for running in threads {
                let seen = running.join().expect("a connection counts its failures");
                all.microseconds.extend(seen.microseconds);
                all.failures += seen.failures;
                all.late += seen.late;
            }
        });
        all.microseconds.sort_unstable();
        let report = json!({
            "errors": all.failures, "late": all.late, "microseconds": all.microseconds,
        });
        writeln!(io::stdout(), "{report}")
    }

    /// One connection's share of the plan: every so-manieth request.
    fn connection(&self, index: u32, start: Instant) -> Seen {
        // A sleeper wakes when it is due and not up to 50 us later.
        set_current_timer_slack(NonZeroU64::new(1)).unwrap_or(());
        let between = Duration::from_secs_f64(1.0 / self.rate);
        let counted_from = start + Duration::from_secs_f64(self.warm_up);
        let end = counted_from + Duration::from_secs_f64(self.seconds);
        let mut exchange = Exchange::new(self.server.address, &self.server.host);
        exchange.open();
        let mut seen = Seen::default();
        let mut plan = start + between * index;
        while plan < end && seen.failures <= MOST_FAILURES {
            let now = Instant::now();
            let from = if now <= plan {
                thread::sleep(plan - now);
                Instant::now()
            } else {
                seen.late += 1;
                plan
            };
            if exchange.ask().is_err() {
                seen.failures += 1;
            } else if plan >= counted_from {
                let took = u32::try_from(from.elapsed().as_micros());
                seen.microseconds.push(took.unwrap_or(u32::MAX));
            }
            plan += between * self.connections;
        }
        seen
    }
}

impl Hold {
    fn run(&self) -> io::Result<()> {
        let mut open: Vec<TcpStream> = Vec::new();
        let mut failed = 0;
        for _ in 0..self.connections {
            let mut exchange = Exchange::new(self.server.address, &self.server.host);
            match exchange.ask().and_then(|()| exchange.into_stream()) {
                Ok(stream) => open.push(stream),
                Err(_) if failed >= MOST_FAILURES => break,
                Err(_) => failed += 1,
            }
        }
        writeln!(io::stdout(), "held {} failed {failed}", open.len())?;
        io::stdout().flush()?;
        io::stdin().read_to_end(&mut Vec::new()).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_task_is_read_from_its_words() {
        let task = parse(&words("hold 10.0.0.1:80 app 5000")).expect("it is well formed");
        let Task::Hold(hold) = task else {
            panic!("{task:?}")
        };
        assert_eq!(hold.connections, 5000);
        assert_eq!(hold.server.host, "app");
    }

    #[test]
    fn what_is_wrong_with_a_task_is_said() {
        for (line, want) in [
            ("hold app:80 app 1", "address"),
            ("fixed 10.0.0.1:80 app 16 fast 8 1", "number \"fast\""),
            ("stare", "hold ADDRESS"),
        ] {
            let error = parse(&words(line)).expect_err(line);
            assert!(error.contains(want), "{error}");
        }
    }
}
