// SPDX-License-Identifier: Apache-2.0

//! Which objects' statuses are to be written, and when.
//!
//! Knows nothing of the API or of how a status looks there. Invariants: what was written is not
//! written again; a change of an object costs a few writes, however many nodes there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::nodes::Applied;
use crate::config::{Conditions, Kind, ObjectKey, ObjectStatus};

/// How long nodes may take to apply a change before it is said which one lags.
const LAGGING: Duration = Duration::from_secs(10);

/// First and last time to wait after a write that failed.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// What is to be written about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Want {
    /// Of the incarnation that was judged.
    pub(super) uid: Arc<str>,
    pub(super) generation: i64,
    pub(super) conditions: Conditions,
    /// How far the nodes are, if anything is to be said about that; what is there stays otherwise.
    pub(super) applied: Option<Applied>,
}

/// All objects with a status.
#[derive(Debug, Default)]
pub(super) struct Book {
    known: BTreeMap<ObjectKey, Known>,
    /// To be written.
    due: BTreeSet<ObjectKey>,
    /// Not yet applied everywhere, as far as was said: by kind, the oldest versions first.
    unsettled: BTreeSet<(Kind, u64, ObjectKey)>,
}

#[derive(Debug)]
struct Known {
    want: Want,
    written: Option<Want>,
    /// The resource version in which this generation was first seen: later ones may be our own
    /// writes. `None` if it is not a number.
    version: Option<u64>,
    /// When to say next who lags, and how long to wait after that.
    lagging_at: Instant,
    patience: Duration,
    failures: u32,
    not_before: Instant,
}

impl Book {
    /// Takes in the current judgements.
    pub(super) fn adopt(&mut self, statuses: &[ObjectStatus], now: Instant) {
        let present: BTreeSet<&ObjectKey> = statuses.iter().map(|status| &status.key).collect();
        self.known.retain(|key, _| present.contains(key));
        self.due.retain(|key| present.contains(key));
        self.unsettled.retain(|(.., key)| present.contains(key));
        for status in statuses {
            self.adopt_one(status, now);
        }
    }

    fn adopt_one(&mut self, status: &ObjectStatus, now: Instant) {
        let generation = status.revision.generation.unwrap_or_default();
        let key = &status.key;
        let is_same = |known: &&mut Known| {
            known.want.uid == status.revision.uid && known.want.generation == generation
        };
        match self.known.get_mut(key).filter(is_same) {
            Some(known) => {
                if known.want.conditions != status.conditions {
                    known.want.conditions = status.conditions.clone();
                }
            }
            None => {
                let last = self.known.remove(key);
                if let Some(version) = last.as_ref().and_then(|last| last.version) {
                    self.unsettled.remove(&(key.kind, version, key.clone()));
                }
                let version = status.revision.resource_version.parse().ok();
                let known = Known {
                    want: Want {
                        uid: Arc::clone(&status.revision.uid),
                        generation,
                        conditions: status.conditions.clone(),
                        applied: None,
                    },
                    written: last.and_then(|last| last.written),
                    version,
                    lagging_at: now + LAGGING,
                    patience: LAGGING,
                    failures: 0,
                    not_before: now,
                };
                self.known.insert(key.clone(), known);
                if let Some(version) = version {
                    self.unsettled.insert((key.kind, version, key.clone()));
                }
            }
        }
        self.mark(key);
    }

    fn mark(&mut self, key: &ObjectKey) {
        if let Some(known) = self.known.get(key) {
            if known.written.as_ref() == Some(&known.want) {
                self.due.remove(key);
            } else {
                self.due.insert(key.clone());
            }
        }
    }

    /// Looks how far the nodes are, where that is still open.
    pub(super) fn look(&mut self, now: Instant, applied: impl Fn(&str, u64) -> Applied) {
        let (mut settled, mut said) = (Vec::new(), Vec::new());
        // A kind's versions are applied in order: behind one that is not, none is.
        let mut behind = None;
        for entry @ (kind, version, key) in &self.unsettled {
            let Some(known) = self.known.get_mut(key) else {
                continue;
            };
            let is_lagging = now >= known.lagging_at;
            if behind == Some(*kind) && !is_lagging {
                continue;
            }
            let reached = applied(kind.as_str(), *version);
            if reached.of > 0 && reached.nodes == reached.of {
                // For this generation that is the last word: nodes that join later start with it.
                settled.push(entry.clone());
            } else {
                behind = Some(*kind);
                if reached.of == 0 || !is_lagging {
                    continue;
                }
                known.patience *= 2;
                known.lagging_at = now + known.patience;
            }
            known.want.applied = Some(reached);
            said.push(key.clone());
        }
        for entry in &settled {
            self.unsettled.remove(entry);
        }
        for key in &said {
            self.mark(key);
        }
    }

    /// What to write next, if something is due at `now`.
    pub(super) fn next(&self, now: Instant) -> Option<(ObjectKey, Want)> {
        self.due.iter().find_map(|key| {
            let known = self.known.get(key)?;
            (known.not_before <= now).then(|| (key.clone(), known.want.clone()))
        })
    }

    /// When there may be something to do although nothing has changed.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let due = self.due.iter().filter_map(|key| self.known.get(key));
        let unsettled = self.unsettled.iter();
        let unsettled = unsettled.filter_map(|(.., key)| self.known.get(key));
        let writes = due.map(|known| known.not_before);
        writes.chain(unsettled.map(|known| known.lagging_at)).min()
    }

    /// `want` is on record.
    pub(super) fn written(&mut self, key: &ObjectKey, want: Want) {
        if let Some(known) = self.known.get_mut(key) {
            known.written = Some(want);
            known.failures = 0;
        }
        self.mark(key);
    }

    /// A write failed at `now`: try again later.
    pub(super) fn failed(&mut self, key: &ObjectKey, now: Instant) {
        if let Some(known) = self.known.get_mut(key) {
            let wait = BACK_OFF.0 * 2_u32.saturating_pow(known.failures.min(16));
            known.failures += 1;
            known.not_before = now + wait.min(BACK_OFF.1);
        }
    }

    /// Forgets what was written: others may have written since.
    pub(super) fn forget_written(&mut self) {
        let keys: Vec<ObjectKey> = self.known.keys().cloned().collect();
        for known in self.known.values_mut() {
            known.written = None;
        }
        self.due.extend(keys);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::config::{Condition, Revision};

    fn key() -> ObjectKey {
        ObjectKey {
            kind: Kind::HttpRoute,
            namespace: "default".to_owned(),
            name: "web".to_owned(),
        }
    }

    fn status(generation: i64, version: &str, message: &str) -> ObjectStatus {
        ObjectStatus {
            key: key(),
            revision: Revision {
                uid: "u".into(),
                generation: Some(generation),
                resource_version: version.into(),
            },
            conditions: Conditions::Own(vec![Condition {
                kind: "Accepted",
                holds: true,
                reason: "Accepted",
                message: message.to_owned(),
            }]),
        }
    }

    fn reached(nodes: usize, of: usize) -> Applied {
        Applied {
            nodes,
            of,
            slowest: (nodes < of).then(|| "node-b".to_owned()),
        }
    }

    /// Writes what is due and returns how many that were.
    fn write_all(book: &mut Book, now: Instant) -> usize {
        let mut count = 0;
        while let Some((key, want)) = book.next(now) {
            book.written(&key, want);
            count += 1;
        }
        count
    }

    #[test]
    fn a_change_is_written_once_and_again_when_all_nodes_have_it() {
        let (mut book, start) = (Book::default(), Instant::now());
        book.adopt(&[status(1, "10", "a")], start);
        assert_eq!(write_all(&mut book, start), 1);
        // Our own write comes back with a new version.
        book.adopt(&[status(1, "11", "a")], start);
        for nodes in 0..100 {
            book.look(start, |kind, version| {
                assert_eq!((kind, version), ("HTTPRoute", 10));
                reached(nodes, 100)
            });
        }
        assert_eq!(write_all(&mut book, start), 0);
        book.look(start, |_, _| reached(100, 100));
        assert_eq!(write_all(&mut book, start), 1);
        // A node that joins later is no news of this change.
        book.look(start + LAGGING * 9, |_, _| reached(100, 101));
        assert_eq!(write_all(&mut book, start + LAGGING * 9), 0);
        book.adopt(&[status(2, "20", "a")], start);
        assert_eq!(write_all(&mut book, start), 1);
    }

    #[test]
    fn of_many_that_are_not_applied_only_the_oldest_is_asked_about() {
        let (mut book, start) = (Book::default(), Instant::now());
        let many: Vec<ObjectStatus> = (0..1000_u32)
            .map(|number| {
                let mut one = status(1, &(1000 + number).to_string(), "a");
                one.key.name = format!("web-{number}");
                one
            })
            .collect();
        book.adopt(&many, start);
        let asked = Cell::new(0);
        let mut upto = |frontier: u64| {
            book.look(start, |_, version| {
                asked.set(asked.get() + 1);
                reached(if version <= frontier { 3 } else { 2 }, 3)
            });
            asked.take()
        };
        assert_eq!([upto(0), upto(0), upto(1009), upto(1009)], [1, 1, 11, 1]);
    }

    #[test]
    fn a_node_that_lags_is_named_after_a_while_and_ever_more_rarely() {
        let (mut book, start) = (Book::default(), Instant::now());
        book.adopt(&[status(1, "10", "a")], start);
        write_all(&mut book, start);
        let mut writes = 0;
        for second in 0..=600_u32 {
            let now = start + Duration::from_secs(second.into());
            let nodes = usize::try_from(second % 7).unwrap();
            book.look(now, |_, _| reached(nodes, 9));
            writes += write_all(&mut book, now);
            assert!(second >= 10 || writes == 0);
        }
        assert!((1..=6).contains(&writes), "{writes}");
    }

    #[test]
    fn a_write_that_fails_is_tried_again_later_and_later() {
        let (mut book, start) = (Book::default(), Instant::now());
        book.adopt(&[status(1, "10", "a")], start);
        book.failed(&key(), start);
        assert_eq!(book.next(start), None);
        let second = start + Duration::from_secs(1);
        assert!(book.next(second).is_some());
        book.failed(&key(), second);
        assert_eq!(book.next(second + Duration::from_secs(1)), None);
        assert!(book.next(second + Duration::from_secs(2)).is_some());
    }

    #[test]
    fn another_leader_may_have_written_and_objects_may_go() {
        let (mut book, start) = (Book::default(), Instant::now());
        book.adopt(&[status(1, "10", "a")], start);
        write_all(&mut book, start);
        book.forget_written();
        assert_eq!(write_all(&mut book, start), 1);
        book.forget_written();
        book.adopt(&[], start);
        assert_eq!(book.next(start), None);
        assert_eq!(book.wake_at(), None);
    }
}
