// SPDX-License-Identifier: Apache-2.0

//! One budget of one side of a pod: what it holds, and who was held back or refused for it.
//!
//! Knows nothing of what is held. Invariant: an episode, which ends when nobody was held back for
//! a minute, is told once.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{
    super::{listen::Way, usage::uptime},
    Budget, BudgetView,
    account::{Account, Permit},
};
use crate::model::Workload;

/// An episode is over when nobody was held back for so many seconds.
const EPISODE: u64 = 60;

/// What a pod holds of one thing.
#[derive(Debug)]
pub(crate) struct Ledger {
    account: Arc<Account>,
    whose: Arc<Workload>,
    way: Way,
    budget: Budget,
    held_back: AtomicU64,
    refused: AtomicU64,
    /// Seconds of uptime until which the episode lasts.
    episode: AtomicU64,
}

impl Ledger {
    pub(super) fn new(
        account: Arc<Account>,
        whose: Arc<Workload>,
        way: Way,
        budget: Budget,
    ) -> Self {
        Self {
            account,
            whose,
            way,
            budget,
            held_back: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            episode: AtomicU64::new(0),
        }
    }

    /// Takes one if there is one.
    pub(crate) fn try_take(&self) -> Option<Permit> {
        self.account.try_take(1)
    }

    /// Takes one, as soon as there is one. Cancel-safe.
    pub(crate) async fn take(&self) -> Permit {
        if self.account.left() == 0 {
            self.hold_back(&self.whose.name);
        }
        self.account.take().await
    }

    /// Waits until there is one. Cancel-safe.
    pub(crate) async fn room(&self) {
        if self.account.left() == 0 {
            drop(self.take().await);
        }
    }

    /// Takes one after there was room, even if that is gone meanwhile.
    pub(crate) fn take_anyway(&self) -> Permit {
        self.account.take_anyway()
    }

    /// Has `amount` from now on, if that much is left; if not, that is noted.
    pub(super) fn lend(&self, amount: usize) -> bool {
        let lent = self.account.add(amount);
        if !lent {
            self.hold_back(&self.whose.name);
        }
        lent
    }

    /// Notes that somebody has to wait; `by` is who asked.
    pub(crate) fn hold_back(&self, by: &dyn std::fmt::Display) {
        self.held_back.fetch_add(1, Relaxed);
        self.tell("what is asked for beyond has to wait", by);
    }

    /// Notes that somebody was refused; `by` is who asked.
    pub(crate) fn refuse(&self, by: &dyn std::fmt::Display) {
        self.refused.fetch_add(1, Relaxed);
        self.tell("what is asked for beyond is refused", by);
    }

    /// How much more it could hold now.
    pub(crate) fn left(&self) -> usize {
        self.account.left()
    }

    pub(super) fn account(&self) -> &Account {
        &self.account
    }

    fn side(&self) -> &'static str {
        match self.way {
            Way::Outbound => "outbound",
            Way::Inbound => "inbound",
        }
    }

    fn tell(&self, what: &str, by: &dyn std::fmt::Display) {
        let now = uptime().as_secs();
        if self.episode.swap(now + EPISODE, Relaxed) <= now {
            tracing::warn!(
                namespace = %self.whose.namespace,
                pod = %self.whose.name,
                side = self.side(),
                budget = self.budget.as_str(),
                used = self.account.used(),
                %by,
                "a workload has used up its budget: {what}",
            );
        }
    }

    /// What it is now.
    pub(crate) fn observe(&self) -> BudgetView {
        let used = self.account.used();
        BudgetView {
            budget: self.budget,
            side: self.side(),
            used,
            limit: used + self.account.left(),
            held_back: self.held_back.load(Relaxed),
            refused: self.refused.load(Relaxed),
            peers: Vec::new(),
        }
    }
}
