// SPDX-License-Identifier: Apache-2.0

//! Endpoints that fail again and again are left out for a while.
//!
//! Knows nothing of requests but how they ended, and of time but what it is told: how long the agent
//! runs. What was seen of an endpoint is shared by all threads of the node and outlives snapshots.
//! Invariant: an ejection ends by itself. Reference: Envoy, "outlier detection"; Istio
//! `pilot/pkg/networking/core/cluster_traffic_policy.go` (`applyOutlierDetection`).

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

/// When an endpoint is left out, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// So many 5xx in a row (connections that fail count as such); never if 0.
    pub server_errors: u32,
    /// So many of 502, 503, 504 in a row; never if 0.
    pub gateway_errors: u32,
    /// Failures to connect and to be answered in time count apart: so many in a row.
    pub local_failures: Option<u32>,
    /// How often what was left out is looked at.
    pub interval: Duration,
    /// The first time it is left out for so long, the next time twice, and so on.
    pub base_ejection: Duration,
    /// No more than this share of the endpoints is left out, in percent; one always may be.
    pub max_ejected_percent: u32,
    /// With fewer healthy ones, in percent, nothing is left out.
    pub min_health_percent: u32,
}

/// The longest that an endpoint is left out.
const MAX_EJECTION: Duration = Duration::from_secs(300);

/// How a try ended, for the endpoint's reputation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// It answered with this status.
    Status(u16),
    /// It could not be connected to, broke off, or was too slow.
    Failed,
}

/// What was seen of one endpoint.
#[derive(Debug, Default)]
pub struct Health {
    server_errors: AtomicU32,
    gateway_errors: AtomicU32,
    local_failures: AtomicU32,
    /// How often it was left out lately.
    ejections: AtomicU32,
    /// In milliseconds since the agent's start.
    ejected_until: AtomicU64,
}

/// How often an endpoint was left out, on this node: what was counted before is no longer true then.
static EJECTIONS: AtomicU64 = AtomicU64::new(0);

/// How often an endpoint was left out so far.
pub(super) fn ejections() -> u64 {
    EJECTIONS.load(Ordering::Acquire)
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Health {
    /// Whether it is left out at `now`.
    pub fn is_ejected(&self, now: Duration) -> bool {
        self.ejected_until(now).is_some()
    }

    /// When it is back, in milliseconds, if it is left out at `now`.
    pub(super) fn ejected_until(&self, now: Duration) -> Option<u64> {
        let until = self.ejected_until.load(Ordering::Relaxed);
        (until > millis(now)).then_some(until)
    }

    /// Takes in how a try ended; whether the endpoint should be left out now.
    pub fn note(&self, outlier: &Outlier, conduct: Conduct) -> bool {
        let status = match (conduct, outlier.local_failures) {
            (Conduct::Failed, Some(limit)) => return reaches(&self.local_failures, true, limit),
            (Conduct::Failed, None) => 503,
            (Conduct::Status(status), _) => {
                self.local_failures.store(0, Ordering::Relaxed);
                status
            }
        };
        let gateway = matches!(status, 502..=504);
        let server = (500..600).contains(&status);
        let by_gateway = reaches(&self.gateway_errors, gateway, outlier.gateway_errors);
        let by_server = reaches(&self.server_errors, server, outlier.server_errors);
        by_gateway || by_server
    }

    /// Leaves it out, unless another thread just did.
    pub fn eject(&self, outlier: &Outlier, now: Duration) {
        let now_millis = millis(now);
        let until = self.ejected_until.load(Ordering::Relaxed);
        if until > now_millis {
            return;
        }
        // Each interval that went well since takes one off the count.
        let quiet = match until {
            0 => 0,
            until => (now_millis - until) / millis(outlier.interval).max(1),
        };
        let before = u64::from(self.ejections.load(Ordering::Relaxed));
        let times = u32::try_from(before.saturating_sub(quiet) + 1).unwrap_or(u32::MAX);
        let longest = MAX_EJECTION.max(outlier.base_ejection);
        let length = outlier.base_ejection.saturating_mul(times).min(longest);
        let next = now_millis.saturating_add(millis(length).max(1));
        let ours =
            self.ejected_until
                .compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed);
        if ours.is_ok() {
            EJECTIONS.fetch_add(1, Ordering::AcqRel);
            self.ejections.store(times, Ordering::Relaxed);
            for count in [
                &self.server_errors,
                &self.gateway_errors,
                &self.local_failures,
            ] {
                count.store(0, Ordering::Relaxed);
            }
        }
    }
}

/// Counts one more in a row, or begins anew; whether there are `limit`.
fn reaches(count: &AtomicU32, bad: bool, limit: u32) -> bool {
    if !bad {
        // Written only where it changes something: most answers are good.
        if count.load(Ordering::Relaxed) > 0 {
            count.store(0, Ordering::Relaxed);
        }
        return false;
    }
    let in_a_row = count.fetch_add(1, Ordering::Relaxed).saturating_add(1);
    limit > 0 && in_a_row >= limit
}

impl Outlier {
    /// Whether one more of `all` endpoints may be left out when `ejected` are.
    pub fn allows(&self, ejected: usize, all: usize) -> bool {
        ejected == 0 || (ejected + 1) * 100 <= self.max_ejected_percent as usize * all
    }

    /// Whether so many are left out of `all` that none should be.
    pub fn panics(&self, ejected: usize, all: usize) -> bool {
        (all - ejected) * 100 < self.min_health_percent as usize * all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlier() -> Outlier {
        Outlier {
            server_errors: 3,
            gateway_errors: 0,
            local_failures: None,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejected_percent: 10,
            min_health_percent: 0,
        }
    }

    /// Whether the last of `statuses` (0: a failure) makes the endpoint leave.
    #[track_caller]
    fn check(outlier: &Outlier, statuses: &[u16], want: bool) {
        let health = Health::default();
        let conduct = |status: &u16| match status {
            0 => Conduct::Failed,
            status => Conduct::Status(*status),
        };
        let last = statuses
            .iter()
            .map(conduct)
            .map(|one| health.note(outlier, one));
        assert_eq!(last.last(), Some(want), "{outlier:?} {statuses:?}");
    }

    #[test]
    fn consecutive_5xx_errors_are_counted_in_a_row() {
        check(&outlier(), &[500, 503, 500], true);
        check(&outlier(), &[500, 503, 200, 500], false);
        check(&outlier(), &[500, 0, 504], true);
    }

    #[test]
    fn consecutive_gateway_errors_are_502_503_504() {
        let gateway = Outlier {
            server_errors: 0,
            gateway_errors: 2,
            ..outlier()
        };
        check(&gateway, &[502, 503], true);
        check(&gateway, &[502, 500, 503], false);
        check(&gateway, &[0, 504], true);
    }

    #[test]
    fn split_external_local_origin_errors_counts_failures_apart() {
        let split = Outlier {
            local_failures: Some(2),
            ..outlier()
        };
        check(&split, &[0, 0], true);
        check(&split, &[0, 200, 0], false);
        check(&split, &[500, 0, 500], false);
    }

    #[test]
    fn base_ejection_time_grows_with_each_ejection_and_shrinks_with_each_good_interval() {
        let (health, outlier) = (Health::default(), outlier());
        let at = |seconds| Duration::from_secs(seconds);
        health.eject(&outlier, at(100));
        assert!(health.is_ejected(at(129)) && !health.is_ejected(at(130)));
        health.eject(&outlier, at(131));
        assert!(health.is_ejected(at(190)) && !health.is_ejected(at(191)));
        health.eject(&outlier, at(250));
        assert!(health.is_ejected(at(279)) && !health.is_ejected(at(280)));
    }

    #[test]
    fn max_ejection_percent_always_lets_one_go() {
        let outlier = outlier();
        assert!(outlier.allows(0, 2));
        assert!(!outlier.allows(1, 19));
        assert!(outlier.allows(1, 20));
    }

    #[test]
    fn min_health_percent_keeps_all_when_too_few_are_left() {
        let careful = Outlier {
            min_health_percent: 50,
            ..outlier()
        };
        assert!(careful.panics(2, 3));
        assert!(!careful.panics(1, 2));
        assert!(!outlier().panics(3, 3));
    }
}
