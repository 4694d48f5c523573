// SPDX-License-Identifier: Apache-2.0

//! When something that happens again and again is worth a line in the log: when it begins, and once a minute while
//! it lasts, with how often it went unsaid.
//!
//! Knows nothing of what it is, and has no clock. Invariant: what is kept is bounded; a lock is taken only for
//! what has happened, or while something lasts.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// How often it is said while it lasts.
const REMINDER: Duration = Duration::from_secs(60);

/// What has not happened for so long is over.
const OVER_AFTER: Duration = Duration::from_secs(10);

/// How many things are told apart; what is beyond that is not said.
const THINGS_MAX: usize = 1_024;

/// What happens again and again, by name.
#[derive(Debug)]
pub(crate) struct Seldom {
    things: Mutex<BTreeMap<String, Thing>>,
    /// How many there are.
    count: AtomicUsize,
}

#[derive(Clone, Copy, Debug)]
struct Thing {
    said: Duration,
    last: Duration,
    unsaid: u64,
}

impl Seldom {
    /// Nothing has happened.
    pub(crate) const fn new() -> Self {
        Self {
            things: Mutex::new(BTreeMap::new()),
            count: AtomicUsize::new(0),
        }
    }

    /// It has happened once more. If that is to be said: how often it was not since it was said last.
    pub(crate) fn happened(&self, name: &str, now: Duration) -> Option<u64> {
        let mut things = self.things();
        if let Some(thing) = things.get_mut(name) {
            let is_due = now.saturating_sub(thing.said) >= REMINDER;
            thing.last = now;
            if !is_due {
                thing.unsaid += 1;
                return None;
            }
            thing.said = now;
            return Some(std::mem::take(&mut thing.unsaid));
        }
        if things.len() >= THINGS_MAX {
            things.retain(|_, thing| !thing.is_over(now));
        }
        if things.len() >= THINGS_MAX {
            return None;
        }
        let thing = Thing {
            said: now,
            last: now,
            unsaid: 0,
        };
        things.insert(name.to_owned(), thing);
        self.count.store(things.len(), Ordering::Relaxed);
        Some(0)
    }

    /// The opposite has happened. If that ends it: how often it was not said since it was said last.
    pub(crate) fn ended(&self, name: &str, now: Duration) -> Option<u64> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut things = self.things();
        let unsaid = things.get(name).filter(|thing| thing.is_over(now))?.unsaid;
        things.remove(name);
        self.count.store(things.len(), Ordering::Relaxed);
        Some(unsaid)
    }

    fn things(&self) -> MutexGuard<'_, BTreeMap<String, Thing>> {
        self.things.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Thing {
    fn is_over(&self, now: Duration) -> bool {
        now.saturating_sub(self.last) >= OVER_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(100);

    fn at(seconds: u64) -> Duration {
        START + Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_time_is_said_and_then_once_a_minute_with_a_count() {
        let seldom = Seldom::new();
        assert_eq!(seldom.happened("a", START), Some(0));
        for second in 1..60 {
            assert_eq!(seldom.happened("a", at(second)), None);
        }
        assert_eq!(seldom.happened("a", at(60)), Some(59));
        assert_eq!(seldom.happened("b", at(60)), Some(0));
        assert_eq!(seldom.happened("a", at(61)), None);
    }

    #[test]
    fn it_is_over_when_it_has_not_happened_for_a_while() {
        let seldom = Seldom::new();
        assert_eq!(seldom.ended("a", START), None);
        seldom.happened("a", START);
        seldom.happened("a", at(1));
        // Now and then an answer is no end.
        assert_eq!(seldom.ended("a", at(2)), None);
        assert_eq!(seldom.happened("a", at(3)), None);
        assert_eq!(seldom.ended("a", at(13)), Some(2));
        assert_eq!(seldom.ended("a", at(14)), None);
        assert_eq!(seldom.happened("a", at(15)), Some(0));
    }

    #[test]
    fn too_many_things_are_not_said_until_others_are_over() {
        let seldom = Seldom::new();
        for number in 0..THINGS_MAX {
            assert_eq!(seldom.happened(&number.to_string(), START), Some(0));
        }
        assert_eq!(seldom.happened("more", at(1)), None);
        assert_eq!(seldom.happened("more", at(20)), Some(0));
        assert_eq!(seldom.things().len(), 1);
    }
}
