// SPDX-License-Identifier: Apache-2.0

//! How many requests each LocalRateLimit has not admitted.
//!
//! Knows nothing of buckets. Invariant: the number of limits told apart is bounded. A lock is taken, but
//! only for a request that is refused, and for one addition.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::model::ObjectRef;

/// More limits than this share one name.
const LIMITS_MAX: usize = 10_000;

/// Counts what limits have refused.
#[derive(Debug, Default)]
pub(super) struct Limited(Mutex<BTreeMap<Key, u64>>);

/// A limit's namespace and name.
type Key = (Arc<str>, Arc<str>);

impl Limited {
    pub(super) fn count(&self, limit: &ObjectRef) {
        self.count_up_to(limit, LIMITS_MAX);
    }

    fn count_up_to(&self, limit: &ObjectRef, max: usize) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Arc::clone(&limit.namespace), Arc::clone(&limit.name));
        let has_room = counts.len() < max || counts.contains_key(&key);
        let key = match has_room {
            true => key,
            false => ("".into(), "overflow".into()),
        };
        *counts.entry(key).or_default() += 1;
    }

    /// All counts: namespace and name.
    pub(super) fn all(&self) -> Vec<([String; 2], u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let row = |((namespace, name), count): (&Key, &u64)| {
            ([namespace.to_string(), name.to_string()], *count)
        };
        counts.iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_counted_and_there_are_never_too_many() {
        let limited = Limited::default();
        for name in ["a", "b", "a", "c", "d", "a"] {
            let limit = ObjectRef {
                kind: "LocalRateLimit".into(),
                namespace: "shop".into(),
                name: name.into(),
            };
            limited.count_up_to(&limit, 2);
        }
        let row = |namespace: &str, name: &str, count| ([namespace.into(), name.into()], count);
        assert_eq!(
            limited.all(),
            [
                row("", "overflow", 2),
                row("shop", "a", 3),
                row("shop", "b", 1)
            ]
        );
    }
}
