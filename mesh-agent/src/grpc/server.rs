// SPDX-License-Identifier: Apache-2.0

//! Accepts TLS clients and answers unary calls by path.
//!
//! Knows nothing of what is asked. Invariants: connections and calls are bounded in number, and
//! every call in time, by the client's deadline or by ours if that is shorter.

use std::{
    collections::HashMap, convert::Infallible, fmt, io, net::SocketAddr, pin::Pin, sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prost::Message;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::{
    Executor, frame,
    status::{Code, Status},
};
use crate::tasks::{Drain, Tasks};

/// TLS of a server.
pub type Acceptor = TlsAcceptor;

/// What a client costs at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; others wait in the kernel's queue.
    pub connections: usize,
    /// Calls at a time, over all connections.
    pub calls: usize,
    /// The length of a request's message.
    pub message_max_bytes: usize,
    /// The time of a call.
    pub call_deadline: Duration,
}

/// What comes with a message.
#[derive(Debug)]
pub struct Call {
    /// The request's headers.
    pub metadata: HeaderMap,
    /// Who calls.
    pub client: SocketAddr,
}

type Reply = Pin<Box<dyn Future<Output = Result<Bytes, Status>> + Send>>;
type Handler = Box<dyn Fn(Call, Bytes) -> Reply + Send + Sync>;

/// What is answered under which path.
#[derive(Default)]
pub struct Router {
    methods: HashMap<&'static str, (Asks, Handler)>,
}

/// What a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    /// One message.
    Once,
    /// A stream of messages, of which the first is answered; then the stream ends.
    AndListens,
}

/// The time a client has for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long accepting rests after an error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often a silent client is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How long it may take to say so.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection is ended in order after this time, and up to half as much again: clients spread
/// anew over the replicas, and idle ones do not stay for ever.
const AGE_MAX: Duration = Duration::from_secs(30 * 60);

/// How long calls may take to end when the drain begins, or the connection is old.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Calls at a time on one connection.
const STREAMS_MAX: u32 = 64;

/// Enough for a token and some more.
const HEADERS_MAX_BYTES: u32 = 32 * 1024;

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

impl Router {
    /// Answers calls of `path` with `method`.
    #[must_use]
    pub fn unary<Req, Res, F>(
        self,
        path: &'static str,
        method: impl Fn(Call, Req) -> F + Send + Sync + 'static,
    ) -> Self
    where
        Req: Message + Default,
        Res: Message,
        F: Future<Output = Result<Res, Status>> + Send + 'static,
    {
        self.method(path, Asks::Once, method)
    }

    /// Answers the first message of streams of `path` with `method`, and ends them.
    #[must_use]
    pub fn first_of_stream<Req, Res, F>(
        self,
        path: &'static str,
        method: impl Fn(Call, Req) -> F + Send + Sync + 'static,
    ) -> Self
    where
        Req: Message + Default,
        Res: Message,
        F: Future<Output = Result<Res, Status>> + Send + 'static,
    {
        self.method(path, Asks::AndListens, method)
    }

    fn method<Req, Res, F>(
        mut self,
        path: &'static str,
        asks: Asks,
        method: impl Fn(Call, Req) -> F + Send + Sync + 'static,
    ) -> Self
    where
        Req: Message + Default,
        Res: Message,
        F: Future<Output = Result<Res, Status>> + Send + 'static,
    {
        let method = move |call, bytes| -> Reply {
            match frame::decode(bytes) {
                Ok(request) => {
                    let reply = method(call, request);
                    Box::pin(async move { Ok(frame::encode(&reply.await?)) })
                }
                Err(refusal) => Box::pin(std::future::ready(Err(refusal))),
            }
        };
        self.methods.insert(path, (asks, Box::new(method)));
        self
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.methods.keys()).finish()
    }
}

struct Server {
    router: Router,
    limits: Limits,
    calls: Semaphore,
    tasks: Tasks,
}

/// Answers on `listener` until the drain begins. While there is no TLS nobody is accepted.
pub async fn serve(
    listener: TcpListener,
    mut tls: watch::Receiver<Option<TlsAcceptor>>,
    router: Router,
    limits: Limits,
    tasks: Tasks,
) {
    let drain = tasks.drain();
    let permits = Arc::new(Semaphore::new(limits.connections));
    let server = Arc::new(Server {
        router,
        limits,
        calls: Semaphore::new(limits.calls),
        tasks: tasks.clone(),
    });
    loop {
        let accept = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            let permit = permit.map_err(io::Error::other)?;
            let ready = tls.wait_for(Option::is_some).await;
            drop(ready.map_err(io::Error::other)?);
            let (client, address) = listener.accept().await?;
            // As it is now, not as it was when waiting began.
            let acceptor = tls.borrow().clone();
            io::Result::Ok((permit, acceptor, client, address))
        };
        // Cancel-safe: a client stays in the kernel's queue until it is accepted.
        let accepted = tokio::select! {
            accepted = accept => accepted,
            () = drain.requested() => return,
        };
        match accepted {
            Ok((permit, Some(acceptor), client, address)) => {
                let (server, drain) = (Arc::clone(&server), drain.clone());
                tasks.spawn("grpc client", async move {
                    let _permit = permit;
                    Box::pin(server.connection(acceptor, client, address, drain)).await;
                });
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "accepting a gRPC client");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Server {
    async fn connection(
        self: Arc<Self>,
        acceptor: TlsAcceptor,
        client: TcpStream,
        address: SocketAddr,
        drain: Drain,
    ) {
        let tasks = self.tasks.clone();
        let stream = match timeout(HANDSHAKE, acceptor.accept(client)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "a gRPC client's TLS handshake");
                return;
            }
            Err(_elapsed) => {
                tracing::debug!(%address, "a gRPC client's TLS handshake was too slow");
                return;
            }
        };
        let service = service_fn(move |request| {
            let server = Arc::clone(&self);
            async move { Ok::<_, Infallible>(server.respond(request, address).await) }
        });
        let connection = http2::Builder::new(Executor(tasks))
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEADERS_MAX_BYTES)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let age = AGE_MAX.mul_f64(1.0 + 0.5 * fastrand::f64());
        // Cancel-safe: the connection goes on being polled below.
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = drain.requested() => None,
            () = tokio::time::sleep(age) => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                match timeout(LAST_ANSWERS, connection).await {
                    Ok(ended) => ended,
                    Err(_elapsed) => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%address, %error, "a gRPC client went away");
        }
    }

    async fn respond(
        &self,
        request: Request<Incoming>,
        client: SocketAddr,
    ) -> Response<BoxBody<Bytes, Infallible>> {
        if request.method() != Method::POST {
            return plain(StatusCode::METHOD_NOT_ALLOWED);
        }
        let content_type = request.headers().get(header::CONTENT_TYPE);
        let is_grpc = content_type.is_some_and(|found| {
            let found = found.as_bytes();
            let rest = found.strip_prefix(b"application/grpc");
            rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
        });
        if !is_grpc {
            return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        match self.reply(request, client).await {
            Ok(message) => answered(message),
            Err(status) => refused(&status),
        }
    }

    async fn reply(&self, request: Request<Incoming>, client: SocketAddr) -> Result<Bytes, Status> {
        let path = request.uri().path();
        let (asks, method) = self.router.methods.get(path).ok_or_else(|| {
            Status::new(Code::Unimplemented, format!("there is no method {path}"))
        })?;
        let asked = request
            .headers()
            .get("grpc-timeout")
            .and_then(|text| frame::timeout(text.to_str().ok()?));
        let deadline = asked
            .unwrap_or(self.limits.call_deadline)
            .min(self.limits.call_deadline);
        let call = async {
            let _permit = self.calls.acquire().await.map_err(|_closed| {
                // The semaphore lives as long as the server.
                Status::unavailable("stopping")
            })?;
            let (head, body) = request.into_parts();
            let max_bytes = self.limits.message_max_bytes;
            let message = match asks {
                Asks::Once => frame::read(body, max_bytes).await?.0,
                Asks::AndListens => frame::read_first(body, max_bytes).await?,
            };
            let message = message.ok_or_else(|| Status::invalid("there is no message"))?;
            let call = Call {
                metadata: head.headers,
                client,
            };
            method(call, message).await
        };
        match timeout(deadline, call).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(Status::new(
                Code::DeadlineExceeded,
                "the call took too long",
            )),
        }
    }
}

fn plain(status: StatusCode) -> Response<BoxBody<Bytes, Infallible>> {
    let mut response = Response::new(Empty::new().boxed());
    *response.status_mut() = status;
    response
}

fn answered(message: Bytes) -> Response<BoxBody<Bytes, Infallible>> {
    let mut trailers = HeaderMap::new();
    Status::new(Code::Ok, "").write(&mut trailers);
    let trailers = std::future::ready(Some(Ok(trailers)));
    let body = Full::new(message).with_trailers(trailers).boxed();
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, CONTENT_TYPE);
    response
}

/// The status stands in the headers if there is no message.
fn refused(status: &Status) -> Response<BoxBody<Bytes, Infallible>> {
    let mut response = Response::new(Empty::new().boxed());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, CONTENT_TYPE);
    status.write(response.headers_mut());
    response
}
