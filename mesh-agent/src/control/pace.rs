// SPDX-License-Identifier: Apache-2.0

//! How often something may be done: evenly, after a burst.
//!
//! Knows nothing of what is done. Invariant: in any time, no more than the burst and what the
//! rate allows. Reference: the generic cell rate algorithm (ITU-T I.371).

use std::time::{Duration, Instant};

/// Allows a burst, then one per interval.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    /// How far ahead of time one may be.
    tolerance: Duration,
    /// When everything that was allowed would have been done evenly.
    spent_until: Option<Instant>,
}

impl Pace {
    /// One per `interval`, and `burst` at once.
    pub(super) fn new(interval: Duration, burst: u32) -> Self {
        Self {
            interval,
            tolerance: interval * burst.saturating_sub(1),
            spent_until: None,
        }
    }

    /// Allows one more at `now`, or says when that will be.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let spent_until = self.spent_until.map_or(now, |until| until.max(now));
        if spent_until.duration_since(now) > self.tolerance {
            return Err(spent_until - self.tolerance);
        }
        self.spent_until = Some(spent_until + self.interval);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_followed_by_one_per_interval() {
        let (start, interval) = (Instant::now(), Duration::from_millis(50));
        let mut pace = Pace::new(interval, 3);
        for _ in 0..3 {
            assert_eq!(pace.take(start), Ok(()));
        }
        assert_eq!(pace.take(start), Err(start + interval));
        assert_eq!(pace.take(start + interval), Ok(()));
        assert_eq!(pace.take(start + interval), Err(start + interval * 2));
        // After a rest the burst is back, and no more than that.
        let later = start + interval * 100;
        for _ in 0..3 {
            assert_eq!(pace.take(later), Ok(()));
        }
        assert_eq!(pace.take(later), Err(later + interval));
    }
}
