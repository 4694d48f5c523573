// SPDX-License-Identifier: Apache-2.0

//! What the agent tells about itself: log, metrics, access log.
//!
//! Every metric and every access log field name stands in one file each, below. A leaf: names the
//! model alone. Invariant: nothing here blocks a data thread.

mod access;
mod chain;
mod decisions;
pub mod exposition;
mod limited;
pub mod log;
pub mod metrics;
pub mod record;
#[cfg(test)]
mod samples;
mod series;
mod sink;

use std::{
    cell::RefCell,
    io::{self, Write},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

pub use self::{
    chain::chain,
    decisions::Decision,
    log::{LogError, LogFormat, LogLevel},
    record::{ConnectionRecord, Flow, Reporter, RequestRecord},
};
use self::{
    decisions::Decisions,
    exposition::Exposition,
    limited::Limited,
    series::{Connections, Family, Kind, Requests},
    sink::Sink,
};
use crate::model::{ObjectRef, Snapshot, authorization::Denial};

/// Series of pods that are gone stay this long, so that the last values are scraped.
const FORGET_AFTER: Duration = Duration::from_secs(300);

/// Where access log lines go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// Envoy's default layout for requests, `key=value` for connections.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
    /// No access log.
    Off,
}

/// Counts, and writes the access log. Clones share everything.
#[derive(Clone, Debug)]
pub struct Telemetry(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    requests: Arc<Family<Requests>>,
    connections: Arc<Family<Connections>>,
    decisions: Decisions,
    limited: Limited,
    access_log: Option<AccessLog>,
}

#[derive(Debug)]
struct AccessLog {
    json: bool,
    sink: Sink,
}

thread_local! {
    /// The line that is being composed; kept, so that lines cost no allocation.
    static LINE: RefCell<String> = const { RefCell::new(String::new()) };
}

impl Telemetry {
    /// Nothing counted yet; access log lines go to standard output in `access_log` format.
    ///
    /// # Panics
    /// If the thread that writes the access log cannot be started.
    pub fn new(access_log: AccessLogFormat) -> Self {
        Self::with_access_log(access_log, io::stdout())
    }

    /// As [`Telemetry::new`], but access log lines go to `out`.
    ///
    /// # Panics
    /// If the thread that writes the access log cannot be started.
    pub fn with_access_log(access_log: AccessLogFormat, out: impl Write + Send + 'static) -> Self {
        let json = match access_log {
            AccessLogFormat::Text => Some(false),
            AccessLogFormat::Json => Some(true),
            AccessLogFormat::Off => None,
        };
        Self(Arc::new(Shared {
            requests: Arc::new(Family::new()),
            connections: Arc::new(Family::new()),
            decisions: Decisions::default(),
            limited: Limited::default(),
            access_log: json.map(|json| AccessLog {
                json,
                sink: Sink::start("access-log", out)
                    .expect("a process that cannot start one thread cannot start any"),
            }),
        }))
    }

    /// Counts a request that ended and writes its access log line.
    pub fn request(&self, record: &RequestRecord<'_>) {
        let kind = Kind {
            flags: record.flags,
            status: record.status,
            grpc: record.grpc,
            is_grpc: record.is_grpc,
        };
        series::count(&self.0.requests, &record.flow, kind, |values| {
            values.total.fetch_add(1, Ordering::Relaxed);
            let micros = u64::try_from(record.duration.as_micros()).unwrap_or(u64::MAX);
            values.duration.observe(micros);
            values
                .request_bytes
                .observe(record.request_bytes.saturating_mul(1_000));
            values
                .response_bytes
                .observe(record.response_bytes.saturating_mul(1_000));
        });
        self.access(|line, json, now| {
            if json {
                access::request_json(line, record, now);
            } else {
                access::request_text(line, record, now);
            }
        });
    }

    /// Counts a connection that was accepted.
    pub fn connection_opened(&self, flow: &Flow<'_>) {
        series::count(&self.0.connections, flow, tcp("-"), |values| {
            values.opened.fetch_add(1, Ordering::Relaxed);
        });
    }

    /// Counts a connection that ended and writes its access log line.
    pub fn connection_closed(&self, record: &ConnectionRecord<'_>) {
        series::count(
            &self.0.connections,
            &record.flow,
            tcp(record.flags),
            |values| {
                values.closed.fetch_add(1, Ordering::Relaxed);
                values
                    .sent_bytes
                    .fetch_add(record.bytes_sent, Ordering::Relaxed);
                values
                    .received_bytes
                    .fetch_add(record.bytes_received, Ordering::Relaxed);
            },
        );
        self.access(|line, json, now| {
            if json {
                access::connection_json(line, record, now);
            } else {
                access::connection_text(line, record, now);
            }
        });
    }

    /// Counts what an AuthorizationPolicy said.
    pub fn decided(&self, denial: &Denial, decision: Decision) {
        self.0.decisions.count(denial, decision);
    }

    /// Counts a request that a LocalRateLimit did not admit.
    pub fn limited(&self, limit: &ObjectRef) {
        self.0.limited.count(limit);
    }

    fn access(&self, compose: impl FnOnce(&mut String, bool, SystemTime)) {
        let Some(log) = &self.0.access_log else {
            return;
        };
        LINE.with_borrow_mut(|line| {
            line.clear();
            compose(line, log.json, SystemTime::now());
            log.sink.push(line.as_bytes());
        });
    }

    /// The metrics about traffic in Prometheus' text format, version 0.0.4.
    pub fn encode(&self) -> String {
        self.exposition().into_string()
    }

    /// As [`Telemetry::encode`], for more to be added.
    pub fn exposition(&self) -> Exposition {
        let (requests, connections) = (&self.0.requests, &self.0.connections);
        let mut text = Exposition::default();
        text.traffic(requests, connections);
        text.decisions(self.0.decisions.all());
        text.limited(self.0.limited.all());
        text.own(
            requests.composed() + connections.composed(),
            requests.overflowed() + connections.overflowed(),
            self.access_log_dropped(),
        );
        text
    }

    /// How many access log lines were dropped because they could not be written in time.
    pub fn access_log_dropped(&self) -> u64 {
        self.0
            .access_log
            .as_ref()
            .map_or(0, |log| log.sink.dropped())
    }

    /// Drops the series of pods that are not in `snapshot` and have been silent for five minutes.
    /// To be called every now and then.
    pub fn forget_gone(&self, snapshot: &Snapshot, now: Instant) {
        let gone = |uid: &_| !snapshot.workloads.contains_key(uid);
        self.0.requests.forget(gone, FORGET_AFTER, now);
        self.0.connections.forget(gone, FORGET_AFTER, now);
    }

    /// Waits until the access log is written, at most for `deadline`. Blocks: not for data threads.
    pub fn flush(&self, deadline: Duration) {
        if let Some(log) = &self.0.access_log {
            log.sink.flush(deadline);
        }
    }
}

fn tcp(flags: &str) -> Kind<'_> {
    Kind {
        flags,
        status: 0,
        grpc: None,
        is_grpc: false,
    }
}
