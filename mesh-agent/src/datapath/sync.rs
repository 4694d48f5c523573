// SPDX-License-Identifier: Apache-2.0

//! Snapshot to kernel: which pods are captured, which are released, what the maps hold.
//!
//! Owns the set of pods. Every step is a difference to what is there: applying the same snapshot
//! twice does nothing the second time. A pod that fails is kept with its error and tried again.
//!
//! Invariant: a pod's capture ends only through release (new connections pass, old ones live) or
//! with its namespace.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use super::{
    Change,
    observe::{Hook, PodObservation},
    pins::{self, Pins},
    pod::{self, Node, Pod, PodError},
    sandbox::Sandboxes,
};
use crate::model::{Snapshot, Workload, WorkloadUid};

/// The pods of this node.
#[derive(Default)]
pub(super) struct Pods {
    captured: HashMap<WorkloadUid, Pod>,
    failed: HashMap<WorkloadUid, Failed>,
    refusals: u64,
    swept: bool,
}

/// A pod that should be captured and is not.
struct Failed {
    workload: Arc<Workload>,
    error: String,
    /// Nothing is wrong: its sandbox does not exist yet.
    waits: bool,
}

impl Pods {
    /// Captures, updates and releases pods so that they match `snapshot`.
    ///
    /// A pod whose sandbox does not exist yet waits for [`Pods::follow_sandboxes`].
    pub(super) fn apply(&mut self, node: &Node<'_>, snapshot: &Snapshot) -> Vec<Change> {
        let wanted: HashMap<&WorkloadUid, &Arc<Workload>> = snapshot
            .local_enrolled()
            .map(|workload| (&workload.uid, workload))
            .collect();
        let mut changes = self.release_all_but(node, &wanted);
        self.failed.retain(|uid, _| wanted.contains_key(uid));
        for workload in wanted.values() {
            self.apply_one(node, workload, &mut changes);
        }
        if !self.swept {
            self.swept = true;
            self.sweep(node, &wanted, snapshot);
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
        self.capture(node, workload, changes);
    }

    /// Writes what changed about a captured pod. One whose namespace turns out to be another's is
    /// let go at once: its identity must not be served there.
    fn update(&mut self, node: &Node<'_>, workload: &Arc<Workload>, changes: &mut Vec<Change>) {
        let uid = &workload.uid;
        let Some(pod) = self.captured.get_mut(uid) else {
            return;
        };
        let Err(error) = pod.update(node, workload) else {
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

    /// Captures pods whose sandbox has appeared, lets go of those whose sandbox is gone.
    pub(super) fn follow_sandboxes(&mut self, node: &Node<'_>) -> Vec<Change> {
        let mut changes = Vec::new();
        let by_uid = |workload: &Workload| workload.netns.is_none();
        let gone: Vec<(Arc<Workload>, bool)> = self
            .captured
            .values()
            .filter(|pod| by_uid(&pod.workload) && !pod.exists(node))
            .map(|pod| (Arc::clone(&pod.workload), pod.is_active()))
            .collect();
        let mut waiting = Vec::new();
        for (workload, is_active) in gone {
            tracing::info!(pod = %workload.dotted_name(), "its sandbox is gone");
            self.let_go(&workload.uid, &mut changes);
            waiting.extend(is_active.then_some(workload));
        }
        let failed = self.failed.values().map(|failed| &failed.workload);
        waiting.extend(failed.filter(|workload| by_uid(workload)).cloned());
        for workload in &waiting {
            self.capture(node, workload, &mut changes);
        }
        changes
    }

    fn capture(&mut self, node: &Node<'_>, workload: &Arc<Workload>, changes: &mut Vec<Change>) {
        let uid = workload.uid.clone();
        match Pod::capture(node, workload) {
            Ok((pod, sockets)) => {
                tracing::info!(pod = %workload.dotted_name(), netns = pod.netns.id().0, "captured");
                self.failed.remove(&uid);
                self.captured.insert(uid, pod);
                changes.push(Change::Captured(sockets));
            }
            Err(error) => {
                self.fail(workload, &error);
            }
        }
    }

    /// Keeps a pod that could not be captured, to try again.
    fn fail(&mut self, workload: &Arc<Workload>, error: &PodError) {
        let waits = matches!(error, PodError::NoSandbox);
        let is_refused = matches!(error, PodError::Address { .. } | PodError::Sandbox(_));
        let error = chain(error);
        let earlier = self.failed.get(&workload.uid);
        // Said, and counted, once, not at every attempt.
        if !waits && earlier.is_none_or(|failed| failed.error != error) {
            tracing::error!(pod = %workload.dotted_name(), error, "cannot capture");
            self.refusals += u64::from(is_refused);
        }
        let failed = Failed {
            workload: Arc::clone(workload),
            error,
            waits,
        };
        self.failed.insert(workload.uid.clone(), failed);
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

    /// Puts back what pods removed, ends drained ones, retries failed ones. Returns what changed
    /// and how much had to be put back.
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
                    let failed = Failed {
                        workload: Arc::clone(&pod.workload),
                        error: "its network namespace is gone".to_owned(),
                        waits: pod.workload.netns.is_none(),
                    };
                    self.failed.insert(uid.clone(), failed);
                }
                if let Some(pod) = self.captured.remove(&uid) {
                    pod.remove();
                }
                continue;
            }
            if pod.is_active() && !pod.is_whole() {
                tracing::warn!(pod = %pod.workload.dotted_name(), "its interface was replaced");
                broken.push(Arc::clone(&pod.workload));
                repairs += 1;
                continue;
            }
            let put_back = pod.reconcile();
            pod.follow_existing();
            if put_back > 0 {
                let pod = pod.workload.dotted_name();
                tracing::warn!(pod, count = put_back, "put back what a pod had removed");
            }
            repairs += put_back;
        }
        let failed = self.failed.values();
        broken.extend(failed.map(|failed| Arc::clone(&failed.workload)));
        for workload in broken {
            self.capture(node, &workload, &mut changes);
        }
        (changes, repairs)
    }

    /// Once, after the first snapshot: pins of pods that are not captured (any more), and of other
    /// versions, whose links have been taken over by now. A pod that has left the mesh but still is
    /// here may have connections that an earlier agent captured: it is let go of in order.
    fn sweep(
        &mut self,
        node: &Node<'_>,
        wanted: &HashMap<&WorkloadUid, &Arc<Workload>>,
        snapshot: &Snapshot,
    ) {
        let pins = node.pins;
        let kept: HashSet<_> = wanted.keys().map(|uid| pins.pod(uid)).collect();
        for directory in pins.pods() {
            if kept.contains(&directory) {
                continue;
            }
            let workload = workload_of(pins, &directory, snapshot);
            let adopted = workload.map(|workload| Pod::adopt_leaving(node, workload));
            if let Some(Ok(pod)) = adopted {
                self.captured.insert(pod.workload.uid.clone(), pod);
            } else {
                pod::sweep(node, &directory, workload);
            }
        }
        for generation in pins.other_generations() {
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

    /// Whether a pod's new connections are captured.
    pub(super) fn is_captured(&self, uid: &WorkloadUid) -> bool {
        self.captured.get(uid).is_some_and(Pod::is_active)
    }

    /// The pods under capture.
    pub(super) fn captured(&self) -> impl Iterator<Item = &Pod> {
        self.captured.values()
    }

    /// How often a namespace turned out not to be its pod's.
    pub(super) fn refusals(&self) -> u64 {
        self.refusals
    }

    /// Every pod's state.
    pub(super) fn observe(&self, sandboxes: &Sandboxes) -> Vec<PodObservation> {
        let failed = self
            .failed
            .iter()
            .filter(|(uid, _)| !self.captured.contains_key(uid));
        let captured = self.captured.values();
        let mut pods: Vec<_> = captured.map(|pod| pod.observe(sandboxes)).collect();
        pods.extend(failed.map(|(uid, failed)| PodObservation {
            uid: uid.clone(),
            netns: None,
            interface: String::new(),
            hook: Hook::Tcx,
            programs: Vec::new(),
            state: "",
            captured_since: None,
            counters: Default::default(),
            error: Some(failed.error.clone()),
            waits: failed.waits,
            first_container: None,
            existing: Vec::new(),
            close_existing_after: None,
        }));
        pods.sort_by(|one, other| one.uid.cmp(&other.uid));
        pods
    }
}

/// The pod of a pin directory, if the snapshot still knows it.
fn workload_of<'a>(
    pins: &Pins,
    directory: &Path,
    snapshot: &'a Snapshot,
) -> Option<&'a Arc<Workload>> {
    let mut workloads = snapshot.workloads.values();
    workloads.find(|workload| pins.pod(&workload.uid) == directory)
}

/// An error with its sources, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
