// SPDX-License-Identifier: Apache-2.0

//! What a tunnel speaks, seen from the client: how a connection is made, and how streams are
//! opened on it. The mux, if the peer knows it, else HBONE.
//!
//! Owns TCP, TLS and the two protocols towards one pod. Knows nothing of pools.
//!
//! Invariant: a stream counts as opened when the peer's application was connected to, and not
//! before; no byte of it is sent earlier. So what was not opened may be tried elsewhere.
//! Reference: RFC 9113 sections 5.1.2, 6.8 and 8.5; ADR 11.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use http::{Method, Request, StatusCode, Uri, header::HeaderValue};
use rustls::pki_types::ServerName;
use tokio_rustls::client::TlsStream;

use super::{
    budgets::{Ledger, OfTunnels},
    bulk::{self, Moving, Name},
    hbone_stream::HboneStream,
    mux::{self, MuxError, MuxLimits, Unopened},
    tunnel::{ConnectHeaders, TunnelError, TunnelLimits},
    tunnel_keep_alive::Pings,
    tunnel_stream::Kind,
};
use crate::{
    datapath::{self, Connector, Leg, Netns, Upstream},
    identity::{Alpn, Identities, Seat, Side},
    model::Workload,
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

/// Whom to connect as, from where, to whom.
pub(super) struct Route {
    pub(super) from: Arc<Workload>,
    pub(super) netns: Netns,
    pub(super) to: Arc<Workload>,
    pub(super) address: SocketAddr,
    /// What is taken of, if it is counted.
    pub(super) budgets: Option<OfTunnels>,
}

/// A connection that has just been made.
pub(super) struct Fresh {
    pub(super) requests: Requests,
    pub(super) wire: Wire,
    /// Streams at once.
    pub(super) max_streams: usize,
    /// By which the peer knows the connection, if streams can be moved away from it.
    pub(super) name: Option<Name>,
    /// Its place among the live sessions: to be dropped with it.
    pub(super) seat: Seat,
}

/// Opens streams on a connection. Clones open them on the same.
#[derive(Clone)]
pub(super) enum Requests {
    Hbone(SendRequest<Bytes>),
    Mux(mux::Opener),
}

/// Runs a connection.
pub(super) enum Wire {
    Hbone(Box<Connection<TlsStream<Upstream>, Bytes>>),
    Mux(Box<mux::Driver<TlsStream<Upstream>>>),
}

/// Why a stream did not come about.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// The peer said no.
    Refused(StatusCode),
    Hbone(h2::Error),
    Mux {
        why: Unopened,
        /// The peer had accepted us.
        was_greeted: bool,
    },
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
        let _place = match &route.budgets {
            Some(budgets) => Some(budgets.handshakes.take().await),
            None => None,
        };
        let tcp = connector.connect(&route.netns, Leg::Tunnel, to).await;
        let tcp = tcp.map_err(|source| TunnelError::connect(to, source))?;
        let expected = std::slice::from_ref(&route.to.identity);
        let cutter =
            datapath::duplicate(&tcp).map_err(|source| TunnelError::connect(to, source))?;
        let tls = identities
            .client(&route.from.identity, expected, limits.alpn)?
            .connect(ServerName::IpAddress(to.ip().into()), tcp)
            .await
            .map_err(|source| TunnelError::tls(to, source))?;
        let session = tls.get_ref().1;
        // The session may be a resumed one: its peer was verified then, its validity is now.
        let seat = identities.seat(session, &route.from.identity, Side::Server, Some(cutter))?;
        let bytes = route.budgets.as_ref().map(|budgets| &budgets.bytes);
        match session.alpn_protocol().and_then(Alpn::of_name) {
            Some(Alpn::Mux) => Ok(mux_over(tls, seat, limits, bytes)),
            Some(Alpn::Hbone) => Box::pin(hbone_over(tls, seat, limits)).await,
            Some(Alpn::Bulk) | None => Err(TunnelError::NotHbone { to }),
        }
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

fn mux_over(
    tls: TlsStream<Upstream>,
    seat: Seat,
    limits: &TunnelLimits,
    bytes: Option<&Arc<Ledger>>,
) -> Fresh {
    // A session without a name serves as well; its streams stay on it.
    let name = bulk::name_of(tls.get_ref().1).ok();
    let own = MuxLimits {
        max_streams: limits.mux_streams,
        stream_window: limits.stream_window,
    };
    let (opener, driver) = mux::client(tls, own);
    if let Some(bytes) = bytes {
        driver.borrow_from(bytes);
    }
    Fresh {
        requests: Requests::Mux(opener),
        wire: Wire::Mux(Box::new(driver)),
        max_streams: limits.mux_streams,
        name,
        seat,
    }
}

async fn hbone_over(
    tls: TlsStream<Upstream>,
    seat: Seat,
    limits: &TunnelLimits,
) -> Result<Fresh, TunnelError> {
    let made = builder(limits).handshake(tls).await;
    let (requests, connection) = made.map_err(TunnelError::from)?;
    Ok(Fresh {
        requests: Requests::Hbone(requests),
        wire: Wire::Hbone(Box::new(connection)),
        max_streams: limits.max_streams,
        name: None,
        seat,
    })
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

impl Wire {
    /// The means to ping the peer, which can be taken once.
    pub(super) fn pings(&mut self) -> Option<Pings> {
        match self {
            Self::Hbone(connection) => connection.ping_pong().map(Pings::Hbone),
            Self::Mux(driver) => Some(Pings::Mux(driver.pings())),
        }
    }

    /// Ends a connection whose peer does not answer.
    pub(super) fn give_up(&self) {
        match self {
            Self::Hbone(_) => {}
            Self::Mux(driver) => driver.give_up(),
        }
    }

    /// Moves what can be moved; ready when the connection has ended.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), TunnelError>> {
        match self {
            Self::Hbone(connection) => Pin::new(&mut **connection)
                .poll(context)
                .map_err(TunnelError::from),
            Self::Mux(driver) => driver.poll(context).map_err(TunnelError::Mux),
        }
    }
}

impl Requests {
    /// Whether the peer takes a stream besides the `taken` ones.
    pub(super) fn has_place(&self, taken: usize) -> bool {
        match self {
            Self::Hbone(requests) => taken < requests.current_max_send_streams(),
            Self::Mux(opener) => opener.has_place(taken),
        }
    }

    /// Whether the peer has said that it takes no more streams.
    pub(super) fn is_going(&mut self, context: &mut Context<'_>) -> bool {
        match self {
            Self::Hbone(requests) => matches!(requests.poll_ready(context), Poll::Ready(Err(_))),
            Self::Mux(opener) => opener.is_going(),
        }
    }

    /// No more streams will be opened: the connection may end with the last one.
    pub(super) fn close(&self) {
        match self {
            // Ends when the last of these is dropped.
            Self::Hbone(_) => {}
            Self::Mux(opener) => opener.close(),
        }
    }

    /// Opens a stream to `authority`; gives the peer's baggage, too. Cancel-safe: a stream that
    /// is dropped half-way is reset.
    pub(super) async fn open(
        self,
        authority: SocketAddr,
        headers: &ConnectHeaders,
    ) -> Result<(Kind, Option<String>), Unanswered> {
        match self {
            Self::Hbone(requests) => hbone_stream(requests, authority, headers).await,
            Self::Mux(opener) => {
                let trace = headers.traceparent.clone().unwrap_or_else(new_trace);
                let open = mux::Open {
                    window: 0,
                    authority,
                    forwarded: headers.forwarded.clone(),
                    baggage: headers.baggage.clone(),
                    traceparent: Some(trace),
                };
                match opener.open(open).await {
                    Ok((stream, baggage)) => {
                        Ok((Kind::Mux(Box::new(Moving::new(stream))), baggage))
                    }
                    Err(Unopened::Refused(status)) => Err(Unanswered::Refused(status)),
                    Err(why) => Err(Unanswered::Mux {
                        why,
                        was_greeted: opener.is_greeted(),
                    }),
                }
            }
        }
    }
}

async fn hbone_stream(
    requests: SendRequest<Bytes>,
    authority: SocketAddr,
    headers: &ConnectHeaders,
) -> Result<(Kind, Option<String>), Unanswered> {
    let mut requests = requests.ready().await.map_err(Unanswered::Hbone)?;
    let request = connect_request(authority, headers);
    let sent = requests.send_request(request, false);
    let (response, send) = sent.map_err(Unanswered::Hbone)?;
    drop(requests);
    let response = response.await.map_err(Unanswered::Hbone)?;
    if response.status() != StatusCode::OK {
        return Err(Unanswered::Refused(response.status()));
    }
    let baggage = response.headers().get("baggage").map(text);
    let stream = HboneStream::new(Some(send), response.into_body());
    Ok((Kind::Hbone(stream), baggage))
}

impl Unanswered {
    /// The peer itself said so: then it has accepted us.
    pub(super) fn is_answer(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            Self::Hbone(_) => false,
            Self::Mux { was_greeted, .. } => *was_greeted,
        }
    }

    /// The peer takes no more streams.
    pub(super) fn is_going(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Mux { .. } => false,
            Self::Hbone(error) => error.is_go_away() && error.is_remote(),
        }
    }

    /// The connection is gone.
    pub(super) fn is_io(&self) -> bool {
        match self {
            Self::Refused(_) => false,
            Self::Hbone(error) => error.is_io(),
            Self::Mux { why, .. } => matches!(
                why,
                Unopened::Broken(MuxError::Io(_) | MuxError::Ended | MuxError::Closed)
            ),
        }
    }

    /// The peer did not act on it, and says so.
    pub(super) fn is_untouched(&self) -> bool {
        match self {
            Self::Refused(_) => false,
            Self::Hbone(error) => {
                self.is_going() || error.reason() == Some(h2::Reason::REFUSED_STREAM)
            }
            Self::Mux { why, .. } => matches!(why, Unopened::NotActedOn),
        }
    }

    /// The error for whoever wanted the stream to `to`, whose peer was `proven` to accept us.
    pub(super) fn into_error(self, to: SocketAddr, proven: bool) -> TunnelError {
        match self {
            Self::Refused(status) => TunnelError::Refused(status),
            // In TLS 1.3 a client learns only now that the server did not like its certificate.
            Self::Hbone(error) if !proven && error.is_io() => {
                let kind = error
                    .get_io()
                    .map_or(std::io::ErrorKind::Other, |io| io.kind());
                TunnelError::tls(to, std::io::Error::new(kind, error.to_string()))
            }
            Self::Hbone(error) => TunnelError::from(error),
            Self::Mux { why, .. } => match why {
                Unopened::Refused(status) => TunnelError::Refused(status),
                Unopened::NotActedOn => TunnelError::Closed { to },
                Unopened::Broken(MuxError::Io(error)) if !proven => {
                    TunnelError::tls(to, std::io::Error::new(error.kind(), error.to_string()))
                }
                Unopened::Broken(error) => TunnelError::Mux(error),
            },
        }
    }
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
