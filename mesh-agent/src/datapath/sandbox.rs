// SPDX-License-Identifier: Apache-2.0

//! The sandboxes of this node's pods: which network namespace belongs to which pod UID.
//!
//! Found from the host, with no help of a CNI plugin: a pod's cgroup carries its UID, and its
//! oldest process keeps the sandbox. A thread of its own watches the directories of cgroups
//! (inotify, and a sweep as a safety net), so that a sandbox is known within milliseconds of its
//! process, and its end at once. Knows nothing of snapshots: all pods are found, enrolled or not.
//!
//! Invariant: a namespace is told of only after its process was seen to be of the pod *after* the
//! namespace was opened, and if it is neither the node's nor another pod's. Whether the pod's
//! address is in it is for the one to check who knows the address.
//! Invariant: a process that made a namespace of its own is never taken for the sandbox while an
//! older one of the pod lives.

mod layout;
mod proc;
mod watch;

use std::{
    collections::HashMap,
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::SystemTime,
};

use tokio::sync::Notify;

use self::{proc::Proc, watch::Finder};
use super::{gate::Gate, netns::Netns};
use crate::model::WorkloadUid;

/// Where cgroup file systems are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
const PROC: &str = "/proc";

/// A pod's sandbox.
#[derive(Clone, Debug)]
pub(super) struct Sandbox {
    /// Its network namespace.
    pub(super) netns: Netns,
    /// The process that it was found by.
    pub(super) pid: u32,
    /// When the pod's first process began that is not the sandbox's; never later than it did.
    pub(super) first_container: Option<SystemTime>,
}

/// The sandboxes of this node. Ends its thread when dropped.
pub(super) struct Sandboxes {
    shared: Arc<Shared>,
    // Closing it is what tells the thread.
    _stop: UnixStream,
}

/// Tells when sandboxes come and go.
#[derive(Clone)]
pub struct SandboxEvents(Arc<Shared>);

#[derive(Default)]
struct Shared {
    table: Mutex<Table>,
    changed: Notify,
}

#[derive(Default)]
struct Table {
    sandboxes: HashMap<WorkloadUid, Sandbox>,
    /// Why a pod's namespace is not told of, if something is wrong with it.
    refused: HashMap<WorkloadUid, String>,
}

impl Sandboxes {
    /// Begins to look for sandboxes below `cgroups`, `/sys/fs/cgroup` when empty.
    /// Those that `gate` wants are held before they are told of.
    pub(super) fn start(cgroups: &Path, gate: Arc<Gate>) -> io::Result<Self> {
        let cgroups = match cgroups.as_os_str().is_empty() {
            true => PathBuf::from(CGROUPS),
            false => cgroups.to_owned(),
        };
        let shared = Arc::new(Shared::default());
        let (stop, stopped) = UnixStream::pair()?;
        let host = Netns::host()?.id();
        let proc = Proc(PROC.into());
        let mut finder = Finder::new(Arc::clone(&shared), gate, cgroups, proc, host);
        // What an earlier agent captured is known before anything is decided about it.
        finder.sweep();
        thread::Builder::new()
            .name("sandboxes".to_owned())
            .spawn(move || finder.run(&stopped))?;
        Ok(Self {
            shared,
            _stop: stop,
        })
    }

    /// Tells when sandboxes come and go.
    pub(super) fn events(&self) -> SandboxEvents {
        SandboxEvents(Arc::clone(&self.shared))
    }

    /// A pod's sandbox, if it has one now.
    pub(super) fn find(&self, uid: &WorkloadUid) -> Option<Sandbox> {
        self.shared.find(uid)
    }

    /// What is wrong with a pod's namespace, if something is.
    pub(super) fn refusal(&self, uid: &WorkloadUid) -> Option<String> {
        self.shared.lock().refused.get(uid).cloned()
    }
}

/// Whether the process with this directory in `/proc` is in a pod's cgroup.
pub(super) fn is_in_pod(process: &Path) -> bool {
    let cgroups = std::fs::read_to_string(process.join("cgroup"));
    cgroups.is_ok_and(|cgroups| layout::pod_of(&cgroups).is_some())
}

impl SandboxEvents {
    /// A pod's sandbox, if it has one now.
    pub(super) fn find(&self, uid: &WorkloadUid) -> Option<Sandbox> {
        self.0.find(uid)
    }

    /// Resolves when a sandbox has come or gone since the last time. Cancel-safe.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }
}

impl Shared {
    fn find(&self, uid: &WorkloadUid) -> Option<Sandbox> {
        self.lock().sandboxes.get(uid).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
