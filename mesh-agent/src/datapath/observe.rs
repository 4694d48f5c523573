// SPDX-License-Identifier: Apache-2.0

//! What the kernel says about the datapath, as plain values for the admin socket.
//!
//! Owns no state. Invariant: everything here was read from the kernel when it was asked for, but
//! for `generation`, `error` and `captured_since`, which only the agent knows.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use super::{
    ledger::{Books, Direction, Missed},
    netns::NetnsId,
};
use crate::model::WorkloadUid;

/// The state of the datapath.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Why the kernel programs cannot work on this node at all, if they cannot.
    pub unfit: Option<String>,
    /// The generation of the snapshot that was applied last; 0 before the first.
    pub generation: u64,
    /// The running kernel, for example `6.18.44`.
    pub kernel: String,
    /// Whether the sock_ops program is on the cgroup.
    pub notes_sockets: bool,
    /// The pods that are captured, or should be, by UID.
    pub pods: Vec<PodObservation>,
    /// The node's counters by name; those at zero too.
    pub counters: BTreeMap<&'static str, u64>,
    /// Expected tuples at this moment: the live connections to applications.
    pub expected: usize,
    /// Entries of the mesh map.
    pub destinations: usize,
    /// Pods whose new connections are held, as they are about to be captured.
    pub held: usize,
    /// Pods that were let go because they were not captured in time.
    pub overdue_holds: u64,
    /// How often a namespace turned out not to be its pod's.
    pub refused_sandboxes: u64,
    /// How often rules, routes, sysctls and filters had to be put back.
    pub repairs: u64,
    /// Connections that should have been captured and were not, of all pods that this agent served.
    pub missed: Missed,
    /// The flows that closed last, the latest last.
    pub flows: Vec<FlowObservation>,
}

/// The state of one pod.
#[derive(Clone, Debug)]
pub struct PodObservation {
    /// Its UID.
    pub uid: WorkloadUid,
    /// Its network namespace, if it could be opened.
    pub netns: Option<NetnsId>,
    /// The interface that is captured.
    pub interface: String,
    /// How the programs are attached.
    pub hook: Hook,
    /// The names of the programs that are attached.
    pub programs: Vec<&'static str>,
    /// What happens to its new connections: `active`, `draining`, or empty.
    pub state: &'static str,
    /// Since when it is captured.
    pub captured_since: Option<SystemTime>,
    /// Since when what it opened was held until the capture, if it was.
    pub held_since: Option<SystemTime>,
    /// Its counters by name; those at zero too.
    pub counters: BTreeMap<&'static str, u64>,
    /// Why it is not captured, or not fully.
    pub error: Option<String>,
    /// What something in the pod did to its capture, as long as that is not put back. No fault of the
    /// agent's: what it should do it does.
    pub broken: Option<String>,
    /// What the kernel counted, next to what was accepted.
    pub books: Books,
    /// Whether nothing is wrong: the pod's sandbox does not exist yet.
    pub waits: bool,
    /// When its first container began, if that was seen; never later than it did.
    pub first_container: Option<SystemTime>,
    /// Connections that it had before it was captured, and still has.
    pub existing: Vec<ExistingConnection>,
    /// How long after the capture those are ended; never if there is no limit.
    pub close_existing_after: Option<Duration>,
}

/// What is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The snapshot's generation.
    pub generation: u64,
    /// How many pods are captured and whole.
    pub captured: usize,
    /// How many are not, those that wait for their sandbox included.
    pub failed: usize,
}

/// A connection that is older than its pod's capture, and goes around the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExistingConnection {
    /// The pod's end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Who opened it, as far as its port tells.
    pub direction: Direction,
}

/// How a program sits on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// A tcx link (6.6): a pod cannot remove it.
    Tcx,
    /// A clsact filter: a privileged pod can remove it, and it is put back.
    Clsact,
}

impl Hook {
    /// Its name, for status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// A flow that closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowObservation {
    /// What the socket was: `captured`, `tunnel`, ...
    pub kind: &'static str,
    /// Our end, or the application's.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Smoothed round-trip time, in microseconds.
    pub rtt_us: u32,
    /// Segments sent again.
    pub retransmits: u32,
    /// Bytes that the peer acknowledged.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
}
