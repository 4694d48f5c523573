// SPDX-License-Identifier: Apache-2.0

//! The buckets of all rate limits of this node, over all threads and snapshots.
//!
//! Knows nothing of requests. A bucket that is full says nothing, and is forgotten when room is needed.
//! Invariant: there are never more than [`MAX_BUCKETS`] and one for each limit: where there is no room
//! the clients of a limit share that one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use crate::model::{
    ObjectRef, SpiffeId,
    limit::{Bucket, RateLimit},
};

/// How many buckets are kept: some 200 bytes each.
const MAX_BUCKETS: usize = 16_384;

/// Whose bucket: a limit's, or that of one of its clients.
type Subject = (ObjectRef, Option<SpiffeId>);

/// All buckets.
#[derive(Debug, Default)]
struct Buckets(Mutex<HashMap<Subject, Arc<Bucket>>>);

/// Admits a request of `client`, or says which limit does not, and when it would.
pub(crate) fn admit<'a>(
    limits: &'a [Arc<RateLimit>],
    client: &SpiffeId,
    now: Duration,
) -> Result<(), (&'a RateLimit, Duration)> {
    static ALL: OnceLock<Buckets> = OnceLock::new();
    let all = ALL.get_or_init(Buckets::default);
    for limit in limits {
        let client = limit.per_client.then_some(client);
        let bucket = all.of(&limit.origin, client, now, MAX_BUCKETS);
        bucket
            .take(limit.rate, now)
            .map_err(|after| (&**limit, after))?;
    }
    Ok(())
}

impl Buckets {
    fn of(
        &self,
        limit: &ObjectRef,
        client: Option<&SpiffeId>,
        now: Duration,
        max: usize,
    ) -> Arc<Bucket> {
        let mut subject = (limit.clone(), client.cloned());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = all.get(&subject) {
            return Arc::clone(bucket);
        }
        if all.len() >= max {
            // One that somebody holds is about to be taken from.
            all.retain(|_, bucket| !bucket.is_full(now) || Arc::strong_count(bucket) > 1);
        }
        if all.len() >= max {
            // No room for more: those without one share that of the limit.
            subject.1 = None;
        }
        Arc::clone(all.entry(subject).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limit::Rate;

    const NOW: Duration = Duration::from_secs(1_000);

    fn limit(name: &str, per_client: bool) -> Arc<RateLimit> {
        Arc::new(RateLimit {
            origin: ObjectRef {
                kind: "LocalRateLimit".into(),
                namespace: "default".into(),
                name: name.into(),
            },
            rate: Rate::new(2, Duration::from_secs(60), 2).unwrap(),
            per_client,
            reason: "too much".into(),
        })
    }

    fn client(account: &str) -> SpiffeId {
        SpiffeId::new("cluster.local", "default", account)
    }

    /// How many requests of each client are admitted.
    fn admitted(limits: &[Arc<RateLimit>], clients: &[&str]) -> Vec<usize> {
        let mut counts = Vec::new();
        for account in clients {
            let mut tried = (0..5).map(|_| admit(limits, &client(account), NOW));
            counts.push(tried.by_ref().filter(Result::is_ok).count());
        }
        counts
    }

    #[test]
    fn clients_share_a_bucket_or_have_their_own() {
        assert_eq!(admitted(&[limit("shared", false)], &["a", "b"]), [2, 0]);
        assert_eq!(admitted(&[limit("own", true)], &["a", "b", "a"]), [2, 2, 0]);
    }

    #[test]
    fn all_limits_must_admit_a_request() {
        let both = [limit("each", true), limit("together", false)];
        assert_eq!(admitted(&both, &["a", "b"]), [2, 0]);
    }

    #[test]
    fn full_buckets_make_room_and_without_room_clients_share() {
        let buckets = Buckets::default();
        let rate = Rate::new(1, Duration::from_secs(1), 1).unwrap();
        let limit = limit("x", true);
        let of = |name: &str, now| buckets.of(&limit.origin, Some(&client(name)), now, 2);
        for name in ["a", "b"] {
            of(name, NOW).take(rate, NOW).unwrap();
        }
        let (c, d) = (of("c", NOW), of("d", NOW));
        assert!(Arc::ptr_eq(&c, &d));
        let later = NOW + Duration::from_secs(5);
        assert!(!Arc::ptr_eq(&of("e", later), &c));
        assert!(buckets.0.lock().unwrap().len() <= 3);
    }
}
