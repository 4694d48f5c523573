// SPDX-License-Identifier: Apache-2.0

//! The thread that finds sandboxes.
//!
//! A new pod directory is looked at every millisecond for a moment, and ever less often then: a
//! process that joins a cgroup tells nobody on version 1. Everything is gone through every two
//! seconds, whatever was or was not told.
//!
//! With no process for the sandbox (CRI-O without infra containers) the first container's
//! namespace is found by the runtime's own process, which joins cgroup and namespace before the
//! container is started.

use std::{
    collections::HashMap,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    Sandbox, Shared,
    layout::{self, Level},
    proc::{Proc, Process},
};
use crate::{
    datapath::{
        gate::Gate,
        netns::{Netns, NetnsId},
        route::Addresses,
        sys::{self, Event, Inotify, Watch},
    },
    model::WorkloadUid,
};

/// How often everything is looked at.
const SWEEP_INTERVAL: Duration = Duration::from_secs(2);

/// How often new kubelets are looked for.
const ROOTS_INTERVAL: Duration = Duration::from_secs(10);

/// How often a pod is looked at in which something has just happened, and for how long.
const EAGER: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(300));
/// The same for what takes longer.
const PATIENT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(10));

/// How often strangers that are held are looked for, while pods are waited for.
const STRANGER_INTERVAL: Duration = Duration::from_millis(200);

/// How long a pod may be without processes before its sandbox counts as gone.
const EMPTY_MAX: Duration = Duration::from_secs(2);

/// Finds sandboxes.
pub(super) struct Finder {
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    cgroups: PathBuf,
    proc: Proc,
    host: NetnsId,
    inotify: Option<Inotify>,
    watches: HashMap<Watch, Watched>,
    pods: HashMap<WorkloadUid, Pod>,
    roots: Vec<PathBuf>,
    roots_due: Instant,
}

/// A directory under watch.
struct Watched {
    path: PathBuf,
    /// Whose it is; that of several pods if nobody's.
    pod: Option<WorkloadUid>,
}

/// A pod's cgroup.
struct Pod {
    directory: PathBuf,
    /// When something happened in it the last time.
    stirred: Instant,
    keeper: Option<Keeper>,
    empty_since: Option<Instant>,
}

/// The process that keeps a sandbox.
struct Keeper {
    process: Process,
    /// Readable when the process has ended.
    end: OwnedFd,
    /// Whether the first container's start is known.
    has_containers: bool,
}

/// Why a pod has no sandbox to tell of.
enum Lacking {
    /// Nothing is in its cgroup.
    Processes,
    /// It may come about.
    Time,
    /// Something is wrong.
    Truth(String),
}

impl Finder {
    pub(super) fn new(
        shared: Arc<Shared>,
        gate: Arc<Gate>,
        cgroups: PathBuf,
        proc: Proc,
        host: NetnsId,
    ) -> Self {
        let inotify = Inotify::new()
            .inspect_err(|error| {
                tracing::warn!(%error, "new pods are found by looking for them, which is slower");
            })
            .ok();
        Self {
            shared,
            gate,
            cgroups,
            proc,
            host,
            inotify,
            watches: HashMap::new(),
            pods: HashMap::new(),
            roots: Vec::new(),
            roots_due: Instant::now(),
        }
    }

    /// Finds until the other end of `stop` is closed.
    pub(super) fn run(mut self, stop: &UnixStream) {
        let mut sweep_due = Instant::now() + SWEEP_INTERVAL;
        loop {
            let now = Instant::now();
            if now >= sweep_due {
                self.sweep();
                sweep_due = now + SWEEP_INTERVAL;
            }
            let interval = self.interval();
            let timeout = sweep_due.saturating_duration_since(Instant::now());
            // The kernel counts in whole milliseconds; rounding down would turn in circles.
            let timeout = interval.map_or(timeout + EAGER.0, |interval| interval.min(timeout));
            match self.wait(stop, timeout) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::error!(%error, "cannot wait for sandboxes");
                    std::thread::sleep(PATIENT.0);
                }
            }
            self.look();
            self.gate.look_for_strangers();
        }
    }

    /// Waits for something to happen, and notes what did. False if it is time to stop.
    fn wait(&mut self, stop: &UnixStream, timeout: Duration) -> io::Result<bool> {
        let keepers: Vec<(WorkloadUid, BorrowedFd<'_>)> = self
            .pods
            .iter()
            .filter_map(|(uid, pod)| Some((uid.clone(), pod.keeper.as_ref()?.end.as_fd())))
            .collect();
        let mut fds = vec![stop.as_fd()];
        fds.extend(self.inotify.iter().map(AsFd::as_fd));
        let others = fds.len();
        fds.extend(keepers.iter().map(|(_, end)| *end));
        let ready = sys::wait_readable(&fds, timeout)?;
        let ended: Vec<WorkloadUid> = keepers
            .into_iter()
            .zip(&ready[others..])
            .filter_map(|((uid, _), ended)| ended.then_some(uid))
            .collect();
        for uid in ended {
            if let Some(pod) = self.pods.get_mut(&uid) {
                pod.keeper = None;
                pod.stirred = Instant::now();
            }
        }
        let events = self.inotify.as_ref().map(Inotify::read);
        for event in events.into_iter().flatten() {
            self.note(event);
        }
        Ok(!ready[0])
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Made(watch, name) => {
                let Some(parent) = self.watches.get(&watch) else {
                    return;
                };
                match parent.pod.as_ref() {
                    Some(uid) => {
                        if let Some(pod) = self.pods.get_mut(uid) {
                            pod.stirred = Instant::now();
                        }
                    }
                    None => self.visit(parent.path.join(name)),
                }
            }
            Event::Removed(watch, name) => {
                let parent = self.watches.get(&watch);
                if let Some(path) = parent.map(|parent| parent.path.join(name)) {
                    self.forget_at(&path);
                }
            }
            Event::Over(watch) => {
                if let Some(watched) = self.watches.remove(&watch)
                    && !watched.path.exists()
                {
                    self.forget_at(&watched.path);
                }
            }
            Event::Lost => self.sweep(),
        }
    }

    /// Looks at a directory in the root of all pods or in a class.
    fn visit(&mut self, path: PathBuf) {
        match layout::level(&layout::name_of(&path)) {
            Level::Pod(uid) => self.add(uid, path),
            Level::Class => {
                self.watch(&path, None);
                for below in layout::directories(&path) {
                    self.visit(below);
                }
            }
            Level::Other => {}
        }
    }

    fn add(&mut self, uid: WorkloadUid, path: PathBuf) {
        if self.pods.contains_key(&uid) {
            return;
        }
        self.watch(&path, Some(uid.clone()));
        let pod = Pod {
            directory: path,
            stirred: Instant::now(),
            keeper: None,
            empty_since: None,
        };
        self.pods.insert(uid, pod);
    }

    fn watch(&mut self, path: &Path, pod: Option<WorkloadUid>) {
        let Some(inotify) = &self.inotify else { return };
        match inotify.watch(path) {
            Ok(watch) => {
                let path = path.to_owned();
                self.watches.insert(watch, Watched { path, pod });
            }
            // Gone again, or no watch is left: the sweep finds what is to be found.
            Err(error) => tracing::debug!(path = %path.display(), %error, "cannot watch"),
        }
    }

    fn forget_at(&mut self, directory: &Path) {
        let gone: Vec<WorkloadUid> = self
            .pods
            .iter()
            .filter(|(_, pod)| pod.directory == directory)
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in gone {
            self.pods.remove(&uid);
            self.withdraw(&uid);
        }
    }

    fn withdraw(&self, uid: &WorkloadUid) {
        self.gate.gone(uid);
        let mut table = self.shared.lock();
        table.refused.remove(uid);
        if table.sandboxes.remove(uid).is_some() {
            drop(table);
            tracing::debug!(pod = %uid, "its sandbox is gone");
            self.shared.changed.notify_one();
        }
    }

    /// Goes through everything.
    pub(super) fn sweep(&mut self) {
        let now = Instant::now();
        if self.roots.is_empty() || now >= self.roots_due {
            self.roots = layout::pod_roots(&self.cgroups);
            self.roots_due = now + ROOTS_INTERVAL;
        }
        for root in self.roots.clone() {
            self.watch(&root, None);
            for path in layout::directories(&root) {
                self.visit(path);
            }
        }
        let directories = self.pods.values().map(|pod| pod.directory.clone());
        let gone: Vec<PathBuf> = directories.filter(|path| !path.exists()).collect();
        for path in gone {
            self.forget_at(&path);
        }
        let uids: Vec<WorkloadUid> = self.pods.keys().cloned().collect();
        for uid in uids {
            self.look_at(&uid);
        }
    }

    /// How long to wait before something is looked at again, if anything is.
    fn interval(&self) -> Option<Duration> {
        let waits = self.gate.waits().then_some(STRANGER_INTERVAL);
        let pods = self.pods.values().filter_map(Pod::interval);
        pods.chain(waits).min()
    }

    fn look(&mut self) {
        let eager: Vec<WorkloadUid> = self
            .pods
            .iter()
            .filter(|(_, pod)| pod.interval().is_some())
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in eager {
            self.look_at(&uid);
        }
    }

    fn look_at(&mut self, uid: &WorkloadUid) {
        let Some(pod) = self.pods.get(uid) else {
            return;
        };
        if pod
            .keeper
            .as_ref()
            .is_some_and(|keeper| keeper.has_containers)
        {
            return;
        }
        let processes = self.proc.of_pod(&pod.directory);
        if let Some(keeper) = &pod.keeper {
            if let Some(started) = self.first_container(&keeper.process, &processes) {
                self.note_first_container(uid, started);
            }
            return;
        }
        match self.find(uid, &processes) {
            Ok((process, netns)) => self.publish(uid, process, netns),
            Err(Lacking::Processes) => self.note_empty(uid),
            Err(Lacking::Time) => {}
            Err(Lacking::Truth(reason)) => {
                let mut table = self.shared.lock();
                let earlier = table.refused.insert(uid.clone(), reason.clone());
                // Said once, not at every look; loudly by who wants to capture it.
                if earlier.as_ref() != Some(&reason) {
                    tracing::debug!(pod = %uid, reason, "cannot tell its network namespace");
                }
            }
        }
    }

    /// The namespace of the pod's oldest process, if that can be trusted.
    fn find(&self, uid: &WorkloadUid, processes: &[Process]) -> Result<(Process, Netns), Lacking> {
        let mut oldest = None;
        for process in processes {
            let netns = self.proc.netns(process.pid);
            let Ok(netns) = netns.inspect_err(|error| {
                tracing::trace!(pid = process.pid, %error, "has no namespace to open");
            }) else {
                continue;
            };
            // Some runtimes keep a monitor of each container in the pod's cgroup.
            if netns.id() == self.host && self.proc.is_monitor(process.pid) {
                continue;
            }
            oldest = Some((process, netns));
            break;
        }
        let (process, netns) = oldest.ok_or(Lacking::Processes)?;
        // It has not joined the pod's namespace yet, or the pod shares the node's. (Where several
        // nodes share a kernel, a runtime's process may come from another node's.)
        if netns.id() == self.host || !self.proc.has_joined(process.pid) {
            return Err(Lacking::Time);
        }
        // The number may be another process's by now.
        let is_of_pod = self.proc.pod(process.pid).as_ref() == Some(uid);
        if !is_of_pod || self.proc.start(process.pid) != Some(process.start) {
            return Err(Lacking::Time);
        }
        let table = self.shared.lock();
        let same = |(other, sandbox): &(&WorkloadUid, &Sandbox)| {
            *other != uid && sandbox.netns.id() == netns.id()
        };
        if let Some((other, _)) = table.sandboxes.iter().find(same) {
            return Err(Lacking::Truth(format!(
                "its oldest process {} is in the network namespace of the pod {other}",
                process.pid
            )));
        }
        drop(table);
        // Some runtimes start the process first and make the network then.
        let addresses = netns.within(Addresses::read);
        match addresses {
            Ok(Ok(addresses)) if addresses.has_global() => Ok((process.clone(), netns)),
            _ => Err(Lacking::Time),
        }
    }

    fn publish(&mut self, uid: &WorkloadUid, process: Process, netns: Netns) {
        // Without, it has ended already, and another is looked for.
        let Ok(end) = sys::open_process(process.pid) else {
            return;
        };
        let pid = process.pid;
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        pod.empty_since = None;
        pod.stirred = Instant::now();
        pod.keeper = Some(Keeper {
            process,
            end,
            has_containers: false,
        });
        let mut table = self.shared.lock();
        table.refused.remove(uid);
        if let Some(known) = table.sandboxes.get_mut(uid)
            && known.netns.id() == netns.id()
        {
            known.pid = pid;
            return;
        }
        drop(table);
        self.gate.hold(uid, &netns);
        tracing::debug!(pod = %uid, pid, netns = netns.id().0, "found its sandbox");
        let sandbox = Sandbox {
            netns,
            pid,
            first_container: None,
        };
        self.shared.lock().sandboxes.insert(uid.clone(), sandbox);
        self.shared.changed.notify_one();
    }

    fn note_empty(&mut self, uid: &WorkloadUid) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        let since = *pod.empty_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= EMPTY_MAX {
            self.withdraw(uid);
        }
    }

    /// When the first process began that does not keep the sandbox.
    fn first_container(&self, keeper: &Process, processes: &[Process]) -> Option<SystemTime> {
        let keeps_only = self.proc.is_pause(keeper.pid)?;
        processes
            .iter()
            .find(|process| !keeps_only || process.container != keeper.container)?
            .started_at()
    }

    fn note_first_container(&mut self, uid: &WorkloadUid, started: SystemTime) {
        if let Some(keeper) = self.pods.get_mut(uid).and_then(|pod| pod.keeper.as_mut()) {
            keeper.has_containers = true;
        }
        if let Some(sandbox) = self.shared.lock().sandboxes.get_mut(uid) {
            // Another process may keep the sandbox by now.
            sandbox.first_container.get_or_insert(started);
        }
    }
}

impl Pod {
    /// How soon it is to be looked at again; not before the next sweep if `None`.
    fn interval(&self) -> Option<Duration> {
        let quiet = self.stirred.elapsed();
        match &self.keeper {
            Some(keeper) if keeper.has_containers => None,
            None if quiet < EAGER.1 => Some(EAGER.0),
            _ if quiet < PATIENT.1 => Some(PATIENT.0),
            _ => None,
        }
    }
}
