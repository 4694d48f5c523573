// SPDX-License-Identifier: Apache-2.0

//! What the admin socket can see: read-only views of the other parts.

use std::{collections::BTreeMap, fmt, sync::Arc};

use tokio::sync::watch;

use crate::{
    config::Report,
    datapath::Observation,
    identity::Identities,
    model::{Snapshot, WorkloadUid},
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
    /// Certificates.
    pub identities: Identities,
    /// Metrics.
    pub telemetry: Telemetry,
    /// Reads the kernel.
    pub datapath: Arc<dyn Fn() -> Observation + Send + Sync>,
    /// Reads the data threads.
    pub proxy: Arc<dyn Fn() -> ProxyView + Send + Sync>,
    /// The log level: the one thing that can be changed.
    pub log: LogLevel,
}

impl fmt::Debug for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Views").finish_non_exhaustive()
    }
}

/// What the data threads do.
#[derive(Clone, Debug, Default)]
pub struct ProxyView {
    /// Live connections of each captured pod.
    pub pods: BTreeMap<WorkloadUid, usize>,
    /// Live connections of each data thread.
    pub threads: Vec<usize>,
    /// The oldest generation that a thread works with; 0 if one has none.
    pub applied_generation: u64,
}
