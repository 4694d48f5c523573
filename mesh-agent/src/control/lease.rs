// SPDX-License-Identifier: Apache-2.0

//! Which replica leads: an election by a Lease, as Kubernetes' own components hold it.
//!
//! Clocks may differ: whether a holder is alive is judged by whether its record changes while we
//! look, never by the times in it. Knows nothing of what a leader does. Invariant: a leader that
//! could not renew for [`RENEW_DEADLINE`] has stepped down before another may take the lease.

use std::time::{Duration, Instant};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::{sync::watch, time::timeout};

use crate::tasks::Tasks;

/// A holder that did not renew for this long has lost the lease.
const LEASE: Duration = Duration::from_secs(15);

/// A leader that could not renew for this long steps down.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// How often a leader renews, and others look.
const RETRY: Duration = Duration::from_secs(2);

/// One question to the API server.
const REQUEST: Duration = Duration::from_secs(4);

/// Who leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Leadership {
    /// Whether it is this replica.
    pub(super) leading: bool,
    /// The leader's identity, if there is one.
    pub(super) holder: Option<String>,
}

/// What to do about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    Create,
    Renew,
    Take,
    Wait,
}

/// One replica's view of the election.
struct Election {
    me: String,
    /// What the record said when it last changed, and when that was seen.
    seen: Option<(Record, Instant)>,
}

#[derive(Clone, Debug, PartialEq)]
struct Record {
    holder: String,
    renewed: Option<MicroTime>,
    transitions: i32,
}

/// Takes part in the election until the drain begins; then the lease is released.
pub(super) fn elect(
    client: Client,
    namespace: &str,
    name: &'static str,
    me: String,
    tasks: &Tasks,
) -> watch::Receiver<Leadership> {
    let (leadership, receiver) = watch::channel(Leadership::default());
    let api: Api<Lease> = Api::namespaced(client, namespace);
    let drain = tasks.drain();
    tasks.spawn("leader election", async move {
        let mut election = Election { me, seen: None };
        let mut renewed: Option<Instant> = None;
        loop {
            let began = Instant::now();
            match timeout(REQUEST.min(left(renewed)), turn(&api, name, &mut election)).await {
                Ok(Ok(true)) => renewed = Some(began),
                Ok(Ok(false)) => renewed = None,
                Ok(Err(error)) => tracing::warn!(%error, "the leader's lease, will try again"),
                Err(_elapsed) => tracing::warn!("the API server does not answer about the lease"),
            }
            renewed = renewed.filter(|at| at.elapsed() < RENEW_DEADLINE);
            announce(&leadership, renewed.is_some(), election.holder());
            // Not beyond the moment at which this replica has to step down.
            let pause = RETRY
                .mul_f64(1.0 + 0.2 * fastrand::f64())
                .min(left(renewed));
            // Cancel-safe: both only wait.
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = drain.requested() => break,
            }
        }
        let was_leading = leadership.borrow().leading;
        announce(&leadership, false, None);
        if was_leading {
            release(&api, name, &election).await;
        }
    });
    receiver
}

/// How long a leader may go on that renewed at this time.
fn left(renewed: Option<Instant>) -> Duration {
    renewed.map_or(Duration::MAX, |at| {
        RENEW_DEADLINE.saturating_sub(at.elapsed())
    })
}

fn announce(leadership: &watch::Sender<Leadership>, leading: bool, holder: Option<String>) {
    leadership.send_if_modified(|known| {
        let now = Leadership { leading, holder };
        if known.leading != now.leading {
            tracing::info!(leading, "leadership");
        }
        let changed = *known != now;
        *known = now;
        changed
    });
}

/// One look at the lease and what follows from it; whether this replica holds it then.
async fn turn(api: &Api<Lease>, name: &str, election: &mut Election) -> Result<bool, kube::Error> {
    let found = api.get_opt(name).await?;
    let spec = found.as_ref().and_then(|lease| lease.spec.as_ref());
    let next = election.next(spec, Instant::now());
    let post = PostParams::default();
    let outcome = match (next, found) {
        (Move::Wait, _) => return Ok(false),
        (Move::Create, None) => {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(name.to_owned()),
                    ..ObjectMeta::default()
                },
                spec: Some(election.spec(None, next)),
            };
            api.create(&post, &lease).await
        }
        (_, found) => {
            let mut lease = found.unwrap_or_default();
            lease.spec = Some(election.spec(lease.spec.take(), next));
            api.replace(name, &post, &lease).await
        }
    };
    match outcome {
        Ok(lease) => {
            election.next(lease.spec.as_ref(), Instant::now());
            Ok(true)
        }
        // Another replica was faster.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

async fn release(api: &Api<Lease>, name: &str, election: &Election) {
    let released = async {
        let Some(mut lease) = api.get_opt(name).await? else {
            return Ok(());
        };
        let Some(spec) = lease.spec.as_mut() else {
            return Ok(());
        };
        if spec.holder_identity.as_deref() != Some(election.me.as_str()) {
            return Ok(());
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        api.replace(name, &PostParams::default(), &lease).await?;
        Ok::<(), kube::Error>(())
    };
    match timeout(REQUEST, released).await {
        Ok(Ok(())) => tracing::info!("released the leader's lease"),
        Ok(Err(error)) => tracing::warn!(%error, "releasing the leader's lease"),
        Err(_elapsed) => tracing::warn!("releasing the leader's lease took too long"),
    }
}

impl Election {
    fn holder(&self) -> Option<String> {
        let (record, _) = self.seen.as_ref()?;
        (!record.holder.is_empty()).then(|| record.holder.clone())
    }

    fn next(&mut self, spec: Option<&LeaseSpec>, now: Instant) -> Move {
        let Some(spec) = spec else {
            return Move::Create;
        };
        let record = Record {
            holder: spec.holder_identity.clone().unwrap_or_default(),
            renewed: spec.renew_time.clone(),
            transitions: spec.lease_transitions.unwrap_or_default(),
        };
        let since = match &self.seen {
            Some((seen, since)) if *seen == record => *since,
            _ => now,
        };
        let duration = spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(LEASE, Duration::from_secs);
        let holder = record.holder.clone();
        self.seen = Some((record, since));
        if holder == self.me {
            Move::Renew
        } else if holder.is_empty() || now.duration_since(since) > duration {
            Move::Take
        } else {
            Move::Wait
        }
    }

    /// The lease as this replica writes it.
    fn spec(&self, before: Option<LeaseSpec>, next: Move) -> LeaseSpec {
        let mut spec = before.unwrap_or_default();
        let now = MicroTime(Timestamp::now());
        if next != Move::Renew {
            let transitions = spec.lease_transitions.unwrap_or_default();
            // The first holder is no transition.
            let step = i32::from(next == Move::Take);
            spec.lease_transitions = Some(transitions.saturating_add(step));
            spec.acquire_time = Some(now.clone());
        }
        spec.holder_identity = Some(self.me.clone());
        spec.lease_duration_seconds = i32::try_from(LEASE.as_secs()).ok();
        spec.renew_time = Some(now);
        spec
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn election(me: &str) -> Election {
        Election {
            me: me.to_owned(),
            seen: None,
        }
    }

    fn held(by: &str, renewed: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(by.to_owned()),
            lease_duration_seconds: Some(15),
            renew_time: Some(MicroTime(Timestamp::from_second(renewed).unwrap())),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_lease_that_is_renewed_is_left_alone() {
        let mut election = election("me");
        let begin = Instant::now();
        assert_eq!(election.next(None, begin), Move::Create);
        for second in 0..60 {
            // Ages ago by our clock, but it changes.
            let now = begin + Duration::from_secs(u64::try_from(second).unwrap());
            assert_eq!(election.next(Some(&held("other", second)), now), Move::Wait);
        }
        assert_eq!(election.holder().as_deref(), Some("other"));
    }

    #[test]
    fn a_lease_that_stands_still_is_taken() {
        let mut election = election("me");
        let begin = Instant::now();
        // Renewed far in the future, by a clock that is wrong.
        let stale = held("other", 9_000_000_000);
        assert_eq!(election.next(Some(&stale), begin), Move::Wait);
        let later = begin + Duration::from_secs(15);
        assert_eq!(election.next(Some(&stale), later), Move::Wait);
        let later = begin + Duration::from_secs(16);
        assert_eq!(election.next(Some(&stale), later), Move::Take);
        let taken = election.spec(Some(stale), Move::Take);
        assert_eq!(taken.lease_transitions, Some(1));
        assert_eq!(election.next(Some(&taken), later), Move::Renew);
    }

    #[test]
    fn a_released_lease_is_taken_at_once() {
        let mut election = election("me");
        assert_eq!(
            election.next(Some(&held("", 1)), Instant::now()),
            Move::Take
        );
        assert_eq!(election.holder(), None);
    }

    #[test]
    fn the_own_lease_is_renewed_after_a_restart() {
        let mut election = election("me");
        let found = held("me", 1);
        assert_eq!(election.next(Some(&found), Instant::now()), Move::Renew);
        let renewed = election.spec(Some(found), Move::Renew);
        assert_eq!(renewed.lease_transitions, None);
    }
}
