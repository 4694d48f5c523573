// SPDX-License-Identifier: Apache-2.0

//! What somebody may hold for a reader that stopped, beyond what its connection or request may anyway: lent
//! before it is held, and given back when it cannot be held any more.
//!
//! Knows nothing of what is held. Invariant: what a loan has is counted for its side of a pod as long as it has it.

use std::sync::Arc;

use super::Ledger;

/// Bytes that may be held.
#[derive(Debug, Default)]
pub(crate) struct Loan {
    /// Whose they are; nobody's where nothing is captured.
    ledger: Option<Arc<Ledger>>,
    bytes: usize,
}

impl Loan {
    /// Of `ledger`, nothing yet.
    pub(crate) fn of(ledger: &Arc<Ledger>) -> Self {
        Self {
            ledger: Some(Arc::clone(ledger)),
            bytes: 0,
        }
    }

    /// How many.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Has `more` from now on, if that many are left.
    pub(crate) fn more(&mut self, more: usize) -> bool {
        let ledger = self.ledger.as_ref().filter(|_| more > 0);
        let lent = ledger.is_none_or(|ledger| ledger.lend(more));
        if lent {
            self.bytes += more;
        }
        lent
    }

    /// Has `less` less.
    pub(crate) fn less(&mut self, less: usize) {
        self.bytes -= less;
        if let Some(ledger) = &self.ledger {
            ledger.account().give(less);
        }
    }

    /// Whether its side of its pod has more by now than is its share: others came.
    pub(crate) fn is_over(&self) -> bool {
        let ledger = self.ledger.as_ref();
        self.bytes > 0 && ledger.is_some_and(|ledger| ledger.account().is_over())
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.less(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Budget, account::Pool},
        *,
    };
    use crate::proxy::{listen::Way, tests::mesh::workload};

    fn ledger(pool: &Arc<Pool>, name: &str) -> Arc<Ledger> {
        let whose = Arc::new(workload(name));
        let account = pool.open();
        Arc::new(Ledger::new(account, whose, Way::Outbound, Budget::Bytes))
    }

    #[test]
    fn what_is_lent_comes_back_and_what_is_not_is_noted() {
        let pool = Pool::new(1000, 100, usize::MAX);
        let one = ledger(&pool, "one");
        let (mut loan, mut other) = (Loan::of(&one), Loan::of(&one));
        assert!(loan.more(100) && other.more(500));
        assert!(!loan.more(500), "half of what is left to others is less");
        let view = one.observe();
        assert_eq!((view.used, view.held_back), (600, 1));
        loan.less(40);
        drop(other);
        assert_eq!((one.observe().used, loan.bytes()), (60, 60));
        drop(loan);
        assert_eq!(one.observe().used, 0);
    }

    #[test]
    fn who_has_much_is_over_its_share_when_others_come() {
        let pool = Pool::new(1000, 100, usize::MAX);
        let (one, mut others) = (ledger(&pool, "one"), Vec::new());
        let mut loan = Loan::of(&one);
        assert!(loan.more(100) && loan.more(550));
        assert!(!loan.is_over());
        for _ in 0..4 {
            let other = ledger(&pool, "other");
            let mut own = Loan::of(&other);
            assert!(own.more(100), "what is its own is there");
            assert!(!own.is_over());
            others.push((other, own));
        }
        assert!(loan.is_over());
        loan.less(550);
        assert!(!loan.is_over());
    }

    #[test]
    fn without_an_account_there_is_no_limit() {
        let mut loan = Loan::default();
        assert!(loan.more(usize::MAX / 2) && !loan.is_over());
    }
}
