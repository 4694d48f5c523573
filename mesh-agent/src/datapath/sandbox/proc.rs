// SPDX-License-Identifier: Apache-2.0

//! The processes of a pod, from its cgroup and `/proc`.
//!
//! The agent has to be in the node's process namespace: `cgroup.procs` says the numbers that its
//! reader's namespace has. Whatever cannot be read has ended meanwhile.
//!
//! Reference: proc_pid_stat(5), proc_pid_cgroup(5), cgroups(7).

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::layout;
use crate::{
    datapath::{netns::Netns, sys},
    model::WorkloadUid,
};

/// `USER_HZ`, in which the kernel tells times of processes, whatever it counts in itself.
const TICKS_PER_SECOND: u32 = 100;

/// How many levels of cgroups a container may make below its own.
const CONTAINER_DEPTH: usize = 6;

/// Field 22 of `/proc/PID/stat`, counted from the one after the name (field 3).
const START_FIELD: usize = 19;

/// What the sandboxes of container runtimes run: Kubernetes' and OpenShift's.
const PAUSE: [&str; 2] = ["pause", "pod"];

/// How runtimes call themselves in a container before they become its program.
const RUNTIMES: [&str; 3] = ["runc", "crun", "youki"];

/// How runc calls itself when it has joined the container's namespaces and waits to be started.
const LAST_STAGE: &str = "runc:[2:INIT]";

/// CRI-O's monitor of a container, which may be in its pod's cgroup.
const MONITOR: &str = "conmon";

/// A process of a pod. Its number may be used again; with its start it is unique.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// When it started, in ticks since boot.
    pub(super) start: u64,
    pub(super) pid: u32,
    /// The cgroup of its container.
    pub(super) container: PathBuf,
}

/// Where processes are looked up: `/proc`.
#[derive(Clone, Debug)]
pub(super) struct Proc(pub(super) PathBuf);

impl Proc {
    /// All processes in a pod's cgroup, the oldest first.
    pub(super) fn of_pod(&self, pod: &Path) -> Vec<Process> {
        let mut found = self.of_container(pod, pod, 1);
        for container in layout::directories(pod) {
            found.extend(self.of_container(&container, &container, CONTAINER_DEPTH));
        }
        found.sort_by_key(|process| (process.start, process.pid));
        found
    }

    fn of_container(&self, container: &Path, directory: &Path, depth: usize) -> Vec<Process> {
        let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        let mut found: Vec<Process> = text
            .lines()
            // Zero stands for processes that our process namespace does not have.
            .filter_map(|line| line.parse().ok().filter(|pid| *pid != 0))
            .filter_map(|pid| {
                let start = self.start(pid)?;
                let container = container.to_owned();
                Some(Process {
                    start,
                    pid,
                    container,
                })
            })
            .collect();
        if depth > 1 {
            for below in layout::directories(directory) {
                found.extend(self.of_container(container, &below, depth - 1));
            }
        }
        found
    }

    /// When a process started, in ticks since boot, if it lives.
    pub(super) fn start(&self, pid: u32) -> Option<u64> {
        let stat = fs::read_to_string(self.0.join(format!("{pid}/stat"))).ok()?;
        // The name may have spaces and parentheses itself.
        let (_, fields) = stat.rsplit_once(')')?;
        fields
            .split_ascii_whitespace()
            .nth(START_FIELD)?
            .parse()
            .ok()
    }

    /// The pod whose cgroup the process is in.
    pub(super) fn pod(&self, pid: u32) -> Option<WorkloadUid> {
        let cgroups = fs::read_to_string(self.0.join(format!("{pid}/cgroup"))).ok()?;
        layout::pod_of(&cgroups)
    }

    /// The network namespace of a process.
    pub(super) fn netns(&self, pid: u32) -> io::Result<Netns> {
        Netns::open(&self.0.join(format!("{pid}/ns/net")))
    }

    /// Whether the process only keeps a sandbox, rather than being an application; unknown while it
    /// is still the runtime's.
    pub(super) fn is_pause(&self, pid: u32) -> Option<bool> {
        let name = self.name(pid);
        let name = name.trim_end();
        // Executed from a descriptor, runtimes are called by its number.
        let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
        let is_runtimes = RUNTIMES.iter().any(|runtime| name.starts_with(runtime));
        (!is_number && !is_runtimes).then(|| PAUSE.contains(&name))
    }

    /// Whether the process has joined the namespaces that it is to live in.
    pub(super) fn has_joined(&self, pid: u32) -> bool {
        self.is_pause(pid).is_some() || self.name(pid).trim_end() == LAST_STAGE
    }

    /// Whether the process is a runtime's, and watches over a container.
    pub(super) fn is_monitor(&self, pid: u32) -> bool {
        self.name(pid).starts_with(MONITOR)
    }

    fn name(&self, pid: u32) -> String {
        fs::read_to_string(self.0.join(format!("{pid}/comm"))).unwrap_or_default()
    }
}

impl Process {
    /// When it started; never later than it did.
    pub(super) fn started_at(&self) -> Option<SystemTime> {
        let seconds = self.start / u64::from(TICKS_PER_SECOND);
        let rest = u32::try_from(self.start % u64::from(TICKS_PER_SECOND)).ok()?;
        let start = Duration::from_secs(seconds) + Duration::from_secs(1) * rest / TICKS_PER_SECOND;
        let ago = sys::time_since_boot().ok()?.checked_sub(start)?;
        SystemTime::now().checked_sub(ago)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";

    /// A `/proc` and a pod's cgroup of plain files, removed when dropped.
    struct Fake {
        root: PathBuf,
        proc: Proc,
    }

    impl Fake {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            let proc = Proc(root.join("proc"));
            fs::create_dir_all(&proc.0).unwrap();
            Self { root, proc }
        }

        fn process(&self, container: &str, pid: u32, name: &str, start: u64) {
            let directory = self.proc.0.join(pid.to_string());
            fs::create_dir_all(&directory).unwrap();
            let zeroes = "0 ".repeat(START_FIELD - 1);
            fs::write(
                directory.join("stat"),
                format!("{pid} ({name}) S {zeroes}{start} 0 0\n"),
            )
            .unwrap();
            fs::write(directory.join("comm"), format!("{name}\n")).unwrap();
            fs::write(
                directory.join("cgroup"),
                format!("3:pids:/kubepods/pod{UID}/{container}\n"),
            )
            .unwrap();
            let cgroup = self.pod().join(container);
            fs::create_dir_all(&cgroup).unwrap();
            let procs = cgroup.join("cgroup.procs");
            let earlier = fs::read_to_string(&procs).unwrap_or_default();
            fs::write(procs, format!("{earlier}{pid}\n")).unwrap();
        }

        fn pod(&self) -> PathBuf {
            self.root.join(format!("kubepods/pod{UID}"))
        }

        #[track_caller]
        fn check(&self, want: &[u32]) {
            let found = self.proc.of_pod(&self.pod());
            let pids: Vec<u32> = found.iter().map(|process| process.pid).collect();
            assert_eq!(pids, want);
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.root).unwrap();
        }
    }

    #[test]
    fn the_oldest_process_comes_first_whatever_its_number() {
        let fake = Fake::new("process-oldest");
        fake.process("app", 7, "app (v2) x", 1205);
        fake.process("sandbox", 900, "pause", 1200);
        fake.process("app/own/deeper", 8, "child", 1300);
        fake.check(&[900, 7, 8]);
        let container = &fake.proc.of_pod(&fake.pod())[2].container;
        assert_eq!(*container, fake.pod().join("app"));
        assert_eq!(fake.proc.is_pause(900), Some(true));
        assert_eq!(fake.proc.is_pause(7), Some(false));
        assert_eq!(fake.proc.pod(7), Some(WorkloadUid(UID.into())));
    }

    #[test]
    fn a_process_that_has_ended_is_left_out() {
        let fake = Fake::new("process-ended");
        fake.process("sandbox", 9, "pause", 1200);
        fake.process("sandbox", 10, "gone", 1100);
        fs::remove_dir_all(fake.proc.0.join("10")).unwrap();
        fake.check(&[9]);
        assert_eq!(fake.proc.pod(10), None);
    }

    #[test]
    fn a_process_that_is_still_the_runtimes_is_neither() {
        let fake = Fake::new("process-runtime");
        fake.process("sandbox", 9, "runc:[2:INIT]", 1200);
        fake.process("sandbox", 10, "6", 1200);
        assert_eq!(fake.proc.is_pause(9), None);
        assert_eq!(fake.proc.is_pause(10), None);
        assert_eq!(fake.proc.is_pause(11), None, "it has ended");
        assert!(fake.proc.has_joined(9));
        assert!(!fake.proc.has_joined(10));
    }

    #[test]
    fn a_pod_without_cgroup_has_no_processes() {
        Fake::new("process-none").check(&[]);
    }

    #[test]
    fn the_start_of_a_process_is_a_time() {
        let proc = Proc("/proc".into());
        let pid = std::process::id();
        let process = Process {
            start: proc.start(pid).unwrap(),
            pid,
            container: PathBuf::new(),
        };
        let started = process.started_at().unwrap();
        let age = SystemTime::now().duration_since(started).unwrap();
        assert!(age < Duration::from_secs(3600), "{age:?}");
    }
}
