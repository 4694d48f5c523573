// SPDX-License-Identifier: Apache-2.0

//! The kernel side: programs, maps and pod namespaces made to match the snapshot.
//!
//! Owns everything that is attached, pinned, or set in a pod's network namespace, and the sockets
//! that capture needs (listeners, the agent's outgoing connections). Knows nothing of Kubernetes,
//! HTTP or TLS; nobody else names aya.
//!
//! Invariant: a pod counts as captured only when its links, maps and listeners are pinned, so a
//! crash or a new agent changes nothing for it.
//! Invariant: a captured application socket's packets stay redirected as long as it lives,
//! whatever becomes of the pod's enrolment.
//!
//! The programs and what they fail to: `mesh-ebpf/src/*.rs`. Kernel floor: 5.15 by design
//! (load-probed at start), tcx from 6.6, clsact before.

mod connect;
mod netns;
mod observe;
mod sys;

use std::{net::TcpListener, path::PathBuf, sync::Arc};

pub use self::{
    connect::{Connector, Leg, Upstream, reset},
    netns::{Entered, Netns, NetnsId},
    observe::{FlowObservation, Hook, Observation, PodObservation},
};
use crate::model::{Snapshot, Workload, WorkloadUid};

/// What happens to new connections of pods while no agent runs. Strict ports stay closed in any
/// case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnAgentDeath {
    /// They pass in plaintext.
    Open,
    /// They wait (outbound) or are refused (inbound).
    #[default]
    Closed,
}

/// How the datapath is set up.
#[derive(Clone, Debug, Default)]
pub struct DatapathSettings {
    /// Where maps and links are pinned, on bpffs: `/sys/fs/bpf/mesh-agent/<node>`. Two agents on
    /// one machine need two.
    pub pin_dir: PathBuf,
    /// The cgroup2 directory whose sockets are noted; found from `/proc/mounts` when empty.
    pub cgroup: PathBuf,
    /// What happens to new connections while no agent runs.
    pub on_agent_death: OnAgentDeath,
    /// Whether the programs log at debug level; costs time per packet.
    pub debug_log: bool,
}

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Detach and remove everything.
    Remove,
    /// Leave everything as a crash would, for the next agent.
    Leave,
}

/// The sockets of a captured pod.
#[derive(Debug)]
pub struct PodSockets {
    /// The pod.
    pub workload: Arc<Workload>,
    /// Its network namespace.
    pub netns: Netns,
    /// Accept what the pod's applications open to the mesh; the local address of an accepted
    /// socket is the original destination. Non-blocking.
    pub outbound: Vec<TcpListener>,
    /// Accept what others open to the pod; the local address is the pod's. Non-blocking.
    pub inbound: Vec<TcpListener>,
}

/// What changed for the proxy.
#[derive(Debug)]
pub enum Change {
    /// A pod is captured: accept on its sockets, in place of earlier ones.
    Captured(PodSockets),
    /// A pod left: close its listeners; live connections may end on their own.
    Released(WorkloadUid),
}

/// Why the datapath cannot work here.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The agent was built without its kernel programs.
    #[error("this agent was built without its kernel programs (AYA_BUILD_SKIP was set)")]
    NoPrograms,
}

/// The kernel side of this node.
#[derive(Debug)]
pub struct Datapath {
    connector: Connector,
}

impl Datapath {
    /// Checks the kernel, loads the programs or adopts what an earlier agent pinned.
    ///
    /// # Errors
    /// See [`DatapathError`]; none of them goes away by trying again at once.
    pub fn start(settings: &DatapathSettings) -> Result<Self, DatapathError> {
        let _ = settings;
        Err(DatapathError::NoPrograms)
    }

    /// Opens connections that the programs know as ours.
    pub fn connector(&self) -> Connector {
        self.connector.clone()
    }

    /// Makes the kernel match `snapshot`. A pod that fails is kept with its error (see
    /// [`Datapath::observe`]) and tried again at the next apply or reconcile.
    pub fn apply(&mut self, snapshot: &Snapshot) -> Vec<Change> {
        let _ = snapshot;
        Vec::new()
    }

    /// Puts back what pods may have removed, reads flow records, ends drained pods. Call it every
    /// few seconds.
    pub fn reconcile(&mut self) {}

    /// Reads the state from the kernel.
    pub fn observe(&self) -> Observation {
        Observation::default()
    }

    /// Ends it.
    pub fn stop(self, how: Stop) {
        let _ = how;
    }
}
