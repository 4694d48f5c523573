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

mod accepts;
mod attach;
mod cgroup;
mod cleanup;
mod confine;
mod connect;
mod diag;
mod error;
mod existing;
mod flows;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gate;
mod ledger;
mod listeners;
mod load;
mod maps;
mod marks;
mod mesh;
mod netlink;
mod netns;
mod observe;
mod pins;
mod pod;
mod route;
mod sandbox;
mod spare;
mod sync;
mod sys;

use std::{
    collections::HashSet,
    net::{IpAddr, TcpListener},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aya_log::EbpfLogger;
pub use mesh_common::ABI_VERSION;
use mesh_common::{OnDeath, Tuple, names};

pub use self::{
    accepts::{Accepts, Directions},
    cleanup::cleanup,
    confine::{confine_data_thread, confine_process, confine_start},
    connect::{
        Connector, Leg, Upstream, accept_without_delay, break_when_closed, duplicate,
        end_when_closed, reset,
    },
    error::DatapathError,
    gate::EarlyGate,
    ledger::{Books, Direction, Missed, OLDER},
    netns::{Entered, Netns, NetnsId},
    observe::{Applied, ExistingConnection, FlowObservation, Hook, Observation, PodObservation},
    sandbox::SandboxEvents,
    sys::give_back,
};
use self::{
    connect::ConnectorMaps,
    flows::FlowLog,
    gate::Gate,
    maps::{GateMaps, NodeMaps},
    pins::Pins,
    pod::Node,
    sandbox::Sandboxes,
    spare::Spares,
    sync::Pods,
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
    /// Where cgroup file systems are mounted, as the pods' sandboxes are found by their cgroups;
    /// `/sys/fs/cgroup` when empty.
    pub cgroup_root: PathBuf,
    /// How long after a pod's capture connections that it had before are ended; never if `None`. A
    /// pod's own limit wins.
    pub close_existing_after: Option<Duration>,
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
    /// The addresses that its interface has, which its status may not say yet.
    pub addresses: Vec<IpAddr>,
    /// Accept what the pod's applications open to the mesh; the local address of an accepted
    /// socket is the original destination. Non-blocking.
    pub outbound: Vec<TcpListener>,
    /// Accept what others open to the pod; the local address is the pod's. Non-blocking.
    pub inbound: Vec<TcpListener>,
    /// Where is told what they accepted, and if one ends that nobody here closed.
    pub accepts: Arc<Accepts>,
}

/// What changed for the proxy.
#[derive(Debug)]
pub enum Change {
    /// A pod is captured: accept on its sockets, in place of earlier ones.
    Captured(PodSockets),
    /// A pod left: close its listeners; live connections may end on their own.
    Released(WorkloadUid),
}

/// The kernel side of this node.
pub struct Datapath {
    /// Dropped before the lock of the pins.
    spares: Spares,
    pins: Pins,
    connector: Connector,
    connector_maps: Arc<ConnectorMaps>,
    maps: Mutex<NodeMaps>,
    flows: Mutex<FlowLog>,
    gate: Arc<Gate>,
    sandboxes: Sandboxes,
    pods: Pods,
    on_death: OnDeath,
    close_existing_after: Option<Duration>,
    debug_log: bool,
    flush_log: Option<Box<dyn FnMut() + Send>>,
    /// Nothing once handed over: a link lives as long as anybody holds it.
    sockets_link: Option<OwnedFd>,
    suspects: HashSet<Tuple>,
    repairs: u64,
    generation: u64,
    /// Once handed over: the pods that we still have listeners in.
    handed_over: Option<HashSet<WorkloadUid>>,
}

impl Datapath {
    /// Checks the kernel, loads the programs or adopts what an earlier agent pinned.
    ///
    /// # Errors
    /// See [`DatapathError`]; none of them goes away by trying again at once.
    pub fn start(settings: &DatapathSettings) -> Result<Self, DatapathError> {
        load::preflight()?;
        let pins = Pins::open(&settings.pin_dir)?;
        let mut instance = load::load_node(&pins, settings.debug_log)?;
        let maps = NodeMaps::take(&mut instance.ebpf).map_err(system("use the node's maps"))?;
        let host_cookie =
            cgroup::namespace_cookie().map_err(system("tell the node's namespace"))?;
        let open = |name| sys::object_get(&pins.node(name));
        let connector_maps = Arc::new(ConnectorMaps {
            tags: open(names::TAGS).map_err(system("open the socket tags"))?,
            expect: open(names::EXPECT).map_err(system("open the expected tuples"))?,
        });
        let cgroup = cgroup::directory(&settings.cgroup, &settings.cgroup_root)?;
        let sockets_link = cgroup::attach(&pins, &cgroup, &instance.note_sockets)?;
        let gate = GateMaps::take(&mut instance.ebpf).map_err(system("use the node's maps"))?;
        let gate = Gate::new(gate, host_cookie, instance.hold_early, &cgroup)
            .map(Arc::new)
            .map_err(system("prepare to hold early connections"))?;
        let sandboxes = Sandboxes::start(&settings.cgroup_root, Arc::clone(&gate))
            .map_err(system("look for sandboxes"))?;
        let spares =
            Spares::start(&pins, settings.debug_log).map_err(system("load programs ahead"))?;
        let mut flush_log: Option<Box<dyn FnMut() + Send>> = None;
        if settings.debug_log {
            let logger = EbpfLogger::init(&mut instance.ebpf);
            let mut logger = logger.map_err(system("read the programs' log"))?;
            flush_log = Some(Box::new(move || logger.flush()));
        }
        Ok(Self {
            pins,
            connector: Connector::new(Arc::clone(&connector_maps)),
            connector_maps,
            maps: Mutex::new(maps),
            flows: Mutex::default(),
            gate,
            sandboxes,
            spares,
            pods: Pods::default(),
            on_death: match settings.on_agent_death {
                OnAgentDeath::Open => OnDeath::OPEN,
                OnAgentDeath::Closed => OnDeath::CLOSED,
            },
            close_existing_after: settings.close_existing_after,
            debug_log: settings.debug_log,
            flush_log,
            sockets_link: Some(sockets_link),
            suspects: HashSet::new(),
            repairs: 0,
            generation: 0,
            handed_over: None,
        })
    }

    /// Opens connections that the programs know as ours.
    pub fn connector(&self) -> Connector {
        self.connector.clone()
    }

    /// Makes the kernel match `snapshot`, but for pods that are not captured yet: that is
    /// [`Datapath::capture_next`]'s, as is everything that later steps find to be captured.
    #[must_use = "the proxy must learn of released pods"]
    pub fn apply(&mut self, snapshot: &Snapshot) -> Vec<Change> {
        if let Some(left) = &mut self.handed_over {
            return let_go(left, snapshot);
        }
        {
            let mut maps = lock(&self.maps);
            // What the kernel refuses is logged there, and tried again at the next apply.
            let captured = self.pods.captured();
            let found = captured.map(|pod| (&pod.workload.uid, pod.addresses.as_slice()));
            let probes = maps::probe_entries(snapshot, &found.collect());
            drop(maps.probes.set(&probes));
            maps.follow(snapshot);
        }
        self.early_gate().follow(snapshot);
        let (pods, node) = self.parts();
        let changes = pods.apply(&node, snapshot);
        self.after(&changes);
        self.generation = snapshot.generation;
        changes
    }

    /// Holds pods before they are captured, whatever the datapath is busy with.
    pub fn early_gate(&self) -> EarlyGate {
        EarlyGate::new(Arc::clone(&self.gate), self.sandboxes.events())
    }

    /// Holds nothing from now on, whatever the early gate is told.
    pub fn hold_nothing(&self) {
        self.gate.close();
    }

    /// Tells when [`Datapath::follow_sandboxes`] has something to do.
    pub fn sandbox_events(&self) -> SandboxEvents {
        self.sandboxes.events()
    }

    /// Captures one of the pods that are to be captured, if there is one that can be. One that fails
    /// is kept with its error (see [`Datapath::observe`]), and it is its turn again at the next apply
    /// or reconcile. Call it until it returns None; on a busy node it may take seconds.
    #[must_use = "the proxy must learn of captured pods"]
    pub fn capture_next(&mut self) -> Option<Vec<Change>> {
        if self.handed_over.is_some() {
            return None;
        }
        let (pods, node) = self.parts();
        let changes = pods.capture_next(&node)?;
        self.after(&changes);
        Some(changes)
    }

    /// Releases pods whose sandbox is gone; those that wait for one may be captured now.
    #[must_use = "the proxy must learn of captured and released pods"]
    pub fn follow_sandboxes(&mut self) -> Vec<Change> {
        if self.handed_over.is_some() {
            return Vec::new();
        }
        let (pods, node) = self.parts();
        let changes = pods.follow_sandboxes(&node);
        self.after(&changes);
        changes
    }

    /// Lets go of what was held of captured pods, and probes through to those that were captured
    /// before their status says their address.
    fn after(&mut self, changes: &[Change]) {
        let mut maps = lock(&self.maps);
        for change in changes {
            if let Change::Captured(sockets) = change {
                let uid = &sockets.workload.uid;
                if let Some(since) = self.gate.captured(uid) {
                    self.pods.note_held(uid, since);
                }
                let endpoints = maps::probe_endpoints(&sockets.workload, &sockets.addresses);
                // What the kernel refuses is logged there, and tried again at the next apply.
                drop(maps.probes.add(endpoints));
            }
        }
    }

    /// The pods, and what they need of the node.
    fn parts(&mut self) -> (&mut Pods, Node<'_>) {
        let node = Node {
            pins: &self.pins,
            connector: &self.connector_maps,
            sandboxes: &self.sandboxes,
            spares: &self.spares,
            on_death: self.on_death,
            close_existing_after: self.close_existing_after,
            debug_log: self.debug_log,
        };
        (&mut self.pods, node)
    }

    /// Puts back what pods may have removed, reads flow records and logs, ends drained pods; failed
    /// ones may be tried again. Call it every few seconds, and give the proxy what changed.
    #[must_use = "the proxy must learn of captured and released pods"]
    pub fn reconcile(&mut self) -> Vec<Change> {
        if self.handed_over.is_some() {
            return Vec::new();
        }
        if let Some(flush) = &mut self.flush_log {
            flush();
        }
        self.read_flows();
        let (pods, node) = self.parts();
        let (changes, repairs) = pods.reconcile(&node);
        self.after(&changes);
        self.gate.expire();
        self.repairs += repairs;
        self.sweep_expected();
        changes
    }

    /// Leaves the kernel to a successor, which may start from now on, while this process drains:
    /// its live connections go on, and nothing it does changes what is pinned any more.
    /// [`Datapath::apply`] then only tells which pods have left.
    ///
    /// Programs and maps of pods are let go of, as their pins keep them: what the successor
    /// removes must not stay attached because we hold it.
    pub fn hand_over(&mut self) {
        self.spares.end();
        let pods = std::mem::take(&mut self.pods).into_uids();
        self.sockets_link = None;
        self.handed_over = Some(pods);
        self.gate.close();
        if let Err(error) = self.pins.unlock() {
            // The descriptor is bad, so the lock is gone with it.
            tracing::warn!(%error, "cannot unlock the pin directory");
        }
    }

    /// Whether a successor has the kernel.
    pub fn is_handed_over(&self) -> bool {
        self.handed_over.is_some()
    }

    /// What is applied, without a look into the kernel.
    pub fn applied(&self) -> Applied {
        let (captured, failed) = self.pods.count();
        Applied {
            generation: self.generation,
            captured,
            failed,
        }
    }

    /// Reads the state from the kernel.
    pub fn observe(&self) -> Observation {
        self.read_flows();
        let maps = lock(&self.maps);
        let (held, overdue_holds) = self.gate.observe();
        Observation {
            unfit: None,
            generation: self.generation,
            kernel: load::kernel_release(),
            notes_sockets: self
                .sockets_link
                .as_ref()
                .is_some_and(|link| sys::link_is_attached(link).unwrap_or(false)),
            pods: self.pods.observe(&self.sandboxes),
            counters: maps.counters(),
            expected: maps.expected().len(),
            destinations: maps.mesh.len(),
            held,
            overdue_holds,
            refused_sandboxes: self.pods.refusals(),
            repairs: self.repairs,
            missed: self.pods.missed().clone(),
            flows: lock(&self.flows).latest(),
        }
    }

    /// Ends it; nothing else may be called afterwards but [`Datapath::observe`].
    pub fn stop(&mut self, how: Stop) {
        self.spares.end();
        match how {
            Stop::Remove if self.handed_over.is_none() => {
                std::mem::take(&mut self.pods).remove();
                self.pins.remove();
            }
            // Pins keep everything; closing our descriptors changes nothing.
            Stop::Remove | Stop::Leave => {}
        }
    }

    fn read_flows(&self) {
        let mut flows = lock(&self.flows);
        lock(&self.maps).read_flows(|record| flows.push(&record));
    }

    /// Forgets expected tuples that no socket has: those of an agent that died before its sockets' close was noted. A
    /// tuple is a suspect once before it goes, as it is expected a moment before its socket is bound to it.
    fn sweep_expected(&mut self) {
        let mut maps = lock(&self.maps);
        let foreign: Vec<Tuple> = maps
            .expected()
            .into_iter()
            .filter(|tuple| !self.connector.is_own_upstream(maps::source_of(tuple)))
            .collect();
        if foreign.is_empty() {
            self.suspects.clear();
            return;
        }
        let mut live = HashSet::new();
        for pod in self.pods.captured() {
            live.extend(pod.local_ends().unwrap_or_default());
        }
        let stale: HashSet<Tuple> = foreign
            .into_iter()
            .filter(|tuple| !live.contains(&maps::source_of(tuple)))
            .collect();
        for tuple in stale.intersection(&self.suspects) {
            // Gone by itself since it was listed: as wanted.
            drop(maps.expect.remove(tuple));
        }
        self.suspects = stale;
    }
}

/// Raises the limit of open files to what the process may have: two per connection and hop.
pub fn raise_open_files() {
    match sys::raise_open_files() {
        Ok(limit) => tracing::info!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
}

fn system<E>(attempt: &'static str) -> impl FnOnce(E) -> DatapathError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    move |source| DatapathError::System {
        attempt,
        source: source.into(),
    }
}

/// The pods that `snapshot` no longer has in the mesh.
fn let_go(left: &mut HashSet<WorkloadUid>, snapshot: &Snapshot) -> Vec<Change> {
    let wanted: HashSet<&WorkloadUid> = snapshot.local_enrolled().map(|pod| &pod.uid).collect();
    let gone: Vec<WorkloadUid> = left
        .iter()
        .filter(|uid| !wanted.contains(uid))
        .cloned()
        .collect();
    for uid in &gone {
        left.remove(uid);
    }
    gone.into_iter().map(Change::Released).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
