// SPDX-License-Identifier: Apache-2.0

//! Connections to endpoints that can take a further request, per data thread and source pod.
//!
//! HTTP/1.1 connections are idle while they are here, taken out for one exchange, newest first; one
//! HTTP/2 connection per endpoint takes any number. An endpoint is its address and the pod behind
//! it, so an address used again by another pod never gets an old connection. A plain stream can be
//! taken by hand or by hyper; what hyper has had in hand stays hyper's. TLS that a rule asks for is
//! part of who an endpoint is, and whether it is told of its clients.
//!
//! Knows nothing of routes. Invariant: no connection in the pool belongs to a pod that the
//! snapshot no longer has.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::Mutex,
};

use super::{
    http_upstream::{Http1, Http2},
    stream::{self, Upstream},
};
use crate::{
    model::{ClientTls, Endpoint, Snapshot, WorkloadUid, proxy_protocol::ProxyProtocol},
    tasks::Tasks,
};

/// How often idle connections are looked through.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How long a connection may be idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How many idle connections to one endpoint are kept.
const MAX_IDLE: usize = 512;

/// The pools of a data thread, by source pod.
pub(crate) struct Pools {
    pools: RefCell<HashMap<WorkloadUid, Rc<Pool>, RandomState>>,
    tasks: Tasks,
}

/// The connections of one source pod.
pub(crate) struct Pool {
    slots: RefCell<Slots>,
    tasks: Tasks,
}

/// By address, which somebody may have chosen: a fast hash with a random beginning.
type Slots = HashMap<SocketAddr, Slot, RandomState>;

/// The connections to one endpoint.
struct Slot {
    to: Identity,
    /// How long one may be idle, as who asked last would have it.
    patience: Duration,
    /// The newest last.
    idle: Vec<(Http1, Instant)>,
    /// Streams that nobody reads; the newest last.
    plain: Vec<(Upstream, Instant)>,
    http2: Option<Http2>,
    /// Held by whoever opens the HTTP/2 connection, so that the others wait for it.
    opening: Rc<Mutex<()>>,
}

/// Who is behind an address and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    uid: Option<WorkloadUid>,
    enrolled: bool,
    tls: Option<Arc<ClientTls>>,
    proxy_protocol: Option<ProxyProtocol>,
}

impl Identity {
    /// The identity of `endpoint`.
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        let workload = endpoint.workload.as_ref();
        Self {
            uid: workload.map(|workload| workload.uid.clone()),
            enrolled: workload.is_some_and(|workload| workload.enrolled),
            tls: endpoint.tls.clone(),
            proxy_protocol: endpoint.proxy_protocol,
        }
    }

    fn is(&self, endpoint: &Endpoint) -> bool {
        if self.tls != endpoint.tls || self.proxy_protocol != endpoint.proxy_protocol {
            return false;
        }
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
        let known = |uid: &WorkloadUid| snapshot.workloads.contains_key(uid) || !uid.is_pods();
        self.uid.as_ref().is_some_and(|uid| !known(uid))
    }
}

impl Slot {
    fn new(endpoint: &Endpoint) -> Self {
        Self {
            to: Identity::of(endpoint),
            patience: patience(endpoint),
            idle: Vec::new(),
            plain: Vec::new(),
            http2: None,
            opening: Rc::default(),
        }
    }

    fn sweep(&mut self, now: Instant, tasks: &Tasks) {
        let is_recent = |since: &Instant| now.duration_since(*since) < self.patience;
        self.idle
            .retain(|(http1, since)| !http1.is_closed() && is_recent(since));
        let is_old =
            |(stream, since): &mut (Upstream, Instant)| !is_recent(since) || !is_quiet(stream);
        for (stream, _) in self.plain.extract_if(.., is_old) {
            end(tasks, stream);
        }
        if self.http2.as_ref().is_some_and(Http2::is_closed) {
            self.http2 = None;
        }
    }

    fn is_empty(&self) -> bool {
        self.idle.is_empty()
            && self.plain.is_empty()
            && self.http2.is_none()
            && Rc::strong_count(&self.opening) == 1
    }

    /// Lets go of everything, in order.
    fn end(&mut self, tasks: &Tasks) {
        self.idle.clear();
        self.http2 = None;
        for (stream, _) in self.plain.drain(..) {
            end(tasks, stream);
        }
    }
}

/// How long a connection to `endpoint` may be idle.
fn patience(endpoint: &Endpoint) -> Duration {
    let asked = endpoint.upkeep.as_ref().and_then(|upkeep| upkeep.idle);
    asked.map_or(IDLE_TIMEOUT, |asked| asked.min(IDLE_TIMEOUT))
}

/// Whether a connection to `endpoint` that idles `since` then is not to be used again, though it has not
/// been looked at since.
fn is_stale(endpoint: &Endpoint, since: Instant) -> bool {
    let idle = endpoint.upkeep.as_ref().and_then(|upkeep| upkeep.idle);
    idle.is_some_and(|idle| since.elapsed() >= idle)
}

/// Ends a connection on which nothing is under way, in order.
pub(crate) fn end(tasks: &Tasks, stream: Upstream) {
    tasks.spawn_local("upstream http/1", stream::linger(stream));
}

/// Whether an idle connection can take a request: nothing came over it, not even its end. Costs a
/// system call only if something did.
fn is_quiet(stream: &mut Upstream) -> bool {
    if stream.going().is_set() {
        return false;
    }
    let mut byte = [0];
    let mut context = Context::from_waker(Waker::noop());
    Pin::new(stream)
        .poll_read(&mut context, &mut ReadBuf::new(&mut byte))
        .is_pending()
}

impl Pools {
    /// No connections; what ends them runs among `tasks`.
    pub(crate) fn new(tasks: &Tasks) -> Self {
        Self {
            pools: RefCell::default(),
            tasks: tasks.clone(),
        }
    }

    /// The pool of the pod `uid`.
    pub(crate) fn of(&self, uid: &WorkloadUid) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        if let Some(pool) = pools.get(uid) {
            return Rc::clone(pool);
        }
        let pool = self.apart();
        pools.insert(uid.clone(), Rc::clone(&pool));
        pool
    }

    /// A pool that nobody else shares: what idles in it ends with whoever has it.
    pub(crate) fn apart(&self) -> Rc<Pool> {
        Rc::new(Pool {
            slots: RefCell::default(),
            tasks: self.tasks.clone(),
        })
    }

    /// Lets go of everything that `snapshot` no longer has; exchanges under way finish.
    pub(crate) fn retain(&self, snapshot: &Snapshot) {
        self.pools.borrow_mut().retain(|uid, pool| {
            pool.let_go(|slot| slot.to.is_gone(snapshot));
            let is_kept = snapshot.workloads.contains_key(uid) || Rc::strong_count(pool) > 1;
            if !is_kept {
                pool.let_go(|_| true);
            }
            is_kept
        });
    }

    /// Lets go of everything; exchanges under way finish.
    pub(crate) fn clear(&self) {
        for pool in self.pools.borrow().values() {
            pool.let_go(|_| true);
        }
    }

    /// Lets go of what has been idle for long.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        for pool in self.pools.borrow().values() {
            pool.slots.borrow_mut().retain(|_, slot| {
                slot.sweep(now, &self.tasks);
                !slot.is_empty()
            });
        }
    }
}

impl Pool {
    /// Ends what is idle to the endpoints that `is_meant` is true for, and forgets them.
    fn let_go(&self, is_meant: impl Fn(&Slot) -> bool) {
        self.slots.borrow_mut().retain(|_, slot| {
            let is_meant = is_meant(slot);
            if is_meant {
                slot.end(&self.tasks);
            }
            !is_meant
        });
    }

    /// The slot of `endpoint`, unless the address was another pod's so far.
    fn slot<'s>(&self, slots: &'s mut Slots, endpoint: &Endpoint) -> Option<&'s mut Slot> {
        if !slots.get(&endpoint.address)?.to.is(endpoint) {
            if let Some(mut slot) = slots.remove(&endpoint.address) {
                slot.end(&self.tasks);
            }
            return None;
        }
        slots.get_mut(&endpoint.address)
    }

    /// The idle stream to `endpoint` that was used last.
    pub(crate) fn take_plain(&self, endpoint: &Endpoint) -> Option<Upstream> {
        let mut slots = self.slots.borrow_mut();
        let slot = self.slot(&mut slots, endpoint)?;
        while let Some((mut stream, since)) = slot.plain.pop() {
            if !is_stale(endpoint, since) && is_quiet(&mut stream) {
                return Some(stream);
            }
            end(&self.tasks, stream);
        }
        None
    }

    /// Keeps a stream to the endpoint, on which nothing is under way, for the next request.
    pub(crate) fn put_plain(&self, endpoint: &Endpoint, stream: Upstream) {
        let mut slots = self.slots.borrow_mut();
        match slots.get_mut(&endpoint.address) {
            Some(slot)
                if slot.to.is(endpoint)
                    && slot.plain.len() < MAX_IDLE
                    && !stream.going().is_set() =>
            {
                slot.patience = patience(endpoint);
                slot.plain.push((stream, Instant::now()));
            }
            Some(_) | None => end(&self.tasks, stream),
        }
    }

    /// The idle HTTP/1.1 connection to `endpoint` that was used last.
    pub(crate) fn take(&self, endpoint: &Endpoint) -> Option<Http1> {
        let mut slots = self.slots.borrow_mut();
        let slot = self.slot(&mut slots, endpoint)?;
        while let Some((http1, since)) = slot.idle.pop() {
            if !http1.is_closed() && !is_stale(endpoint, since) {
                return Some(http1);
            }
        }
        None
    }

    /// Keeps an idle connection to the endpoint for the next request.
    pub(crate) fn put(&self, endpoint: &Endpoint, http1: Http1) {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get_mut(&endpoint.address) else {
            return;
        };
        if slot.to.is(endpoint) && slot.idle.len() < MAX_IDLE {
            slot.patience = patience(endpoint);
            slot.idle.push((http1, Instant::now()));
        }
    }

    /// Makes room for connections to `endpoint`; without it none is kept.
    pub(crate) fn admit(&self, endpoint: &Endpoint) {
        let mut slots = self.slots.borrow_mut();
        let slot = slots
            .entry(endpoint.address)
            .or_insert_with(|| Slot::new(endpoint));
        if !slot.to.is(endpoint) {
            slot.end(&self.tasks);
            *slot = Slot::new(endpoint);
        }
    }

    /// The HTTP/2 connection to `endpoint`, if there is one that takes requests.
    pub(crate) fn http2(&self, endpoint: &Endpoint) -> Option<Http2> {
        let mut slots = self.slots.borrow_mut();
        let slot = self.slot(&mut slots, endpoint)?;
        slot.http2.clone().filter(|sender| !sender.is_closed())
    }

    /// Keeps the HTTP/2 connection to `endpoint` for all that follow.
    pub(crate) fn keep_http2(&self, endpoint: &Endpoint, sender: &Http2) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(&endpoint.address)
            && slot.to.is(endpoint)
        {
            slot.http2 = Some(sender.clone());
        }
    }

    /// What is held while an HTTP/2 connection to `endpoint` is opened.
    pub(crate) fn opening(&self, endpoint: &Endpoint) -> Rc<Mutex<()>> {
        self.admit(endpoint);
        let slots = self.slots.borrow();
        slots
            .get(&endpoint.address)
            .map(|slot| Rc::clone(&slot.opening))
            .unwrap_or_default()
    }
}
