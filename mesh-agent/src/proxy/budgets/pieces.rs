// SPDX-License-Identifier: Apache-2.0

//! A budget of what comes and goes too often to count it where all threads look: each data thread takes it in
//! pieces, and counts what is its own.
//!
//! Knows nothing of what is counted. Invariants: a thread's count is changed by that thread alone; what a thread
//! has to spare beyond two pieces it gives back.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::{BudgetView, Ledger};

/// The most that a thread takes at once.
const PIECE: usize = 16;

/// What is counted by threads.
#[derive(Debug)]
pub(crate) struct Pieces {
    ledger: Ledger,
    threads: Box<[Share]>,
}

/// What one thread has, apart from what others write.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Share {
    used: AtomicUsize,
    taken: AtomicUsize,
    /// How much it took last.
    piece: AtomicUsize,
}

impl Pieces {
    /// Counts by so many threads.
    pub(super) fn new(ledger: Ledger, threads: usize) -> Self {
        Self {
            ledger,
            threads: (0..threads).map(|_| Share::default()).collect(),
        }
    }

    /// Counts one more on `thread`, which must be the caller's; false if it is one too many.
    pub(crate) fn begin(&self, thread: usize) -> bool {
        let share = &self.threads[thread];
        let used = share.used.load(Relaxed) + 1;
        share.used.store(used, Relaxed);
        let taken = share.taken.load(Relaxed);
        if used <= taken {
            return true;
        }
        // What was one too many earlier is counted, and has no part in it.
        let (piece, least) = (self.piece(), used - taken);
        let wanted = [piece.max(least), least];
        let got = wanted
            .into_iter()
            .find(|amount| self.ledger.account().add(*amount));
        if let Some(got) = got {
            share.taken.store(taken + got, Relaxed);
            share.piece.store(piece, Relaxed);
        }
        got.is_some()
    }

    /// Counts one less on `thread`, which must be the caller's.
    pub(crate) fn end(&self, thread: usize) {
        let share = &self.threads[thread];
        let used = share.used.load(Relaxed) - 1;
        share.used.store(used, Relaxed);
        let taken = share.taken.load(Relaxed);
        let piece = share.piece.load(Relaxed);
        if taken > used + 2 * piece || (used == 0 && taken > piece) {
            let spare = taken - used - piece;
            share.taken.store(taken - spare, Relaxed);
            self.ledger.account().give(spare);
        }
    }

    /// All threads together keep no more than half of what is the pod's own anyway.
    fn piece(&self) -> usize {
        let own = self.ledger.account().own();
        (own / 2 / self.threads.len().max(1)).clamp(1, PIECE)
    }

    /// Notes that somebody was refused; `by` is who asked.
    pub(crate) fn refuse(&self, by: &dyn std::fmt::Display) {
        self.ledger.refuse(by);
    }

    pub(super) fn observe(&self) -> BudgetView {
        let used = self.threads.iter().map(|share| share.used.load(Relaxed));
        let view = self.ledger.observe();
        BudgetView {
            used: used.sum(),
            ..view
        }
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        let taken = self.threads.iter().map(|share| share.taken.load(Relaxed));
        self.ledger.account().give(taken.sum());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        super::{Budget, account::Pool},
        *,
    };
    use crate::proxy::{listen::Way, tests::mesh::workload};

    fn pieces(pool: &Arc<Pool>) -> Pieces {
        let whose = Arc::new(workload("one"));
        let ledger = Ledger::new(pool.open(), whose, Way::Outbound, Budget::Requests);
        Pieces::new(ledger, 2)
    }

    #[test]
    fn threads_share_what_there_is_and_give_back_what_they_do_not_need() {
        let pool = Pool::new(1024, 64, usize::MAX);
        let (one, other) = (pieces(&pool), pieces(&pool));
        let mut begun = 0;
        while one.begin(begun % 2) {
            begun += 1;
        }
        // 64 are its own, and two thirds of the other 896, but for what does not make a piece.
        assert!((600..=64 + 608).contains(&begun), "{begun}");
        assert!(other.begin(0), "a neighbour has its own");
        // The one that was one too many is counted, too.
        assert_eq!(one.observe().used, begun + 1);
        one.end(begun % 2);
        for index in 0..begun {
            one.end(index % 2);
        }
        let view = one.observe();
        assert_eq!(view.used, 0);
        assert!(one.ledger.account().used() <= 2 * PIECE);
        drop((one, other));
        assert!(pool.open().try_take(500).is_some(), "all was given back");
    }

    #[test]
    fn the_usual_request_asks_nobody_else() {
        let pool = Pool::new(1024, 64, usize::MAX);
        let one = pieces(&pool);
        assert!(one.begin(0));
        let taken = one.ledger.account().used();
        for _ in 0..100 {
            assert!(one.begin(0));
            one.end(0);
            assert_eq!(one.ledger.account().used(), taken);
        }
    }
}
