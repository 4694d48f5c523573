// SPDX-License-Identifier: Apache-2.0

//! The client's side of HTTP: requests come in, are decided about once, and get an answer.
//!
//! Knows nothing of how an endpoint is reached. Invariant: every request is answered exactly
//! once, or its connection ends so that the client knows that it was not.
//! References: RFC 9110, RFC 9112, RFC 9113; Istio's codes and flags for our own answers.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Instant,
};

use bytes::Bytes;
use futures_util::TryFutureExt as _;
use http::{
    HeaderValue, Request, Response, StatusCode, Version,
    header::{
        CONNECTION, CONTENT_TYPE, LOCATION, RETRY_AFTER, TRANSFER_ENCODING, WWW_AUTHENTICATE,
    },
    request,
};
use hyper::{body::Incoming, server::conn, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
};

use super::{
    Http1Engine, Outcome,
    client_stream::ClientStream,
    connection::Connection,
    copy::Abort,
    head_clock::HeadClock,
    http_body::{ReplyBody, RequestBody, Streaming},
    http_choice,
    http_decide::{self, Way},
    http_ending::ClientEnd,
    http_envoy,
    http_exchange::{Exchange, Front},
    http_forward::{self, Answer},
    http_headers, http_treated,
    http_upgrade::{self, Switched},
    http_upstream::{CONNECTION_WINDOW, Local, STREAM_WINDOW},
    http1,
    http2_heads::Watched,
    sniff::First,
    stream::{self, Prefixed},
};
use crate::model::{HeaderEdits, Service};

/// How many requests of one HTTP/2 connection may be under way.
const MAX_STREAMS: u32 = 1024;

/// What of an answer may wait for a client of HTTP/2 that does not read, per request.
const MAX_SEND_BUFFER: usize = 64 * 1024;

/// How large the headers of an HTTP/2 request may be.
const MAX_HEADER_BYTES: u32 = 64 * 1024;

/// How large a head of HTTP/1 may be, and what of an answer may wait for its client.
const MAX_HTTP1_BUFFER: usize = 64 * 1024;

/// What a client gets whose head takes too long, in Envoy's words.
pub(super) const TOO_LATE: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain\r\n\
    content-length: 22\r\nconnection: close\r\n\r\nrequest header timeout";

/// The client has ended its side, and the endpoint gave no answer.
#[derive(Debug, thiserror::Error)]
#[error("the client went away")]
pub(super) struct ClientLeft;

/// Serves HTTP to a client whose first bytes were judged to be `first`; without a `service` each
/// request says whose it is.
pub(crate) async fn serve(
    connection: Rc<Connection>,
    client: Prefixed<ClientStream>,
    service: Option<Arc<Service>>,
    first: First,
) {
    let pool = connection.thread.pools.of(&connection.pod.workload.uid);
    let front = Rc::new(Front {
        connection,
        service,
        pool,
        own_pool: std::cell::OnceCell::new(),
        waiting: Rc::default(),
        truncated: std::cell::Cell::default(),
        switched: std::cell::Cell::default(),
        inbound: None,
    });
    match first {
        First::Http2 => Box::pin(serve_http2(front, client)).await,
        First::Http1 | First::Opaque | First::Undecided => {
            let engine = match &front.service {
                Some(_) => front.connection.thread.shared.http1,
                None => Http1Engine::Hyper,
            };
            match engine {
                Http1Engine::Fast => http1::serve(front, client).await,
                Http1Engine::Hyper => Box::pin(serve_http1(front, client)).await,
            }
        }
    }
}

/// Serves HTTP/1 to a client by hyper, whatever it sends.
pub(crate) async fn serve_http1<Client>(front: Rc<Front>, client: Prefixed<Client>)
where
    Client: AsyncRead + AsyncWrite + Abort + Unpin + 'static,
{
    let service = {
        let front = Rc::clone(&front);
        service_fn(move |request| accept(&front, request))
    };
    let client = ClientEnd::new(client, Rc::clone(&front.waiting));
    let (mut clock, mut late) = (head_clock(&front), false);
    let mut serving = conn::http1::Builder::new()
        .preserve_header_case(true)
        .auto_date_header(false)
        .max_buf_size(MAX_HTTP1_BUFFER)
        .serve_connection(TokioIo::new(client), service);
    let ended = {
        let mut drain = pin!(front.connection.thread.drain.requested());
        let mut draining = false;
        poll_fn(|context| {
            if !draining && drain.as_mut().poll(context).is_ready() {
                draining = true;
                Pin::new(&mut serving).graceful_shutdown();
            }
            let served = Pin::new(&mut serving).poll(context);
            late = served.is_pending() && clock.poll(front.waiting.head(), context).is_ready();
            if late { Poll::Ready(Ok(())) } else { served }
        })
        .await
    };
    let parts = serving.into_parts();
    let client = parts.io.into_inner().into_inner();
    if let Err(error) = ended {
        tracing::debug!(peer = %front.connection.peer, %error, "http/1 connection ended");
    }
    if let Some(switched) = front.switched.take() {
        Box::pin(http_upgrade::run(client, parts.read_buf, switched)).await;
    } else if front.truncated.get() {
        client.abort();
    } else if late {
        tracing::debug!(peer = %front.connection.peer, "head of a request did not come in time");
        stream::part(client, TOO_LATE).await;
    } else {
        stream::linger(client).await;
    }
}

/// Serves HTTP/2 to a client by hyper.
pub(crate) async fn serve_http2<Client>(front: Rc<Front>, client: Prefixed<Client>)
where
    Client: AsyncRead + AsyncWrite + Abort + Unpin + 'static,
{
    let tasks = front.connection.thread.shared.tasks.clone();
    let service = {
        let front = Rc::clone(&front);
        service_fn(move |request| accept(&front, request))
    };
    let client = Watched::new(client);
    let (mut clock, place) = (head_clock(&front), client.place());
    let mut serving = conn::http2::Builder::new(Local(tasks))
        .auto_date_header(false)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .serve_connection(TokioIo::new(client), service);
    // GOAWAY costs a client nothing: what it sent before it saw that is answered.
    let mut leave = pin!(front.connection.thread.drain.leaving());
    let mut leaving = false;
    let ended = poll_fn(|context| {
        if !leaving && leave.as_mut().poll(context).is_ready() {
            leaving = true;
            Pin::new(&mut serving).graceful_shutdown();
        }
        let served = Pin::new(&mut serving).poll(context);
        if served.is_pending() && clock.poll(place.begun(), context).is_ready() {
            // Nothing that follows can be read, so it ends as it is.
            tracing::debug!(peer = %front.connection.peer, "frame of http/2 did not come in time");
            return Poll::Ready(Ok(()));
        }
        served
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(peer = %front.connection.peer, %error, "http/2 connection ended");
    }
}

/// A clock for the heads of a client's requests.
fn head_clock(front: &Front) -> HeadClock {
    HeadClock::new(front.connection.thread.shared.head_time)
}

/// Takes a request in, so that what the client does next is seen as behind it.
pub(super) fn accept(
    front: &Rc<Front>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<ReplyBody>, ClientLeft>> + use<> {
    let (mut head, body) = request.into_parts();
    http_headers::normalize(&mut head.uri, front.path_normalization());
    let (body, progress) = RequestBody::new(body, &front.waiting);
    front.waiting.begin(progress.clone());
    let exchange = Exchange::begin(front, &head, progress);
    let answering = handle(Rc::clone(front), exchange, head, body);
    let front = Rc::clone(front);
    // An `async` block would keep room for it twice.
    answering.map_ok(move |mut response| {
        let_go(&front, &mut response);
        response
    })
}

/// Tells an HTTP/1 client of an agent that leaves that this was the last response here. To close
/// a connection that idles would lose the request that is on its way at that moment.
fn let_go(front: &Front, response: &mut Response<ReplyBody>) {
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if front.connection.thread.drain.is_leaving()
        && response.version() != Version::HTTP_2
        && !switches
    {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
}

/// Whether a request may go on that nobody has looked at yet.
fn admit(exchange: &Exchange, head: &request::Parts) -> Result<(), Outcome> {
    exchange.admit()?;
    match http_headers::unsupported(head) {
        Some(what) => Err(Outcome::Unsupported(what)),
        None => Ok(()),
    }
}

/// Answers one request.
async fn handle(
    front: Rc<Front>,
    mut exchange: Box<Exchange>,
    mut head: request::Parts,
    mut body: RequestBody,
) -> Result<Response<ReplyBody>, ClientLeft> {
    if let Err(outcome) = admit(&exchange, &head) {
        return Ok(refuse(exchange, outcome));
    }
    let decided = match &front.inbound {
        Some(inbound) => inbound.decide(&mut exchange, &mut head, &mut body).await,
        None => http_decide::decide(exchange.port().as_deref(), &mut exchange, &head.headers),
    };
    let mut way = match decided {
        Ok(way) => way,
        // It broke off what policy had to see: there is nobody to answer.
        Err(Outcome::ClientGone) => return Err(ClientLeft),
        Err(outcome) => return Ok(refuse(exchange, outcome)),
    };
    if let Some(treatment) = &way.treatment
        && let Err(outcome) = Box::pin(http_treated::before(&mut exchange, treatment, &head)).await
    {
        return Ok(refuse(exchange, outcome));
    }
    let switch = pass_on(&exchange, &mut head, &mut way);
    let Way {
        cluster,
        timeout,
        edits,
        treatment,
        ..
    } = way;
    let request = outgoing(head, body);
    let deadline = timeout.map(|timeout| tokio::time::Instant::from_std(Instant::now() + timeout));
    let answer = {
        // In one place: moved into a timeout, it would be there twice.
        let mut forward = pin!(async {
            let (front, exchange) = (&front, &mut exchange);
            match &treatment {
                None => http_forward::forward(front, exchange, &cluster, request, switch).await,
                Some(treatment) => {
                    let to = (&*cluster, request);
                    Box::pin(http_treated::send(front, exchange, to, switch, treatment)).await
                }
            }
        });
        match deadline {
            None => Ok(forward.await),
            // Cancel-safe: what is given up is the whole exchange with the endpoint.
            Some(deadline) => tokio::time::timeout_at(deadline, forward.as_mut()).await,
        }
    };
    let answer = answer.unwrap_or_else(|_elapsed| {
        http_choice::too_slow(&exchange, &cluster);
        Err(Outcome::TimedOut)
    });
    match answer {
        Ok(answer) => Ok(reply(&front, exchange, answer, edits.as_deref(), deadline)),
        // The endpoint gave up because the client has: there is nobody to answer.
        Err(Outcome::UpstreamGone(_)) if front.waiting.has_ended() => Err(ClientLeft),
        Err(outcome) => Ok(refuse(exchange, outcome)),
    }
}

/// Makes of a head what goes on; whether it asks for another protocol.
fn pass_on(exchange: &Exchange, head: &mut request::Parts, way: &mut Way) -> bool {
    let has_protocol = || head.headers.contains_key(http_envoy::PROTOCOL);
    let said = http_envoy::request(exchange, way, has_protocol);
    if let Some(rewritten) = way.rewritten.take() {
        http_headers::rewrite(head, *rewritten);
    }
    http_headers::use_origin_form(head);
    let switch = http_headers::clean_request(&mut head.headers);
    exchange.made.apply(&mut head.headers);
    said.apply_request(&mut head.headers);
    if let Some(edits) = &way.edits {
        edits.apply_request(&mut head.headers);
    }
    switch
}

/// The request as it goes on.
fn outgoing(head: request::Parts, mut body: RequestBody) -> Request<RequestBody> {
    let waits = http_headers::expects_continue(&head.headers) && !body.is_empty();
    if !waits {
        return Request::from_parts(head, body);
    }
    let wanted = Arc::new(Notify::new());
    body.hold(Arc::clone(&wanted));
    let mut request = Request::from_parts(head, body);
    hyper::ext::on_informational(&mut request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            wanted.notify_one();
        }
    });
    request
}

/// The endpoint's answer as it goes back.
fn reply(
    front: &Front,
    mut exchange: Box<Exchange>,
    answer: Answer,
    edits: Option<&HeaderEdits>,
    deadline: Option<tokio::time::Instant>,
) -> Response<ReplyBody> {
    let (mut head, body) = answer.response.into_parts();
    exchange.answered(head.status);
    exchange.note_grpc(&head.headers);
    head.version = exchange.version;
    if let Some(upstream) = answer.switching {
        http_headers::clean_switching(&mut head.headers);
        http_treated::keep_session(&mut exchange, &mut head.headers);
        front.switched.set(Some(Switched { exchange, upstream }));
        return Response::from_parts(head, ReplyBody::own(Bytes::new(), None));
    }
    http_headers::clean_response(&mut head.headers, exchange.version);
    if exchange.version == Version::HTTP_2 {
        head.headers.remove(TRANSFER_ENCODING);
    }
    http_envoy::answer(&exchange).apply_response(&mut head.headers);
    if let Some(edits) = edits {
        edits.apply_response(&mut head.headers);
    }
    http_treated::keep_session(&mut exchange, &mut head.headers);
    http_treated::mark(&mut exchange, &mut head.headers);
    let streaming = Streaming {
        body,
        exchange,
        lease: answer.lease,
        deadline: deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline))),
    };
    Response::from_parts(head, ReplyBody::Streaming(Box::new(streaming)))
}

/// Our own answer: in gRPC's form to gRPC, else in Envoy's words.
fn refuse(mut exchange: Box<Exchange>, outcome: Outcome) -> Response<ReplyBody> {
    let (status, text, grpc) = (outcome.status(), outcome.body(), outcome.grpc());
    let (mut redirected, mut whole, mut challenge) = (None, None, None);
    let retry_after = outcome.retry_after();
    match &outcome {
        Outcome::Redirected {
            location, edits, ..
        } => redirected = Some((location.clone(), edits.clone())),
        Outcome::Answered(answer) => whole = Some(Arc::clone(answer)),
        Outcome::Unauthenticated(refusal) => challenge = Some(refusal.challenge.clone()),
        _ => {}
    }
    let rejection = match &outcome {
        Outcome::Rejected(rejection) => Some(Arc::clone(rejection)),
        _ => None,
    };
    exchange.end(outcome);
    let mut response = plain(&mut exchange, status, text.into_owned(), grpc);
    if let Some((location, edits)) = redirected {
        response.headers_mut().insert(LOCATION, location);
        if let Some(edits) = edits {
            edits.apply_response(response.headers_mut());
        }
    }
    if let Some(challenge) = challenge {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    if let Some(seconds) = retry_after {
        let seconds = HeaderValue::from(seconds);
        response.headers_mut().insert(RETRY_AFTER, seconds);
    }
    if let Some(answer) = whole {
        http_treated::answer(&answer, &mut response, exchange.is_grpc);
    }
    if let Some(rejection) = rejection {
        http_treated::reject(&rejection, &mut response, exchange.is_grpc);
    }
    http_treated::mark(&mut exchange, response.headers_mut());
    exchange.status = response.status().as_u16();
    *response.version_mut() = exchange.version;
    if let ReplyBody::Own { exchange: slot, .. } = response.body_mut() {
        *slot = Some(exchange);
    }
    response
}

/// That answer before anything is said beside it.
fn plain(exchange: &mut Exchange, status: u16, text: String, grpc: u32) -> Response<ReplyBody> {
    if exchange.is_grpc {
        exchange.set_grpc(grpc);
        let mut response = Response::new(ReplyBody::own(Bytes::new(), None));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(grpc));
        if !text.is_empty() {
            let message = HeaderValue::from_str(&percent_encoded(&text));
            let message = message.expect("percent-encoding leaves visible ASCII");
            headers.insert("grpc-message", message);
        }
        response
    } else {
        let text = Bytes::from(text);
        let kind = (!text.is_empty()).then(|| HeaderValue::from_static("text/plain"));
        let mut response = Response::new(ReplyBody::own(text, None));
        *response.status_mut() =
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response
            .headers_mut()
            .extend(kind.map(|kind| (CONTENT_TYPE, kind)));
        response
    }
}

/// Text in the form of `grpc-message` (gRPC over HTTP/2, "Percent-Encoded").
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
