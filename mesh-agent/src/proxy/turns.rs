// SPDX-License-Identifier: Apache-2.0

//! Takes turns between workloads on a data thread, so that one that floods does not hold up its neighbours.
//!
//! A thread polls what is ready in the order in which it became ready. With hundreds of busy connections of one
//! workload a request of another waits for all of them. Here every workload may use a slice of the thread's time
//! for each look at the sockets; what it wants beyond that waits until the sockets were looked at again.
//! Nobody waits while nobody else is there, and the thread never idles while something is ready.
//!
//! A workload is its identity: what it asks for is charged to it on its own node and on the server's. Before it
//! has proved that in a handshake it is its address.
//! Knows nothing of what is done meanwhile. Invariants: what waits is polled again, in order, right after the
//! sockets were looked at; nobody waits on a thread where [`keep`] does not run.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::{Future, poll_fn},
    hash::Hash,
    mem,
    net::IpAddr,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use pin_project_lite::pin_project;

use crate::{model::SpiffeId, tasks::Drain};

/// How long a workload may be served between two looks at the sockets while others are there. What it begins it
/// ends, so a single poll may take longer.
const SLICE: Duration = Duration::from_micros(50);

/// Who was not served for so long is nobody to wait for.
const AWAY: Duration = Duration::from_millis(20);

/// A round ends after this if nobody waits for its end.
const ROUND: Duration = Duration::from_millis(1);

/// After so many accounts those of workloads that are gone are forgotten.
const MANY: usize = 64;

thread_local! {
    static TURNS: Rc<Turns> = Rc::default();
}

/// Whose turn it is on this thread.
#[derive(Default)]
struct Turns {
    workloads: RefCell<Accounts<SpiffeId>>,
    addresses: RefCell<Accounts<IpAddr>>,
    served: RefCell<Served>,
    round: Cell<u64>,
    /// When the round began.
    since: Cell<Option<Instant>>,
    /// Who waits for the next round, in order.
    waiting: RefCell<Vec<Waker>>,
    /// Who begins it, if somebody does on this thread.
    keeper: RefCell<Keeper>,
}

/// The accounts of those who are served.
type Accounts<K> = HashMap<K, Weak<Account>>;

/// Who was served last, and who before that, as long as that is not too long ago.
#[derive(Default)]
struct Served {
    last: Option<Rc<Account>>,
    before: Option<(Rc<Account>, Instant)>,
}

#[derive(Default)]
enum Keeper {
    #[default]
    None,
    Busy,
    /// To be told when somebody waits.
    Idle(Waker),
}

/// What one workload has used.
#[derive(Default)]
struct Account {
    /// In this round.
    spent: Cell<Duration>,
    round: Cell<u64>,
}

/// Lets everybody go when rounds are begun no longer.
struct Keeping(Rc<Turns>);

pin_project! {
    /// Work that is done when it is somebody's turn. Room for it is there once: an `async` function would keep its
    /// argument beside what it has become.
    pub(super) struct Turn<F> {
        turns: Rc<Turns>,
        account: Rc<Account>,
        #[pin]
        work: F,
    }
}

impl<F: Future> Future for Turn<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let turn = self.project();
        turn.turns.poll(turn.account, turn.work, context)
    }
}

/// Does `work` when it is the turn of the workload that it is done for.
pub(super) fn of<F: Future>(workload: &SpiffeId, work: F) -> Turn<F> {
    let turns = TURNS.with(Rc::clone);
    let account = account(&turns.workloads, workload);
    Turn {
        turns,
        account,
        work,
    }
}

/// Does `work` when it is the turn of those at `address`, who have not said yet who they are.
pub(super) fn of_address<F: Future>(address: IpAddr, work: F) -> Turn<F> {
    let turns = TURNS.with(Rc::clone);
    let account = account(&turns.addresses, &address);
    Turn {
        turns,
        account,
        work,
    }
}

fn account<K: Clone + Eq + Hash>(all: &RefCell<Accounts<K>>, of: &K) -> Rc<Account> {
    let mut accounts = all.borrow_mut();
    if let Some(known) = accounts.get(of).and_then(Weak::upgrade) {
        return known;
    }
    if accounts.len() >= MANY {
        accounts.retain(|_, account| account.strong_count() > 0);
    }
    let account = Rc::<Account>::default();
    accounts.insert(of.clone(), Rc::downgrade(&account));
    account
}

/// Begins rounds on this thread until the agent drains.
pub(super) async fn keep(drain: Drain) {
    let keeping = Keeping(TURNS.with(Rc::clone));
    let turns = &keeping.0;
    let rounds = async {
        loop {
            poll_fn(|context| turns.poll_wanted(context)).await;
            // What is ready is polled, then the sockets are looked at, then this goes on.
            tokio::task::yield_now().await;
            turns.begin_round(None);
            let waiting = mem::take(&mut *turns.waiting.borrow_mut());
            waiting.into_iter().for_each(Waker::wake);
        }
    };
    // Cancel-safe: whoever waits is let go.
    tokio::select! {
        () = rounds => {}
        () = drain.requested() => {}
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        *self.0.keeper.borrow_mut() = Keeper::None;
        let waiting = mem::take(&mut *self.0.waiting.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl Turns {
    fn poll<T>(
        &self,
        account: &Rc<Account>,
        work: Pin<&mut impl Future<Output = T>>,
        context: &mut Context<'_>,
    ) -> Poll<T> {
        let Some(now) = self.neighbour(account) else {
            return work.poll(context);
        };
        if self.has_spent(account, now) && self.wait(context) {
            return Poll::Pending;
        }
        let polled = work.poll(context);
        account.spent.set(account.spent.get() + now.elapsed());
        polled
    }

    /// The time, if a workload besides this one was served of late. Alone nobody looks at the clock.
    fn neighbour(&self, account: &Rc<Account>) -> Option<Instant> {
        let mut served = self.served.borrow_mut();
        let Served { last, before } = &mut *served;
        let is_last = last.as_ref().is_some_and(|last| Rc::ptr_eq(last, account));
        if is_last && before.is_none() {
            return None;
        }
        let now = Instant::now();
        if !is_last {
            let other = last.replace(Rc::clone(account));
            *before = other.map(|other| (other, now));
        }
        if before.as_ref().is_some_and(|(_, seen)| now - *seen > AWAY) {
            *before = None;
        }
        before.as_ref().map(|_| now)
    }

    /// Whether the account's slice of this round is used up.
    fn has_spent(&self, account: &Account, now: Instant) -> bool {
        let is_over = |since: Instant| now - since > ROUND && self.waiting.borrow().is_empty();
        if self.since.get().is_none_or(is_over) {
            self.begin_round(Some(now));
        }
        let round = self.round.get();
        if account.round.replace(round) != round {
            account.spent.set(Duration::ZERO);
        }
        account.spent.get() >= SLICE
    }

    fn begin_round(&self, now: Option<Instant>) {
        self.round.set(self.round.get() + 1);
        self.since.set(now);
    }

    /// Has the task polled again in the next round; false if nobody begins one.
    fn wait(&self, context: &Context<'_>) -> bool {
        let keeper = self.keeper.take();
        self.keeper.replace(match keeper {
            Keeper::None => return false,
            Keeper::Busy => Keeper::Busy,
            Keeper::Idle(waker) => {
                waker.wake();
                Keeper::Busy
            }
        });
        self.waiting.borrow_mut().push(context.waker().clone());
        true
    }

    /// Ready when somebody waits.
    fn poll_wanted(&self, context: &Context<'_>) -> Poll<()> {
        if !self.waiting.borrow().is_empty() {
            *self.keeper.borrow_mut() = Keeper::Busy;
            return Poll::Ready(());
        }
        *self.keeper.borrow_mut() = Keeper::Idle(context.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::{LocalSet, yield_now};

    use super::*;
    use crate::tasks::Tasks;

    fn id(name: &str) -> SpiffeId {
        SpiffeId::new("cluster.local", "default", name)
    }

    /// Works for a little longer than a slice, so often, and says so each time.
    async fn busy(log: Rc<RefCell<Vec<&'static str>>>, name: &'static str, times: usize) {
        for _ in 0..times {
            let begin = Instant::now();
            while begin.elapsed() <= SLICE {}
            log.borrow_mut().push(name);
            yield_now().await;
        }
    }

    /// What is done when, with `floods` tasks of one workload and one of another.
    fn order(floods: usize, kept: bool) -> Vec<&'static str> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        let tasks = Tasks::new();
        let log = Rc::<RefCell<Vec<_>>>::default();
        let work = async {
            if kept {
                tasks.spawn_local("turns", keep(tasks.drain()));
            }
            for _ in 0..floods {
                let log = Rc::clone(&log);
                tasks.spawn_local("flood", async {
                    of(&id("flood"), busy(log, "flood", 8)).await
                });
            }
            let log = Rc::clone(&log);
            tasks.spawn_local("quiet", async {
                of(&id("quiet"), busy(log, "quiet", 8)).await
            });
            while tasks.live().iter().any(|(name, _)| *name != "turns") {
                yield_now().await;
            }
            tasks.begin_drain();
            assert_eq!(tasks.drained(Duration::from_secs(5)).await, []);
        };
        runtime
            .expect("a runtime")
            .block_on(LocalSet::new().run_until(work));
        log.take()
    }

    #[test]
    fn a_flood_gets_one_slice_for_each_of_its_neighbours() {
        let done = order(20, true);
        assert_eq!(done.len(), 21 * 8);
        let last = done
            .iter()
            .rposition(|name| *name == "quiet")
            .expect("it was served");
        let before = done[..last].iter().filter(|name| **name == "flood").count();
        // All of the flood's tasks begin before there is a neighbour; after that it is one by one, about.
        assert!(
            before <= 20 + 8 * 3,
            "{before} before the last of the neighbour's: {done:?}"
        );
    }

    #[test]
    fn nobody_waits_where_nobody_begins_rounds() {
        assert_eq!(order(20, false).len(), 21 * 8);
    }

    #[test]
    fn all_is_done_when_nobody_else_is_there() {
        assert_eq!(order(0, true), ["quiet"; 8]);
    }
}
