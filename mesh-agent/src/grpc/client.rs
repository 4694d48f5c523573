// SPDX-License-Identifier: Apache-2.0

//! Calls a server over one TLS connection, which is opened when needed and again when it broke.
//!
//! Knows nothing of what is asked. Invariants: one attempt to connect at a time, however many
//! calls wait for it; between failed attempts there is a pause that grows, in which calls fail at
//! once with the last reason; a connection on which nothing is under way sends nothing, since servers
//! hang up on who pings more than they like.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::Full;
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::TokioIo;
use prost::Message;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    net::{TcpSocket, TcpStream, lookup_host},
    sync::Semaphore,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;

use super::{
    Executor, frame,
    status::{Code, Status},
};
use crate::{tasks::Tasks, telemetry::chain};

/// Where a server is and who it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `HOST:PORT` to connect to.
    pub address: String,
    /// The DNS name or address that its certificate must have.
    pub server_name: String,
}

/// Gives the TLS of the next connection, or says why there is none.
pub type TlsSource = Arc<dyn Fn() -> Result<Arc<ClientConfig>, String> + Send + Sync>;

/// A client of one server. Clones share the connection.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    endpoint: Endpoint,
    tls: TlsSource,
    tasks: Tasks,
    connecting: Semaphore,
    state: Mutex<State>,
}

type Sender = http2::SendRequest<Full<Bytes>>;

#[derive(Default)]
struct State {
    sender: Option<Sender>,
    failures: u32,
    /// No attempt before this, and why the last one failed.
    rest: Option<(Instant, Status)>,
}

/// For one address: TCP, TLS and HTTP/2.
const CONNECT: Duration = Duration::from_secs(5);

/// For the name.
const RESOLVE: Duration = Duration::from_secs(5);

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;

/// The first pause after a failed attempt; it doubles.
const REST_MIN: Duration = Duration::from_millis(200);

/// The longest pause.
const REST_MAX: Duration = Duration::from_secs(10);

/// An answer's message is a certificate chain at most.
const MESSAGE_MAX_BYTES: usize = 1024 * 1024;

impl Client {
    /// Connects when first called. HTTP/2's own tasks run as `tasks`.
    pub fn new(endpoint: Endpoint, tls: TlsSource, tasks: Tasks) -> Self {
        Self(Arc::new(Inner {
            endpoint,
            tls,
            tasks,
            connecting: Semaphore::new(1),
            state: Mutex::new(State::default()),
        }))
    }

    /// The server.
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// Forgets the connection and the pause, so that the next call connects anew.
    pub fn reconnect(&self) {
        *self.0.lock() = State::default();
    }

    /// One call. Cancelling it resets its stream.
    ///
    /// # Errors
    /// What the server answered, or why it could not be asked ([`Code::Unavailable`]).
    pub async fn unary<Req: Message, Res: Message + Default>(
        &self,
        path: &'static str,
        metadata: HeaderMap,
        request: &Req,
        deadline: Duration,
    ) -> Result<Res, Status> {
        let message = frame::encode(request);
        match timeout(deadline, self.exchange(path, metadata, message, deadline)).await {
            Ok(Ok(bytes)) => frame::decode(bytes),
            Ok(Err(status)) => Err(status),
            Err(_elapsed) => {
                // Nobody may be there any more, which TCP notices after a quarter of an hour.
                self.0.forget();
                Err(Status::new(
                    Code::DeadlineExceeded,
                    format!("{} did not answer in time", self.0.endpoint.address),
                ))
            }
        }
    }

    async fn exchange(
        &self,
        path: &'static str,
        metadata: HeaderMap,
        message: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, Status> {
        let mut request = self.request(path, metadata, message, deadline)?;
        let mut again = true;
        loop {
            let mut sender = self.0.sender().await?;
            match sender.try_send_request(request).await {
                Ok(response) => return read_answer(response).await,
                Err(mut error) => {
                    self.0.forget();
                    match error.take_message() {
                        // Nothing was sent: the connection had ended before.
                        Some(unsent) if again => {
                            request = unsent;
                            again = false;
                        }
                        _ => {
                            return Err(Status::unavailable(format!(
                                "calling {}: {}",
                                self.0.endpoint.address,
                                chain(error.error())
                            )));
                        }
                    }
                }
            }
        }
    }

    fn request(
        &self,
        path: &'static str,
        metadata: HeaderMap,
        message: Bytes,
        deadline: Duration,
    ) -> Result<Request<Full<Bytes>>, Status> {
        let uri = format!("https://{}{path}", self.0.endpoint.address);
        let mut request = Request::post(uri)
            .body(Full::new(message))
            .map_err(|error| Status::invalid(format!("{}: {error}", self.0.endpoint.address)))?;
        let headers = request.headers_mut();
        *headers = metadata;
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        let millis = deadline.as_millis().min(99_999_999);
        if let Ok(text) = HeaderValue::try_from(format!("{millis}m")) {
            headers.insert("grpc-timeout", text);
        }
        Ok(request)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.0.endpoint.address)
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self) {
        self.lock().sender = None;
    }

    /// The live connection's sender, or the reason for the present pause.
    fn ready(&self) -> Option<Result<Sender, Status>> {
        let state = self.lock();
        if let Some(sender) = state.sender.as_ref().filter(|sender| !sender.is_closed()) {
            return Some(Ok(sender.clone()));
        }
        match &state.rest {
            Some((until, reason)) if *until > Instant::now() => Some(Err(reason.clone())),
            _ => None,
        }
    }

    async fn sender(&self) -> Result<Sender, Status> {
        if let Some(known) = self.ready() {
            return known;
        }
        let _turn = self
            .connecting
            .acquire()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        // Someone else may have connected, or failed to, while we waited.
        if let Some(known) = self.ready() {
            return known;
        }
        let outcome = self.connect().await;
        let mut state = self.lock();
        match &outcome {
            Ok(sender) => {
                *state = State {
                    sender: Some(sender.clone()),
                    ..State::default()
                }
            }
            Err(reason) => {
                state.failures = state.failures.saturating_add(1);
                let doublings = (state.failures - 1).min(16);
                let rest = REST_MIN.saturating_mul(1 << doublings).min(REST_MAX);
                let rest = rest.mul_f64(0.8 + 0.4 * fastrand::f64());
                state.rest = Some((Instant::now() + rest, reason.clone()));
            }
        }
        outcome
    }

    async fn connect(&self) -> Result<Sender, Status> {
        let Endpoint {
            address,
            server_name,
        } = &self.endpoint;
        let unavailable = |problem: String| Status::unavailable(format!("{address}: {problem}"));
        let config = (self.tls)().map_err(Status::unavailable)?;
        let name = ServerName::try_from(server_name.clone())
            .map_err(|error| unavailable(format!("{server_name:?}: {error}")))?;
        let found = match timeout(RESOLVE, lookup_host(address.as_str())).await {
            Ok(found) => found.map_err(|error| unavailable(format!("resolving: {error}")))?,
            Err(_elapsed) => return Err(unavailable("resolving took too long".to_owned())),
        };
        let mut addresses: Vec<SocketAddr> = found.collect();
        // Replicas behind one name share the load.
        fastrand::shuffle(&mut addresses);
        let mut problems = Vec::new();
        for one in addresses.into_iter().take(ADDRESSES_MAX) {
            let attempt = self.connect_to(one, name.clone(), Arc::clone(&config));
            match timeout(CONNECT, attempt).await {
                Ok(Ok(sender)) => return Ok(sender),
                Ok(Err(error)) => problems.push(format!("{one}: {}", chain(&error))),
                Err(_elapsed) => problems.push(format!("{one}: no answer")),
            }
        }
        if problems.is_empty() {
            problems.push("the name has no address".to_owned());
        }
        Err(unavailable(problems.join("; ")))
    }

    async fn connect_to(
        &self,
        address: SocketAddr,
        name: ServerName<'static>,
        config: Arc<ClientConfig>,
    ) -> io::Result<Sender> {
        let stream = dial(address).await?;
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        let handshake =
            http2::Builder::new(Executor(self.tasks.clone())).handshake(TokioIo::new(stream));
        let (sender, connection) = Box::pin(handshake).await.map_err(io::Error::other)?;
        let drain = self.tasks.drain();
        self.tasks.spawn("grpc connection", async move {
            // Cancelling the connection closes it: nobody asks any more once the drain began.
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%address, %error, "a gRPC connection ended");
                },
                () = drain.requested() => {}
            }
        });
        Ok(sender)
    }
}

/// Untagged: this happens in the agent's own network namespace, where nothing is captured.
async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_nodelay(true)?;
    socket.connect(address).await
}

/// The message that a response to one call has.
///
/// # Errors
/// What the server says is wrong, or that there is none.
pub async fn unary_answer<Res: Message + Default>(
    response: Response<Incoming>,
) -> Result<Res, Status> {
    frame::decode(read_answer(response).await?)
}

async fn read_answer(response: Response<Incoming>) -> Result<Bytes, Status> {
    let (head, body) = response.into_parts();
    let status_in_head = Status::read(&head.headers);
    if !head.status.is_success() {
        return Err(status_in_head.unwrap_or_else(|| Status::from_http(head.status)));
    }
    if let Some(status) = status_in_head {
        return Err(match status.code {
            Code::Ok => Status::new(Code::Internal, "the answer has no message"),
            _ => status,
        });
    }
    let (message, trailers) = frame::read(body, MESSAGE_MAX_BYTES).await?;
    match Status::read(&trailers) {
        Some(status) if status.code == Code::Ok => {
            message.ok_or_else(|| Status::new(Code::Internal, "the answer has no message"))
        }
        Some(status) => Err(status),
        None => Err(Status::unavailable("the answer ended without a status")),
    }
}
