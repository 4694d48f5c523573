// SPDX-License-Identifier: Apache-2.0

//! `status` and `proxy-status`: what is, next to what should be.
//!
//! Invariant: whether a pod is captured, by which hook, and what was counted is read from the
//! kernel; configuration only says which pods there are and why one is left out.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{pods, readiness, views::Views};
use crate::{
    config::{Severity, SourceState},
    datapath::{ExistingConnection, Observation, PodObservation},
    identity::{CertificateState, CertificateView, KeySetView, RevokedView},
    model::{Snapshot, Workload, WorkloadUid},
    proxy::{BudgetView, ProxyView},
    tasks::Tasks,
};

/// `/status`.
pub(super) fn status(views: &Views, tasks: &Tasks) -> Value {
    let snapshot = views.snapshot.borrow().clone();
    let (observation, proxy) = ((views.datapath)(), (views.proxy)());
    let certificates = views.identities.list();
    let now = SystemTime::now();
    json!({
        "node": node(views, tasks, &snapshot, &observation, &proxy, now),
        "pods": pod_rows(&snapshot, &observation, &proxy, &certificates, now),
        "certificates": certificates
            .iter()
            .map(|certificate| certificate_row(certificate, now))
            .collect::<Vec<_>>(),
        "revoked": revoked_row(&views.identities.revoked()),
        "keySets": views
            .keys
            .list()
            .iter()
            .map(|keys| key_set_row(keys, now))
            .collect::<Vec<_>>(),
    })
}

/// Which certificates are no longer good; the error is that of a newer list, which is not in force.
fn revoked_row(revoked: &RevokedView) -> Value {
    json!({
        "serials": revoked.serials,
        "identities": revoked.identities,
        "error": revoked.problem,
    })
}

/// The keys of an issuer; none if they were never fetched.
fn key_set_row(keys: &KeySetView, now: SystemTime) -> Value {
    json!({
        "url": *keys.place.url,
        "discovered": keys.place.discover,
        "keys": keys.keys,
        "fetchedSecondsAgo": keys.fetched.map(|at| age(at, now).as_secs()),
        "error": keys.error.as_deref(),
    })
}

fn node(
    views: &Views,
    tasks: &Tasks,
    snapshot: &Snapshot,
    observation: &Observation,
    proxy: &ProxyView,
    now: SystemTime,
) -> Value {
    let report = views.report.borrow().clone();
    let missing = readiness::missing(views);
    let problems = |severity| {
        let of_it = report.problems.iter().filter(|it| it.severity == severity);
        of_it.count()
    };
    json!({
        "name": snapshot.node,
        "version": env!("CARGO_PKG_VERSION"),
        "kernel": observation.kernel,
        "ready": missing.is_empty(),
        "missing": missing,
        "config": {
            "generation": snapshot.generation,
            "appliedGeneration": proxy.applied_generation.min(observation.generation),
            "kernelGeneration": observation.generation,
            "objects": report.objects,
            "ageSeconds": age(report.loaded_at, now).as_secs(),
            "errors": problems(Severity::Error),
            "warnings": problems(Severity::Warning),
            "source": source(&views.source.borrow().clone(), now),
        },
        "threads": {
            "count": proxy.threads.len(),
            "alive": proxy.threads.iter().filter(|thread| thread.alive).count(),
            "connections": proxy.threads.iter().map(|it| it.connections).collect::<Vec<_>>(),
        },
        "tasks": tasks.live().into_iter().collect::<BTreeMap<_, _>>(),
        "taskPanics": tasks.panics(),
        "kernelCounters": observation.counters,
        "kernelState": {
            "notesSockets": observation.notes_sockets,
            "destinations": observation.destinations,
            "expectedTuples": observation.expected,
            "heldPods": observation.held,
            "overdueHolds": observation.overdue_holds,
            "refusedSandboxes": observation.refused_sandboxes,
            "repairs": observation.repairs,
        },
        "logLevel": views.log.get(),
        "droppedLogLines": views.log.dropped(),
        "droppedAccessLogLines": views.telemetry.access_log_dropped(),
    })
}

/// Where configuration comes from, and how old that is.
fn source(source: &SourceState, now: SystemTime) -> Value {
    let kinds = source.kinds.iter().map(|kind| {
        json!({
            "kind": kind.kind,
            "listed": kind.listed,
            "watching": kind.watching,
            "objects": kind.objects,
            "lists": kind.lists,
            "restarts": kind.restarts,
            "errors": kind.errors,
            "error": kind.error,
        })
    });
    json!({
        "kind": source.kind.as_str(),
        "synced": source.synced,
        "since": stamp(source.since),
        "sinceSeconds": age(source.since, now).as_secs(),
        "fromDiskAgeSeconds": source.from_disk_age(now).map(|age| age.as_secs()),
        "lastEventSeconds": source.last_event.map(|at| age(at, now).as_secs()),
        "diskErrors": source.disk_errors,
        "kinds": kinds.collect::<Vec<_>>(),
    })
}

fn pod_rows(
    snapshot: &Snapshot,
    observation: &Observation,
    proxy: &ProxyView,
    certificates: &[CertificateView],
    now: SystemTime,
) -> Vec<Value> {
    let mut observed: HashMap<&WorkloadUid, &PodObservation> =
        observation.pods.iter().map(|pod| (&pod.uid, pod)).collect();
    let mut rows: Vec<Value> = pods::local(snapshot)
        .into_iter()
        .map(|pod| {
            let certificate = certificates.iter().find(|it| it.identity == pod.identity);
            let mut row = observed_row(observed.remove(&pod.uid), now);
            row["name"] = pod.dotted_name().into();
            row["uid"] = (*pod.uid.0).into();
            row["enrolled"] = pod.enrolled.into();
            row["connections"] = proxy.pods.get(&pod.uid).copied().unwrap_or(0).into();
            row["budgets"] = budgets(proxy.budgets.get(&pod.uid));
            if row["captured"] == false
                && let Some(reason) = pods::obstacle(pod)
            {
                row["reason"] = reason.into();
            }
            if pod.enrolled {
                add_promises(&mut row, pod, certificate, now);
            }
            row
        })
        .collect();
    // What the kernel still has of pods that configuration no longer knows.
    rows.extend(observed.into_values().map(|pod| {
        let mut row = observed_row(Some(pod), now);
        row["name"] = format!("({})", pod.uid).into();
        row["uid"] = (*pod.uid.0).into();
        row["enrolled"] = false.into();
        row["connections"] = proxy.pods.get(&pod.uid).copied().unwrap_or(0).into();
        row
    }));
    rows
}

/// What a pod holds, by side and budget.
pub(super) fn budgets(views: Option<&Vec<BudgetView>>) -> Value {
    let mut sides = json!({});
    for view in views.into_iter().flatten() {
        let peers = view.peers.iter();
        sides[view.side][view.budget.as_str()] = json!({
            "used": view.used,
            "limit": view.limit,
            "heldBack": view.held_back,
            "refused": view.refused,
            "foremost": peers
                .map(|(address, used)| json!({ "address": address, "used": used }))
                .collect::<Vec<_>>(),
        });
    }
    sides
}

/// What the kernel says about a pod.
fn observed_row(pod: Option<&PodObservation>, now: SystemTime) -> Value {
    let reason = readiness::uncaptured(pod);
    let first_container = pod.and_then(|pod| pod.first_container);
    json!({
        "captured": reason.is_none(),
        "reason": reason,
        "capturedSince": pod.and_then(|pod| pod.captured_since).map(stamp),
        "capturedSeconds": pod
            .and_then(|pod| pod.captured_since)
            .map(|since| age(since, now).as_secs()),
        "firstContainerStarted": first_container.map(stamp),
        "firstContainerAfterCaptureMs": pod
            .and_then(|pod| pod.captured_since)
            .zip(first_container)
            .map(|(captured, started)| milliseconds_after(captured, started)),
        "heldSince": pod.and_then(|pod| pod.held_since).map(stamp),
        "firstContainerAfterHoldMs": pod
            .and_then(|pod| pod.held_since)
            .zip(first_container)
            .map(|(held, started)| milliseconds_after(held, started)),
        "existingConnections": pod.map(existing),
        "closesExistingInSeconds": pod.and_then(|pod| closes_existing_in(pod, now)),
        "state": pod.map(|pod| pod.state),
        "hook": pod.map(|pod| pod.hook.name()),
        "interface": pod.map(|pod| &pod.interface),
        "programs": pod.map(|pod| &pod.programs),
        "netns": pod.and_then(|pod| pod.netns).map(|netns| netns.0),
        "counters": pod.map(|pod| &pod.counters),
    })
}

/// Connections that are older than the capture and go around the mesh; each is at least as old as
/// the capture.
fn existing(pod: &PodObservation) -> Vec<Value> {
    let row = |connection: &ExistingConnection| {
        json!({
            "local": connection.local.to_string(),
            "remote": connection.remote.to_string(),
            "direction": connection.direction.name(),
        })
    };
    pod.existing.iter().map(row).collect()
}

/// When those are ended, if they are and there are any.
fn closes_existing_in(pod: &PodObservation, now: SystemTime) -> Option<u64> {
    let limit = pod
        .close_existing_after
        .filter(|_| !pod.existing.is_empty())?;
    Some(
        limit
            .saturating_sub(age(pod.captured_since?, now))
            .as_secs(),
    )
}

/// What an enrolled pod is promised: its mode, and an identity.
fn add_promises(
    row: &mut Value,
    pod: &Workload,
    certificate: Option<&CertificateView>,
    now: SystemTime,
) {
    let (mode, ports) = pods::modes(pod);
    row["inbound"] = json!({ "mode": mode, "ports": ports });
    row["authorizationPolicies"] = pods::policies(pod).into();
    row["requestAuthentications"] = pods::authentications(pod).into();
    row["identity"] = pod.identity.as_str().into();
    row["certificate"] = certificate.map_or(Value::Null, |it| certificate_row(it, now));
}

fn certificate_row(certificate: &CertificateView, now: SystemTime) -> Value {
    let expires_in = certificate
        .not_after
        .map(|at| at.duration_since(now).unwrap_or_default().as_secs());
    json!({
        "identity": certificate.identity.as_str(),
        "state": state(certificate.state),
        "serial": certificate.serial,
        "notBefore": certificate.not_before.map(stamp),
        "notAfter": certificate.not_after.map(stamp),
        "expiresInSeconds": expires_in,
        "generation": certificate.generation,
        "roots": certificate.roots,
        "error": certificate.error,
    })
}

fn state(state: CertificateState) -> &'static str {
    match state {
        CertificateState::Waiting => "waiting",
        CertificateState::Live => "live",
        CertificateState::RenewalFailing => "renewal failing",
        CertificateState::Expired => "expired",
    }
}

/// `/proxy-status`, in the words of istioctl.
pub(super) fn proxy_status(views: &Views) -> Value {
    let snapshot = views.snapshot.borrow().clone();
    let proxy = (views.proxy)().applied_generation;
    let observation = (views.datapath)();
    // Nothing is in sync before connections are captured by the same configuration.
    let applied = proxy.min(observation.generation);
    let rows = pods::enrolled(&snapshot).into_iter().map(|pod| {
        let observed = observation.pods.iter().find(|it| it.uid == pod.uid);
        // The kernel is where listeners are: a pod that is not captured has none.
        let listening = match readiness::uncaptured(observed) {
            None => observation.generation,
            Some(_) => 0,
        };
        json!({
            "name": pod.dotted_name(),
            "cds": sync_state(snapshot.generation, applied),
            "lds": sync_state(snapshot.generation, listening),
            "eds": sync_state(snapshot.generation, applied),
            "rds": sync_state(snapshot.generation, proxy),
            "istiod": snapshot.node,
            "version": env!("CARGO_PKG_VERSION"),
            "knownGeneration": snapshot.generation,
            "appliedGeneration": applied,
        })
    });
    let mut rows: Vec<Value> = rows.collect();
    rows.sort_by_key(|row| row["name"].to_string());
    Value::Array(rows)
}

/// Istio's word for how `applied` stands to `known`.
fn sync_state(known: u64, applied: u64) -> &'static str {
    match (known, applied) {
        (0, _) => "NOT SENT",
        (_, 0) => "STALE (Never Acknowledged)",
        _ if applied < known => "STALE",
        _ => "SYNCED",
    }
}

fn age(since: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(since).unwrap_or_default()
}

/// How long `later` is after `earlier`; negative if it is before.
fn milliseconds_after(earlier: SystemTime, later: SystemTime) -> i64 {
    let whole = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    match later.duration_since(earlier) {
        Ok(after) => whole(after),
        Err(before) => -whole(before.duration()),
    }
}

/// RFC 3339, in whole seconds.
pub(super) fn stamp(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    let whole = at.replace_nanosecond(0).unwrap_or(at);
    whole.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sync_states_are_those_of_istioctl() {
        assert_eq!(sync_state(0, 0), "NOT SENT");
        assert_eq!(sync_state(3, 0), "STALE (Never Acknowledged)");
        assert_eq!(sync_state(3, 2), "STALE");
        assert_eq!(sync_state(3, 3), "SYNCED");
    }
}
