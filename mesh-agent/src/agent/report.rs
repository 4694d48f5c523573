// SPDX-License-Identifier: Apache-2.0

//! Tells `mesh-agent control` what this node has applied.
//!
//! Knows nothing of what a report is good for. Invariant: a control that is away, or does not know
//! reports, changes nothing here.

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    grpc::{
        Client, Code, Status,
        messages::{NOT_LEADER, REPORT, ReportRequest, ReportResponse},
    },
    identity::{Identities, RemoteAuthority, fingerprint},
    tasks::{Drain, Tasks},
};

/// What the data path has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AppliedState {
    /// Up to which resource version of each kind.
    pub(super) frontier: BTreeMap<String, u64>,
    /// Which snapshot.
    pub(super) generation: u64,
    /// Pods whose traffic is captured.
    pub(super) captured_pods: usize,
    /// Pods whose traffic should be captured and is not.
    pub(super) failed_pods: usize,
}

/// At most one report in this time.
const SHORTEST: Duration = Duration::from_secs(2);

/// At least one report in this time.
const LONGEST: Duration = Duration::from_secs(60);

/// How often the trusted roots are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// One report.
const DEADLINE: Duration = Duration::from_secs(5);

/// Replicas that are asked for one report: whoever answers, and the leader it names.
const HOPS: usize = 3;

/// Whoever signs for us need not know of reports: then it is asked this seldom.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(600);

struct Reporter {
    authority: RemoteAuthority,
    identities: Identities,
    applied: watch::Receiver<AppliedState>,
    tasks: Tasks,
    client: Client,
}

/// Reports as a task of `tasks`, until a successor does or until drained.
pub(super) fn start(
    authority: RemoteAuthority,
    identities: Identities,
    applied: watch::Receiver<AppliedState>,
    tasks: &Tasks,
) {
    let reporter = Reporter {
        client: authority.client(),
        authority,
        identities,
        applied,
        tasks: tasks.clone(),
    };
    tasks.spawn("report", reporter.run(tasks.drain()));
}

impl Reporter {
    async fn run(mut self, drain: Drain) {
        let mut last: Option<(ReportRequest, Instant)> = None;
        let mut failures: u32 = 0;
        loop {
            let report = self.report();
            let is_due = last
                .as_ref()
                .is_none_or(|(sent, at)| *sent != report || at.elapsed() >= LONGEST.mul_f64(0.9));
            let mut pause = SHORTEST;
            if is_due {
                match self.send(&report).await {
                    Ok(()) => {
                        failures = 0;
                        last = Some((report, Instant::now()));
                    }
                    Err(status) if status.code == Code::Unimplemented => {
                        tracing::info!("the certificate authority does not take reports");
                        pause = UNKNOWN_PAUSE;
                    }
                    Err(status) => {
                        failures = failures.saturating_add(1);
                        tracing::debug!(%status, failures, "the report was not taken, will try again");
                        pause = SHORTEST
                            .saturating_mul(1 << failures.min(4))
                            .min(LONGEST / 2);
                    }
                }
            }
            let pause = pause.mul_f64(1.0 + 0.5 * fastrand::f64());
            let next = async {
                sleep(pause).await;
                // Whether it is something new that wakes us is looked at above.
                timeout(LOOK, self.applied.changed()).await.ok();
            };
            // Cancel-safe: both only wait.
            tokio::select! {
                () = next => {}
                // The node's next word is the successor's.
                () = drain.leaving() => return,
            }
        }
    }

    fn report(&mut self) -> ReportRequest {
        let applied = self.applied.borrow_and_update().clone();
        let roots = self.identities.roots();
        let mut trusted_roots: Vec<String> = roots.iter().map(|root| fingerprint(root)).collect();
        trusted_roots.sort_unstable();
        trusted_roots.dedup();
        let count = |pods| u32::try_from(pods).unwrap_or(u32::MAX);
        ReportRequest {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            generation: applied.generation,
            captured_pods: count(applied.captured_pods),
            failed_pods: count(applied.failed_pods),
            frontier: applied.frontier,
            trusted_roots,
        }
    }

    /// Asks whoever took the last report, and the leader that it names instead.
    async fn send(&mut self, report: &ReportRequest) -> Result<(), Status> {
        for _ in 0..HOPS {
            let credentials = self
                .authority
                .credentials()
                .map_err(|error| Status::unavailable(error.to_string()))?;
            let answer: Result<ReportResponse, Status> = self
                .client
                .unary(REPORT, credentials, report, DEADLINE)
                .await;
            let Err(status) = answer else {
                return Ok(());
            };
            match leader(&status, &self.authority.client().endpoint().address) {
                Some(address) if address != self.client.endpoint().address => {
                    tracing::debug!(address, "reports go to the leader");
                    self.client = self.authority.client_at(address, self.tasks.clone());
                }
                _ => {
                    // The leader may have gone: whoever answers knows the next.
                    self.client = self.authority.client();
                    return Err(status);
                }
            }
        }
        Err(Status::unavailable("no replica leads"))
    }
}

/// The leader's address, if the refusal names one: `<pod>_<address>`, at the same port.
fn leader(status: &Status, address: &str) -> Option<String> {
    if status.code != Code::FailedPrecondition {
        return None;
    }
    let (_, ip) = status.message.strip_prefix(NOT_LEADER)?.rsplit_once('_')?;
    let ip: std::net::IpAddr = ip.parse().ok()?;
    let port: u16 = address.rsplit_once(':')?.1.parse().ok()?;
    Some(std::net::SocketAddr::new(ip, port).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_is_where_the_refusal_says() {
        let of = |code, text: &str| leader(&Status::new(code, text), "ca.mesh.svc:15012");
        let refused = Code::FailedPrecondition;
        let found = of(refused, "not the leader: control-0_10.1.2.3");
        assert_eq!(found.as_deref(), Some("10.1.2.3:15012"));
        let found = of(refused, "not the leader: control-0_fd00::1");
        assert_eq!(found.as_deref(), Some("[fd00::1]:15012"));
        assert_eq!(of(refused, "not the leader: "), None);
        assert_eq!(of(refused, "not the leader: a_b"), None);
        assert_eq!(of(Code::Unavailable, "not the leader: a_10.1.2.3"), None);
    }
}
