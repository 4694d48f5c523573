// SPDX-License-Identifier: Apache-2.0

//! Streams to other pods through tunnels, which are pooled per data thread.
//!
//! Owns when a connection is made. Which one a stream goes to: `tunnel_pool.rs`; what happens on
//! it: `tunnel_link.rs`; what it speaks: `tunnel_wire.rs`.
//!
//! Invariant: a stream counts as failed only when newer connections were tried as well.
//! Reference: HBONE as ztunnel speaks it; RFC 9113 sections 5.1.2, 6.8 and 8.5.

use std::{fmt, io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use http::StatusCode;

use super::{
    budgets::OfTunnels,
    bulk::{Asker, Means},
    tunnel_link::{Link, Slot},
    tunnel_pool::{Choice, Key, Pool},
    tunnel_wire::{self, Route},
    turns,
};
pub use super::{mux::MuxError, tunnel_keep_alive::KeepAliveLimits, tunnel_stream::TunnelStream};
use crate::{
    datapath::{Connector, Netns},
    identity::{self, Alpn, Identities, IdentityError},
    model::{Workload, WorkloadUid},
    tasks::Tasks,
};

/// How often a stream is tried on a newer connection, if earlier ones turned out to be gone
/// before the peer acted on it.
const MAX_ATTEMPTS: u32 = 3;

/// Why a stream could not be opened. Those who waited for the same handshake all get the same.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TunnelError {
    /// TCP did not come about.
    #[error("connecting to {to}")]
    Connect {
        /// The pod's HBONE address.
        to: SocketAddr,
        /// What the kernel said.
        #[source]
        source: Arc<io::Error>,
    },
    /// TCP, TLS and HTTP/2 together took too long.
    #[error("no tunnel to {to} within {after:?}: is its node up, and does every NetworkPolicy let port {} through?", to.port())]
    ConnectTimeout {
        /// The pod's HBONE address.
        to: SocketAddr,
        /// How long it was tried.
        after: Duration,
    },
    /// We have no certificate, or the peer is not the workload it must be.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The handshake failed, or the peer did not accept our certificate.
    #[error("mutual TLS with {to}")]
    Tls {
        /// The pod's HBONE address.
        to: SocketAddr,
        /// What went wrong.
        #[source]
        source: Arc<io::Error>,
    },
    /// The peer speaks TLS, but neither HBONE nor the mux.
    #[error("{to} does not speak HBONE")]
    NotHbone {
        /// The pod's HBONE address.
        to: SocketAddr,
    },
    /// The peer answered, with something else than 200.
    #[error("http status: {0}")]
    Refused(StatusCode),
    /// The peer did not answer to a CONNECT.
    #[error("no answer to CONNECT from {to} within {after:?}")]
    ResponseTimeout {
        /// The pod's HBONE address.
        to: SocketAddr,
        /// How long it was waited for.
        after: Duration,
    },
    /// HTTP/2 broke.
    #[error("tunnel protocol")]
    Protocol(#[source] Arc<h2::Error>),
    /// The mux broke.
    #[error(transparent)]
    Mux(MuxError),
    /// The tunnel was closed meanwhile: the pod is gone, or we are stopping.
    #[error("the tunnel to {to} was closed")]
    Closed {
        /// The pod's HBONE address.
        to: SocketAddr,
    },
}

/// What the other end is told about a stream; all of it informs only.
#[derive(Clone, Debug, Default)]
pub struct ConnectHeaders {
    /// The client's address and the service it asked for, as RFC 7239 writes it.
    pub forwarded: Option<String>,
    /// The source workload, as W3C Baggage.
    pub baggage: Option<String>,
    /// The trace; a new one is begun if there is none.
    pub traceparent: Option<String>,
}

/// How much, how long, how often.
#[derive(Clone, Copy, Debug)]
pub struct TunnelLimits {
    /// The port at which pods are reached.
    pub port: u16,
    /// What is spoken there, if the peer knows it.
    pub alpn: Alpn,
    /// Streams per connection of HBONE; fewer if the peer allows fewer.
    pub max_streams: usize,
    /// Streams per connection of the mux; fewer if the peer allows fewer.
    pub mux_streams: usize,
    /// Bytes that a stream may have under way to a reader that stopped.
    pub stream_window: u32,
    /// For TCP, TLS and HTTP/2 together.
    pub connect_timeout: Duration,
    /// From CONNECT to its answer; the peer connects to the application meanwhile.
    pub response_timeout: Duration,
    /// A connection without streams is closed after this.
    pub idle_timeout: Duration,
    /// Connections that a thread keeps for one pod while some of them have no streams: a pod that speaks to everybody
    /// once would have one to each until they have been idle for so long.
    pub max_links: usize,
    /// How a silent peer is found.
    pub keep_alive: KeepAliveLimits,
}

impl Default for TunnelLimits {
    fn default() -> Self {
        Self {
            port: 15008,
            alpn: Alpn::Hbone,
            max_streams: 100,
            mux_streams: 256,
            stream_window: 256 * 1024,
            connect_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(300),
            max_links: 256,
            keep_alive: KeepAliveLimits::default(),
        }
    }
}

/// The tunnels of one data thread. Clones share the pool.
#[derive(Clone)]
pub struct Tunnels(Rc<Shared>);

struct Shared {
    identities: Identities,
    connector: Connector,
    tasks: Tasks,
    limits: TunnelLimits,
    pool: Rc<Pool>,
}

impl Tunnels {
    /// An empty pool. Connections run as local tasks of `tasks`.
    pub fn new(
        identities: Identities,
        connector: Connector,
        tasks: Tasks,
        limits: TunnelLimits,
    ) -> Self {
        Self(Rc::new(Shared {
            identities,
            connector,
            tasks,
            limits,
            pool: Rc::default(),
        }))
    }

    /// Opens a stream from the pod `from` (whose namespace is `netns`) to `authority`, an address
    /// and port of the pod `to`. What tunnels take is taken of `budgets`, if it is counted. Must be
    /// called within a `LocalSet`. Cancel-safe.
    ///
    /// # Errors
    /// See [`TunnelError`]. What was not acted on by the peer was tried again already.
    pub(crate) async fn open(
        &self,
        from: &Arc<Workload>,
        netns: &Netns,
        to: &Arc<Workload>,
        authority: SocketAddr,
        headers: &ConnectHeaders,
        budgets: Option<&OfTunnels>,
    ) -> Result<TunnelStream, TunnelError> {
        let shared = &self.0;
        let address = SocketAddr::new(authority.ip(), shared.limits.port);
        let (identities, patience) = (&shared.identities, shared.limits.connect_timeout);
        identities.first(&from.identity, patience).await;
        let key = Key {
            from: from.uid.clone(),
            source: from.identity.clone(),
            to: to.uid.clone(),
            address,
            generation: identities.generation(&from.identity),
        };
        let route = || Route {
            from: Arc::clone(from),
            netns: netns.clone(),
            to: Arc::clone(to),
            address,
            budgets: budgets.cloned(),
        };
        let (mut newer_than, mut attempts) = (0, 0);
        loop {
            attempts += 1;
            let slot = shared.slot(&key, newer_than, route).await?;
            let sequence = slot.link().sequence();
            match slot.connect(authority, headers, &shared.limits).await {
                Ok(stream) => return Ok(stream),
                Err(failure) if failure.try_again && attempts < MAX_ATTEMPTS => {
                    newer_than = sequence;
                }
                Err(failure) => return Err(failure.error),
            }
        }
    }

    /// The pod is gone: no new streams to it, live ones may finish.
    pub fn close_to(&self, uid: &WorkloadUid) {
        self.0.pool.retire(|key| key.to == *uid);
    }

    /// No new streams to anybody, live ones may finish.
    pub(crate) fn close(&self) {
        self.0.pool.retire(|_any| true);
    }

    /// Resolves when a peer says that it leaves: what waits for more work on streams there should
    /// end. Cancel-safe.
    pub(crate) async fn going(&self) {
        self.0.pool.going().await;
    }

    /// How many connections are open for new streams.
    pub fn connections(&self) -> usize {
        self.0.pool.connections()
    }
}

impl Shared {
    /// A place on a connection for `key` that is newer than the one that failed.
    async fn slot(
        self: &Rc<Self>,
        key: &Key,
        newer_than: u64,
        route: impl Fn() -> Route,
    ) -> Result<Slot, TunnelError> {
        loop {
            let outcome = match self.pool.choose(key, newer_than) {
                Choice::Slot(slot) => return Ok(slot),
                Choice::Wait(outcome) => outcome,
                Choice::Begin(outcome) => {
                    self.pool.retire(|other| other.is_older(key));
                    let task = Rc::clone(self).connect(key.clone(), route());
                    self.tasks.spawn_local("tunnel", task);
                    outcome
                }
            };
            match outcome.await {
                Ok(outcome) => outcome?,
                Err(_closed) => return Err(TunnelError::Closed { to: key.address }),
            }
        }
    }

    /// Makes a connection and runs it until it ends.
    async fn connect(self: Rc<Self>, key: Key, route: Route) {
        let (identities, limits) = (&self.identities, &self.limits);
        let made = tunnel_wire::establish(&self.connector, identities, &route, limits);
        let workload = key.source.clone();
        let fresh = match turns::of(&workload, Box::pin(made)).await {
            Ok(fresh) => fresh,
            Err(error) => {
                tracing::debug!(to = %route.address, %error, "no tunnel");
                self.pool.settle(&key, Err(error));
                return;
            }
        };
        let pool = Rc::downgrade(&self.pool);
        let sequence = self.pool.next_sequence();
        let asker = fresh.name.map(|name| {
            let means = Means {
                connector: self.connector.clone(),
                identities: self.identities.clone(),
                tasks: self.tasks.clone(),
                limits: self.limits,
            };
            Asker::new(means, route, name)
        });
        let opens = (fresh.requests, fresh.max_streams);
        let seat = fresh.seat;
        let link = Link::new(key, sequence, pool, opens, asker);
        if !self.pool.settle(link.key(), Ok(&link)) {
            link.retire();
        }
        if let Some(unused) = self.pool.one_too_many(&link, self.limits.max_links) {
            unused.retire();
        }
        let (identities, limits) = (self.identities.clone(), self.limits);
        let drain = self.tasks.drain();
        // From here on the task holds no pool, so that a pool that is dropped retires its links.
        drop(self);
        let run = Box::pin(link.run(fresh.wire, identities, limits, drain));
        turns::of(&workload, run).await;
        drop(seat);
    }
}

impl TunnelError {
    pub(super) fn connect(to: SocketAddr, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::TimedOut {
            // The connector has a deadline of its own, as long as ours.
            let after = TunnelLimits::default().connect_timeout;
            return Self::ConnectTimeout { to, after };
        }
        let source = Arc::new(source);
        Self::Connect { to, source }
    }

    pub(super) fn tls(to: SocketAddr, source: io::Error) -> Self {
        match identity::refusal(&source) {
            Some(refusal) => Self::Identity(IdentityError::Peer(refusal)),
            None => {
                let source = Arc::new(source);
                Self::Tls { to, source }
            }
        }
    }
}

impl From<h2::Error> for TunnelError {
    fn from(error: h2::Error) -> Self {
        Self::Protocol(Arc::new(error))
    }
}

impl fmt::Debug for Tunnels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tunnels({} connections)", self.connections())
    }
}

#[cfg(test)]
mod tests;
