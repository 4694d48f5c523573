// SPDX-License-Identifier: Apache-2.0

//! A map of which a snapshot shares with the one before whatever did not change.
//!
//! Entries are spread over shards by a fixed hash; a copy shares all shards, and a change copies one
//! of them. Two maps of which one grew out of the other differ in shards that they do not share, so
//! that telling what changed costs what changed. Knows nothing of what is in it.
//! Invariant: maps with as many shards have every key in the same one.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, Hash},
    ops::Index,
    sync::Arc,
};

use foldhash::fast::{FixedState, RandomState};

/// How many entries a shard has on average before there are four times as many shards.
const CROWDED: usize = 64;

/// Its keys are nobody's secret, but not chosen by us either: a fast hash with a random beginning.
type Shard<K, V> = HashMap<K, V, RandomState>;

/// A map whose copies share what they have in common.
#[derive(Clone)]
pub struct SharedMap<K, V> {
    /// None as long as there was never an entry, then a power of two.
    shards: Vec<Arc<Shard<K, V>>>,
    len: usize,
}

/// An entry that one of two maps does not have, or has with another value.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference<'a, K, V> {
    /// The key.
    pub key: &'a K,
    /// The earlier map's value, if it has one.
    pub before: Option<&'a V>,
    /// The later map's value, if it has one.
    pub after: Option<&'a V>,
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self {
            shards: Vec::new(),
            len: 0,
        }
    }
}

impl<K, V> SharedMap<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// All keys, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Eq + Hash, V> SharedMap<K, V> {
    /// The value of `key`.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.shards.get(self.place(key))?.get(key)
    }

    /// Whether there is an entry of `key`.
    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// What is not as it was in `earlier`; `same` tells which values are equal.
    pub fn differences<'a>(
        &'a self,
        earlier: &'a Self,
        same: impl Fn(&V, &V) -> bool,
    ) -> Vec<Difference<'a, K, V>> {
        let alike = self.shards.len() == earlier.shards.len();
        let shared =
            |index: usize| alike && Arc::ptr_eq(&self.shards[index], &earlier.shards[index]);
        let mut found = Vec::new();
        for (index, shard) in self.shards.iter().enumerate() {
            for (key, after) in shard.iter().filter(|_| !shared(index)) {
                let before = earlier.get(key);
                if !before.is_some_and(|before| same(before, after)) {
                    found.push(Difference {
                        key,
                        before,
                        after: Some(after),
                    });
                }
            }
        }
        for (index, shard) in earlier.shards.iter().enumerate() {
            for (key, before) in shard.iter().filter(|_| !shared(index)) {
                if !self.contains_key(key) {
                    found.push(Difference {
                        key,
                        before: Some(before),
                        after: None,
                    });
                }
            }
        }
        found
    }

    /// The number of the shard that has `key`.
    fn place(&self, key: &K) -> usize {
        // The same in all maps, so that copies agree. A bad spread costs time, nothing else.
        let hash = FixedState::with_seed(0).hash_one(key);
        // Fewer shards than 2^32.
        let mixed = usize::try_from(hash >> 32).unwrap_or_default();
        mixed & self.shards.len().wrapping_sub(1)
    }
}

impl<K: Eq + Hash + Clone, V: Clone> SharedMap<K, V> {
    /// Gives `key` a value; returns the one that it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        if self.len >= self.shards.len() * CROWDED {
            self.grow();
        }
        let place = self.place(&key);
        let before = Arc::make_mut(&mut self.shards[place]).insert(key, value);
        self.len += usize::from(before.is_none());
        before
    }

    /// Takes an entry out; returns its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        if !self.contains_key(key) {
            return None;
        }
        let place = self.place(key);
        let before = Arc::make_mut(&mut self.shards[place]).remove(key);
        self.len -= usize::from(before.is_some());
        before
    }

    fn grow(&mut self) {
        let shards = (self.shards.len() * 4).max(1);
        let before = std::mem::take(&mut self.shards);
        self.shards = std::iter::repeat_with(Arc::default).take(shards).collect();
        for shard in before {
            for (key, value) in Arc::unwrap_or_clone(shard) {
                let place = self.place(&key);
                Arc::make_mut(&mut self.shards[place]).insert(key, value);
            }
        }
    }
}

impl<K: Eq + Hash + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

impl<K: Eq + Hash + Clone, V: Clone, const N: usize> From<[(K, V); N]> for SharedMap<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<'a, K, V> IntoIterator for &'a SharedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Box<dyn Iterator<Item = (&'a K, &'a V)> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

impl<K: Eq + Hash, V> Index<&K> for SharedMap<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        self.get(key).expect("whoever indexes knows the key")
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: u32) -> SharedMap<u32, u32> {
        (0..count).map(|number| (number, number)).collect()
    }

    fn shown<'a>(
        later: &'a SharedMap<u32, u32>,
        earlier: &'a SharedMap<u32, u32>,
    ) -> Vec<(u32, Option<u32>, Option<u32>)> {
        let differences = later.differences(earlier, PartialEq::eq);
        let mut shown: Vec<_> = differences
            .iter()
            .map(|one| (*one.key, one.before.copied(), one.after.copied()))
            .collect();
        shown.sort_unstable();
        shown
    }

    #[test]
    fn entries_are_found_until_they_are_removed() {
        let mut map = numbers(10_000);
        assert_eq!((map.len(), map.iter().count()), (10_000, 10_000));
        assert_eq!(map.insert(7, 8), Some(7));
        assert_eq!(map.remove(&9), Some(9));
        assert_eq!(map.remove(&9), None);
        assert_eq!(
            (map.len(), map.get(&7), map.get(&9)),
            (9_999, Some(&8), None)
        );
        assert_eq!(map[&9_999], 9_999);
    }

    #[test]
    fn a_change_copies_one_shard() {
        let before = numbers(10_000);
        let mut after = before.clone();
        after.insert(5, 6);
        let same = |(a, b): (&Arc<_>, &Arc<_>)| Arc::ptr_eq(a, b);
        let shared = before
            .shards
            .iter()
            .zip(&after.shards)
            .filter(|pair| same(*pair));
        assert_eq!(shared.count(), before.shards.len() - 1);
        assert_eq!(before.get(&5), Some(&5));
    }

    #[test]
    fn what_changed_is_told() {
        let before = numbers(300);
        let mut after = before.clone();
        assert_eq!(shown(&after, &before), []);
        after.insert(1, 2);
        after.remove(&3);
        after.insert(300, 300);
        let want = [
            (1, Some(1), Some(2)),
            (3, Some(3), None),
            (300, None, Some(300)),
        ];
        assert_eq!(shown(&after, &before), want);
    }

    #[test]
    fn maps_with_nothing_in_common_are_told_apart_too() {
        let (few, many) = (numbers(2), numbers(1_000));
        assert_eq!(shown(&many, &few).len(), 998);
        assert_eq!(shown(&few, &many).len(), 998);
        assert_eq!(shown(&few, &SharedMap::default()).len(), 2);
        assert_eq!(shown(&SharedMap::default(), &few).len(), 2);
    }

    #[test]
    fn addresses_spread_over_the_shards() {
        let map: SharedMap<std::net::IpAddr, u32> = (0..10_000_u32)
            .map(|number| {
                (
                    std::net::Ipv4Addr::from(0x0a00_0000 + number).into(),
                    number,
                )
            })
            .collect();
        let fullest = map.shards.iter().map(|shard| shard.len()).max();
        assert!(fullest < Some(4 * CROWDED), "{fullest:?}");
    }
}
