// SPDX-License-Identifier: Apache-2.0

//! Data threads: one single-threaded runtime each, everything on the request path their own.
//!
//! A thread owns the state that its connections share ([`Thread`]), follows the snapshot, accepts for
//! the pods given to it and serves the connections handed to it. Nothing moves between
//! threads but accepted sockets and orders.
//!
//! Knows nothing of protocols. Invariant: the snapshot that a thread works with is never older
//! than the generation it reports as applied.

use std::{
    cell::{Ref, RefCell},
    collections::{HashMap, HashSet},
    io,
    net::TcpStream as StdStream,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

use tokio::{
    net::TcpStream,
    runtime::Builder,
    sync::{Notify, mpsc, oneshot, watch},
    task::LocalSet,
};

use super::{
    Shared, TunnelLimits,
    budgets::{BudgetLimits, Budgets},
    bulk::BulkSessions,
    connection::{self, Accepted},
    entrance::Watched,
    http_pool::{self, Pools},
    listen::{self, Way},
    pod::Pod,
    quiet,
    tunnel::Tunnels,
    turns,
};
use crate::{
    datapath::{self, PodSockets},
    identity::{Alpn, TokenCache},
    model::{Snapshot, Workload, WorkloadUid},
    tasks::Drain,
};

/// What every thread can reach of every other.
pub(crate) struct Lane {
    orders: mpsc::UnboundedSender<Order>,
    live: AtomicUsize,
    applied: AtomicU64,
}

/// All threads, and what they share.
pub(crate) struct Lanes {
    lanes: Vec<Lane>,
    /// What there is for all workloads.
    pub(crate) budgets: Budgets,
    /// Where a connection finds the stream of another, which may be another thread's.
    pub(crate) sessions: BulkSessions,
    /// Told when the last live connection of a thread has ended.
    idle: Notify,
}

/// What a thread is told to do.
pub(crate) enum Order {
    /// A pod is captured, if by another thread.
    Know(Arc<Pod>),
    /// Accept for a pod.
    Capture(Arc<Pod>, PodSockets),
    /// Stop accepting for a pod, and forget it.
    Release(WorkloadUid),
    /// Serve a connection.
    Serve(StdStream, Accepted),
    /// Let go of what idles towards endpoints.
    LetGo,
    /// End, with whatever is still live.
    Stop,
}

/// The state of one data thread.
pub(crate) struct Thread {
    index: usize,
    snapshot: RefCell<Arc<Snapshot>>,
    /// Told after each change of the snapshot.
    pub(crate) changed: Notify,
    pub(crate) shared: Shared,
    pub(crate) drain: Drain,
    /// What tunnels speak, if the peer knows it.
    pub(crate) tunnel: Alpn,
    pub(crate) tunnels: Tunnels,
    pub(crate) pools: Pools,
    /// Streams to be judged anew after each change of the snapshot.
    pub(crate) watched: Watched,
    /// Tokens that were verified here.
    pub(crate) tokens: RefCell<TokenCache>,
    pub(crate) lanes: Arc<Lanes>,
    /// Dropping a sender ends the pod's accept loops.
    accepting: RefCell<HashMap<WorkloadUid, Vec<oneshot::Sender<()>>>>,
    /// The pods that are captured here, by whichever thread.
    local: RefCell<HashMap<WorkloadUid, Arc<Pod>>>,
    /// The workloads that tunnels were opened to.
    reached: RefCell<HashSet<WorkloadUid>>,
}

/// Counts one live connection of a thread and a pod until it is dropped.
pub(crate) struct Live {
    lanes: Arc<Lanes>,
    index: usize,
    pod: Arc<Pod>,
}

impl Lanes {
    /// Lanes for `count` threads, and what each will receive.
    pub(crate) fn new(
        count: usize,
        budgets: &BudgetLimits,
    ) -> (Arc<Self>, Vec<mpsc::UnboundedReceiver<Order>>) {
        let (lanes, receivers) = (0..count)
            .map(|_| {
                let (orders, receiver) = mpsc::unbounded_channel();
                let lane = Lane {
                    orders,
                    live: AtomicUsize::new(0),
                    applied: AtomicU64::new(0),
                };
                (lane, receiver)
            })
            .unzip();
        let lanes = Self {
            lanes,
            budgets: Budgets::new(budgets, count),
            sessions: BulkSessions::default(),
            idle: Notify::new(),
        };
        (Arc::new(lanes), receivers)
    }

    /// Gives `order` to thread `index`; lost if that thread has ended.
    pub(crate) fn give(&self, index: usize, order: Order) {
        self.lanes[index].orders.send(order).ok();
    }

    /// How many threads there are.
    pub(crate) fn count(&self) -> usize {
        self.lanes.len()
    }

    /// The thread with the fewest live connections; `own` wins a tie.
    pub(crate) fn least_loaded(&self, own: usize) -> usize {
        let load = |index: usize| self.lanes[index].live.load(Ordering::Relaxed);
        (0..self.count())
            .min_by_key(|index| (load(*index), *index != own))
            .unwrap_or(own)
    }

    /// The oldest generation that any thread works with.
    pub(crate) fn applied(&self) -> u64 {
        let applied = |lane: &Lane| lane.applied.load(Ordering::Acquire);
        self.lanes.iter().map(applied).min().unwrap_or(0)
    }

    /// Live connections, and the generation worked with, of each thread.
    pub(crate) fn states(&self) -> impl Iterator<Item = (usize, u64)> {
        self.lanes.iter().map(|lane| {
            let live = lane.live.load(Ordering::Acquire);
            (live, lane.applied.load(Ordering::Acquire))
        })
    }

    /// Live connections of all threads.
    pub(crate) fn live(&self) -> usize {
        self.states().map(|(live, _)| live).sum()
    }

    /// Resolves when no connection is live. Cancel-safe.
    pub(crate) async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            // Listening begins before the counts are read, so that the last end is not missed.
            idle.as_mut().enable();
            if self.live() == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Counts one connection of `pod` at thread `index`.
    pub(crate) fn begin(self: &Arc<Self>, index: usize, pod: &Arc<Pod>) -> Live {
        self.lanes[index].live.fetch_add(1, Ordering::Relaxed);
        pod.begin();
        Live {
            lanes: Arc::clone(self),
            index,
            pod: Arc::clone(pod),
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.pod.end();
        let lane = &self.lanes.lanes[self.index];
        if lane.live.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.lanes.idle.notify_waiters();
        }
    }
}

/// Starts data thread `index`.
pub(crate) fn start(
    index: usize,
    tunnel: Alpn,
    shared: Shared,
    lanes: Arc<Lanes>,
    orders: mpsc::UnboundedReceiver<Order>,
) -> io::Result<thread::JoinHandle<()>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new()
        .name(format!("data-{index}"))
        .spawn(move || {
            if let Err(error) = datapath::confine_data_thread() {
                tracing::warn!(%error, index, "a data thread keeps more privileges than it needs");
            }
            let local = LocalSet::new();
            // It is woken for every task of the thread, and has hardly ever something to do itself.
            let run = quiet::once(run(index, tunnel, shared, lanes, orders));
            local.block_on(&runtime, run);
        })
}

async fn run(
    index: usize,
    tunnel: Alpn,
    shared: Shared,
    lanes: Arc<Lanes>,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    let mut snapshot = shared.snapshot.clone();
    let tasks = shared.tasks.clone();
    tasks.spawn_local("turns", turns::keep(tasks.drain()));
    let thread = Rc::new(Thread::new(index, tunnel, shared, lanes));
    thread.apply(&mut snapshot);
    let mut publishing = true;
    // Not at once: there is nothing to look through, but what is just being opened.
    let first = tokio::time::Instant::now() + http_pool::SWEEP_INTERVAL;
    let mut sweep = tokio::time::interval_at(first, http_pool::SWEEP_INTERVAL);
    loop {
        // All arms are cancel-safe: what is not taken stays where it is.
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Capture(pod, sockets)) => thread.capture(&pod, sockets),
                Some(Order::Know(pod)) => thread.know(pod),
                Some(Order::Release(uid)) => thread.release(&uid),
                Some(Order::Serve(stream, accepted)) => thread.serve(stream, accepted),
                Some(Order::LetGo) => {
                    thread.pools.clear();
                    thread.tunnels.close();
                }
                Some(Order::Stop) | None => return,
            },
            changed = snapshot.changed(), if publishing => match changed {
                Ok(()) => thread.apply(&mut snapshot),
                // The publisher is gone: the last state stays good.
                Err(_closed) => publishing = false,
            },
            _ = sweep.tick() => look_through(&thread).await,
            () = thread.tunnels.going() => look_through(&thread).await,
        }
    }
}

/// Looks through all idle connections, however many: to spare others some would help nobody.
async fn look_through(thread: &Thread) {
    tokio::task::unconstrained(async { thread.pools.sweep() }).await;
}

impl Thread {
    fn new(index: usize, tunnel: Alpn, shared: Shared, lanes: Arc<Lanes>) -> Self {
        let limits = TunnelLimits {
            alpn: tunnel,
            ..TunnelLimits::default()
        };
        let tunnels = Tunnels::new(
            shared.identities.clone(),
            shared.connector.clone(),
            shared.tasks.clone(),
            limits,
        );
        let pools = Pools::new(&shared.tasks);
        Self {
            index,
            snapshot: RefCell::default(),
            changed: Notify::new(),
            drain: shared.tasks.drain(),
            shared,
            tunnel,
            tunnels,
            pools,
            watched: Watched::default(),
            tokens: RefCell::default(),
            lanes,
            accepting: RefCell::default(),
            local: RefCell::default(),
            reached: RefCell::default(),
        }
    }

    /// The number of this thread, from 0.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// The state of the mesh; not to be held across an await.
    pub(crate) fn snapshot(&self) -> Ref<'_, Arc<Snapshot>> {
        self.snapshot.borrow()
    }

    /// The workload of `pod` as it is now, or as it was when it was captured.
    pub(crate) fn workload(&self, pod: &Pod) -> Arc<Workload> {
        match self.snapshot().workloads.get(&pod.workload.uid) {
            Some(workload) => Arc::clone(workload),
            None => Arc::clone(&pod.workload),
        }
    }

    /// The pod `uid`, if it is captured on this node.
    pub(crate) fn local(&self, uid: &WorkloadUid) -> Option<Arc<Pod>> {
        self.local.borrow().get(uid).cloned()
    }

    fn know(&self, pod: Arc<Pod>) {
        let uid = pod.workload.uid.clone();
        self.local.borrow_mut().insert(uid, pod);
    }

    fn release(&self, uid: &WorkloadUid) {
        self.local.borrow_mut().remove(uid);
        self.accepting.borrow_mut().remove(uid);
    }

    /// Notes that a tunnel to `uid` was asked for.
    pub(crate) fn note_reached(&self, uid: &WorkloadUid) {
        let mut reached = self.reached.borrow_mut();
        if !reached.contains(uid) {
            reached.insert(uid.clone());
        }
    }

    /// Takes over the newest snapshot.
    fn apply(&self, snapshot: &mut watch::Receiver<Arc<Snapshot>>) {
        let new = Arc::clone(&snapshot.borrow_and_update());
        self.pools.retain(&new);
        self.reached.borrow_mut().retain(|uid| {
            let known = new.workloads.contains_key(uid);
            if !known {
                self.tunnels.close_to(uid);
            }
            known
        });
        let generation = new.generation;
        self.snapshot.replace(new);
        self.lanes.lanes[self.index]
            .applied
            .store(generation, Ordering::Release);
        self.changed.notify_waiters();
        self.watched.judge();
    }

    /// Serves a connection that another thread accepted.
    fn serve(self: &Rc<Self>, stream: StdStream, accepted: Accepted) {
        match TcpStream::from_std(stream) {
            Ok(stream) => connection::spawn(self, stream, accepted),
            Err(error) => tracing::warn!(%error, "cannot serve an accepted connection"),
        }
    }

    /// Accepts for `pod` from now on, instead of with any sockets it had before.
    fn capture(self: &Rc<Self>, pod: &Arc<Pod>, sockets: PodSockets) {
        let outbound = sockets
            .outbound
            .into_iter()
            .map(|socket| (socket, Way::Outbound));
        let inbound = sockets
            .inbound
            .into_iter()
            .map(|socket| (socket, Way::Inbound));
        let stops = outbound
            .chain(inbound)
            .map(|(socket, way)| listen::spawn(self, pod, socket, way))
            .collect();
        self.accepting
            .borrow_mut()
            .insert(pod.workload.uid.clone(), stops);
    }
}
