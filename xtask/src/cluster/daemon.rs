// SPDX-License-Identifier: Apache-2.0

//! Programs that outlive the command that starts them.
//!
//! Each has a log and a file with its pid. Knows nothing of what they do. Invariant: only what we
//! started is ever ended: a pid counts with the time at which it began, so that of a program that
//! ended long ago never means another.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::Cluster;
use crate::command::{self, program};

/// How long a program that was asked to end may take.
const GRACE: Duration = Duration::from_secs(5);

/// Starts `daemon` as `name`.
pub(super) fn start(cluster: &Cluster, name: &str, daemon: &Command) -> Result<()> {
    let log = cluster.directory().join("log").join(name);
    let context = || format!("write {}", log.display());
    let output = File::create(&log).with_context(context)?;
    let errors = output.try_clone().with_context(context)?;
    // A session of its own: an interrupt at the terminal is for the command, not for the cluster.
    let mut command = Command::new("setsid");
    command.arg(daemon.get_program()).args(daemon.get_args());
    for (variable, value) in daemon.get_envs() {
        command.env(variable, value.unwrap_or_default());
    }
    command.current_dir(cluster.directory());
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    let child = command.spawn().with_context(|| format!("start {name}"))?;
    let born = born(child.id()).with_context(|| format!("{name} ended at once"))?;
    cluster.write(&format!("pid/{name}"), &format!("{} {born}", child.id()))
}

/// Whether `name` runs.
pub(super) fn runs(cluster: &Cluster, name: &str) -> bool {
    pid(cluster, name).is_some()
}

/// Looks until `look` says yes, as long as `name` runs.
pub(super) fn answers(cluster: &Cluster, name: &str, look: impl Fn() -> bool) -> Result<()> {
    cluster.wait_for(&format!("{name} to answer"), |cluster| {
        look() || !runs(cluster, name)
    })?;
    if runs(cluster, name) {
        return Ok(());
    }
    let log = cluster.directory().join("log").join(name);
    let text = fs::read_to_string(&log).unwrap_or_default();
    let last: Vec<&str> = text.lines().rev().take(5).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    bail!(
        "{name} ended; the last of {}:\n{}",
        log.display(),
        last.join("\n")
    )
}

/// Ends `name`, and waits until it is gone.
pub(super) fn stop(cluster: &Cluster, name: &str) -> Result<()> {
    if let Some(pid) = pid(cluster, name) {
        let number: u32 = pid;
        end(&[number])?;
    }
    let path = file(cluster, name);
    match fs::remove_file(&path) {
        Err(error) if path.exists() => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The names of all that have been started.
pub(super) fn names(cluster: &Cluster) -> Vec<String> {
    let entries = fs::read_dir(cluster.directory().join("pid"));
    let entries = entries.into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Asks `pids` to end, and after a while makes them.
pub(super) fn end(pids: &[u32]) -> Result<()> {
    for signal in ["-TERM", "-KILL"] {
        let alive: Vec<u32> = alive(pids);
        if alive.is_empty() {
            return Ok(());
        }
        let mut kill = program("kill");
        kill.arg(signal).arg("--");
        kill.args(alive.iter().map(u32::to_string));
        // Some may end in between, which makes `kill` fail; who is left is seen below.
        command::output(&mut kill);
        let started = Instant::now();
        while !self::alive(&alive).is_empty() && started.elapsed() < GRACE {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let left = alive(pids);
    if left.is_empty() {
        return Ok(());
    }
    bail!("pids {left:?} do not end")
}

fn alive(pids: &[u32]) -> Vec<u32> {
    let mut alive = pids.to_vec();
    alive.retain(|&pid| born(pid).is_some());
    alive
}

fn pid(cluster: &Cluster, name: &str) -> Option<u32> {
    let text = fs::read_to_string(file(cluster, name)).ok()?;
    let (pid, then) = text.split_once(' ')?;
    let pid = pid.parse().ok()?;
    (born(pid)? == then).then_some(pid)
}

fn file(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.directory().join("pid").join(name)
}

/// When the program began, in the kernel's ticks; nothing when there is none, or only its corpse.
fn born(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything, a parenthesis too.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let state = *fields.first()?;
    let alive = !matches!(state, "Z" | "X");
    alive.then(|| fields.get(19).map(|&ticks| ticks.to_owned()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_live_and_a_pid_that_nobody_has_does_not() {
        assert!(born(std::process::id()).is_some_and(|ticks| ticks.parse::<u64>().is_ok()));
        assert_eq!(born(u32::MAX), None);
    }

    #[test]
    fn a_corpse_is_dead() {
        let mut child = Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep starts");
        end(&[child.id()]).expect("it ends when asked");
        child.wait().expect("it is our child");
    }
}
