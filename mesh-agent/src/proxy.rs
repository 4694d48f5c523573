// SPDX-License-Identifier: Apache-2.0

//! Carries the traffic of this node's pods: accepts what the kernel captured, does what the model
//! decides, and says how each connection and request ended.
//!
//! Knows nothing of Kubernetes, manifests or BPF. Everything on the request path belongs to one data
//! thread (`threads`) and is `Rc`, never `Arc`; only a position in a weight schedule, the load of
//! an endpoint and counters are shared between threads.
//!
//! Invariant: every connection and every request ends in exactly one [`Outcome`].

mod buckets;
mod budgets;
mod bulk;
mod client_stream;
mod connection;
pub mod copy;
mod custom;
mod dial;
mod elsewhere;
mod entrance;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod hbone;
mod hbone_stream;
mod head_clock;
pub mod hello;
mod http;
mod http1;
mod http2_heads;
mod http_ahead;
mod http_body;
mod http_choice;
mod http_decide;
mod http_ending;
mod http_envoy;
mod http_exchange;
mod http_forward;
mod http_headers;
mod http_ids;
mod http_lease;
mod http_mirror;
mod http_notes;
mod http_pool;
mod http_replay;
mod http_retry;
mod http_treated;
mod http_upgrade;
mod http_upstream;
mod inbound;
mod inbound_http;
mod listen;
mod local;
mod mux;
mod opening;
mod outbound;
pub mod outcome;
mod patience;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod pieces;
pub mod pipe;
mod pod;
mod quiet;
mod refused;
mod seldom;
pub mod sniff;
pub mod stream;
mod threads;
pub mod tunnel;
#[cfg(test)]
mod tunnel_fixture;
mod tunnel_keep_alive;
mod tunnel_link;
mod tunnel_pool;
mod tunnel_stream;
mod tunnel_wire;
mod turns;
mod unique;
mod usage;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::watch;

pub use self::{
    budgets::{Budget, BudgetLimits, BudgetView},
    inbound::HBONE_PORT,
    outcome::Outcome,
    refused::{Refused, RefusedPeer},
};
use self::{
    pod::Pod,
    threads::{Lanes, Order},
    tunnel::TunnelLimits,
};
use crate::{
    datapath::{Connector, PodSockets},
    identity::{Alpn, Identities, KeySets},
    model::{PathNormalization, Snapshot, WorkloadUid},
    tasks::Tasks,
    telemetry::Telemetry,
};

/// How long connections that idle towards endpoints may take to end, and how often that is looked at.
const LET_GO: Duration = Duration::from_secs(1);
const LET_GO_LOOK: Duration = Duration::from_millis(5);

/// The tasks that hold them.
const UPSTREAM_TASKS: [&str; 3] = ["tunnel", "upstream http/1", "upstream http/2"];

/// How the proxy runs.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// How many data threads.
    pub threads: usize,
    /// What tunnels speak, if the peer knows it.
    pub tunnel: Alpn,
    /// What there is for all workloads.
    pub budgets: BudgetLimits,
}

impl Default for ProxySettings {
    /// One thread per core, at most four.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            threads: cores.min(4),
            tunnel: Alpn::Hbone,
            budgets: BudgetLimits::default(),
        }
    }
}

/// What serves HTTP/1.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Http1Engine {
    /// Plain requests are served by hand, the rest by hyper.
    #[default]
    Fast,
    /// hyper serves everything.
    Hyper,
}

/// What requests are given that they did not bring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestHeaders {
    /// Nothing.
    None,
    /// An `x-request-id`.
    Id,
    /// That, and a `traceparent`.
    #[default]
    Trace,
    /// That, and those of Envoy.
    Envoy,
}

/// What the proxy needs of the rest of the agent.
#[derive(Clone)]
pub struct Shared {
    /// The state of the mesh.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Whom the workloads here are.
    pub identities: Identities,
    /// The keys by which tokens are verified.
    pub keys: KeySets,
    /// Opens connections from pods.
    pub connector: Connector,
    /// Counts.
    pub telemetry: Telemetry,
    /// Spawns.
    pub tasks: Tasks,
    /// Tunnels also between pods of this node.
    pub encrypt_on_node: bool,
    /// What serves HTTP/1.1.
    pub http1: Http1Engine,
    /// What requests are given that they did not bring.
    pub request_headers: RequestHeaders,
    /// How much of the spelling of a path is undone before its request is routed.
    pub path_normalization: PathNormalization,
    /// How long the head of a request may take from its first byte on.
    pub head_time: Duration,
}

/// The proxy as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyView {
    /// See [`Proxy::applied_generation`].
    pub applied_generation: u64,
    /// The data threads, in order.
    pub threads: Vec<ThreadView>,
    /// Live connections of each pod that is captured, or was and has some left.
    pub pods: HashMap<WorkloadUid, usize>,
    /// The budgets of each pod that is captured.
    pub budgets: HashMap<WorkloadUid, Vec<BudgetView>>,
    /// Who comes to each of them.
    pub inbound: HashMap<WorkloadUid, InboundView>,
}

/// Who comes to a pod, as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InboundView {
    /// Live connections that came in plaintext, and were let in.
    pub plaintext: usize,
    /// Who was not let in, last.
    pub last_refused: Option<RefusedPeer>,
}

/// One data thread as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadView {
    /// Whether it runs.
    pub alive: bool,
    /// The generation of the snapshot that it works with.
    pub generation: u64,
    /// Its live connections.
    pub connections: usize,
}

/// The data threads.
pub struct Proxy {
    lanes: Arc<Lanes>,
    tasks: Tasks,
    pods: Mutex<Pods>,
    threads: Mutex<Vec<JoinHandle<()>>>,
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
        let (lanes, receivers) = Lanes::new(settings.threads.max(1), &settings.budgets);
        let tasks = shared.tasks.clone();
        let threads = receivers
            .into_iter()
            .enumerate()
            .map(|(index, orders)| {
                threads::start(
                    index,
                    settings.tunnel,
                    shared.clone(),
                    Arc::clone(&lanes),
                    orders,
                )
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            lanes,
            tasks,
            pods: Mutex::default(),
            threads: Mutex::new(threads),
        })
    }

    /// Accepts for a pod from now on; sockets that it had before are closed.
    pub fn capture(&self, sockets: PodSockets) {
        let uid = sockets.workload.uid.clone();
        let pod = Arc::new(Pod::new(&sockets, &self.lanes.budgets));
        let mut pods = lock(&self.pods);
        let thread = pods.next_thread % self.lanes.count();
        pods.next_thread = thread + 1;
        let earlier = pods.captured.insert(uid.clone(), Arc::clone(&pod));
        pods.leaving.extend(earlier);
        for index in 0..self.lanes.count() {
            self.lanes.give(index, Order::Release(uid.clone()));
            self.lanes.give(index, Order::Know(Arc::clone(&pod)));
        }
        self.lanes.give(thread, Order::Capture(pod, sockets));
    }

    /// Stops accepting for a pod; its live connections finish.
    pub fn release(&self, uid: &WorkloadUid) {
        let mut pods = lock(&self.pods);
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
        let alive: Vec<bool> = lock(&self.threads)
            .iter()
            .map(|thread| !thread.is_finished())
            .collect();
        let mut pods = HashMap::new();
        let mut inbound: HashMap<_, InboundView> = HashMap::new();
        let known = lock(&self.pods);
        for pod in known.captured.values().chain(&known.leaving) {
            *pods.entry(pod.workload.uid.clone()).or_default() += pod.live();
            let view = inbound.entry(pod.workload.uid.clone()).or_default();
            view.plaintext += pod.plaintext();
            let (one, other) = (view.last_refused.take(), pod.last_refused.get());
            view.last_refused = one.into_iter().chain(other).max_by_key(|it| it.at);
        }
        let budgets = known.captured.iter();
        let budgets = budgets.map(|(uid, pod)| (uid.clone(), pod.budgets.observe()));
        ProxyView {
            applied_generation: self.applied_generation(),
            threads: self
                .lanes
                .states()
                .zip(alive)
                .map(|((connections, generation), alive)| ThreadView {
                    alive,
                    generation,
                    connections,
                })
                .collect(),
            pods,
            budgets: budgets.collect(),
            inbound,
        }
    }

    /// A successor serves whoever comes anew: peers are told to come anew, live connections go on,
    /// and what still reaches our listeners is served.
    pub fn leave(&self) {
        self.tasks.begin_leave();
    }

    /// Live connections.
    pub fn live(&self) -> usize {
        self.lanes.live()
    }

    /// Resolves when no connection is live. Cancel-safe.
    pub async fn idle(&self) {
        self.lanes.idle().await;
    }

    /// Ends: no new connections, live ones finish until `deadline` has passed; says how many were
    /// left then. Begins the drain of the tasks that the proxy was given.
    pub async fn drain(&self, deadline: Duration) -> usize {
        self.tasks.begin_drain();
        // Cancel-safe: waiting takes nothing. Whether it was reached, the count says.
        tokio::time::timeout(deadline, self.lanes.idle()).await.ok();
        let left = self.lanes.live();
        if left > 0 {
            let connections = left;
            tracing::warn!(connections, "drain deadline passed with connections left");
        } else {
            self.let_go().await;
        }
        for index in 0..self.lanes.count() {
            self.lanes.give(index, Order::Stop);
        }
        let threads = std::mem::take(&mut *lock(&self.threads));
        let joining = tokio::task::spawn_blocking(move || join(threads));
        if joining.await.is_err() {
            tracing::error!("cannot wait for the data threads");
        }
        left
    }

    /// Ends in order what idles towards endpoints: they need not see a reset.
    async fn let_go(&self) {
        for index in 0..self.lanes.count() {
            self.lanes.give(index, Order::LetGo);
        }
        let ended = async {
            let is_upstream = |(name, _): &(&str, usize)| UPSTREAM_TASKS.contains(name);
            while self.tasks.live().iter().any(is_upstream) {
                tokio::time::sleep(LET_GO_LOOK).await;
            }
        };
        // Cancel-safe: waiting takes nothing. What did not end in time is closed.
        tokio::time::timeout(LET_GO, ended).await.ok();
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a data thread had panicked");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
