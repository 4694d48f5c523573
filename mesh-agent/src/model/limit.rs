// SPDX-License-Identifier: Apache-2.0

//! How often requests may come, and whether one more may come now.
//!
//! Knows nothing of where the state of a bucket is kept: it is one number, handed in. A bucket is the
//! moment at which it will be full again (generic cell rate algorithm), so that nothing has to be
//! done while no request comes. Invariant: in any time `t` no more than `burst + t / interval` are
//! admitted, whatever threads ask.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::service::ObjectRef;

/// A limit for the requests of a route or a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// The object that says so.
    pub origin: ObjectRef,
    /// How often.
    pub rate: Rate,
    /// Each client identity has a bucket of its own.
    pub per_client: bool,
    /// The reason for the access log.
    pub reason: Arc<str>,
}

/// So many requests in so much time, and how many of them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The time for one request, in nanoseconds; above 0.
    interval: u64,
    /// The time for as many as may come at once.
    depth: u64,
}

/// When a bucket will be full again, in nanoseconds.
#[derive(Debug, Default)]
pub struct Bucket(AtomicU64);

impl Rate {
    /// `requests` in each `unit`, at most `burst` of them at once; `None` if one of them is 0, or if there
    /// are more than one in a nanosecond.
    pub fn new(requests: u32, unit: Duration, burst: u32) -> Option<Self> {
        let interval = nanos(unit).checked_div(u64::from(requests))?;
        let depth = interval.saturating_mul(u64::from(burst));
        (interval > 0 && depth > 0).then_some(Self { interval, depth })
    }
}

impl Bucket {
    /// Takes one request out, or says how long it takes until there is one.
    pub fn take(&self, rate: Rate, now: Duration) -> Result<(), Duration> {
        let now = nanos(now);
        let mut full = self.0.load(Ordering::Relaxed);
        loop {
            let next = full.max(now).saturating_add(rate.interval);
            if next - now > rate.depth {
                return Err(Duration::from_nanos(next - now - rate.depth));
            }
            let taken =
                self.0
                    .compare_exchange_weak(full, next, Ordering::Relaxed, Ordering::Relaxed);
            match taken {
                Ok(_) => return Ok(()),
                Err(other) => full = other,
            }
        }
    }

    /// Whether it is full, and so as good as a new one.
    pub fn is_full(&self, now: Duration) -> bool {
        self.0.load(Ordering::Relaxed) <= nanos(now)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// How many of `count` requests at `at` are admitted.
    fn admitted(bucket: &Bucket, rate: Rate, at: Duration, count: usize) -> usize {
        (0..count).filter(|_| bucket.take(rate, at).is_ok()).count()
    }

    #[test]
    fn a_burst_is_admitted_at_once_and_the_rest_at_the_rate() {
        let (bucket, rate) = (Bucket::default(), Rate::new(10, SECOND, 5).unwrap());
        let start = SECOND * 100;
        assert_eq!(admitted(&bucket, rate, start, 20), 5);
        let wait = bucket.take(rate, start).unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
        assert_eq!(admitted(&bucket, rate, start + wait, 20), 1);
        assert_eq!(admitted(&bucket, rate, start + SECOND, 20), 5);
        assert!(!bucket.is_full(start + SECOND));
        assert!(bucket.is_full(start + SECOND * 2));
    }

    #[test]
    fn what_is_refused_takes_nothing() {
        let (bucket, rate) = (Bucket::default(), Rate::new(1, SECOND, 1).unwrap());
        assert_eq!(admitted(&bucket, rate, SECOND, 1_000), 1);
        assert_eq!(admitted(&bucket, rate, SECOND * 2, 1_000), 1);
    }

    #[test]
    fn threads_together_get_no_more_than_there_is() {
        let bucket = Arc::new(Bucket::default());
        let rate = Rate::new(100, SECOND * 60, 100).unwrap();
        let thread = |_| {
            let bucket = Arc::clone(&bucket);
            std::thread::spawn(move || admitted(&bucket, rate, SECOND, 100))
        };
        let threads: Vec<_> = (0..4).map(thread).collect();
        let all: usize = threads.into_iter().map(|one| one.join().unwrap()).sum();
        assert_eq!(all, 100);
    }

    #[test]
    fn no_requests_and_no_burst_are_no_rate() {
        assert_eq!(Rate::new(0, SECOND, 1), None);
        assert_eq!(Rate::new(1, SECOND, 0), None);
        assert_eq!(Rate::new(u32::MAX, Duration::from_nanos(1), 1), None);
        assert!(Rate::new(1, SECOND * 3_600, u32::MAX).is_some());
    }
}
