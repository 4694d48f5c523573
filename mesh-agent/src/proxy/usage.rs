// SPDX-License-Identifier: Apache-2.0

//! How much one pod asks of a cluster at a time, over all threads, and whether it may ask for more.
//!
//! Knows nothing of what is asked. Invariant: what was counted is given back when its guard is
//! dropped. Reference: Envoy, "circuit breaking"; Istio `ConnectionPoolSettings`.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Outcome;
use crate::model::{Cluster, Limits};

/// What one pod has under way at one cluster.
#[derive(Debug)]
pub(crate) struct Usage {
    requests: AtomicU32,
    pending: AtomicU32,
    retries: AtomicU32,
    /// One permit for each connection that there may be.
    connections: Arc<Semaphore>,
}

/// What one pod has under way, by cluster and number of connections.
#[derive(Debug, Default)]
pub(crate) struct Usages(Mutex<HashMap<Subject, Arc<Usage>>>);

/// A cluster's name, and how many connections there may be.
type Subject = (String, Option<u32>);

/// What is counted one by one.
#[derive(Clone, Copy, Debug)]
enum Counted {
    Request,
    Pending,
    Retry,
}

/// Holds one unit of a count.
#[derive(Debug)]
pub(crate) struct Held(Arc<Usage>, Counted);

/// Holds what one exchange or connection was admitted to.
#[derive(Debug)]
pub(crate) struct Admission {
    _request: Option<Held>,
    _connection: Option<OwnedSemaphorePermit>,
}

/// How long the agent runs: what the model takes for time.
pub(crate) fn uptime() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

impl Usages {
    fn of(&self, cluster: &Cluster, limits: &Limits) -> Arc<Usage> {
        let key = (cluster.istio_name().to_owned(), limits.connections);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(usage) = all.get(&key) {
            return Arc::clone(usage);
        }
        // A cluster that nobody uses now has nothing to remember.
        all.retain(|_, usage| Arc::strong_count(usage) > 1);
        let usage = Arc::new(Usage::new(limits.connections));
        all.insert(key, Arc::clone(&usage));
        usage
    }

    /// Admits a request; waits for a connection (if it needs one for itself) while that is allowed.
    pub(crate) async fn admit(
        &self,
        cluster: &Cluster,
        shares_connection: bool,
    ) -> Result<Option<Admission>, Outcome> {
        let limits = cluster.limits();
        let none = limits.requests.is_none() && limits.connections.is_none();
        // A budget for retries is a share of the requests: they are counted.
        if none && limits.retry_budget.is_none() {
            return Ok(None);
        }
        let usage = self.of(cluster, &limits);
        let request = usage.hold(Counted::Request, limits.requests)?;
        let free = || Arc::clone(&usage.connections).try_acquire_owned().ok();
        let connection = match limits.connections {
            Some(_) if !shares_connection => match free() {
                Some(permit) => Some(permit),
                None => {
                    let _waiting = usage.hold(Counted::Pending, limits.pending)?;
                    Arc::clone(&usage.connections).acquire_owned().await.ok()
                }
            },
            _ => None,
        };
        Ok(Some(Admission {
            _request: Some(request),
            _connection: connection,
        }))
    }

    /// Admits a connection that is carried as bytes.
    pub(crate) fn admit_bytes(&self, cluster: &Cluster) -> Result<Option<Admission>, Outcome> {
        let limits = cluster.limits();
        if limits.connections.is_none() {
            return Ok(None);
        }
        let usage = self.of(cluster, &limits);
        match Arc::clone(&usage.connections).try_acquire_owned() {
            Ok(permit) => Ok(Some(Admission {
                _request: None,
                _connection: Some(permit),
            })),
            Err(_) => Err(Outcome::Overflow),
        }
    }

    /// Admits a retry.
    pub(crate) fn admit_retry(&self, cluster: &Cluster) -> Result<Option<Held>, Outcome> {
        let limits = cluster.limits();
        if limits.retries.is_none() && limits.retry_budget.is_none() {
            return Ok(None);
        }
        let usage = self.of(cluster, &limits);
        let requests = usage.requests.load(Ordering::Relaxed);
        usage
            .hold(Counted::Retry, limits.retries_beside(requests))
            .map(Some)
    }
}

impl Usage {
    fn new(connections: Option<u32>) -> Self {
        let permits = connections.and_then(|count| usize::try_from(count).ok());
        let permits = permits.unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            requests: AtomicU32::new(0),
            pending: AtomicU32::new(0),
            retries: AtomicU32::new(0),
            connections: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
        }
    }

    fn count(&self, counted: Counted) -> &AtomicU32 {
        match counted {
            Counted::Request => &self.requests,
            Counted::Pending => &self.pending,
            Counted::Retry => &self.retries,
        }
    }

    fn hold(self: &Arc<Self>, counted: Counted, limit: Option<u32>) -> Result<Held, Outcome> {
        let before = self.count(counted).fetch_add(1, Ordering::Relaxed);
        // Given back at once if it is one too many.
        let held = Held(Arc::clone(self), counted);
        match limit {
            Some(limit) if before >= limit => Err(Outcome::Overflow),
            _ => Ok(held),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.count(self.1).fetch_sub(1, Ordering::Relaxed);
    }
}
