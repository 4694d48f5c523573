// SPDX-License-Identifier: Apache-2.0

//! Connections to endpoints that can take a further request, per data thread and source pod.
//!
//! HTTP/1.1 connections are idle while they are here, taken out for one exchange, newest first; one
//! HTTP/2 connection per endpoint takes any number. An endpoint is its address and the pod behind
//! it, so an address used again by another pod never gets an old connection.
//!
//! Knows nothing of routes. Invariant: no connection in the pool belongs to a pod that the
//! snapshot no longer has.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use super::http_upstream::{Http1, Http2};
use crate::model::{Endpoint, Snapshot, WorkloadUid};

/// How often idle connections are looked through.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How long a connection may be idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How many idle connections to one endpoint are kept.
const MAX_IDLE: usize = 512;

/// The pools of a data thread, by source pod.
#[derive(Default)]
pub(crate) struct Pools(RefCell<HashMap<WorkloadUid, Rc<Pool>>>);

/// The connections of one source pod.
#[derive(Default)]
pub(crate) struct Pool(RefCell<HashMap<SocketAddr, Slot>>);

/// The connections to one endpoint.
struct Slot {
    to: Identity,
    /// The newest last.
    idle: Vec<(Http1, Instant)>,
    http2: Option<Http2>,
    /// Held by whoever opens the HTTP/2 connection, so that the others wait for it.
    opening: Rc<Mutex<()>>,
}

/// Who is behind an address and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    uid: Option<WorkloadUid>,
    enrolled: bool,
}

impl Identity {
    /// The identity of `endpoint`.
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        let workload = endpoint.workload.as_ref();
        Self {
            uid: workload.map(|workload| workload.uid.clone()),
            enrolled: workload.is_some_and(|workload| workload.enrolled),
        }
    }

    fn is(&self, endpoint: &Endpoint) -> bool {
        match (&self.uid, &endpoint.workload) {
            (None, None) => true,
            (Some(uid), Some(workload)) => {
                // The same pointer in nearly every case.
                (Arc::ptr_eq(&uid.0, &workload.uid.0) || *uid == workload.uid)
                    && self.enrolled == workload.enrolled
            }
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    fn is_gone(&self, snapshot: &Snapshot) -> bool {
        let known = |uid| snapshot.workloads.contains_key(uid);
        self.uid.as_ref().is_some_and(|uid| !known(uid))
    }
}

impl Slot {
    fn new(endpoint: &Endpoint) -> Self {
        Self {
            to: Identity::of(endpoint),
            idle: Vec::new(),
            http2: None,
            opening: Rc::default(),
        }
    }

    fn sweep(&mut self, now: Instant) {
        self.idle.retain(|(http1, since)| {
            !http1.is_closed() && now.duration_since(*since) < IDLE_TIMEOUT
        });
        if self.http2.as_ref().is_some_and(Http2::is_closed) {
            self.http2 = None;
        }
    }

    fn is_empty(&self) -> bool {
        self.idle.is_empty() && self.http2.is_none() && Rc::strong_count(&self.opening) == 1
    }
}

impl Pools {
    /// The pool of the pod `uid`.
    pub(crate) fn of(&self, uid: &WorkloadUid) -> Rc<Pool> {
        let mut pools = self.0.borrow_mut();
        match pools.get(uid) {
            Some(pool) => Rc::clone(pool),
            None => Rc::clone(pools.entry(uid.clone()).or_default()),
        }
    }

    /// Lets go of everything that `snapshot` no longer has; exchanges under way finish.
    pub(crate) fn retain(&self, snapshot: &Snapshot) {
        self.0.borrow_mut().retain(|uid, pool| {
            pool.0
                .borrow_mut()
                .retain(|_, slot| !slot.to.is_gone(snapshot));
            snapshot.workloads.contains_key(uid) || Rc::strong_count(pool) > 1
        });
    }

    /// Lets go of everything; exchanges under way finish.
    pub(crate) fn clear(&self) {
        for pool in self.0.borrow().values() {
            pool.0.borrow_mut().clear();
        }
    }

    /// Lets go of what has been idle for long.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        for pool in self.0.borrow().values() {
            pool.0.borrow_mut().retain(|_, slot| {
                slot.sweep(now);
                !slot.is_empty()
            });
        }
    }
}

impl Pool {
    /// The idle HTTP/1.1 connection to `endpoint` that was used last.
    pub(crate) fn take(&self, endpoint: &Endpoint) -> Option<Http1> {
        let mut slots = self.0.borrow_mut();
        let slot = slots.get_mut(&endpoint.address)?;
        if !slot.to.is(endpoint) {
            slots.remove(&endpoint.address);
            return None;
        }
        while let Some((http1, _)) = slot.idle.pop() {
            if !http1.is_closed() {
                return Some(http1);
            }
        }
        None
    }

    /// Keeps an idle connection to the endpoint for the next request.
    pub(crate) fn put(&self, endpoint: &Endpoint, http1: Http1) {
        let mut slots = self.0.borrow_mut();
        let Some(slot) = slots.get_mut(&endpoint.address) else {
            return;
        };
        if slot.to.is(endpoint) && slot.idle.len() < MAX_IDLE {
            slot.idle.push((http1, Instant::now()));
        }
    }

    /// Makes room for connections to `endpoint`; without it none is kept.
    pub(crate) fn admit(&self, endpoint: &Endpoint) {
        let mut slots = self.0.borrow_mut();
        let slot = slots
            .entry(endpoint.address)
            .or_insert_with(|| Slot::new(endpoint));
        if !slot.to.is(endpoint) {
            *slot = Slot::new(endpoint);
        }
    }

    /// The HTTP/2 connection to `endpoint`, if there is one that takes requests.
    pub(crate) fn http2(&self, endpoint: &Endpoint) -> Option<Http2> {
        let mut slots = self.0.borrow_mut();
        let slot = slots.get_mut(&endpoint.address)?;
        if !slot.to.is(endpoint) {
            slots.remove(&endpoint.address);
            return None;
        }
        slot.http2.clone().filter(|sender| !sender.is_closed())
    }

    /// Keeps the HTTP/2 connection to `endpoint` for all that follow.
    pub(crate) fn keep_http2(&self, endpoint: &Endpoint, sender: &Http2) {
        if let Some(slot) = self.0.borrow_mut().get_mut(&endpoint.address)
            && slot.to.is(endpoint)
        {
            slot.http2 = Some(sender.clone());
        }
    }

    /// What is held while an HTTP/2 connection to `endpoint` is opened.
    pub(crate) fn opening(&self, endpoint: &Endpoint) -> Rc<Mutex<()>> {
        self.admit(endpoint);
        let slots = self.0.borrow();
        slots
            .get(&endpoint.address)
            .map(|slot| Rc::clone(&slot.opening))
            .unwrap_or_default()
    }
}
