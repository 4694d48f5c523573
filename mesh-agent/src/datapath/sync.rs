// SPDX-License-Identifier: Apache-2.0

//! Snapshot to kernel: which pods are captured, which are released, what the maps hold.
//!
//! Owns the set of pods. Every step is a difference to what is there: applying the same snapshot
//! twice does nothing the second time. Captures are steps of their own, one pod each: the kernel
//! takes up to seconds for one on a busy node, and neither the proxy of the pod before nor a newer
//! snapshot should wait for the rest. A pod that fails is kept with its error and tried again.
//!
//! Invariant: a pod's capture ends only through release (new connections pass, old ones live) or
//! with its namespace.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use super::{
    Books, Change, Missed, PodSockets, ledger,
    observe::{Hook, PodObservation},
    pins::{self, Pins},
    pod::{self, Node, Pod, PodError},
    sandbox::Sandboxes,
};
use crate::{
    model::{Snapshot, Workload, WorkloadUid},
    telemetry::chain,
};

/// The pods of this node.
#[derive(Default)]
pub(super) struct Pods {
    captured: HashMap<WorkloadUid, Pod>,
    uncaptured: HashMap<WorkloadUid, Uncaptured>,
    refusals: u64,
    missed: Missed,
    leftovers: Leftovers,
}

/// A pod that should be captured and is not.
struct Uncaptured {
    workload: Arc<Workload>,
    error: String,
    /// Nothing is wrong: its sandbox does not exist yet, or its turn has not come.
    waits: bool,
    /// To be tried now.
    is_due: bool,
}

/// What an earlier agent pinned and the first snapshot does not want.
#[derive(Default)]
enum Leftovers {
    /// There was no snapshot yet.
    #[default]
    Unknown,
    /// Directories of pods, with what is known of the pod.
    Found(Vec<(PathBuf, Option<Arc<Workload>>)>),
    Swept,
}

impl Pods {
    /// Updates and releases pods so that they match `snapshot`; [`Pods::capture_next`] captures those
    /// that are not yet.
    pub(super) fn apply(&mut self, node: &Node<'_>, snapshot: &Snapshot) -> Vec<Change> {
        let wanted: HashMap<&WorkloadUid, &Arc<Workload>> = snapshot
            .local_enrolled()
            .map(|workload| (&workload.uid, workload))
            .collect();
        let mut changes = self.release_all_but(node, &wanted);
        self.uncaptured.retain(|uid, _| wanted.contains_key(uid));
        for workload in wanted.values() {
            self.apply_one(node, workload, &mut changes);
        }
        if matches!(self.leftovers, Leftovers::Unknown) {
            self.leftovers = Leftovers::Found(leftovers(node.pins, &wanted, snapshot));
        }
        changes
    }

    fn apply_one(&mut self, node: &Node<'_>, workload: &Arc<Workload>, changes: &mut Vec<Change>) {
        let uid = &workload.uid;
        if let Some(pod) = self.captured.get_mut(uid) {
            if pod.is_in(node, workload) {
                if pod.is_active() {
                    if *pod.workload != **workload {
                        self.update(node, workload, changes);
                    }
                    return;
                }
                // Back in the mesh while draining: captured again over what is attached.
            } else {
                // Another namespace under the same path or UID: a new sandbox.
                self.let_go(uid, changes);
            }
        }
        self.make_due(workload);
    }

    fn make_due(&mut self, workload: &Arc<Workload>) {
        // A node that has just started is not ready before all of them had their turn.
        let has_begun = matches!(self.leftovers, Leftovers::Swept);
        let uncaptured = self.uncaptured.entry(workload.uid.clone());
        let uncaptured = uncaptured.or_insert_with(|| Uncaptured {
            workload: Arc::clone(workload),
            error: "its turn has not come".to_owned(),
            waits: has_begun,
            is_due: true,
        });
        uncaptured.workload = Arc::clone(workload);
        uncaptured.is_due = true;
    }

    /// Captures one of the pods whose turn it is; None if there is none.
    pub(super) fn capture_next(&mut self, node: &Node<'_>) -> Option<Vec<Change>> {
        while let Some(workload) = self.next_due(node) {
            match Pod::capture(node, &workload) {
                Ok((pod, sockets)) => return Some(vec![self.note_captured(pod, sockets)]),
                Err(error) => {
                    let waits = matches!(error, PodError::NoSandbox);
                    self.fail(&workload, &error);
                    if !waits {
                        return Some(Vec::new());
                    }
                }
            }
        }
        if let Leftovers::Found(found) = &mut self.leftovers {
            let found = std::mem::take(found);
            self.leftovers = Leftovers::Swept;
            self.sweep(node, found);
        }
        None
    }

    /// Those without a container first: a moment later they have one.
    fn next_due(&mut self, node: &Node<'_>) -> Option<Arc<Workload>> {
        let due = self.uncaptured.values_mut().filter(|pod| pod.is_due);
        let urgent = |pod: &&mut Uncaptured| {
            let sandbox = node.sandboxes.find(&pod.workload.uid);
            sandbox.is_some_and(|sandbox| sandbox.first_container.is_none())
        };
        let next = due.max_by_key(urgent)?;
        next.is_due = false;
        Some(Arc::clone(&next.workload))
    }

    /// Writes what changed about a captured pod. One whose namespace turns out to be another's is
    /// let go at once: its identity must not be served there.
    fn update(&mut self, node: &Node<'_>, workload: &Arc<Workload>, changes: &mut Vec<Change>) {
        let uid = &workload.uid;
        let Some(pod) = self.captured.get_mut(uid) else {
            return;
        };
        let Err(error) = pod.update(node, workload) else {
            pod.follow_existing();
            return;
        };
        if matches!(error, PodError::Address { .. }) {
            self.let_go(uid, changes);
            self.fail(workload, &error);
        } else {
            tracing::error!(pod = %uid, error = chain(&error), "cannot update a pod");
        }
    }

    /// Ends a capture at once, live connections and all.
    fn let_go(&mut self, uid: &WorkloadUid, changes: &mut Vec<Change>) {
        if let Some(pod) = self.captured.remove(uid) {
            if pod.is_active() {
                changes.push(Change::Released(uid.clone()));
            }
            pod.remove();
        }
    }

    /// Lets go of pods whose sandbox is gone; it is the turn of those that wait for one.
    pub(super) fn follow_sandboxes(&mut self, node: &Node<'_>) -> Vec<Change> {
        let mut changes = Vec::new();
        let by_uid = |workload: &Workload| workload.netns.is_none();
        let gone: Vec<(Arc<Workload>, bool)> = self
            .captured
            .values()
            .filter(|pod| by_uid(&pod.workload) && !pod.exists(node))
            .map(|pod| (Arc::clone(&pod.workload), pod.is_active()))
            .collect();
        for (workload, is_active) in gone {
            tracing::info!(pod = %workload.dotted_name(), "its sandbox is gone");
            self.let_go(&workload.uid, &mut changes);
            if is_active {
                self.make_due(&workload);
            }
        }
        for pod in self.uncaptured.values_mut() {
            pod.is_due |= by_uid(&pod.workload);
        }
        changes
    }

    fn note_captured(&mut self, mut pod: Pod, sockets: PodSockets) -> Change {
        pod.follow_existing();
        let name = pod.workload.dotted_name();
        tracing::info!(pod = %name, netns = pod.netns.id().0, "captured");
        let uid = pod.workload.uid.clone();
        self.uncaptured.remove(&uid);
        self.captured.insert(uid, pod);
        Change::Captured(sockets)
    }

    /// Keeps a pod that could not be captured, to try again.
    fn fail(&mut self, workload: &Arc<Workload>, error: &PodError) {
        // Of a pod that ends, its network goes before its sandbox does.
        let waits = match error {
            PodError::NoSandbox => true,
            PodError::NoInterface => workload.netns.is_none(),
            _ => false,
        };
        let is_refused = matches!(error, PodError::Address { .. } | PodError::Sandbox(_));
        let error = chain(error);
        let earlier = self.uncaptured.get(&workload.uid);
        // Said, and counted, once, not at every attempt.
        if !waits && earlier.is_none_or(|pod| pod.error != error) {
            tracing::error!(pod = %workload.dotted_name(), error, "cannot capture");
            self.refusals += u64::from(is_refused);
        }
        let uncaptured = Uncaptured {
            workload: Arc::clone(workload),
            error,
            waits,
            is_due: false,
        };
        self.uncaptured.insert(workload.uid.clone(), uncaptured);
    }

    fn release_all_but(
        &mut self,
        node: &Node<'_>,
        wanted: &HashMap<&WorkloadUid, &Arc<Workload>>,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let leaving: Vec<WorkloadUid> = self
            .captured
            .iter()
            .filter(|(uid, pod)| pod.is_active() && !wanted.contains_key(uid))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in leaving {
            let Some(pod) = self.captured.get_mut(&uid) else {
                continue;
            };
            tracing::info!(pod = %pod.workload.dotted_name(), "released");
            let begun = if pod.exists(node) {
                pod.begin_release()
            } else {
                Ok(())
            };
            if let Err(error) = begun {
                tracing::error!(pod = %uid, error = chain(&error), "cannot release a pod gently");
            }
            if (pod.is_active() || pod.is_drained(node))
                && let Some(pod) = self.captured.remove(&uid)
            {
                pod.remove();
            }
            changes.push(Change::Released(uid));
        }
        changes
    }

    /// Puts back what pods removed, ends drained ones; it is the turn of failed ones. Returns what
    /// changed and how much had to be put back.
    pub(super) fn reconcile(&mut self, node: &Node<'_>) -> (Vec<Change>, u64) {
        let mut changes = Vec::new();
        let mut repairs = 0;
        let mut broken = Vec::new();
        let uids: Vec<WorkloadUid> = self.captured.keys().cloned().collect();
        for uid in uids {
            let Some(pod) = self.captured.get_mut(&uid) else {
                continue;
            };
            if pod.is_drained(node) || !pod.exists(node) {
                if pod.is_active() {
                    changes.push(Change::Released(uid.clone()));
                    let uncaptured = Uncaptured {
                        workload: Arc::clone(&pod.workload),
                        error: "its network namespace is gone".to_owned(),
                        waits: pod.workload.netns.is_none(),
                        is_due: true,
                    };
                    self.uncaptured.insert(uid.clone(), uncaptured);
                }
                if let Some(pod) = self.captured.remove(&uid) {
                    pod.remove();
                }
                continue;
            }
            if pod.is_active() && !pod.is_whole() {
                tracing::info!(pod = %pod.workload.dotted_name(), "its interface was replaced");
                broken.push(Arc::clone(&pod.workload));
                repairs += 1;
                continue;
            }
            let upkeep = pod.reconcile(node);
            pod.follow_existing();
            if upkeep.repairs > 0 {
                let pod = pod.workload.dotted_name();
                tracing::warn!(
                    pod,
                    count = upkeep.repairs,
                    "put back what a pod had removed"
                );
            }
            repairs += upkeep.repairs;
            changes.extend(upkeep.sockets.map(Change::Captured));
            ledger::add(&mut self.missed, upkeep.missed);
        }
        for pod in self.uncaptured.values_mut() {
            pod.is_due = true;
        }
        for workload in broken {
            self.make_due(&workload);
        }
        (changes, repairs)
    }

    /// Once, after the first snapshot's pods were captured: pins of pods that are not wanted (any
    /// more), and of other versions, whose links have been taken over by now. A pod that has left
    /// the mesh but still is here may have connections that an earlier agent captured: it is let go
    /// of in order.
    fn sweep(&mut self, node: &Node<'_>, found: Vec<(PathBuf, Option<Arc<Workload>>)>) {
        let kept: HashSet<PathBuf> = self
            .captured
            .keys()
            .chain(self.uncaptured.keys())
            .map(|uid| node.pins.pod(uid))
            .collect();
        for (directory, workload) in found {
            if kept.contains(&directory) {
                continue;
            }
            let workload = workload.as_ref();
            let adopted = workload.map(|workload| Pod::adopt_leaving(node, workload));
            if let Some(Ok(pod)) = adopted {
                self.captured.insert(pod.workload.uid.clone(), pod);
            } else {
                pod::sweep(node, &directory, workload);
            }
        }
        for generation in node.pins.other_generations() {
            pins::remove_tree(&generation);
        }
    }

    /// Removes every pod.
    pub(super) fn remove(self) {
        for pod in self.captured.into_values() {
            pod.remove();
        }
    }

    /// Lets go of all of them, as they are; their names.
    pub(super) fn into_uids(self) -> HashSet<WorkloadUid> {
        let active = self.captured.into_iter().filter(|(_, pod)| pod.is_active());
        active.map(|(uid, _)| uid).collect()
    }

    /// The pods under capture.
    pub(super) fn captured(&self) -> impl Iterator<Item = &Pod> {
        self.captured.values()
    }

    /// How often a namespace turned out not to be its pod's.
    pub(super) fn refusals(&self) -> u64 {
        self.refusals
    }

    /// Connections that should have been captured and were not.
    pub(super) fn missed(&self) -> &Missed {
        &self.missed
    }

    /// Notes since when a captured pod was held.
    pub(super) fn note_held(&mut self, uid: &WorkloadUid, since: SystemTime) {
        if let Some(pod) = self.captured.get_mut(uid) {
            pod.held_since = Some(since);
        }
    }

    /// How many pods are captured and whole, and how many are not.
    pub(super) fn count(&self) -> (usize, usize) {
        let broken = self
            .captured
            .values()
            .filter(|pod| pod.has_failed())
            .count();
        let uncaptured = self.uncaptured.keys();
        let uncaptured = uncaptured.filter(|uid| !self.captured.contains_key(*uid));
        (self.captured.len() - broken, broken + uncaptured.count())
    }

    /// Every pod's state.
    pub(super) fn observe(&self, sandboxes: &Sandboxes) -> Vec<PodObservation> {
        let uncaptured = self
            .uncaptured
            .iter()
            .filter(|(uid, _)| !self.captured.contains_key(uid));
        let captured = self.captured.values();
        let mut pods: Vec<_> = captured.map(|pod| pod.observe(sandboxes)).collect();
        pods.extend(uncaptured.map(|(uid, pod)| PodObservation {
            uid: uid.clone(),
            netns: None,
            interface: String::new(),
            hook: Hook::Tcx,
            programs: Vec::new(),
            state: "",
            captured_since: None,
            held_since: None,
            counters: Default::default(),
            error: Some(pod.error.clone()),
            broken: None,
            books: Books::default(),
            waits: pod.waits,
            first_container: None,
            existing: Vec::new(),
            close_existing_after: None,
        }));
        pods.sort_by(|one, other| one.uid.cmp(&other.uid));
        pods
    }
}

/// The pins of pods that are not `wanted`, with what the snapshot knows of them.
fn leftovers(
    pins: &Pins,
    wanted: &HashMap<&WorkloadUid, &Arc<Workload>>,
    snapshot: &Snapshot,
) -> Vec<(PathBuf, Option<Arc<Workload>>)> {
    let kept: HashSet<PathBuf> = wanted.keys().map(|uid| pins.pod(uid)).collect();
    let of = |directory: &Path| {
        let mut workloads = snapshot.workloads.values();
        let workload = workloads.find(|workload| pins.pod(&workload.uid) == directory);
        workload.cloned()
    };
    let directories = pins.pods().into_iter();
    directories
        .filter(|directory| !kept.contains(directory))
        .map(|directory| {
            let workload = of(&directory);
            (directory, workload)
        })
        .collect()
}
