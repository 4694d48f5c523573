// SPDX-License-Identifier: Apache-2.0

//! When to issue: what is missing at once, what is live at half its life, what failed later.
//!
//! One task for all identities of the node. It knows the schedule only; [`super::issue`] makes
//! certificates and [`super::Core`] publishes them.
//!
//! Invariant: a live certificate is replaced or expires, it is never taken away because its
//! successor could not be issued.

use std::{
    collections::{BTreeSet, HashMap},
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::watch, time::Instant};

use super::{
    Core,
    issue::{self, IssueError, Issued},
};
use crate::{model::SpiffeId, tasks::Drain};

/// The longest wait between two attempts.
const MAX_BACKOFF: Duration = Duration::from_secs(150);

/// The longest wait between two attempts for an identity that has no certificate yet.
const MAX_FIRST_BACKOFF: Duration = Duration::from_secs(10);

/// A certificate that survived a restart is renewed within this time, at a random moment.
const RENEW_RESTORED: Duration = Duration::from_secs(60);

/// The wall clock is looked at this often: the monotonic one stands still while suspended.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(30);

/// A new certificate that is revoked from the start is replaced after this time.
const STILL_REVOKED: Duration = Duration::from_secs(5);

/// What happens next to one identity.
struct Plan {
    /// When to issue, by the monotonic clock.
    due: Instant,
    /// The same by the wall clock, once a certificate is live.
    due_by_clock: Option<SystemTime>,
    /// Attempts that failed since the last success.
    failures: u32,
    /// An attempt is under way.
    busy: bool,
}

type Attempt = Pin<Box<dyn Future<Output = (SpiffeId, Result<Issued, IssueError>)> + Send>>;

/// Issues and rotates what `wanted` holds, until drained or nobody can want anything any more.
pub(super) async fn run(
    core: Arc<Core>,
    mut wanted: watch::Receiver<BTreeSet<SpiffeId>>,
    drain: Drain,
) {
    let mut plans: HashMap<SpiffeId, Plan> = HashMap::new();
    let mut attempts: FuturesUnordered<Attempt> = FuturesUnordered::new();
    let mut revoked = core.sessions.revoked();
    loop {
        let identities = wanted.borrow_and_update().clone();
        reconcile(&core, &mut plans, &identities);
        core.keep_only(&identities);
        core.sweep_kept();
        start_due(&core, &mut plans, &attempts);
        // Each arm is cancel-safe: attempts stay in their set, the others hold nothing.
        tokio::select! {
            () = drain.requested() => return,
            changed = wanted.changed() => if changed.is_err() { return },
            Some((identity, outcome)) = attempts.next(), if !attempts.is_empty() => {
                settle(&core, &mut plans, &identity, outcome);
            }
            Ok(()) = revoked.changed() => replace_revoked(&core, &mut plans),
            () = tokio::time::sleep_until(next_wake(&plans)) => {}
        }
    }
}

fn reconcile(core: &Core, plans: &mut HashMap<SpiffeId, Plan>, identities: &BTreeSet<SpiffeId>) {
    plans.retain(|identity, _| {
        let wanted = identities.contains(identity);
        if !wanted {
            core.unkeep(identity);
        }
        wanted
    });
    for identity in identities {
        if !plans.contains_key(identity) {
            // What was kept is good for now; who signed it, and what is trusted, may have changed
            // meanwhile, so it is renewed soon.
            let restored = core.restore(identity);
            let wait = match restored {
                Some(left) => (left / 2).min(RENEW_RESTORED).mul_f64(fastrand::f64()),
                None => Duration::ZERO,
            };
            plans.insert(
                identity.clone(),
                Plan {
                    due: Instant::now() + wait,
                    due_by_clock: restored.map(|_| SystemTime::now() + wait),
                    failures: 0,
                    busy: false,
                },
            );
        }
    }
}

/// What peers take no more is replaced at once.
fn replace_revoked(core: &Core, plans: &mut HashMap<SpiffeId, Plan>) {
    for (identity, plan) in plans {
        if core.is_revoked(identity) {
            tracing::warn!(%identity, "the own certificate is revoked: asking for another one");
            plan.due = Instant::now();
        }
    }
}

fn start_due(
    core: &Arc<Core>,
    plans: &mut HashMap<SpiffeId, Plan>,
    attempts: &FuturesUnordered<Attempt>,
) {
    let (now, clock) = (Instant::now(), SystemTime::now());
    for (identity, plan) in plans.iter_mut().filter(|(_, plan)| !plan.busy) {
        let overdue = plan.due_by_clock.is_some_and(|due| due <= clock);
        if plan.due > now && !overdue {
            continue;
        }
        plan.busy = true;
        let (core, identity) = (Arc::clone(core), identity.clone());
        attempts.push(Box::pin(async move {
            let outcome = issue::issue(&*core.authority, &identity, core.ttl).await;
            let outcome = match outcome {
                Ok(fresh) => Ok(core.keep(&identity, fresh).await),
                Err(error) => Err(error),
            };
            (identity, outcome)
        }));
    }
}

/// Publishes what an attempt brought and plans the next one.
fn settle(
    core: &Core,
    plans: &mut HashMap<SpiffeId, Plan>,
    identity: &SpiffeId,
    outcome: Result<Issued, IssueError>,
) {
    // No longer wanted: what was issued is dropped with its key.
    let Some(plan) = plans.get_mut(identity) else {
        core.unkeep(identity);
        return;
    };
    plan.busy = false;
    let outcome = outcome.and_then(|issued| {
        let left = issued
            .not_after
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        core.publish(identity, issued)?;
        Ok(left)
    });
    match outcome {
        Ok(left) => {
            let mut wait = jittered(left / 2);
            if core.is_revoked(identity) {
                // Its begin is before what the list says: authorities set it into the past.
                wait = wait.min(STILL_REVOKED);
            }
            plan.failures = 0;
            plan.due = Instant::now() + wait;
            plan.due_by_clock = Some(SystemTime::now() + wait);
        }
        Err(error) => {
            plan.failures = plan.failures.saturating_add(1);
            let mut wait = backoff(core.ttl, plan.failures);
            if !core.has_certificate(identity) {
                wait = wait.min(MAX_FIRST_BACKOFF);
            }
            plan.due = Instant::now() + jittered(wait);
            plan.due_by_clock = None;
            core.note_failure(identity, &error, plan.failures);
        }
    }
}

/// From a hundredth of the certificates' life (at most a second), doubling, to an eighth of it.
fn backoff(ttl: Duration, failures: u32) -> Duration {
    let first = (ttl / 100).clamp(Duration::from_millis(10), Duration::from_secs(1));
    let most = (ttl / 8).clamp(first, MAX_BACKOFF);
    let doublings = failures.saturating_sub(1).min(16);
    first.saturating_mul(1 << doublings).min(most)
}

/// Up to a tenth more or less, so that identities do not move in step.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.9 + 0.2 * fastrand::f64())
}

fn next_wake(plans: &HashMap<SpiffeId, Plan>) -> Instant {
    plans
        .values()
        .filter(|plan| !plan.busy)
        .map(|plan| plan.due)
        .min()
        .unwrap_or_else(|| Instant::now() + LOOK_AT_CLOCK)
        .min(Instant::now() + LOOK_AT_CLOCK)
}
