// SPDX-License-Identifier: Apache-2.0

//! Tasks with names: spawned, counted, asked to end, waited for.
//!
//! Every task of the agent is spawned here, so that a drain knows what it waits for and
//! `mesh_agent_tasks` can say what runs. Knows nothing of what the tasks do.
//!
//! An agent with a successor leaves before it drains: nothing ends yet, but whoever holds on to
//! peers lets them go as soon as that costs them nothing.
//!
//! Invariant: a task is counted before it is first polled and until its future is dropped,
//! whether it ended, was cancelled or panicked.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::sync::{Notify, watch};

/// Spawns tasks and counts them by name. Clones share one count.
#[derive(Clone)]
pub struct Tasks(Arc<Shared>);

struct Shared {
    /// Tells these tasks from all others of the process, for what threads remember.
    id: u64,
    counts: Mutex<BTreeMap<&'static str, Arc<AtomicUsize>>>,
    total: AtomicUsize,
    panics: AtomicU64,
    idle: Notify,
    phase: watch::Sender<Phase>,
}

/// How far the agent is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    Leaving,
    Draining,
}

/// Tells a task that it should come to an end.
#[derive(Clone)]
pub struct Drain(watch::Receiver<Phase>);

/// Counts one task until it is dropped.
struct Counted {
    shared: Arc<Shared>,
    count: Arc<AtomicUsize>,
}

/// A counter that a thread has looked up.
struct Known {
    of: u64,
    name: &'static str,
    count: Arc<AtomicUsize>,
}

/// More names than a thread spawns under; beyond that it forgets and looks them up again.
const MAX_KNOWN: usize = 64;

thread_local! {
    /// Spares the lock: a stream's task is spawned for every stream.
    static KNOWN: RefCell<Vec<Known>> = const { RefCell::new(Vec::new()) };
}

impl Tasks {
    /// No tasks, not draining.
    #[expect(
        clippy::new_without_default,
        reason = "a second, unconnected set must not be made by accident"
    )]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(Arc::new(Shared {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            counts: Mutex::new(BTreeMap::new()),
            total: AtomicUsize::new(0),
            panics: AtomicU64::new(0),
            idle: Notify::new(),
            phase: watch::Sender::new(Phase::Running),
        }))
    }

    /// Runs `task` on the current runtime under `name`.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that names and counts what it spawns"
    )]
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let counted = self.count(name);
        // An `async` block would keep room for the task twice: as it was given, and as it runs.
        drop(tokio::spawn(task.map(|()| drop(counted))));
    }

    /// Runs `task` on the current `LocalSet` under `name`.
    ///
    /// # Panics
    /// Outside of a `LocalSet`.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that names and counts what it spawns"
    )]
    pub fn spawn_local(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        let counted = self.count(name);
        drop(tokio::task::spawn_local(task.map(|()| drop(counted))));
    }

    /// Runs `work` on a thread where it may block, under `name`; `None` if it panicked.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let counted = self.count(name);
        let done = tokio::task::spawn_blocking(move || {
            let _counted = counted;
            work()
        });
        done.await.ok()
    }

    /// The signal that ends tasks; cloneable, for any number of them.
    pub fn drain(&self) -> Drain {
        Drain(self.0.phase.subscribe())
    }

    /// Asks every task that listens to [`Tasks::drain`] to end. Cannot be taken back.
    pub fn begin_drain(&self) {
        self.0.phase.send_replace(Phase::Draining);
    }

    /// Says that a successor takes what is new: see [`Drain::leaving`]. Cannot be taken back.
    pub fn begin_leave(&self) {
        self.0.phase.send_if_modified(|phase| {
            let begins = *phase < Phase::Leaving;
            *phase = (*phase).max(Phase::Leaving);
            begins
        });
    }

    /// Waits until no task is left, at most for `deadline`; returns what is left then.
    pub async fn drained(&self, deadline: Duration) -> Vec<(&'static str, usize)> {
        // Cancel-safe: waiting for idleness takes nothing that could be lost.
        match tokio::time::timeout(deadline, self.idle()).await {
            Ok(()) => Vec::new(),
            Err(_elapsed) => self.live(),
        }
    }

    /// The live tasks by name; names without one are left out.
    pub fn live(&self) -> Vec<(&'static str, usize)> {
        let counts = self.0.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts
            .iter()
            .map(|(name, count)| (*name, count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// How many tasks ended by a panic since the start.
    pub fn panics(&self) -> u64 {
        self.0.panics.load(Ordering::Relaxed)
    }

    async fn idle(&self) {
        loop {
            let idle = self.0.idle.notified();
            tokio::pin!(idle);
            // Listening begins before the count is read, so that the last end is not missed.
            idle.as_mut().enable();
            if self.0.total.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }

    fn count(&self, name: &'static str) -> Counted {
        let count = self.counter(name);
        count.fetch_add(1, Ordering::Relaxed);
        self.0.total.fetch_add(1, Ordering::Relaxed);
        Counted {
            shared: Arc::clone(&self.0),
            count,
        }
    }

    /// The counter of `name`, from what this thread knows if it can be.
    fn counter(&self, name: &'static str) -> Arc<AtomicUsize> {
        KNOWN.with_borrow_mut(|known| {
            let is_it = |one: &&Known| one.of == self.0.id && std::ptr::eq(one.name, name);
            if let Some(found) = known.iter().find(is_it) {
                return Arc::clone(&found.count);
            }
            let mut counts = self.0.counts.lock().unwrap_or_else(PoisonError::into_inner);
            let count = Arc::clone(counts.entry(name).or_default());
            drop(counts);
            if known.len() >= MAX_KNOWN {
                known.clear();
            }
            known.push(Known {
                of: self.0.id,
                name,
                count: Arc::clone(&count),
            });
            count
        })
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.live()).finish()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.panics.fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
        if self.shared.total.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.idle.notify_waiters();
        }
    }
}

impl Drain {
    /// Resolves once the drain began; at once if it has. Cancel-safe.
    pub async fn requested(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Whether the drain began.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() >= Phase::Draining
    }

    /// Resolves once peers should be let go, politely: a successor serves whoever comes anew.
    /// What is under way goes on until the drain. At once if the drain began. Cancel-safe.
    pub async fn leaving(&self) {
        self.reached(Phase::Leaving).await;
    }

    /// Whether peers should be let go.
    pub fn is_leaving(&self) -> bool {
        *self.0.borrow() >= Phase::Leaving
    }

    async fn reached(&self, wanted: Phase) {
        let mut receiver = self.0.clone();
        // An error means that the sender is gone, and with it whoever could wait for us.
        drop(receiver.wait_for(|phase| *phase >= wanted).await);
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Drain({:?})", *self.0.borrow())
    }
}

#[cfg(test)]
mod tests {
    use tokio::{sync::oneshot, task::LocalSet};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_every_task_that_listens() {
        let tasks = Tasks::new();
        for _ in 0..3 {
            let drain = tasks.drain();
            tasks.spawn("listener", async move { drain.requested().await });
        }
        assert_eq!(tasks.live(), [("listener", 3)]);
        tasks.begin_drain();
        assert_eq!(tasks.drained(Duration::from_secs(1)).await, []);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_in_time_is_named() {
        let tasks = Tasks::new();
        tasks.spawn("deaf", std::future::pending());
        tasks.spawn("short", async {});
        tasks.begin_drain();
        let left = tasks.drained(Duration::from_secs(10)).await;
        assert_eq!(left, [("deaf", 1)]);
    }

    #[tokio::test]
    async fn a_task_that_panics_is_no_longer_counted() {
        let tasks = Tasks::new();
        tasks.spawn("unlucky", async { panic!("for the test") });
        assert_eq!(tasks.drained(Duration::from_secs(10)).await, []);
        assert_eq!(tasks.panics(), 1);
    }

    #[tokio::test]
    async fn local_tasks_are_counted_too() {
        let tasks = Tasks::new();
        LocalSet::new()
            .run_until(async {
                let (release, released) = oneshot::channel::<()>();
                let not_send = std::rc::Rc::new(());
                tasks.spawn_local("local", async move {
                    let _not_send = not_send;
                    drop(released.await);
                });
                assert_eq!(tasks.live(), [("local", 1)]);
                release.send(()).expect("the task waits for it");
                assert_eq!(tasks.drained(Duration::from_secs(10)).await, []);
            })
            .await;
    }

    #[tokio::test]
    async fn blocking_work_returns_its_result() {
        let tasks = Tasks::new();
        assert_eq!(tasks.blocking("sum", || 1 + 1).await, Some(2));
        assert_eq!(
            tasks
                .blocking("unlucky", || -> u8 { panic!("for the test") })
                .await,
            None
        );
        assert_eq!(tasks.panics(), 1);
    }

    #[tokio::test]
    async fn a_drain_that_began_earlier_is_seen_by_late_listeners() {
        let tasks = Tasks::new();
        tasks.begin_drain();
        let drain = tasks.drain();
        assert!(drain.is_requested());
        drain.requested().await;
    }

    #[tokio::test]
    async fn leaving_comes_before_draining_and_never_after() {
        let tasks = Tasks::new();
        let drain = tasks.drain();
        assert!(!drain.is_leaving());
        tasks.begin_leave();
        drain.leaving().await;
        assert!(drain.is_leaving() && !drain.is_requested());
        tasks.begin_drain();
        tasks.begin_leave();
        drain.requested().await;
        drain.leaving().await;
    }

    #[tokio::test]
    async fn nothing_to_wait_for_is_no_wait() {
        assert_eq!(Tasks::new().drained(Duration::ZERO).await, []);
    }
}
