// SPDX-License-Identifier: Apache-2.0

//! Holds what a pod opens before its capture.
//!
//! A capture may have to wait: for the pod to be found, for others on a busy node, for the kernel's
//! grace periods. Until it is done SYNs of the pod's namespace are dropped, and TCP sends them again
//! into the capture. Pods are held once they are found and before a container of theirs was seen.
//! Finding takes seconds when many start at once, so that the kernel holds by itself, while pods are
//! waited for, every namespace that is new: [`strangers`] lets go of those that are nobody's.
//!
//! Invariant: a hold ends by itself: the kernel lets the SYNs go at its time, and all holds are
//! gone with the process, as the program's link is pinned nowhere.
//! Invariant: while no pod is waited for, no connection is touched.

mod strangers;

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use mesh_common::NodeConfig;

use self::strangers::Strangers;
use super::{
    cgroup,
    maps::GateMaps,
    netns::Netns,
    sandbox::SandboxEvents,
    sys::{self, LinkTarget},
};
use crate::model::{Snapshot, Workload, WorkloadUid};

/// How long a pod's connections may wait for its capture.
const HOLD_MAX: Duration = Duration::from_secs(30);

/// Tells the gate which pods to wait for. It may be told by another task than the one that captures:
/// captures take long, and pods that start meanwhile are to be held, too.
#[derive(Clone)]
pub struct EarlyGate {
    gate: Arc<Gate>,
    sandboxes: SandboxEvents,
}

impl EarlyGate {
    pub(super) fn new(gate: Arc<Gate>, sandboxes: SandboxEvents) -> Self {
        Self { gate, sandboxes }
    }

    /// Holds pods of `snapshot` that are to be captured and have no containers yet, now or as soon
    /// as they open something.
    pub fn follow(&self, snapshot: &Snapshot) {
        let by_uid = |workload: &&Arc<Workload>| workload.netns.is_none();
        let enrolled = snapshot.local_enrolled().filter(by_uid);
        let enrolled: HashSet<WorkloadUid> =
            enrolled.map(|workload| workload.uid.clone()).collect();
        for uid in self.gate.want(snapshot.generation, enrolled) {
            let sandbox = self.sandboxes.find(&uid);
            if let Some(sandbox) = sandbox.filter(|sandbox| sandbox.first_container.is_none()) {
                self.gate.hold(&uid, &sandbox.netns);
            }
        }
    }
}

/// Holds early connections.
pub(super) struct Gate {
    state: Mutex<State>,
}

struct State {
    maps: GateMaps,
    host_cookie: u64,
    program: OwnedFd,
    cgroup: File,
    /// There while something is held or waited for.
    link: Option<OwnedFd>,
    /// Which pods are waited for, and since when.
    wanted: HashMap<WorkloadUid, SystemTime>,
    captured: HashSet<WorkloadUid>,
    holds: HashMap<WorkloadUid, Hold>,
    strangers: Strangers,
    overdue: u64,
    /// Of the configuration that was followed last.
    generation: u64,
    /// Nothing is held any more, and a successor may have the maps.
    is_closed: bool,
}

struct Hold {
    cookie: u64,
    until: Instant,
    /// Since when nothing of the pod got out.
    since: SystemTime,
}

impl Gate {
    /// A gate that is open.
    pub(super) fn new(
        mut maps: GateMaps,
        host_cookie: u64,
        program: OwnedFd,
        cgroup: &Path,
    ) -> io::Result<Self> {
        // Those of an agent that was killed.
        let stale: Vec<u64> = maps.held.keys().filter_map(Result::ok).collect();
        for cookie in stale {
            maps.held.remove(&cookie).map_err(io::Error::other)?;
        }
        let mut state = State {
            maps,
            host_cookie,
            program,
            cgroup: File::open(cgroup)?,
            link: None,
            wanted: HashMap::new(),
            captured: HashSet::new(),
            holds: HashMap::new(),
            strangers: Strangers::new(),
            overdue: 0,
            generation: 0,
            is_closed: false,
        };
        state.hold_unknown(false)?;
        Ok(Self {
            state: Mutex::new(state),
        })
    }

    /// Says which pods are enrolled; those that are not captured are waited for, and any others let
    /// go. Returns those that are waited for since now. Whoever comes late with an older
    /// `generation` of the configuration is not listened to.
    fn want(&self, generation: u64, enrolled: HashSet<WorkloadUid>) -> Vec<WorkloadUid> {
        let mut state = self.lock();
        if state.is_closed || generation < state.generation {
            return Vec::new();
        }
        state.generation = generation;
        state.captured.retain(|uid| enrolled.contains(uid));
        let held = state.holds.keys();
        let others: Vec<WorkloadUid> = held
            .filter(|uid| !enrolled.contains(uid))
            .cloned()
            .collect();
        for uid in others {
            state.release(&uid);
        }
        state.wanted.retain(|uid, _| enrolled.contains(uid));
        let new = enrolled.into_iter();
        let is_new =
            |uid: &WorkloadUid| !state.captured.contains(uid) && !state.wanted.contains_key(uid);
        let new: Vec<WorkloadUid> = new.filter(is_new).collect();
        if !new.is_empty()
            && let Err(error) = state.begin_to_wait()
        {
            // They are captured in time, as ever, but that is not made sure.
            tracing::warn!(%error, "cannot hold connections of pods that are to come");
        }
        let now = SystemTime::now();
        for uid in &new {
            state.wanted.insert(uid.clone(), now);
        }
        state.rest();
        new
    }

    /// Holds a pod whose sandbox has just been found, if it is waited for.
    pub(super) fn hold(&self, uid: &WorkloadUid, netns: &Netns) {
        let mut state = self.lock();
        if state.is_closed || state.wanted.is_empty() || state.holds.contains_key(uid) {
            return;
        }
        if let Err(error) = state.hold(uid, netns) {
            // It is captured in time, as ever, but that is not made sure.
            tracing::warn!(pod = %uid, %error, "cannot hold connections until capture");
        }
    }

    /// Lets a pod's connections go, as it is captured. Since when they were held.
    pub(super) fn captured(&self, uid: &WorkloadUid) -> Option<SystemTime> {
        let mut state = self.lock();
        let since = state.release(uid);
        state.wanted.remove(uid);
        state.captured.insert(uid.clone());
        state.rest();
        since
    }

    /// The pod's sandbox is gone; it may get another one.
    pub(super) fn gone(&self, uid: &WorkloadUid) {
        let mut state = self.lock();
        state.release(uid);
        state.captured.remove(uid);
    }

    /// Lets go of namespaces that are held and no pod's. Asks the kernel nothing while no pod is
    /// waited for: it holds none then.
    pub(super) fn look_for_strangers(&self) {
        let mut state = self.lock();
        if state.is_closed || state.wanted.is_empty() {
            return;
        }
        let State {
            maps,
            holds,
            strangers,
            ..
        } = &mut *state;
        let known: HashSet<u64> = holds.values().map(|hold| hold.cookie).collect();
        let held = maps.held.keys().filter_map(Result::ok);
        let unknown: HashSet<u64> = held.filter(|cookie| !known.contains(cookie)).collect();
        for cookie in strangers.among(&unknown) {
            tracing::debug!(cookie, "a namespace that is no pod's is let go");
            state.decide(cookie);
        }
    }

    /// Whether namespaces are held that may be no pod's.
    pub(super) fn waits(&self) -> bool {
        !self.lock().wanted.is_empty()
    }

    /// Ends holds whose time is over.
    pub(super) fn expire(&self) {
        let mut state = self.lock();
        let now = Instant::now();
        let over = state.holds.iter().filter(|(_, hold)| now >= hold.until);
        let over: Vec<WorkloadUid> = over.map(|(uid, _)| uid.clone()).collect();
        for uid in over {
            tracing::error!(pod = %uid, "not captured in time: its connections are let go");
            state.overdue += 1;
            state.release(&uid);
            // Not again, whatever becomes of its sandbox.
            state.wanted.remove(&uid);
        }
        state.expire_unknown();
        state.rest();
    }

    /// Holds nothing from now on, and leaves the maps to a successor.
    pub(super) fn close(&self) {
        drop(self.want(u64::MAX, HashSet::new()));
        self.lock().is_closed = true;
    }

    /// How many pods are held, and how many were let go uncaptured.
    pub(super) fn observe(&self) -> (usize, u64) {
        let state = self.lock();
        (state.holds.len(), state.overdue)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// From now on new namespaces are held, until they are decided about.
    fn begin_to_wait(&mut self) -> io::Result<()> {
        if !self.wanted.is_empty() {
            return Ok(());
        }
        self.attach()?;
        for cookie in self.strangers.existing() {
            self.decide(cookie);
        }
        self.hold_unknown(true)
    }

    /// Touches nothing if nothing is waited for.
    fn rest(&mut self) {
        if !self.wanted.is_empty() || self.is_closed {
            return;
        }
        if let Err(error) = self.hold_unknown(false) {
            tracing::warn!(%error, "cannot stop holding new namespaces");
        }
        let known: HashSet<u64> = self.holds.values().map(|hold| hold.cookie).collect();
        let held: Vec<u64> = self.maps.held.keys().filter_map(Result::ok).collect();
        for cookie in held {
            if !known.contains(&cookie) {
                self.forget(cookie);
            }
        }
        if self.holds.is_empty() {
            self.link = None;
        }
    }

    fn hold_unknown(&mut self, on: bool) -> io::Result<()> {
        let config = NodeConfig {
            host_cookie: self.host_cookie,
            holds_unknown: u32::from(on),
            reserved: 0,
        };
        self.maps.node.set(0, &config, 0).map_err(io::Error::other)
    }

    fn attach(&mut self) -> io::Result<()> {
        if self.link.is_none() {
            let target = LinkTarget::CgroupEgress(self.cgroup.as_fd());
            self.link = Some(sys::link_create(&self.program, target)?);
        }
        Ok(())
    }

    fn hold(&mut self, uid: &WorkloadUid, netns: &Netns) -> io::Result<()> {
        let cookie = netns.within(cgroup::namespace_cookie)??;
        let Some(wanted) = self.wanted.get(uid).copied() else {
            self.decide(cookie);
            return Ok(());
        };
        let since = match self.maps.decided.get(&cookie, 0) {
            // It was there before the pod was waited for.
            Ok(_) => SystemTime::now(),
            Err(_) => wanted,
        };
        let until = sys::monotonic_time()? + HOLD_MAX;
        let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.maps
            .held
            .insert(&cookie, &until, 0)
            .map_err(io::Error::other)?;
        let hold = Hold {
            cookie,
            until: Instant::now() + HOLD_MAX,
            since,
        };
        self.holds.insert(uid.clone(), hold);
        self.attach()
    }

    fn release(&mut self, uid: &WorkloadUid) -> Option<SystemTime> {
        let hold = self.holds.remove(uid)?;
        self.decide(hold.cookie);
        Some(hold.since)
    }

    /// What a namespace opens is held no longer.
    fn decide(&mut self, cookie: u64) {
        if self.is_closed {
            return;
        }
        if let Err(error) = self.maps.decided.insert(&cookie, &0, 0) {
            // It ends by itself at its time.
            tracing::warn!(%error, "cannot let connections go");
        }
        self.forget(cookie);
    }

    fn forget(&mut self, cookie: u64) {
        // Absent if nothing was held.
        drop(self.maps.held.remove(&cookie));
    }

    /// Namespaces that the kernel has stopped to hold: not again.
    fn expire_unknown(&mut self) {
        let Ok(now) = sys::monotonic_time() else {
            return;
        };
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let known: HashSet<u64> = self.holds.values().map(|hold| hold.cookie).collect();
        let over: Vec<u64> = self
            .maps
            .held
            .iter()
            .filter_map(Result::ok)
            .filter(|(cookie, until)| *until <= now && !known.contains(cookie))
            .map(|(cookie, _)| cookie)
            .collect();
        for cookie in over {
            tracing::warn!(cookie, "a namespace that nothing is known of is let go");
            self.decide(cookie);
        }
    }
}
