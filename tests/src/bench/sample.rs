// SPDX-License-Identifier: Apache-2.0

//! One load tool at work in a client's pod, and the CPU time that everybody used meanwhile.
//!
//! Knows nothing of what the tool measures. Invariants: a tool that does not end is killed; a
//! tool that fails is an error with what it wrote, never a figure.

use std::{
    fs::{self, File},
    panic::{self, AssertUnwindSafe},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{
    account::{self, Machine, Memory},
    plane::Plane,
    statistics::Figures,
};

/// Between two looks whether the tool has ended.
const LOOK: Duration = Duration::from_millis(5);

/// What came of one tool.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) output: String,
    /// CPU seconds of the data plane, of the applications and of the tool.
    pub(super) proxies: f64,
    applications: f64,
    client: f64,
    /// What part of the machine others used.
    pub(super) foreign: f64,
    /// The data plane's memory late in the run, if it was asked for.
    pub(super) memory: Option<Memory>,
}

/// How to run a tool.
pub(super) struct Job {
    pub(super) command: Command,
    /// How long it will take.
    pub(super) seconds: f64,
    pub(super) with_memory: bool,
}

/// CPU time up to now.
struct Clocks {
    machine: Machine,
    proxies: f64,
    applications: f64,
    children: f64,
    own: f64,
}

impl Clocks {
    fn read(proxies: &[u32], applications: &[u32]) -> Self {
        Self {
            proxies: account::cpu_seconds(proxies),
            applications: account::cpu_seconds(applications),
            children: account::ended_children_seconds(),
            own: account::cpu_seconds(&[std::process::id()]),
            machine: Machine::now(),
        }
    }
}

/// Runs a tool against a plane.
///
/// # Errors
/// What the tool complained about, or that it did not end.
pub(super) fn run(plane: &Plane, mut job: Job) -> Result<Ran, String> {
    let (proxies, applications) = (plane.pids(), plane.stage.application_pids());
    let path = plane.stage.lab.directory().join("tool");
    let create = |kind| File::create(path.with_extension(kind)).map_err(|error| error.to_string());
    let read = |kind| fs::read_to_string(path.with_extension(kind)).unwrap_or_default();
    job.command.stdin(Stdio::null());
    job.command.stdout(create("out")?).stderr(create("err")?);
    let before = Clocks::read(&proxies, &applications);
    let memory = finish(&mut job, &proxies)
        .map_err(|error| format!("{error}: {}{}", last(&read("err")), last(&read("out"))))?;
    let after = Clocks::read(&proxies, &applications);
    let used = (
        after.proxies - before.proxies,
        after.applications - before.applications,
        after.children - before.children,
    );
    let ours = used.0 + used.1 + used.2 + after.own - before.own;
    let others = after.machine.busy_since(&before.machine) - ours;
    Ok(Ran {
        output: read("out"),
        proxies: used.0,
        applications: used.1,
        client: used.2,
        foreign: after.machine.share(others, &before.machine),
        memory,
    })
}

/// Starts the tool and waits for it.
fn finish(job: &mut Job, proxies: &[u32]) -> Result<Option<Memory>, String> {
    let spawned = job.command.spawn();
    let mut child = spawned.map_err(|error| format!("{:?}: {error}", job.command))?;
    let start = Instant::now();
    let deadline = Duration::from_secs_f64(job.seconds * 2.0 + 8.0);
    let look_at_memory = Duration::from_secs_f64(job.seconds * 0.7);
    let mut memory = None;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(memory),
            Ok(Some(status)) => return Err(format!("{:?} ended with {status}", job.command)),
            Ok(None) if start.elapsed() < deadline => {}
            late => {
                crate::command::stop(&mut child, Duration::ZERO);
                return Err(format!("{:?} did not end: {late:?}", job.command));
            }
        }
        if job.with_memory && memory.is_none() && start.elapsed() > look_at_memory {
            memory = Some(account::memory(proxies));
        }
        thread::sleep(LOOK);
    }
}

fn last(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}

impl Ran {
    /// CPU seconds per `unit` of the `count` things that were done.
    pub(super) fn cost(&self, count: f64, unit: f64, names: &CostNames) -> Figures {
        let per = unit / count.max(1.0);
        let all = self.proxies + self.applications + self.client;
        Figures::from([
            (names.proxies, self.proxies * per),
            (names.all, all * per),
            (names.applications, self.applications * per),
            (names.client, self.client * per),
        ])
    }
}

/// What the four costs are called.
pub(super) struct CostNames {
    pub(super) proxies: &'static str,
    pub(super) all: &'static str,
    applications: &'static str,
    client: &'static str,
}

/// Per 10,000 requests.
pub(super) const PER_10K: CostNames = CostNames {
    proxies: "proxy_cpu_s_10k",
    all: "all_cpu_s_10k",
    applications: "app_cpu_s_10k",
    client: "client_cpu_s_10k",
};

/// Per GiB.
pub(super) const PER_GIB: CostNames = CostNames {
    proxies: "proxy_cpu_s_gib",
    all: "all_cpu_s_gib",
    applications: "app_cpu_s_gib",
    client: "client_cpu_s_gib",
};

/// Runs `work`; a fixture's panic becomes an error, since other planes can still be measured.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(text.unwrap_or_else(|| "panicked".to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_with_its_text() {
        let number = 7;
        let error = guarded::<()>(|| panic!("no plane {number}")).expect_err("it panicked");
        assert_eq!(error, "no plane 7");
        assert_eq!(guarded(|| Ok(1)), Ok(1));
    }

    #[test]
    fn costs_are_per_unit() {
        let ran = Ran {
            output: String::new(),
            proxies: 2.0,
            applications: 1.0,
            client: 0.5,
            foreign: 0.0,
            memory: None,
        };
        let cost = ran.cost(20_000.0, 10_000.0, &PER_10K);
        assert_eq!(cost[PER_10K.proxies], 1.0);
        assert_eq!(cost[PER_10K.all], 1.75);
    }
}
