// SPDX-License-Identifier: Apache-2.0

//! What `/proc` says about CPU time and memory, of some processes and of the machine.
//!
//! CPU time comes from the scheduler's nanosecond counters of every thread. Kernel work in
//! interrupts is charged to whoever was running, so a data plane in the kernel is judged fairly
//! only by the sum over proxies, application and load tool. Knows nothing of who the processes
//! are. Invariant: a process that is gone counts as nothing.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

/// Ticks per second of what `/proc` counts in ticks, on every Linux of ours.
const TICKS: f64 = 100.0;

/// CPU seconds that `pids` used so far, all threads.
pub(super) fn cpu_seconds(pids: &[u32]) -> f64 {
    let nanoseconds: u64 = pids.iter().map(|pid| nanoseconds(*pid)).sum();
    Duration::from_nanos(nanoseconds).as_secs_f64()
}

fn nanoseconds(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let each = tasks.into_iter().flatten().flatten().filter_map(|task| {
        let schedstat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        schedstat.split(' ').next()?.parse::<u64>().ok()
    });
    each.sum()
}

/// CPU seconds of all children of this program that ended and were waited for.
pub(super) fn ended_children_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // User and system time of waited-for children are fields 16 and 17.
    let ticks: f64 = [13, 14].iter().map(|index| field(&stat, *index)).sum();
    ticks / TICKS
}

/// A field of a `stat` file, counted from 0 behind the program's name.
fn field(stat: &str, index: usize) -> f64 {
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let found = fields.split_whitespace().nth(index);
    found.and_then(|text| text.parse().ok()).unwrap_or(0.0)
}

/// `roots` and everything below them.
pub(super) fn with_descendants(roots: &[u32]) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for pid in all_pids() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| {
            let text = rest.split_whitespace().nth(1)?;
            text.parse().ok()
        });
        children.entry(parent.unwrap_or(0)).or_default().push(pid);
    }
    let mut found = roots.to_vec();
    let mut at = 0;
    while let Some(pid) = found.get(at) {
        found.extend(children.get(pid).into_iter().flatten());
        at += 1;
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn all_pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Memory of some processes, summed, in MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Memory {
    /// Resident set: what `ps` shows. Pages of a shared binary count once per process.
    pub(super) resident: f64,
    /// The part of it that belongs to no file.
    pub(super) anonymous: f64,
    /// Resident, with shared pages divided by those who share them.
    pub(super) proportional: f64,
}

/// What `pids` hold now.
pub(super) fn memory(pids: &[u32]) -> Memory {
    let mut sum = Memory::default();
    for pid in pids {
        let read = |name| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let status = read("status");
        sum.resident += mebibytes(&status, "VmRSS:");
        sum.anonymous += mebibytes(&status, "RssAnon:");
        sum.proportional += mebibytes(&read("smaps_rollup"), "Pss:");
    }
    sum
}

/// A line like `VmRSS:   1024 kB`, in MiB.
fn mebibytes(text: &str, key: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    number.unwrap_or(0.0) / 1024.0
}

/// How busy the machine was up to a point in time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    at: Instant,
    busy: f64,
    processors: f64,
}

impl Machine {
    /// Looks at the clock and at `/proc/stat`.
    pub(super) fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        Self {
            at: Instant::now(),
            busy: busy_seconds(&stat),
            processors: f64::from(processors()),
        }
    }

    /// Seconds since `before`.
    pub(super) fn seconds_since(&self, before: &Self) -> f64 {
        self.at.duration_since(before.at).as_secs_f64()
    }

    /// CPU seconds of everybody since `before`.
    pub(super) fn busy_since(&self, before: &Self) -> f64 {
        self.busy - before.busy
    }

    /// The share of the machine that was busy since `before`.
    pub(super) fn share_since(&self, before: &Self) -> f64 {
        self.share(self.busy_since(before), before)
    }

    /// What part of the machine `seconds` of CPU are in the time since `before`.
    pub(super) fn share(&self, seconds: f64, before: &Self) -> f64 {
        let whole = self.seconds_since(before) * self.processors;
        (seconds / whole.max(1e-9)).max(0.0)
    }
}

/// How many processors there are.
pub(super) fn processors() -> u32 {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(count).unwrap_or(1)
}

/// All that is not idle, waiting or stolen in the first line of `/proc/stat`.
fn busy_seconds(stat: &str) -> f64 {
    let first = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = first
        .split_whitespace()
        .skip(1)
        .filter_map(|text| text.parse().ok())
        .collect();
    // user, nice, system, (idle, iowait), irq, softirq
    let counted = [0, 1, 2, 5, 6].iter().filter_map(|index| ticks.get(*index));
    counted.sum::<f64>() / TICKS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_stolen_time_is_nobodys() {
        let stat = "cpu  100 10 50 9999 9999 5 35 9999 0 0\ncpu0 1 1 1 1\n";
        assert!((busy_seconds(stat) - 2.0).abs() < 1e-9);
        assert!(busy_seconds("").abs() < 1e-9);
    }

    #[test]
    fn a_name_with_spaces_and_brackets_moves_no_field() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15\n";
        assert!((field(stat, 1) - 1.0).abs() < 1e-9);
        assert!((field(stat, 13) - 13.0).abs() < 1e-9);
    }

    #[test]
    fn kilobytes_become_mebibytes() {
        let status = "Name:\tx\nVmRSS:\t    2048 kB\nRssAnon:\t 512 kB\n";
        assert!((mebibytes(status, "VmRSS:") - 2.0).abs() < 1e-9);
        assert!(mebibytes(status, "Pss:").abs() < 1e-9);
    }

    #[test]
    fn a_child_belongs_to_its_parent() {
        let own = std::process::id();
        assert!(with_descendants(&[own]).contains(&own));
        assert!(memory(&[own]).resident > 0.0);
        assert!(cpu_seconds(&[own]) > 0.0);
    }
}
