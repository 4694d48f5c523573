// SPDX-License-Identifier: Apache-2.0

//! Endpoints that are new get less, until they are warm.
//!
//! Knows nothing of when an endpoint became ready: it is new from when it is first drawn. Where all are
//! new all are alike. Reference: Envoy, "slow start mode"; Istio `WarmupConfiguration`.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// How endpoints become warm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warmup {
    /// How long it takes.
    pub length: Duration,
    /// What they get at first, in thousandths of what is theirs when they are warm.
    pub at_first: u32,
    /// In thousandths: above 1,000 they get more earlier than in proportion to time.
    pub aggression: u32,
}

/// When an endpoint was first drawn, in milliseconds and one more; 0 if it never was.
#[derive(Debug, Default)]
pub struct Age(AtomicU64);

impl Age {
    /// How long that was ago at `now`, beginning now if it never was.
    pub fn at(&self, now: Duration) -> Duration {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX - 1) + 1;
        let since = self.0.load(Ordering::Relaxed);
        if since != 0 {
            return Duration::from_millis(now.saturating_sub(since));
        }
        // Another thread may have been first: a moment ago.
        let first = self
            .0
            .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        Duration::from_millis(now.saturating_sub(first.err().unwrap_or(now)))
    }
}

impl Warmup {
    /// What an endpoint of this age gets, in thousandths.
    pub fn share(&self, age: Duration) -> u32 {
        if age >= self.length {
            return 1_000;
        }
        // Whole seconds, and never none, as in Envoy.
        let past = age.as_secs_f64().floor().max(1.0) / self.length.as_secs_f64().max(1.0);
        let aggression = f64::from(self.aggression.max(1)) / 1_000.0;
        let share = past.min(1.0).powf(1.0 / aggression) * 1_000.0;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 0 to a thousand"
        )]
        let share = share as u32;
        share.max(self.at_first).min(1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(aggression: u32, seconds: u64) -> u32 {
        let warmup = Warmup {
            length: Duration::from_secs(100),
            at_first: 100,
            aggression,
        };
        warmup.share(Duration::from_secs(seconds))
    }

    #[test]
    fn an_endpoint_gets_more_with_time() {
        assert_eq!(
            [0, 5, 10, 50].map(|age| at(1_000, age)),
            [100, 100, 100, 500]
        );
        assert_eq!(
            [99, 100, 500].map(|age| at(1_000, age)),
            [990, 1_000, 1_000]
        );
    }

    #[test]
    fn aggression_bends_the_line() {
        assert_eq!(at(2_000, 25), 500);
        assert_eq!(at(500, 50), 250);
    }

    #[test]
    fn an_endpoint_is_new_from_when_it_is_first_drawn() {
        let age = Age::default();
        assert_eq!(age.at(Duration::from_secs(7)), Duration::ZERO);
        assert_eq!(age.at(Duration::from_secs(9)), Duration::from_secs(2));
        let early = Age::default();
        early.at(Duration::ZERO);
        assert_eq!(early.at(Duration::from_secs(1)), Duration::from_secs(1));
    }
}
