// SPDX-License-Identifier: Apache-2.0

//! Lets the kubelet, Prometheus and people look inside: plain HTTP, read only, no secrets.
//!
//! Invariant: a client that is slow, gone or wrong costs a bounded amount of memory and time.

use std::{
    convert::Infallible,
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::timeout,
};

use super::{
    calls::Counts,
    keeper::Current,
    lease::Leadership,
    nodes::{Applied, Nodes},
    pods::Pods,
    syncz::Syncz,
};
use crate::tasks::Tasks;

/// What is looked at.
pub(super) struct Views {
    pub(super) current: watch::Receiver<Option<Arc<Current>>>,
    pub(super) leadership: watch::Receiver<Leadership>,
    pub(super) nodes: Nodes,
    pub(super) pods: Pods,
    pub(super) syncz: Syncz,
    pub(super) counts: Arc<Counts>,
    pub(super) me: String,
}

/// Clients at a time.
const CLIENTS_MAX: usize = 16;

/// The time a client has from being accepted to having its answer.
const EXCHANGE: Duration = Duration::from_secs(10);

/// How long accepting rests after an error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers on `listener` until the drain begins.
pub(super) async fn serve(listener: TcpListener, views: Views, tasks: Tasks) {
    let drain = tasks.drain();
    let views = Arc::new(views);
    let permits = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        // Cancel-safe: a client stays in the kernel's queue until it is accepted.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.requested() => return,
        };
        match accepted {
            Ok((client, _)) => {
                let views = Arc::clone(&views);
                tasks.spawn("status client", async move {
                    let _permit = permit;
                    exchange(client, views).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a status client");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn exchange(client: TcpStream, views: Arc<Views>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(request.uri().path(), &views);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(EXCHANGE)
        .serve_connection(TokioIo::new(client), service);
    match timeout(EXCHANGE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a status client went away"),
        Err(_elapsed) => tracing::debug!("a status client was too slow"),
    }
}

fn answer(path: &str, views: &Views) -> Response<Full<Bytes>> {
    match path {
        "/ready" => {
            let missing = missing(views);
            let status = match missing.is_empty() {
                true => StatusCode::OK,
                false => StatusCode::SERVICE_UNAVAILABLE,
            };
            respond(status, JSON, json!({ "missing": missing }).to_string())
        }
        "/metrics" => respond(StatusCode::OK, METRICS, metrics(views)),
        "/status" => respond(StatusCode::OK, JSON, status(views).to_string()),
        "/debug/syncz" => respond(StatusCode::OK, JSON, views.syncz.json().to_string()),
        _ if path.starts_with(APPLIED) => applied(path, views),
        _ => {
            let known =
                "there are /ready, /metrics, /status, /debug/syncz and /applied/KIND/VERSION";
            respond(
                StatusCode::NOT_FOUND,
                JSON,
                json!({ "error": known }).to_string(),
            )
        }
    }
}

/// Where to ask whom a version of an object reached: `/applied/KIND/RESOURCE_VERSION`.
const APPLIED: &str = "/applied/";

fn applied(path: &str, views: &Views) -> Response<Full<Bytes>> {
    let asked = path.strip_prefix(APPLIED).and_then(|rest| {
        let (kind, version) = rest.split_once('/')?;
        Some((kind, version.parse().ok()?))
    });
    let Some((kind, version)) = asked else {
        let known = "expected /applied/KIND/RESOURCE_VERSION";
        let text = json!({ "error": known }).to_string();
        return respond(StatusCode::BAD_REQUEST, JSON, text);
    };
    let Applied { nodes, of, slowest } = views.nodes.applied(kind, version);
    let text = json!({ "nodes": nodes, "of": of, "slowest": slowest }).to_string();
    respond(StatusCode::OK, JSON, text)
}

const JSON: &str = "application/json";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

fn respond(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// What this replica cannot work without and does not have yet.
fn missing(views: &Views) -> Vec<&'static str> {
    let mut missing = Vec::new();
    if views.current.borrow().is_none() {
        missing.push("a root to sign with");
    }
    if !views.pods.is_synced() {
        missing.push("the list of pods");
    }
    missing
}

fn status(views: &Views) -> Value {
    let leadership = views.leadership.borrow().clone();
    let authority = views.current.borrow().as_ref().map(|current| {
        let (begin, end) = current.signer.validity();
        json!({
            "issuer": current.signer.fingerprint(),
            "origin": current.origin,
            "notBefore": seconds(begin),
            "notAfter": seconds(end),
            "trustedRoots": current.signer.root_fingerprints(),
            "rotation": current.rotation,
        })
    });
    let nodes: Vec<Value> = views
        .nodes
        .list()
        .into_iter()
        .map(|node| {
            json!({
                "node": node.name,
                "reportAgeSeconds": node.age,
                "agentVersion": node.report.agent_version,
                "generation": node.report.generation,
                "frontier": node.report.frontier,
                "trustedRoots": node.report.trusted_roots,
                "capturedPods": node.report.captured_pods,
                "failedPods": node.report.failed_pods,
            })
        })
        .collect();
    json!({
        "replica": views.me,
        "leading": leadership.leading,
        "leader": leadership.holder,
        "authority": authority,
        "nodes": nodes,
    })
}

/// Metrics of Prometheus' text format.
#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn add(&mut self, kind: &str, name: &str, help: &str, value: u64) {
        let name = format!("mesh_control_{name}");
        writeln!(
            self.0,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
        )
        .expect("a string takes everything");
    }

    fn counter(&mut self, name: &str, help: &str, value: &AtomicU64) {
        self.add("counter", name, help, value.load(Ordering::Relaxed));
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.add("gauge", name, help, value);
    }
}

fn metrics(views: &Views) -> String {
    let mut text = Exposition::default();
    let counts = &views.counts;
    let help = "Certificates that were signed.";
    text.counter("certificates_issued_total", help, &counts.issued);
    let help = "Calls that were refused for what the caller is or asked for.";
    text.counter("requests_denied_total", help, &counts.denied);
    let help = "Calls that could not be answered for what is missing here.";
    text.counter("requests_failed_total", help, &counts.failed);
    let help = "Reports of nodes that were taken.";
    text.counter("reports_total", help, &counts.reports);
    let leading = views.leadership.borrow().leading;
    text.gauge("leader", "1 on the replica that leads.", leading.into());
    let nodes = views.nodes.list();
    let help = "Nodes that run an agent or report.";
    text.gauge("nodes", help, count(nodes.len()));
    let reporting = nodes.iter().filter(|node| node.age.is_some()).count();
    let help = "Nodes whose reports this replica has.";
    text.gauge("nodes_reporting", help, count(reporting));
    if let Some(current) = views.current.borrow().as_ref() {
        let end = seconds(current.signer.validity().1);
        let help = "When the issuer's certificate expires, in seconds since 1970.";
        text.gauge("issuer_expiry_timestamp_seconds", help, end);
        let roots = current.signer.root_fingerprints().len();
        let help = "Root certificates that are to be trusted.";
        text.gauge("trusted_roots", help, count(roots));
    }
    text.0
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
