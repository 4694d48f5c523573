// SPDX-License-Identifier: Apache-2.0

//! Removing what a run left behind: namespaces, what runs in them, pinned programs, directories.
//!
//! Everything that a lab makes carries a tag with the pid of the program that made it. Knows
//! nothing of what is inside. Invariant: only what carries our prefix and belongs to this program
//! or to one that is gone is ever touched.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{command::run, netns, wait};

/// Where eBPF objects are pinned.
pub const BPFFS: &str = "/sys/fs/bpf";

const PREFIX: &str = "mt";

/// A tag no other lab has: `mt<pid>x<number>`.
pub fn fresh_tag() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static START: Once = Once::new();
    START.call_once(|| {
        sweep();
        clean_up_on_interrupt();
    });
    format!(
        "{PREFIX}{}x{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// The directory of a lab, for configuration, logs and sockets.
pub fn directory(tag: &str) -> PathBuf {
    std::env::temp_dir().join(format!("{tag}-lab"))
}

/// Removes what programs left behind that are gone.
fn sweep() {
    for tag in tags().into_iter().filter(|tag| {
        owner(tag).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
    }) {
        remove(&tag);
    }
}

/// Removes everything that carries `tag`: first what runs, then where it ran.
pub fn remove(tag: &str) {
    let own = |name: &String| {
        name.strip_prefix(tag)
            .is_some_and(|rest| rest.starts_with('-'))
    };
    let namespaces: Vec<String> = names(netns::DIRECTORY).into_iter().filter(own).collect();
    for (signal, patience) in [(Signal::TERM, 3000), (Signal::KILL, 2000)] {
        let running = signal_all(&namespaces, signal);
        if running && !ended(&namespaces, Duration::from_millis(patience)) {
            continue;
        }
        break;
    }
    for namespace in &namespaces {
        run(Command::new("ip").args(["netns", "del", namespace]));
    }
    for pinned in names(BPFFS).into_iter().filter(own) {
        // What cannot be removed stays for the next sweep.
        drop(fs::remove_dir_all(Path::new(BPFFS).join(pinned)));
    }
    drop(fs::remove_dir_all(directory(tag)));
}

fn ended(namespaces: &[String], patience: Duration) -> bool {
    let start = std::time::Instant::now();
    while start.elapsed() < patience {
        if namespaces
            .iter()
            .all(|namespace| pids(namespace).is_empty())
        {
            return true;
        }
        thread::sleep(Duration::from_millis(10));
    }
    false
}

/// Signals all that runs in `namespaces`; whether there was anything.
fn signal_all(namespaces: &[String], signal: Signal) -> bool {
    let mut any = false;
    for pid in namespaces.iter().flat_map(|namespace| pids(namespace)) {
        any = true;
        // It may have ended by itself meanwhile.
        kill_process(pid, signal).unwrap_or(());
    }
    any
}

fn pids(namespace: &str) -> Vec<Pid> {
    let listed = run(Command::new("ip").args(["netns", "pids", namespace])).stdout;
    let own = std::process::id();
    let others = listed.split_whitespace().filter_map(|pid| pid.parse().ok());
    others
        .filter(|pid: &i32| u32::try_from(*pid) != Ok(own))
        .filter_map(Pid::from_raw)
        .collect()
}

/// Tags of all that exists with our prefix.
fn tags() -> Vec<String> {
    let temporary = std::env::temp_dir();
    let mut found: Vec<String> = [Path::new(netns::DIRECTORY), Path::new(BPFFS), &temporary]
        .into_iter()
        .flat_map(names)
        .filter_map(|name| name.split_once('-').map(|(tag, _)| tag.to_owned()))
        .filter(|tag| owner(tag).is_some())
        .collect();
    found.sort();
    found.dedup();
    found
}

/// The pid in a tag.
fn owner(tag: &str) -> Option<u32> {
    let (pid, number) = tag.strip_prefix(PREFIX)?.split_once('x')?;
    number.parse::<u32>().ok()?;
    pid.parse().ok()
}

fn names(directory: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Ctrl-C and SIGTERM clean up, then end the program.
fn clean_up_on_interrupt() {
    let spawned = thread::Builder::new()
        .name("interrupt".to_owned())
        .spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime
                .expect("a runtime for signals can be made")
                .block_on(async {
                    use tokio::signal::unix::{SignalKind, signal};
                    let mut terminate =
                        signal(SignalKind::terminate()).expect("SIGTERM can be listened for");
                    // Both only wait: nothing is lost when the other wins.
                    tokio::select! {
                        _ = tokio::signal::ctrl_c() => {}
                        _ = terminate.recv() => {}
                    }
                });
            let own = std::process::id();
            for tag in tags().iter().filter(|tag| owner(tag) == Some(own)) {
                remove(tag);
            }
            std::process::exit(130);
        });
    spawned.expect("a thread can be started");
}

/// Makes sure that programs can be pinned at all.
///
/// # Panics
/// When there is no bpffs and none can be mounted.
#[track_caller]
pub fn require_bpffs() {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
    if !mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(BPFFS))
    {
        let mounted = run(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]));
        // Another test may have been quicker; then it is there now.
        wait::until("bpffs on /sys/fs/bpf", Duration::from_secs(1), || {
            let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
            if mounts.contains(" bpf ") {
                Ok(())
            } else {
                Err(mounted.stderr.clone())
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_names_its_owner() {
        assert_eq!(owner("mt123x4"), Some(123));
        assert_eq!(owner("mt123"), None);
        assert_eq!(owner("mtu1x2"), None);
        assert_eq!(owner("eth0"), None);
    }
}
