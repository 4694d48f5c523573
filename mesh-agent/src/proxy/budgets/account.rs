// SPDX-License-Identifier: Apache-2.0

//! What the node has of one thing, and how much of it each account may hold.
//!
//! A part of the pool is every account's own: nobody else is ever lent it. The rest is common, and an
//! account may hold twice as much of it as it leaves to others: alone it gets two thirds, with a second that wants
//! everything two fifths as that, and there is always something left for the next.
//!
//! Knows nothing of what is counted. Invariants: what was taken is given back when its permit is dropped;
//! nothing is taken back before that, whatever becomes of the limits; whoever waits is told when there is
//! something for it, accounts in turn. Reference: Choudhury and Hahne, "Dynamic queue length thresholds for
//! shared-memory packet switches", IEEE/ACM ToN 6(2), 1998.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::sync::Notify;

/// How many times what it leaves to others an account may be lent.
const FAIR: usize = 2;

/// How much there is of one thing.
#[derive(Debug)]
pub(crate) struct Pool {
    size: usize,
    /// What may be an account's own where there are few accounts.
    most_own: usize,
    /// What one account may hold, whatever is left.
    most: usize,
    accounts: AtomicUsize,
    /// What is an account's own now.
    own: AtomicUsize,
    /// What accounts hold of their own, and what they were lent.
    held: AtomicUsize,
    lent: AtomicUsize,
    /// How many wait, over all accounts, and those accounts.
    waiting: AtomicUsize,
    queue: Mutex<VecDeque<Weak<Account>>>,
}

/// What one holder has of a pool.
#[derive(Debug)]
pub(crate) struct Account {
    pool: Arc<Pool>,
    held: AtomicUsize,
    lent: AtomicUsize,
    waiting: AtomicUsize,
    freed: Notify,
}

/// Holds some of an account until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    account: Arc<Account>,
    amount: usize,
}

/// Counts one that waits.
struct Waiting<'a>(&'a Account);

impl Pool {
    /// A pool of `size`, of which at most `most_own` is each account's own, and no account holds more than `most`.
    pub(crate) fn new(size: usize, most_own: usize, most: usize) -> Arc<Self> {
        Arc::new(Self {
            size,
            most_own,
            most,
            accounts: AtomicUsize::new(0),
            own: AtomicUsize::new(most_own),
            held: AtomicUsize::new(0),
            lent: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            queue: Mutex::default(),
        })
    }

    /// An account that holds nothing.
    pub(crate) fn open(self: &Arc<Self>) -> Arc<Account> {
        self.accounts.fetch_add(1, SeqCst);
        self.share_out();
        Arc::new(Account {
            pool: Arc::clone(self),
            held: AtomicUsize::new(0),
            lent: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
        })
    }

    /// No more than half of the pool is accounts' own. What they hold already they keep.
    fn share_out(&self) {
        let accounts = self.accounts.load(SeqCst).max(1);
        let own = (self.size / 2 / accounts).clamp(1, self.most_own.max(1));
        self.own.store(own, SeqCst);
    }

    /// What of the common part is lent to nobody.
    fn free(&self) -> usize {
        let own = self.own.load(SeqCst) * self.accounts.load(SeqCst);
        let gone = own.max(self.held.load(SeqCst)) + self.lent.load(SeqCst);
        self.size.saturating_sub(gone)
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Weak<Account>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the next account that waits and may take one have a try.
    fn wake(&self) {
        if self.waiting.load(SeqCst) == 0 {
            return;
        }
        let mut queue = self.queue();
        for _ in 0..queue.len() {
            let Some(next) = queue.pop_front() else {
                return;
            };
            let Some(account) = next.upgrade() else {
                continue;
            };
            if account.waiting.load(SeqCst) == 0 {
                continue;
            }
            queue.push_back(next);
            if account.left() > 0 {
                account.freed.notify_one();
                return;
            }
        }
    }
}

impl Account {
    /// What it holds.
    pub(crate) fn used(&self) -> usize {
        self.held.load(SeqCst) + self.lent.load(SeqCst)
    }

    /// What is its own.
    pub(super) fn own(&self) -> usize {
        self.pool.own.load(SeqCst)
    }

    /// How much more it could hold now.
    pub(crate) fn left(&self) -> usize {
        let pool = &self.pool;
        let own = pool.own.load(SeqCst);
        let own = own.saturating_sub(self.held.load(SeqCst));
        let (free, lent) = (pool.free(), self.lent.load(SeqCst));
        // Each one more makes what is lent larger by one and the threshold lower by two.
        let common = (FAIR * free).saturating_sub(lent).div_ceil(FAIR + 1);
        let most = pool.most.saturating_sub(self.used());
        (own + common).min(most)
    }

    /// Whether it is lent more than it may be by now.
    pub(super) fn is_over(&self) -> bool {
        self.lent.load(SeqCst) > FAIR * self.pool.free()
    }

    /// Takes `amount` if it may.
    pub(crate) fn try_take(self: &Arc<Self>, amount: usize) -> Option<Permit> {
        self.add(amount).then(|| Permit {
            account: Arc::clone(self),
            amount,
        })
    }

    /// Takes one, whatever it may.
    pub(crate) fn take_anyway(self: &Arc<Self>) -> Permit {
        if !self.add(1) {
            self.lent.fetch_add(1, SeqCst);
            self.pool.lent.fetch_add(1, SeqCst);
        }
        Permit {
            account: Arc::clone(self),
            amount: 1,
        }
    }

    /// Takes one, as soon as it may. Cancel-safe.
    pub(crate) async fn take(self: &Arc<Self>) -> Permit {
        // Who came first is first.
        if self.waiting.load(SeqCst) == 0
            && let Some(permit) = self.try_take(1)
        {
            return permit;
        }
        let _waiting = Waiting::begin(self);
        loop {
            let mut freed = pin!(self.freed.notified());
            // Listening begins before the try, so that what is given back meanwhile is not missed.
            freed.as_mut().enable();
            if let Some(permit) = self.try_take(1) {
                return permit;
            }
            freed.await;
        }
    }

    /// Has `amount` from now on, if it may.
    pub(super) fn add(&self, amount: usize) -> bool {
        let pool = &self.pool;
        if amount > pool.most.saturating_sub(self.used()) {
            return false;
        }
        let own = pool.own.load(SeqCst);
        let within = |held: usize| Some(held + amount).filter(|held| *held <= own);
        if self.held.try_update(SeqCst, SeqCst, within).is_ok() {
            pool.held.fetch_add(amount, SeqCst);
            return true;
        }
        let free = pool.free();
        let lent = self.lent.load(SeqCst);
        // Two threads that ask at once may get one too many: it is a threshold, not a promise.
        if amount <= free && lent < FAIR * free {
            self.lent.fetch_add(amount, SeqCst);
            pool.lent.fetch_add(amount, SeqCst);
            return true;
        }
        false
    }

    /// Has `amount` less.
    pub(super) fn give(&self, amount: usize) {
        let pool = &self.pool;
        // What was lent goes back first.
        let less = |lent: usize| Some(lent.saturating_sub(amount));
        let lent = match self.lent.try_update(SeqCst, SeqCst, less) {
            Ok(lent) | Err(lent) => lent.min(amount),
        };
        pool.lent.fetch_sub(lent, SeqCst);
        let own = amount - lent;
        self.held.fetch_sub(own, SeqCst);
        pool.held.fetch_sub(own, SeqCst);
        pool.wake();
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.pool.accounts.fetch_sub(1, SeqCst);
        self.pool.share_out();
        self.pool.wake();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.account.give(self.amount);
    }
}

impl<'a> Waiting<'a> {
    fn begin(account: &'a Arc<Account>) -> Self {
        let pool = &account.pool;
        let mut queue = pool.queue();
        pool.waiting.fetch_add(1, SeqCst);
        if account.waiting.fetch_add(1, SeqCst) == 0 {
            queue.push_back(Arc::downgrade(account));
        }
        Self(account)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let pool = &self.0.pool;
        let mut queue = pool.queue();
        pool.waiting.fetch_sub(1, SeqCst);
        if self.0.waiting.fetch_sub(1, SeqCst) == 1 {
            queue.retain(|other| !std::ptr::eq(other.as_ptr(), self.0));
        }
        drop(queue);
        // It may have been told, and not have taken what there was.
        pool.wake();
    }
}

#[cfg(test)]
mod tests;
