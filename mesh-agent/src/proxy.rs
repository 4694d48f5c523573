// SPDX-License-Identifier: Apache-2.0

//! Carries the traffic of this node's pods: accepts what the kernel captured, does what the model
//! decides, and says how each connection and request ended.
//!
//! Knows nothing of Kubernetes, manifests or BPF. Everything on the request path belongs to one data
//! thread (`threads`) and is `Rc`, never `Arc`; only a position in a weight schedule, the load of
//! an endpoint and counters are shared between threads.
//!
//! Invariant: every connection and every request ends in exactly one [`Outcome`].

mod connection;
pub mod copy;
mod dial;
pub mod hbone;
mod http;
mod http_body;
mod http_exchange;
mod http_forward;
mod http_headers;
mod http_lease;
mod http_pool;
mod http_upgrade;
mod http_upstream;
mod inbound;
mod listen;
mod outbound;
pub mod outcome;
mod pod;
pub mod sniff;
pub mod stream;
mod threads;
pub mod tunnel;
mod tunnel_keep_alive;
mod tunnel_link;
mod tunnel_stream;

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::watch;

pub use self::{inbound::HBONE_PORT, outcome::Outcome};
use self::{
    pod::Pod,
    threads::{Lanes, Order},
    tunnel::TunnelLimits,
};
use crate::{
    datapath::{Connector, PodSockets},
    identity::Identities,
    model::{Snapshot, WorkloadUid},
    tasks::Tasks,
    telemetry::Telemetry,
};

/// How the proxy runs.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// How many data threads.
    pub threads: usize,
    /// How many connections may be live at once; more wait in the kernel's backlog.
    pub max_connections: usize,
}

impl Default for ProxySettings {
    /// One thread per core, at most four; as many connections as there are descriptors for.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            threads: cores.min(4),
            max_connections: listen::connection_limit(),
        }
    }
}

/// What the proxy needs of the rest of the agent.
#[derive(Clone)]
pub struct Shared {
    /// The state of the mesh.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Whom the workloads here are.
    pub identities: Identities,
    /// Opens connections from pods.
    pub connector: Connector,
    /// Counts.
    pub telemetry: Telemetry,
    /// Spawns.
    pub tasks: Tasks,
}

/// The proxy as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyView {
    /// Live connections of each captured pod.
    pub pods: BTreeMap<WorkloadUid, usize>,
    /// Live connections of each data thread.
    pub threads: Vec<usize>,
    /// See [`Proxy::applied_generation`].
    pub applied_generation: u64,
}

/// The data threads.
pub struct Proxy {
    lanes: Arc<Lanes>,
    tasks: Tasks,
    pods: Mutex<Pods>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Pods {
    captured: BTreeMap<WorkloadUid, Arc<Pod>>,
    /// Released, with connections that live on.
    leaving: Vec<Arc<Pod>>,
    next_thread: usize,
}

impl Proxy {
    /// Starts the data threads.
    ///
    /// # Errors
    /// When the system gives no thread or no event queue.
    pub fn start(settings: &ProxySettings, shared: Shared) -> io::Result<Self> {
        let (lanes, receivers) = Lanes::new(settings.threads.max(1), settings.max_connections);
        let tasks = shared.tasks.clone();
        let threads = receivers
            .into_iter()
            .enumerate()
            .map(|(index, orders)| {
                threads::start(index, shared.clone(), Arc::clone(&lanes), orders)
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            lanes,
            tasks,
            pods: Mutex::default(),
            threads,
        })
    }

    /// Accepts for a pod from now on; sockets that it had before are closed.
    pub fn capture(&self, sockets: PodSockets) {
        let workload = Arc::clone(&sockets.workload);
        let uid = workload.uid.clone();
        let pod = Arc::new(Pod::new(workload, sockets.netns.clone()));
        let mut pods = self.lock();
        let thread = pods.next_thread % self.lanes.count();
        pods.next_thread = thread + 1;
        let earlier = pods.captured.insert(uid.clone(), Arc::clone(&pod));
        pods.leaving.extend(earlier);
        for index in 0..self.lanes.count() {
            self.lanes.give(index, Order::Release(uid.clone()));
        }
        self.lanes.give(thread, Order::Capture(pod, sockets));
    }

    /// Stops accepting for a pod; its live connections finish.
    pub fn release(&self, uid: &WorkloadUid) {
        let mut pods = self.lock();
        let released = pods.captured.remove(uid);
        pods.leaving.extend(released);
        pods.leaving.retain(|pod| pod.live() > 0);
        for index in 0..self.lanes.count() {
            self.lanes.give(index, Order::Release(uid.clone()));
        }
    }

    /// The oldest generation of the snapshot that any data thread works with.
    pub fn applied_generation(&self) -> u64 {
        self.lanes.applied()
    }

    /// What is under way.
    pub fn observe(&self) -> ProxyView {
        let pods = self.lock();
        let mut view = ProxyView {
            pods: BTreeMap::new(),
            threads: self.lanes.live(),
            applied_generation: self.applied_generation(),
        };
        for pod in pods.captured.values().chain(&pods.leaving) {
            *view.pods.entry(pod.workload.uid.clone()).or_default() += pod.live();
        }
        view
    }

    /// Ends: no new connections, live ones finish until `deadline` has passed; says how many were
    /// left then. Begins the drain of the tasks that the proxy was given.
    pub async fn drain(self, deadline: Duration) -> usize {
        self.tasks.begin_drain();
        // Cancel-safe: waiting takes nothing. Whether it was reached, the count says.
        tokio::time::timeout(deadline, self.lanes.idle()).await.ok();
        let left = self.lanes.live().iter().sum();
        if left > 0 {
            tracing::warn!(
                connections = left,
                "drain deadline passed with connections left"
            );
        }
        for index in 0..self.lanes.count() {
            self.lanes.give(index, Order::Stop);
        }
        let threads = self.threads;
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a data thread had panicked");
                }
            }
        });
        if joined.await.is_err() {
            tracing::error!("cannot wait for the data threads");
        }
        left
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pods> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
