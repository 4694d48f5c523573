// SPDX-License-Identifier: Apache-2.0

//! One connection of the pool: how it is made, what runs on it, and how it ends.
//!
//! Owns TCP, TLS and HTTP/2 towards one pod. Which connection a stream goes to is the pool's
//! business ([`super::tunnel`]).
//!
//! Invariant: a link that is retired takes no new streams, and closes when its last one ends.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use http::{Method, Request, StatusCode, Uri, header::HeaderValue};
use rustls::pki_types::ServerName;
use tokio::{sync::Notify, time::Instant};
use tokio_rustls::client::TlsStream;

use super::{
    tunnel::{ConnectHeaders, Key, Pool, TunnelError, TunnelLimits},
    tunnel_keep_alive::{KeepAlive, Pulse},
    tunnel_stream::TunnelStream,
};
use crate::{
    datapath::{Connector, Leg, Netns, Upstream},
    identity::{self, Alpn, Identities},
    model::Workload,
    tasks::Drain,
};

/// What the peer may send in one frame: large enough to be cheap, small enough to be fair.
const MAX_FRAME: u32 = 64 * 1024;

/// What the peer may answer in headers.
const MAX_HEADER_LIST: u32 = 16 * 1024;

/// What h2 holds per stream on its way out.
const MAX_SEND_BUFFER: usize = 256 * 1024;

/// Small frames cost more memory than they carry; a reader that stops while its peer sends
/// message after message must not end the whole connection.
pub(super) const SMALL_FRAME_BUDGET: usize = 64 * 1024 * 1024;

/// A place for streams on one connection.
pub(super) struct Link {
    key: Key,
    /// Grows with every link of the thread.
    sequence: u64,
    pool: Weak<Pool>,
    /// Nothing once retired.
    requests: RefCell<Option<SendRequest<Bytes>>>,
    max_streams: usize,
    streams: Cell<usize>,
    idle_since: Cell<Instant>,
    /// A stream was answered on it, so its peer accepted us.
    proven: Cell<bool>,
    became_idle: Notify,
    /// The peer is leaving: what is kept for later must be kept elsewhere.
    going: Rc<Cell<bool>>,
}

/// Whether a peer is about to leave; what only waits for more work there should end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Going(Option<Rc<Cell<bool>>>);

impl Going {
    /// Whether it is.
    pub(crate) fn is_set(&self) -> bool {
        self.0.as_ref().is_some_and(|going| going.get())
    }
}

/// One stream's place on a link; given back when dropped.
pub(super) struct Slot(Rc<Link>);

/// A connection that has just been made.
pub(super) struct Fresh {
    pub(super) requests: SendRequest<Bytes>,
    pub(super) connection: Connection<TlsStream<Upstream>, Bytes>,
}

/// Whom to connect as, from where, to whom.
pub(super) struct Route {
    pub(super) from: Arc<Workload>,
    pub(super) netns: Netns,
    pub(super) to: Arc<Workload>,
    pub(super) address: SocketAddr,
}

/// A stream that could not be opened.
pub(super) struct Failure {
    pub(super) error: TunnelError,
    /// The peer never began to act on it, and was known to accept us: another link may do.
    pub(super) try_again: bool,
}

/// Makes a connection, within the time that the limits give.
pub(super) async fn establish(
    connector: &Connector,
    identities: &Identities,
    route: &Route,
    limits: &TunnelLimits,
) -> Result<Fresh, TunnelError> {
    let to = route.address;
    let attempt = async {
        let tcp = connector.connect(&route.netns, Leg::Tunnel, to).await;
        let tcp = tcp.map_err(|source| TunnelError::connect(to, source))?;
        let expected = std::slice::from_ref(&route.to.identity);
        let tls = identities
            .client(&route.from.identity, expected, Alpn::Hbone)?
            .connect(ServerName::IpAddress(to.ip().into()), tcp)
            .await
            .map_err(|source| TunnelError::tls(to, source))?;
        // The session may be a resumed one: its peer was verified then, its validity is now.
        identity::peer(tls.get_ref().1)?;
        if tls.get_ref().1.alpn_protocol() != Some(Alpn::Hbone.name()) {
            return Err(TunnelError::NotHbone { to });
        }
        let (requests, connection) = builder(limits)
            .handshake(tls)
            .await
            .map_err(TunnelError::from)?;
        Ok(Fresh {
            requests,
            connection,
        })
    };
    // Cancel-safe: whatever there is by then is dropped, and with it the socket.
    match tokio::time::timeout(limits.connect_timeout, Box::pin(attempt)).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => Err(TunnelError::ConnectTimeout {
            to,
            after: limits.connect_timeout,
        }),
    }
}

/// The rule for the windows: the connection's holds all streams' windows together. Then streams
/// whose readers stopped can fill their own windows and still not stall their neighbours.
fn builder(limits: &TunnelLimits) -> h2::client::Builder {
    let streams = u32::try_from(limits.max_streams).unwrap_or(u32::MAX);
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.stream_window.saturating_mul(streams).min(1 << 30))
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buffer_size(MAX_SEND_BUFFER)
        .data_frame_budget(SMALL_FRAME_BUDGET)
        .initial_max_send_streams(limits.max_streams);
    builder
}

impl Link {
    pub(super) fn new(
        key: Key,
        sequence: u64,
        pool: Weak<Pool>,
        requests: SendRequest<Bytes>,
        max_streams: usize,
    ) -> Rc<Self> {
        Rc::new(Self {
            key,
            sequence,
            pool,
            requests: RefCell::new(Some(requests)),
            max_streams,
            streams: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            proven: Cell::new(false),
            became_idle: Notify::new(),
            going: Rc::default(),
        })
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// A place for one more stream, if there is one.
    pub(super) fn slot(self: &Rc<Self>) -> Option<Slot> {
        let requests = self.requests.borrow();
        let peer_allows = requests.as_ref()?.current_max_send_streams();
        if self.streams.get() >= self.max_streams.min(peer_allows) {
            return None;
        }
        self.streams.set(self.streams.get() + 1);
        Some(Slot(Rc::clone(self)))
    }

    /// Takes no more streams; closes with the last one.
    pub(super) fn retire(&self) {
        if self.requests.take().is_some()
            && let Some(pool) = self.pool.upgrade()
        {
            pool.forget(self);
        }
    }

    /// Runs the connection until it ends: serves its streams, pings the peer, lets go when idle.
    pub(super) async fn run(
        self: Rc<Self>,
        mut connection: Connection<TlsStream<Upstream>, Bytes>,
        identities: Identities,
        limits: TunnelLimits,
        drain: Drain,
    ) {
        let Some(pings) = connection.ping_pong() else {
            return;
        };
        let mut keep_alive = KeepAlive::new(pings, limits.keep_alive);
        let mut connection = std::pin::pin!(connection);
        let mut draining = false;
        loop {
            // Each arm is cancel-safe: the connection and the keep-alive hold their own state.
            tokio::select! {
                ended = poll_fn(|context| {
                    let ended = connection.as_mut().poll(context);
                    self.note_going(context);
                    ended
                }) => {
                    if let Err(error) = ended {
                        tracing::debug!(to = %self.key.address, %error, "tunnel broke");
                    }
                    break;
                }
                pulse = keep_alive.next() => {
                    if pulse == Pulse::Silent {
                        tracing::info!(to = %self.key.address, "tunnel closed: its peer is silent");
                        break;
                    }
                    if self.is_stale(&identities) || self.is_idle_for(limits.idle_timeout) {
                        self.retire();
                    }
                }
                () = drain.requested(), if !draining => {
                    draining = true;
                    if self.is_idle_for(Duration::ZERO) {
                        self.retire();
                    }
                }
                () = self.became_idle.notified(), if draining => self.retire(),
            }
        }
        self.retire();
    }

    /// Looks whether the peer has said that it takes no more streams, right after what it sent
    /// was read.
    fn note_going(&self, context: &mut Context<'_>) {
        if self.going.get() {
            return;
        }
        let told = match &mut *self.requests.borrow_mut() {
            Some(requests) => matches!(requests.poll_ready(context), Poll::Ready(Err(_))),
            None => return,
        };
        if told {
            self.going.set(true);
            let pool = self.pool.upgrade();
            self.retire();
            if let Some(pool) = pool {
                pool.note_going();
            }
        }
    }

    fn is_idle_for(&self, long: Duration) -> bool {
        self.streams.get() == 0 && self.idle_since.get().elapsed() >= long
    }

    /// The source has another certificate by now.
    fn is_stale(&self, identities: &Identities) -> bool {
        identities.generation(&self.key.source) != self.key.generation
    }

    /// Judges what ended a stream before its answer.
    fn failure(&self, to: SocketAddr, error: h2::Error) -> Failure {
        let going = error.is_go_away() && error.is_remote();
        if going || error.is_io() {
            self.retire();
        }
        let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
        // A connection that broke before its first answer would most likely break again.
        let try_again = going || refused || (error.is_io() && self.proven.get());
        let error = match error.get_io().map(std::io::Error::kind) {
            // In TLS 1.3 a client learns only now that the server did not like its certificate.
            Some(kind) if !self.proven.get() => {
                TunnelError::tls(to, std::io::Error::new(kind, error.to_string()))
            }
            _ => TunnelError::from(error),
        };
        Failure { error, try_again }
    }
}

impl Slot {
    pub(super) fn link(&self) -> &Rc<Link> {
        &self.0
    }

    /// Whether the peer is about to leave.
    pub(super) fn going(&self) -> Going {
        Going(Some(Rc::clone(&self.0.going)))
    }

    /// Opens a stream to `authority` in this place, within the time that the limits give.
    pub(super) async fn connect(
        self,
        authority: SocketAddr,
        headers: &ConnectHeaders,
        limits: &TunnelLimits,
    ) -> Result<TunnelStream, Failure> {
        let link = Rc::clone(&self.0);
        // Cancel-safe: a stream that is dropped half-way is reset.
        match within(limits.response_timeout, self.request(authority, headers)).await {
            Some(outcome) => outcome,
            None => Err(Failure {
                error: TunnelError::ResponseTimeout {
                    to: link.key.address,
                    after: limits.response_timeout,
                },
                try_again: false,
            }),
        }
    }

    async fn request(
        self,
        authority: SocketAddr,
        headers: &ConnectHeaders,
    ) -> Result<TunnelStream, Failure> {
        let link = Rc::clone(&self.0);
        let to = link.key.address;
        let failed = |error| link.failure(to, error);
        let requests = link.requests.borrow().clone();
        let Some(requests) = requests else {
            // Retired between the choice and now: nothing was sent.
            return Err(Failure {
                error: TunnelError::Closed { to },
                try_again: true,
            });
        };
        let mut requests = requests.ready().await.map_err(failed)?;
        let request = connect_request(authority, headers);
        let (response, send) = requests.send_request(request, false).map_err(failed)?;
        drop(requests);
        let response = response.await.map_err(failed)?;
        link.proven.set(true);
        if response.status() != StatusCode::OK {
            let error = TunnelError::Refused(response.status());
            let try_again = false;
            return Err(Failure { error, try_again });
        }
        let baggage = response.headers().get("baggage").map(text);
        let receive = response.into_body();
        Ok(TunnelStream::new(Some(send), receive, baggage, Some(self)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let streams = self.0.streams.get() - 1;
        self.0.streams.set(streams);
        if streams == 0 {
            self.0.idle_since.set(Instant::now());
            self.0.became_idle.notify_one();
        }
    }
}

async fn within<F: Future>(time: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(time, future).await.ok()
}

/// CONNECT with nothing but an authority, as RFC 9113 section 8.5 has it.
fn connect_request(authority: SocketAddr, headers: &ConnectHeaders) -> Request<()> {
    let authority = authority.to_string();
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = Uri::builder()
        .authority(authority)
        .build()
        .expect("an address and a port are an authority");
    let trace = headers.traceparent.clone().unwrap_or_else(new_trace);
    for (name, value) in [
        ("baggage", headers.baggage.as_deref()),
        ("forwarded", headers.forwarded.as_deref()),
        ("traceparent", Some(trace.as_str())),
    ] {
        // What cannot be a header value is left out: these inform, nothing depends on them.
        if let Some(Ok(value)) = value.map(HeaderValue::from_str) {
            request.headers_mut().insert(name, value);
        }
    }
    request
}

/// A trace of its own: W3C Trace Context, version 00, not sampled.
fn new_trace() -> String {
    let (trace, span) = (fastrand::u128(1..), fastrand::u64(1..));
    format!("00-{trace:032x}-{span:016x}-00")
}

/// A header's value as text, whatever it holds.
pub(super) fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}
