// SPDX-License-Identifier: Apache-2.0

//! What of a pod's connections should have been captured and was not, by the kernel's own count.
//!
//! Compares the kernel's counters with what the data threads accepted, from the moment at which this
//! agent began to serve the pod. What the kernel counts as missed is certain. What it captured and
//! nobody accepted is so only once it stays: a connection may be between the two at any moment.
//! Outbound both sides count connections; inbound they do not (a SYN that is sent again is counted
//! again, and an acknowledgement of nothing looked up), so that those numbers are shown, not judged.
//!
//! Knows nothing of maps. Invariant: what was told as missed is never taken back.

use std::collections::BTreeMap;

use mesh_common::Counter;

use super::accepts::Directions;

/// Counters by name, as maps and observations have them.
pub(super) type Counters = BTreeMap<&'static str, u64>;

/// What counts of a pod as missed: the kernel's counter, and the reason that metrics give.
const CERTAIN: [(Counter, Direction, &str); 5] = [
    (
        Counter::OUTBOUND_FAILED_CLOSED,
        Direction::Outbound,
        "no_listener",
    ),
    (Counter::FAILED_OPEN, Direction::Outbound, "passed_open"),
    (Counter::TAG_FAILED, Direction::Outbound, "not_tagged"),
    (
        Counter::INBOUND_FAILED_CLOSED,
        Direction::Inbound,
        "no_listener",
    ),
    (
        Counter::INBOUND_FAILED_OPEN,
        Direction::Inbound,
        "passed_open",
    ),
];

/// Captured, and accepted by nobody.
const NOT_ACCEPTED: &str = "not_accepted";

/// The reason of connections that were open already when the pod was captured.
pub const OLDER: &str = "older";

/// Which way a connection goes, as seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Its application opened it.
    Outbound,
    /// Somebody opened it to the pod.
    Inbound,
}

/// Connections that should have been captured and were not, by direction and reason; those at zero
/// too.
pub type Missed = BTreeMap<(Direction, &'static str), u64>;

/// What is known of a pod's connections since this agent serves it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// SYNs that the kernel captured, or saw come in from outside.
    pub syns: Directions,
    /// Connections that the data threads took.
    pub accepted: Directions,
    /// The node's own probes, which are let through.
    pub probes: u64,
    /// What should have been captured and was not.
    pub missed: Missed,
}

/// The books of one pod.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    base: Counters,
    older: Directions,
    /// How many captured SYNs nobody had accepted, at the last two looks.
    gaps: [u64; 2],
    told: Missed,
}

impl Direction {
    /// Its name, in metrics and status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

impl Ledger {
    /// Begins with what the kernel has counted so far, and with connections that are `older`.
    pub(super) fn begin(base: Counters, older: Directions) -> Self {
        Self {
            base,
            older,
            ..Self::default()
        }
    }

    /// Notes how many connections turned out to be older.
    pub(super) fn note_older(&mut self, older: Directions) {
        self.older = older;
    }

    /// How often the kernel found no listener, or would not take the one that it found.
    pub(super) fn refusals(&self, now: &Counters) -> u64 {
        let refused = [
            Counter::ASSIGN_FAILED,
            Counter::OUTBOUND_FAILED_CLOSED,
            Counter::INBOUND_FAILED_CLOSED,
            Counter::FAILED_OPEN,
            Counter::INBOUND_FAILED_OPEN,
        ];
        refused
            .iter()
            .map(|counter| self.since(now, *counter))
            .sum()
    }

    /// Looks again; returns what was missed that was not told yet, zeros included.
    /// A connection that is `waiting` to be accepted is not missed.
    pub(super) fn settle(
        &mut self,
        now: &Counters,
        accepted: Directions,
        waiting: impl FnOnce() -> u64,
    ) -> Missed {
        let gap = match self.gap(now, accepted) {
            0 => 0,
            gap => gap.saturating_sub(waiting()),
        };
        self.gaps = [gap, self.gaps[0]];
        let mut news = self.missed(now);
        for (key, count) in &mut news {
            let told = self.told.entry(*key).or_default();
            let all = (*count).max(*told);
            *count = all - *told;
            *told = all;
        }
        news
    }

    /// The books at this moment.
    pub(super) fn read(&self, now: &Counters, accepted: Directions) -> Books {
        Books {
            syns: Directions {
                outbound: self.since(now, Counter::CAPTURED_SYN),
                inbound: self.since(now, Counter::INBOUND_SYN),
            },
            accepted,
            probes: self.since(now, Counter::HOST_FLOW_PASSED),
            missed: self.missed(now),
        }
    }

    fn missed(&self, now: &Counters) -> Missed {
        let certain = CERTAIN.iter();
        let mut missed: Missed = certain
            .map(|(counter, direction, reason)| ((*direction, *reason), self.since(now, *counter)))
            .collect();
        let [latest, earlier] = self.gaps;
        missed.insert((Direction::Outbound, NOT_ACCEPTED), latest.min(earlier));
        missed.insert((Direction::Outbound, OLDER), self.older.outbound);
        missed.insert((Direction::Inbound, OLDER), self.older.inbound);
        missed
    }

    /// Captured SYNs that became no connection, but for those that are counted as refused.
    fn gap(&self, now: &Counters, accepted: Directions) -> u64 {
        let refused = self.since(now, Counter::OUTBOUND_FAILED_CLOSED);
        self.since(now, Counter::CAPTURED_SYN)
            .saturating_sub(accepted.outbound)
            .saturating_sub(refused)
    }

    fn since(&self, now: &Counters, counter: Counter) -> u64 {
        let of = |counters: &Counters| counters.get(counter.name()).copied().unwrap_or(0);
        of(now).saturating_sub(of(&self.base))
    }
}

/// Adds what was missed to what was.
pub(super) fn add(total: &mut Missed, news: Missed) {
    for (key, count) in news {
        *total.entry(key).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(captured: u64, refused: u64) -> Counters {
        Counters::from([
            (Counter::CAPTURED_SYN.name(), captured),
            (Counter::OUTBOUND_FAILED_CLOSED.name(), refused),
        ])
    }

    fn accepted(outbound: u64) -> Directions {
        Directions {
            outbound,
            inbound: 0,
        }
    }

    #[track_caller]
    fn check(ledger: &mut Ledger, now: &Counters, taken: u64, want: &[(&str, u64)]) {
        let news = ledger.settle(now, accepted(taken), || 0);
        let news = news.iter().filter(|(_, count)| **count > 0);
        let news: Vec<_> = news.map(|((_, why), count)| (*why, *count)).collect();
        assert_eq!(news, want);
    }

    #[test]
    fn what_is_captured_and_stays_unaccepted_is_missed_once() {
        let mut ledger = Ledger::begin(counters(5, 0), Directions::default());
        check(&mut ledger, &counters(8, 0), 2, &[]);
        check(&mut ledger, &counters(9, 0), 4, &[]);
        check(&mut ledger, &counters(10, 0), 4, &[]);
        check(&mut ledger, &counters(10, 0), 4, &[(NOT_ACCEPTED, 1)]);
        check(&mut ledger, &counters(11, 0), 6, &[]);
        let books = ledger.read(&counters(11, 0), accepted(6));
        assert_eq!((books.syns.outbound, books.accepted.outbound), (6, 6));
        assert_eq!(books.missed[&(Direction::Outbound, NOT_ACCEPTED)], 0);
    }

    #[test]
    fn what_waits_to_be_accepted_is_not_missed() {
        let mut ledger = Ledger::begin(counters(0, 0), Directions::default());
        for _ in 0..3 {
            let news = ledger.settle(&counters(3, 0), accepted(1), || 2);
            assert_eq!(news[&(Direction::Outbound, NOT_ACCEPTED)], 0);
        }
    }

    #[test]
    fn what_the_kernel_refused_is_missed_at_once_and_not_twice() {
        let mut ledger = Ledger::begin(counters(0, 3), Directions::default());
        check(&mut ledger, &counters(1, 4), 0, &[("no_listener", 1)]);
        check(&mut ledger, &counters(1, 4), 0, &[]);
        check(&mut ledger, &counters(1, 6), 0, &[("no_listener", 2)]);
        assert_eq!(ledger.refusals(&counters(1, 6)), 3);
    }

    #[test]
    fn what_is_older_is_told_at_the_first_look() {
        let older = Directions {
            outbound: 2,
            inbound: 0,
        };
        let mut ledger = Ledger::begin(counters(0, 0), older);
        check(&mut ledger, &counters(0, 0), 0, &[(OLDER, 2)]);
        check(&mut ledger, &counters(0, 0), 0, &[]);
    }
}
