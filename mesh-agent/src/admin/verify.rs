// SPDX-License-Identifier: Apache-2.0

//! `verify`: pod by pod, whether its capture is what it should be, and what shows it.
//!
//! Invariant: a verdict is `ok` only if nothing that the kernel, the data threads and the
//! configuration say speaks against it; what does is listed, in words.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use super::{pods, readiness, status::stamp, views::Views};
use crate::{
    datapath::{Books, Direction, ExistingConnection, OLDER, Observation, PodObservation},
    identity::CertificateView,
    model::{MtlsMode, SpiffeId, Workload, WorkloadUid},
    proxy::{InboundView, RefusedPeer},
};

/// What each captured pod has attached.
const PROGRAMS: [&str; 3] = ["pick_listener", "guard_inbound", "capture_outbound"];

/// `/verify`.
pub(super) fn verify(views: &Views) -> Value {
    let snapshot = views.snapshot.borrow().clone();
    let (observation, proxy) = ((views.datapath)(), (views.proxy)());
    let now = SystemTime::now();
    let observed: HashMap<&WorkloadUid, &PodObservation> =
        observation.pods.iter().map(|pod| (&pod.uid, pod)).collect();
    let certificates = views.identities.list();
    let certificates: HashMap<&SpiffeId, &CertificateView> =
        certificates.iter().map(|it| (&it.identity, it)).collect();
    let nobody = InboundView::default();
    let rows: Vec<Value> = pods::enrolled(&snapshot)
        .into_iter()
        .map(|pod| {
            let seen = Seen {
                pod,
                kernel: observed.get(&pod.uid).copied(),
                inbound: proxy.inbound.get(&pod.uid).unwrap_or(&nobody),
                certificate: certificates.get(&pod.identity).copied(),
            };
            seen.row(now)
        })
        .collect();
    let reasons = node_reasons(views, &observation);
    let is_ok = reasons.is_empty() && rows.iter().all(|row| row["verdict"] != NOT_OK);
    json!({
        "node": snapshot.node,
        "at": stamp(now),
        "ok": is_ok,
        "reasons": reasons,
        "pods": rows,
    })
}

const OK: &str = "ok";
const NOT_OK: &str = "not ok";
const WAITS: &str = "waits";

/// What is not as it should be with the node.
fn node_reasons(views: &Views, observation: &Observation) -> Vec<String> {
    let mut reasons = readiness::missing(views);
    if observation.unfit.is_none() && !observation.notes_sockets {
        reasons.push("the program that notes sockets is not attached".to_owned());
    }
    reasons
}

/// All that is known of one pod.
struct Seen<'a> {
    pod: &'a Workload,
    kernel: Option<&'a PodObservation>,
    inbound: &'a InboundView,
    certificate: Option<&'a CertificateView>,
}

impl Seen<'_> {
    fn row(&self, now: SystemTime) -> Value {
        let reasons = self.reasons();
        let waits = self.kernel.is_some_and(|it| it.waits);
        let verdict = match (waits, reasons.is_empty()) {
            (true, _) => WAITS,
            (false, true) => OK,
            (false, false) => NOT_OK,
        };
        let since = self.kernel.and_then(|it| it.captured_since);
        let (mode, ports) = pods::modes(self.pod);
        let books = self.kernel.map(|it| it.books.clone()).unwrap_or_default();
        let older = self.kernel.map(|it| it.existing.as_slice());
        json!({
            "name": self.pod.dotted_name(),
            "uid": *self.pod.uid.0,
            "identity": self.pod.identity.as_str(),
            "verdict": verdict,
            "reasons": reasons,
            "capturedSince": since.map(stamp),
            "capturedSeconds": since.map(|at| age(at, now).as_secs()),
            "mode": { "default": mode, "ports": ports },
            "plaintext": {
                "older": older.unwrap_or_default().iter().map(older_row).collect::<Vec<_>>(),
                "open": self.inbound.plaintext,
            },
            "outbound": { "syns": books.syns.outbound, "accepted": books.accepted.outbound },
            "inbound": {
                "syns": books.syns.inbound,
                "accepted": books.accepted.inbound,
                "probes": books.probes,
            },
            "missed": missed(&books),
            "lastRefused": self.inbound.last_refused.as_ref().map(|it| refused_row(it, now)),
        })
    }

    /// What is not as it should be.
    fn reasons(&self) -> Vec<String> {
        if let Some(reason) = readiness::uncaptured(self.kernel) {
            return vec![format!("not captured: {reason}")];
        }
        let mut reasons = Vec::new();
        if let Some(kernel) = self.kernel {
            self.add_kernels(kernel, &mut reasons);
        }
        if !self.certificate.is_some_and(readiness::is_live) {
            reasons.push(format!("no certificate for {}", self.pod.identity));
        }
        reasons
    }

    fn add_kernels(&self, kernel: &PodObservation, reasons: &mut Vec<String>) {
        if kernel.state != "active" {
            reasons.push("new connections are not captured: it is being released".to_owned());
        }
        for program in PROGRAMS {
            if !kernel.programs.contains(&program) {
                reasons.push(format!("{program} is not attached"));
            }
        }
        let is_strict = |older: &&ExistingConnection| {
            older.direction == Direction::Inbound
                && self.pod.inbound.mode(older.local.port()) == MtlsMode::Strict
        };
        let (older, strict) = (
            kernel.existing.len(),
            kernel.existing.iter().filter(is_strict).count(),
        );
        if older > 0 {
            reasons.push(format!(
                "{older} connections are older than the capture, and go around the mesh"
            ));
        }
        if strict > 0 {
            reasons.push(format!("{strict} of them are plaintext to a STRICT port"));
        }
        for ((direction, reason), count) in &kernel.books.missed {
            // Those are told of above, as long as they are open.
            if *count > 0 && *reason != OLDER {
                reasons.push(format!("{count} {}", words(*direction, reason)));
            }
        }
    }
}

/// What a reason of the metric says of connections.
fn words(direction: Direction, reason: &str) -> String {
    let whose = match direction {
        Direction::Outbound => "connections that it opened",
        Direction::Inbound => "connections that others opened to it",
    };
    let what = match reason {
        "no_listener" => "were refused, as no agent listened",
        "passed_open" => "went around the mesh, as no agent listened",
        "not_tagged" => "were dropped, as the kernel had no memory",
        "not_accepted" => "were captured and never accepted",
        other => other,
    };
    format!("{whose} {what}")
}

fn missed(books: &Books) -> Vec<Value> {
    let counted = books.missed.iter().filter(|(_, count)| **count > 0);
    counted
        .map(|((direction, reason), count)| {
            json!({ "direction": direction.name(), "reason": reason, "count": count })
        })
        .collect()
}

fn older_row(older: &ExistingConnection) -> Value {
    json!({
        "local": older.local.to_string(),
        "remote": older.remote.to_string(),
        "direction": older.direction.name(),
    })
}

fn refused_row(refused: &RefusedPeer, now: SystemTime) -> Value {
    json!({
        "at": stamp(refused.at),
        "secondsAgo": age(refused.at, now).as_secs(),
        "address": refused.address.to_string(),
        "identity": refused.identity.as_ref().map(SpiffeId::as_str),
        "port": refused.port,
        "reason": refused.why.to_string(),
    })
}

fn age(since: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(since).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admin::samples::Sample, datapath::Directions, proxy::Refused};

    /// All is as it should be.
    async fn good() -> Sample {
        let sample = Sample::ready().await;
        {
            let mut seen = sample.observation.lock().unwrap();
            seen.notes_sockets = true;
            let pod = &mut seen.pods[0];
            pod.programs = PROGRAMS.to_vec();
            pod.existing.clear();
            pod.books.syns = Directions {
                outbound: 7,
                inbound: 3,
            };
        }
        sample
    }

    /// What is said of the pod once `change` is done to what the kernel shows of it.
    async fn said(change: impl FnOnce(&mut PodObservation)) -> (bool, Value) {
        let sample = good().await;
        change(&mut sample.observation.lock().unwrap().pods[0]);
        let answer = verify(&sample.views);
        (answer["ok"] == true, answer["pods"][0].clone())
    }

    #[tokio::test]
    async fn a_verdict_is_good_only_while_nothing_speaks_against_it() {
        let (is_ok, row) = said(|_| {}).await;
        assert!(is_ok, "{row:#}");
        assert_eq!(row["verdict"], OK);
        assert_eq!(row["outbound"]["syns"], 7);
        assert_eq!(
            row["mode"],
            json!({"default": "STRICT", "ports": {"8080": "PERMISSIVE"}})
        );

        let older = |direction, port| ExistingConnection {
            local: ([10, 1, 1, 3], port).into(),
            remote: ([10, 1, 9, 9], 5432).into(),
            direction,
        };
        let miss = |pod: &mut PodObservation| {
            let key = (Direction::Outbound, "not_accepted");
            pod.books.missed.insert(key, 2);
        };
        type Change = Box<dyn FnOnce(&mut PodObservation)>;
        let changes: Vec<(Change, &str)> = vec![
            (
                Box::new(|pod| pod.broken = Some("moved".into())),
                "not captured: moved",
            ),
            (
                Box::new(|pod| pod.error = Some("no".into())),
                "not captured: no",
            ),
            (Box::new(|pod| pod.state = "draining"), "being released"),
            (
                Box::new(|pod| pod.programs.truncate(2)),
                "capture_outbound is not attached",
            ),
            (
                Box::new(move |pod| pod.existing.push(older(Direction::Outbound, 80))),
                "1 connections are older than the capture",
            ),
            (
                Box::new(move |pod| pod.existing.push(older(Direction::Inbound, 80))),
                "1 of them are plaintext to a STRICT port",
            ),
            (
                Box::new(miss),
                "2 connections that it opened were captured and never accepted",
            ),
        ];
        for (change, want) in changes {
            let (is_ok, row) = said(change).await;
            assert!(!is_ok, "{want}");
            assert_eq!(row["verdict"], NOT_OK, "{want}");
            assert!(
                row["reasons"].to_string().contains(want),
                "{}",
                row["reasons"]
            );
        }
    }

    #[tokio::test]
    async fn older_connections_that_have_ended_and_pods_to_come_speak_against_nothing() {
        let (is_ok, row) = said(|pod| {
            pod.books.missed.insert((Direction::Inbound, OLDER), 4);
        })
        .await;
        assert!(is_ok, "{row:#}");
        assert_eq!(row["missed"][0]["count"], 4);
        let (is_ok, row) = said(|pod| {
            pod.waits = true;
            pod.error = Some("it has no sandbox yet".to_owned());
        })
        .await;
        assert!(is_ok, "{row:#}");
        assert_eq!(row["verdict"], WAITS);
    }

    #[tokio::test]
    async fn who_was_refused_last_is_named() {
        let sample = good().await;
        let last = RefusedPeer {
            at: SystemTime::now(),
            address: ([10, 1, 9, 9], 40_000).into(),
            identity: Some(SpiffeId::new("td", "shop", "web")),
            port: 8080,
            why: Refused::Plaintext,
        };
        let view = InboundView {
            plaintext: 2,
            last_refused: Some(last),
        };
        let uid = WorkloadUid("uid-web".into());
        sample.proxy.lock().unwrap().inbound.insert(uid, view);
        let row = verify(&sample.views)["pods"][0].clone();
        assert_eq!(row["verdict"], OK);
        assert_eq!(row["plaintext"]["open"], 2);
        assert_eq!(row["lastRefused"]["identity"], "spiffe://td/ns/shop/sa/web");
        assert_eq!(row["lastRefused"]["port"], 8080);
    }
}
