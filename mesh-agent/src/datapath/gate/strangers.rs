// SPDX-License-Identifier: Apache-2.0

//! Namespaces that are no pod's: those of the node's other programs.
//!
//! Found by the processes in them. Invariant: a namespace is a stranger's only after a process that
//! is in no pod's cgroup has been in it for a while. Network plugins, which enter pods' namespaces
//! before there is a process of the pod, do not count.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::datapath::{cgroup, netns::Netns, sandbox};

/// How long a process has to be in a namespace to count as its owner.
const OWNED_AFTER: Duration = Duration::from_millis(500);

/// How often processes are gone through.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Looks for them.
pub(super) struct Strangers {
    proc: PathBuf,
    /// Namespaces, by cookie, with a process that is no pod's, and since when.
    suspects: HashMap<u64, Instant>,
    looked: Option<Instant>,
}

impl Strangers {
    pub(super) fn new() -> Self {
        Self {
            proc: "/proc".into(),
            suspects: HashMap::new(),
            looked: None,
        }
    }

    /// The namespaces of all processes that there are.
    pub(super) fn existing(&self) -> Vec<u64> {
        let mut seen = HashSet::new();
        let mut is_new = |process: &PathBuf| {
            let netns = fs::metadata(process.join("ns/net"));
            netns.is_ok_and(|netns| seen.insert(netns.ino()))
        };
        let processes = numbers(&self.proc).into_iter();
        let first_in_each = processes.filter(|process| is_new(process));
        first_in_each
            .filter_map(|process| cookie_of(&process))
            .collect()
    }

    /// Those of `unknown` that are strangers'.
    pub(super) fn among(&mut self, unknown: &HashSet<u64>) -> Vec<u64> {
        self.suspects.retain(|cookie, _| unknown.contains(cookie));
        let now = Instant::now();
        let is_early = |looked| now.duration_since(looked) < LOOK_INTERVAL;
        if unknown.is_empty() || self.looked.is_some_and(is_early) {
            return Vec::new();
        }
        self.looked = Some(now);
        let owned = owners(&self.proc, unknown);
        self.suspects
            .retain(|cookie, _| owned.get(cookie) == Some(&Owner::Stranger));
        for (cookie, owner) in owned {
            if owner == Owner::Stranger {
                self.suspects.entry(cookie).or_insert(now);
            }
        }
        let suspects = self.suspects.iter();
        let strangers = suspects.filter(|(_, since)| now.duration_since(**since) >= OWNED_AFTER);
        strangers.map(|(cookie, _)| *cookie).collect()
    }
}

/// Who has processes in a namespace.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Stranger,
    Pod,
}

/// Who has processes in the namespaces `wanted`.
fn owners(proc: &Path, wanted: &HashSet<u64>) -> HashMap<u64, Owner> {
    let mut cookies: HashMap<u64, Option<u64>> = HashMap::new();
    let mut owners = HashMap::new();
    for process in numbers(proc) {
        let mut is_in_pod = None;
        // A thread may be elsewhere than its process.
        for thread in numbers(&process.join("task")) {
            let Ok(netns) = fs::metadata(thread.join("ns/net")) else {
                continue;
            };
            let cookie = cookies.entry(netns.ino());
            let Some(cookie) = *cookie.or_insert_with(|| cookie_of(&thread)) else {
                continue;
            };
            if !wanted.contains(&cookie) {
                continue;
            }
            if *is_in_pod.get_or_insert_with(|| sandbox::is_in_pod(&process)) {
                owners.insert(cookie, Owner::Pod);
            } else if !is_network_plugin(&process) {
                owners.entry(cookie).or_insert(Owner::Stranger);
            }
        }
    }
    owners
}

/// Whether a process works on a namespace that a container is to have. (CNI specification, section
/// 2: plugins are told what to do in `CNI_COMMAND`.)
fn is_network_plugin(process: &Path) -> bool {
    const COMMAND: &[u8] = b"CNI_COMMAND=";
    let environment = fs::read(process.join("environ")).unwrap_or_default();
    let mut variables = environment.split(|byte| *byte == 0);
    variables.any(|variable| variable.starts_with(COMMAND))
}

/// The cookie of the namespace of a process or thread.
fn cookie_of(task: &Path) -> Option<u64> {
    let netns = Netns::open(&task.join("ns/net")).ok()?;
    netns.within(cgroup::namespace_cookie).ok()?.ok()
}

/// The directories in `path` that are numbers.
fn numbers(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    let is_number = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_number))
        .map(|entry| entry.path())
        .collect()
}
