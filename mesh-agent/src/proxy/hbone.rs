// SPDX-License-Identifier: Apache-2.0

//! The server's end of tunnels: a connection to port 15008 of a pod, and the streams in it.
//!
//! Owns TLS, HTTP/2 and the form of requests; the mux, where the peer asks for it, is a module of
//! its own. Who may talk to whom, and to which application,
//! decides whoever gets the [`ConnectRequest`]s.
//!
//! Invariant: no request is handed on before the peer proved whom it is; a request that is
//! dropped unanswered is reset. Reference: RFC 9113 sections 5.2, 6.8, 8.5
//! and 10.5; ADR 11.

use std::{
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use h2::{
    RecvStream,
    server::{Connection, SendResponse},
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::OwnedSemaphorePermit,
};
use tokio_rustls::server::TlsStream;

mod limits;

pub use self::limits::HboneLimits;
pub use super::bulk::{BulkSessions, Portable};
use super::{
    budgets::{Ledger, Permit},
    bulk::{self, Arrival, Moving, Name},
    hbone_stream::HboneStream,
    mux::{self, MuxError, MuxLimits},
    stream::Prefixed,
    tunnel_keep_alive::{Cue, KeepAlive, Pings, Pulse},
    tunnel_stream::{Kind, TunnelStream},
    tunnel_wire::{SMALL_FRAME_BUDGET, text},
    turns,
};
use crate::{
    identity::{self, Alpn, Identities, IdentityError, Seat, Side},
    model::{SpiffeId, Workload},
    tasks::Drain,
};

/// What a peer may send in one frame.
const MAX_FRAME: u32 = 64 * 1024;

/// What h2 holds per stream on its way out.
const MAX_SEND_BUFFER: usize = 256 * 1024;

/// Streams that a peer may reset before we looked at them, before it is an attack (CVE-2023-44487).
const MAX_UNSEEN_RESETS: usize = 100;

/// Streams that we had to reset for a peer's mistakes, before it is an attack.
const MAX_ERROR_RESETS: usize = 256;

/// A client that was asked to close an idle mux, and does not within so many beats of the
/// keep-alive, is closed.
const MOST_IDLE_BEATS: u32 = 3;

/// Why a tunnel ended otherwise than in order.
#[derive(Debug, thiserror::Error)]
pub enum HboneError {
    /// We have no certificate, or the peer is not who it must be.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// TLS failed.
    #[error("mutual TLS")]
    Tls(#[source] std::io::Error),
    /// The peer agreed neither on HTTP/2 nor on the mux.
    #[error("the peer did not offer h2")]
    NotHbone,
    /// TLS and HTTP/2 took too long.
    #[error("no tunnel within {0:?}")]
    HandshakeTimeout(Duration),
    /// HTTP/2 broke.
    #[error("tunnel protocol")]
    Protocol(#[source] h2::Error),
    /// The mux broke.
    #[error(transparent)]
    Mux(#[from] MuxError),
    /// The peer did not answer pings.
    #[error("the peer is silent")]
    Silent,
}

/// A peer wants a stream to `authority`.
#[derive(Debug)]
pub struct ConnectRequest {
    /// Whom the peer proved to be.
    pub peer: SpiffeId,
    /// Where the stream is to go.
    pub authority: SocketAddr,
    /// The client's address and the service it asked for, as the peer says.
    pub forwarded: Option<String>,
    /// The source workload, as the peer says.
    pub baggage: Option<String>,
    /// The trace that the stream belongs to, as the peer says.
    pub traceparent: Option<String>,
    answer: Answer,
}

/// What a request is answered on.
#[derive(Debug)]
enum Answer {
    Hbone(Box<(RecvStream, SendResponse<Bytes>)>),
    Mux(mux::Incoming),
}

impl ConnectRequest {
    /// Accepts the stream; `baggage` tells the peer about the local workload.
    ///
    /// If the peer gave up meanwhile, the first use of the stream says so.
    pub fn accept(self, baggage: impl AsRef<str>) -> TunnelStream {
        let told = baggage.as_ref();
        let bytes = match self.answer {
            Answer::Mux(incoming) => {
                let told = (!told.is_empty()).then(|| told.to_owned());
                Kind::Mux(Box::new(Moving::new(incoming.accept(told))))
            }
            Answer::Hbone(answer) => {
                let (body, mut respond) = *answer;
                let mut response = Response::new(());
                if let Ok(value) = HeaderValue::from_str(told)
                    && !value.is_empty()
                {
                    response.headers_mut().insert("baggage", value);
                }
                let send = respond.send_response(response, false).ok();
                Kind::Hbone(HboneStream::new(send, body))
            }
        };
        TunnelStream::new(bytes, self.baggage, None)
    }

    /// Answers `status`. `reason` is for our log, not for the peer.
    pub fn refuse(self, status: StatusCode, reason: &str) {
        tracing::debug!(peer = %self.peer, authority = %self.authority, %status, reason, "stream refused");
        match self.answer {
            Answer::Mux(incoming) => incoming.refuse(status),
            Answer::Hbone(mut answer) => answer_with(&mut answer.1, status),
        }
    }
}

/// Serves one accepted connection until it ends, by `alpn` if the peer offers it. `on_connect` gets each request, and carries it
/// out in a task of its own: the connection stands still while it runs. When the agent leaves or
/// drains the peer is told to open no more streams; live ones finish.
///
/// # Errors
/// If the peer is not let in, or the tunnel broke; streams saw that, too.
pub async fn serve<Io>(
    io: Io,
    local: &Arc<Workload>,
    identities: &Identities,
    alpn: Alpn,
    around: Around,
    on_connect: impl Fn(ConnectRequest),
) -> Result<(), HboneError>
where
    Io: Portable + 'static,
{
    let limits = HboneLimits {
        alpn,
        ..HboneLimits::default()
    };
    serve_with(&limits, io, local, identities, around, on_connect).await
}

/// [`serve`], with other limits.
///
/// # Errors
/// As [`serve`].
pub async fn serve_with<Io>(
    limits: &HboneLimits,
    io: Io,
    local: &Arc<Workload>,
    identities: &Identities,
    around: Around,
    on_connect: impl Fn(ConnectRequest),
) -> Result<(), HboneError>
where
    Io: Portable + 'static,
{
    let Around {
        drain,
        sessions,
        handshake,
        bytes,
    } = around;
    let accepting = accept(limits, io, &local.identity, identities);
    let accepted = Box::pin(async {
        match &handshake {
            Some(Handshake { address, .. }) => turns::of_address(*address, accepting).await,
            None => accepting.await,
        }
    });
    // Cancel-safe: what there is of a session is dropped, and with it the socket.
    let accepted = tokio::time::timeout(limits.handshake_timeout, accepted).await;
    let accepted =
        accepted.map_err(|_elapsed| HboneError::HandshakeTimeout(limits.handshake_timeout))??;
    drop(handshake);
    match accepted {
        Accepted::Hbone(seat, connection) => {
            let peer = seat.peer();
            let served = serve_hbone(limits, peer.clone(), connection, drain, on_connect);
            turns::of(peer, Box::pin(served)).await
        }
        Accepted::Mux(seat, name, driver) => {
            let peer = seat.peer();
            let mut offers = sessions.register(name);
            if let Some(bytes) = bytes {
                driver.borrow_from(&bytes);
            }
            let attacher = driver.attacher();
            let moves = offers.settle(&attacher, &local.identity, peer);
            let served = serve_mux(limits, peer.clone(), driver, drain, on_connect);
            // Cancel-safe: the first ends only with the other, and nothing is lost with it.
            let all = async {
                tokio::select! {
                    () = Box::pin(moves) => Ok(()),
                    served = Box::pin(served) => served,
                }
            };
            turns::of(peer, all).await
        }
        Accepted::Bulk(arrival) => sessions.serve(*arrival).await.map_err(HboneError::Tls),
    }
}

/// What a connection is served within.
pub struct Around {
    /// When to ask the peer to leave.
    pub drain: Drain,
    /// Where the streams of other connections are found.
    pub sessions: BulkSessions,
    /// What lets the handshake begin, if that is for others to say.
    pub(crate) handshake: Option<Handshake>,
    /// What lends its streams what they may hold, if that is counted.
    pub(crate) bytes: Option<Arc<Ledger>>,
}

/// Holds the place of a handshake that is under way.
#[derive(Debug)]
pub(crate) struct Handshake {
    /// Whose turn it is meanwhile.
    address: IpAddr,
    _permit: Permit,
    _among_its_own: OwnedSemaphorePermit,
}

impl Handshake {
    /// The place of one from `address`, among all and among its own.
    pub(crate) fn new(
        address: IpAddr,
        permit: Permit,
        among_its_own: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            address,
            _permit: permit,
            _among_its_own: among_its_own,
        }
    }
}

async fn serve_hbone<Io>(
    limits: &HboneLimits,
    peer: SpiffeId,
    mut connection: Box<Connection<TlsStream<Prefixed<Io>>, Bytes>>,
    drain: Drain,
    on_connect: impl Fn(ConnectRequest),
) -> Result<(), HboneError>
where
    Io: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let Some(pings) = connection.ping_pong() else {
        return Ok(());
    };
    let keep_alive = KeepAlive::new(Pings::Hbone(pings), limits.keep_alive);
    let mut cues = keep_alive.cues(async move { drain.leaving().await });
    loop {
        // Each arm is cancel-safe: connection and cues hold their own state.
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    hand_on(peer.clone(), request, respond, &on_connect);
                }
                Some(Err(error)) => return Err(HboneError::Protocol(error)),
                None => return Ok(()),
            },
            Some(cue) = cues.next() => match cue {
                Cue::Pulse(Pulse::Silent) => return Err(HboneError::Silent),
                Cue::Pulse(Pulse::Beat) => {}
                Cue::Leave => connection.graceful_shutdown(),
            },
        }
    }
}

async fn serve_mux<Io>(
    limits: &HboneLimits,
    peer: SpiffeId,
    mut driver: Box<mux::Driver<TlsStream<Prefixed<Io>>>>,
    drain: Drain,
    on_connect: impl Fn(ConnectRequest),
) -> Result<(), HboneError>
where
    Io: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let keep_alive = KeepAlive::new(Pings::Mux(driver.pings()), limits.keep_alive);
    let mut cues = keep_alive.cues(async move { drain.leaving().await });
    let (mut leaving, mut idle_beats) = (false, 0);
    loop {
        // Each arm is cancel-safe: driver and cues hold their own state.
        tokio::select! {
            ended = poll_fn(|context| {
                let ended = driver.poll(context);
                while let Some(incoming) = driver.arrival() {
                    on_connect(ConnectRequest::of_mux(peer.clone(), incoming));
                }
                ended
            }) => return Ok(ended?),
            Some(cue) = cues.next() => match cue {
                Cue::Pulse(Pulse::Silent) => {
                    driver.give_up();
                    return Err(HboneError::Silent);
                }
                Cue::Pulse(Pulse::Beat) if leaving && driver.is_idle() => {
                    // Who was asked to close has had time to.
                    idle_beats += 1;
                    if idle_beats >= MOST_IDLE_BEATS {
                        return Ok(());
                    }
                }
                Cue::Pulse(Pulse::Beat) => idle_beats = 0,
                Cue::Leave => {
                    leaving = true;
                    driver.close();
                }
            },
        }
    }
}

/// A connection whose peer is known, by what it speaks.
enum Accepted<Io> {
    Hbone(Seat, Box<Connection<TlsStream<Prefixed<Io>>, Bytes>>),
    Mux(Seat, Name, Box<mux::Driver<TlsStream<Prefixed<Io>>>>),
    /// For a stream of another connection.
    Bulk(Box<Arrival>),
}

async fn accept<Io: Portable>(
    limits: &HboneLimits,
    mut io: Io,
    local: &SpiffeId,
    identities: &Identities,
) -> Result<Accepted<Io>, HboneError> {
    identities.first(local, limits.handshake_timeout).await;
    let acceptor = identities.server(local, limits.alpn)?;
    let mut read = Bytes::new();
    if limits.alpn == Alpn::Mux {
        let hello = bulk::hello(&mut io).await.map_err(HboneError::Tls)?;
        if hello.is_bulk {
            let config = Arc::clone(acceptor.config());
            let greeted = Box::pin(bulk::greet(io, config, hello.bytes, local, identities)).await;
            return Ok(Accepted::Bulk(Box::new(greeted.map_err(refused)?)));
        }
        read = hello.bytes.into();
    }
    let cutter = io.cutter().map_err(HboneError::Tls)?;
    let tls = acceptor.accept(Prefixed::new(read, io)).await;
    let tls = tls.map_err(refused)?;
    let session = tls.get_ref().1;
    let seat = identities.seat(session, local, Side::Client, cutter)?;
    match session.alpn_protocol().and_then(Alpn::of_name) {
        Some(Alpn::Mux) => {
            let name = bulk::name_of(session)
                .map_err(|error| HboneError::Tls(std::io::Error::other(error)))?;
            let own = MuxLimits {
                max_streams: limits.mux_streams,
                stream_window: limits.stream_window,
            };
            Ok(Accepted::Mux(seat, name, Box::new(mux::server(tls, own))))
        }
        Some(Alpn::Hbone) => {
            let connection = builder(limits).handshake(tls).await;
            let connection = connection.map_err(HboneError::Protocol)?;
            Ok(Accepted::Hbone(seat, Box::new(connection)))
        }
        Some(Alpn::Bulk) | None => Err(HboneError::NotHbone),
    }
}

/// TLS that did not come about; a peer that is not let in is told apart.
fn refused(error: std::io::Error) -> HboneError {
    match identity::refusal(&error) {
        Some(refusal) => HboneError::Identity(refusal.into()),
        None => HboneError::Tls(error),
    }
}

impl ConnectRequest {
    fn of_mux(peer: SpiffeId, mut incoming: mux::Incoming) -> Self {
        let open = &mut incoming.open;
        Self {
            peer,
            authority: open.authority,
            forwarded: open.forwarded.take(),
            baggage: open.baggage.take(),
            traceparent: open.traceparent.take(),
            answer: Answer::Mux(incoming),
        }
    }
}

/// The rule for the windows is the client's: the connection's holds all streams' together.
pub(super) fn builder(limits: &HboneLimits) -> h2::server::Builder {
    let window = limits.stream_window.saturating_mul(limits.max_streams);
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(window.min(1 << 30))
        .max_frame_size(MAX_FRAME)
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(limits.max_header_list)
        .max_send_buffer_size(MAX_SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_UNSEEN_RESETS)
        .max_local_error_reset_streams(Some(MAX_ERROR_RESETS))
        .data_frame_budget(SMALL_FRAME_BUDGET);
    builder
}

/// Hands a well-formed CONNECT on, answers 400 to anything else.
pub(super) fn hand_on(
    peer: SpiffeId,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    on_connect: &impl Fn(ConnectRequest),
) {
    let authority = match (request.method(), request.uri().authority()) {
        (&Method::CONNECT, Some(authority)) => authority.as_str().parse::<SocketAddr>().ok(),
        _ => None,
    };
    let Some(authority) = authority else {
        tracing::debug!(%peer, method = %request.method(), uri = %request.uri(), "not a CONNECT to an address");
        answer_with(&mut respond, StatusCode::BAD_REQUEST);
        return;
    };
    let (parts, body) = request.into_parts();
    on_connect(ConnectRequest {
        peer,
        authority,
        forwarded: header(&parts.headers, "forwarded"),
        baggage: header(&parts.headers, "baggage"),
        traceparent: header(&parts.headers, "traceparent"),
        answer: Answer::Hbone(Box::new((body, respond))),
    });
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(text)
}

fn answer_with(respond: &mut SendResponse<Bytes>, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    // A peer that gave up meanwhile does not need the answer.
    drop(respond.send_response(response, true));
}

#[cfg(test)]
mod tests;
