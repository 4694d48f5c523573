// SPDX-License-Identifier: Apache-2.0

//! What the admin socket can see: read-only views of the other parts.

use std::{fmt, sync::Arc};

use tokio::sync::watch;

use super::hand_over::HandOver;
use crate::{
    config::{Report, SourceState},
    datapath::Observation,
    identity::{Identities, KeySets},
    model::Snapshot,
    proxy::ProxyView,
    telemetry::{LogLevel, Telemetry},
};

/// Everything that can be looked at. Closures read at the moment of the question; they may block
/// for milliseconds.
#[derive(Clone)]
pub struct Views {
    /// The newest configuration.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// What is wrong with it.
    pub report: watch::Receiver<Arc<Report>>,
    /// Where it comes from, and whether that answers.
    pub source: watch::Receiver<Arc<SourceState>>,
    /// Certificates.
    pub identities: Identities,
    /// The keys by which tokens are verified.
    pub keys: KeySets,
    /// Metrics.
    pub telemetry: Telemetry,
    /// Reads the kernel.
    pub datapath: Arc<dyn Fn() -> Observation + Send + Sync>,
    /// Reads the data threads.
    pub proxy: Arc<dyn Fn() -> ProxyView + Send + Sync>,
    /// The log level: the one thing that can be changed.
    pub log: LogLevel,
    /// Where a successor's wish goes.
    pub hand_over: HandOver,
}

impl fmt::Debug for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Views").finish_non_exhaustive()
    }
}
