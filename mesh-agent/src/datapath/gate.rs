// SPDX-License-Identifier: Apache-2.0

//! Holds what a pod opens between the moment its sandbox is found and its capture.
//!
//! A capture may have to wait: for others on a busy node, for the kernel's grace periods. Until it
//! is done SYNs of the pod's namespace are dropped, and TCP sends them again into the capture. Only
//! pods that are known to be enrolled are held, and only before a container of theirs was seen; no
//! other namespace is touched.
//!
//! Invariant: a hold ends by itself: the kernel lets the SYNs go at its time, and all holds are
//! gone with the process, as the program's link is pinned nowhere.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aya::maps::{HashMap as KernelHashMap, MapData};

use super::{
    cgroup,
    netns::Netns,
    sys::{self, LinkTarget},
};
use crate::model::WorkloadUid;

/// How long a pod's connections may wait for its capture.
const HOLD_MAX: Duration = Duration::from_secs(30);

/// Holds early connections.
pub(super) struct Gate {
    state: Mutex<State>,
}

struct State {
    held: KernelHashMap<MapData, u64, u64>,
    program: OwnedFd,
    cgroup: File,
    /// There while something is held.
    link: Option<OwnedFd>,
    wanted: HashSet<WorkloadUid>,
    holds: HashMap<WorkloadUid, Hold>,
    overdue: u64,
}

struct Hold {
    cookie: u64,
    until: Instant,
}

impl Gate {
    /// A gate that is open.
    pub(super) fn new(
        mut held: KernelHashMap<MapData, u64, u64>,
        program: OwnedFd,
        cgroup: &Path,
    ) -> io::Result<Self> {
        // Those of an agent that was killed.
        let stale: Vec<u64> = held.keys().filter_map(Result::ok).collect();
        for cookie in stale {
            held.remove(&cookie).map_err(io::Error::other)?;
        }
        Ok(Self {
            state: Mutex::new(State {
                held,
                program,
                cgroup: File::open(cgroup)?,
                link: None,
                wanted: HashSet::new(),
                holds: HashMap::new(),
                overdue: 0,
            }),
        })
    }

    /// Says which pods are to be captured and are not; any others are let go.
    pub(super) fn want(&self, wanted: HashSet<WorkloadUid>) {
        let mut state = self.lock();
        let others: Vec<WorkloadUid> = state
            .holds
            .keys()
            .filter(|uid| !wanted.contains(uid))
            .cloned()
            .collect();
        for uid in others {
            state.release(&uid);
        }
        state.wanted = wanted;
    }

    /// Holds a pod whose sandbox has just been found, if it is wanted.
    pub(super) fn hold(&self, uid: &WorkloadUid, netns: &Netns) {
        let mut state = self.lock();
        if !state.wanted.contains(uid) || state.holds.contains_key(uid) {
            return;
        }
        if let Err(error) = state.hold(uid, netns) {
            // It is captured in time, as ever, but that is not made sure.
            tracing::warn!(pod = %uid, %error, "cannot hold connections until capture");
        }
    }

    /// Lets a pod's connections go: it is captured, or gone.
    pub(super) fn release(&self, uid: &WorkloadUid) {
        self.lock().release(uid);
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
    fn hold(&mut self, uid: &WorkloadUid, netns: &Netns) -> io::Result<()> {
        let cookie = netns.within(cgroup::namespace_cookie)??;
        let until = sys::monotonic_time()? + HOLD_MAX;
        let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.held
            .insert(&cookie, &until, 0)
            .map_err(io::Error::other)?;
        let hold = Hold {
            cookie,
            until: Instant::now() + HOLD_MAX,
        };
        self.holds.insert(uid.clone(), hold);
        if self.link.is_none() {
            let target = LinkTarget::CgroupEgress(self.cgroup.as_fd());
            self.link = Some(sys::link_create(&self.program, target)?);
        }
        Ok(())
    }

    fn release(&mut self, uid: &WorkloadUid) {
        let Some(hold) = self.holds.remove(uid) else {
            return;
        };
        if let Err(error) = self.held.remove(&hold.cookie) {
            // It ends by itself at its time.
            tracing::warn!(pod = %uid, %error, "cannot let connections go");
        }
        if self.holds.is_empty() {
            self.link = None;
        }
    }
}
