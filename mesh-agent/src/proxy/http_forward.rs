// SPDX-License-Identifier: Apache-2.0

//! Takes a request to an endpoint of the cluster that was chosen for it.
//!
//! Knows nothing of the client's connection. Invariant: a request is sent again only if no byte of it
//! was sent, or if it has no body and sending it twice does no harm; and never to another cluster.
//! Reference: RFC 9110 section 9.2.2.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use http::{
    Method, Request, Response, Uri, Version,
    header::{CONNECTION, HOST},
    uri::{PathAndQuery, Scheme},
};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::{
    Outcome,
    dial::{self, MAX_TRIES},
    http_body::RequestBody,
    http_choice, http_envoy,
    http_exchange::{Exchange, Front},
    http_headers,
    http_lease::Lease,
    http_upstream::{self, Http1, Http2, Unanswered},
    stream::{Prefixed, Upstream},
    usage,
};
use crate::model::{Ask, Cluster, Conduct, Endpoint, Protocol, upstream::Spoken};

/// What an endpoint answered.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    /// The connection, if it is for one exchange at a time.
    pub(crate) lease: Option<Lease>,
    /// The connection's bytes, if it switches protocols.
    pub(crate) switching: Option<oneshot::Receiver<Prefixed<Upstream>>>,
}

/// The state of the tries to get one request answered.
struct Tries<'a> {
    front: &'a Rc<Front>,
    tried: Vec<SocketAddr>,
    /// These come last.
    avoided: &'a [SocketAddr],
    /// How many endpoints are tried.
    limit: usize,
    cluster: &'a Cluster,
    /// The request's, if endpoints are found by key.
    key: Option<u64>,
    failure: Outcome,
    /// A connection from the pool turned out dead: no more of those.
    fresh: bool,
}

/// Sends `request` to an endpoint of `cluster` and waits for the head of its answer.
pub(crate) async fn forward(
    front: &Rc<Front>,
    exchange: &mut Exchange,
    cluster: &Cluster,
    request: Request<RequestBody>,
    switch: bool,
) -> Result<Answer, Outcome> {
    let tries = Tries::new(front, cluster, &[], MAX_TRIES);
    run(tries, exchange, request, switch).await
}

/// The same with one endpoint: one of `avoided` only if there is no other.
pub(crate) async fn once(
    front: &Rc<Front>,
    exchange: &mut Exchange,
    cluster: &Cluster,
    request: Request<RequestBody>,
    switch: bool,
    avoided: &[SocketAddr],
) -> Result<Answer, Outcome> {
    let tries = Tries::new(front, cluster, avoided, 1);
    run(tries, exchange, request, switch).await
}

async fn run(
    mut tries: Tries<'_>,
    exchange: &mut Exchange,
    request: Request<RequestBody>,
    switch: bool,
) -> Result<Answer, Outcome> {
    let front = tries.front;
    let declared = exchange.port().map(|port| port.protocol);
    let cluster = tries.cluster;
    let of_client = exchange.version == Version::HTTP_2;
    let http2 = match (cluster.limits().spoken, declared) {
        (Spoken::Clients, _) => of_client,
        (Spoken::Http2, _) | (Spoken::Declared, Some(Protocol::Http2 | Protocol::Grpc)) => !switch,
        (
            Spoken::Declared,
            Some(Protocol::Http | Protocol::Tcp | Protocol::Tls | Protocol::Sniff) | None,
        ) => of_client,
    };
    tries.key = match cluster.upstream {
        None => None,
        Some(_) => {
            Box::pin(http_choice::begin(
                front, exchange, cluster, &request, http2,
            ))
            .await?
        }
    };
    let answer = if http2 {
        let request = as_http2(request, exchange.version)?;
        Box::pin(tries.http2(exchange, request)).await
    } else {
        Box::pin(tries.http1(exchange, request, switch)).await
    };
    if let Ok(answer) = &answer {
        http_choice::answered(exchange, cluster, &answer.response);
    }
    answer
}

impl<'a> Tries<'a> {
    fn new(
        front: &'a Rc<Front>,
        cluster: &'a Cluster,
        avoided: &'a [SocketAddr],
        limit: usize,
    ) -> Self {
        Self {
            front,
            cluster,
            key: None,
            tried: Vec::new(),
            avoided,
            limit,
            failure: Outcome::NoEndpoint,
            fresh: false,
        }
    }

    /// The endpoint that the request's session keeps to, unless it was tried or is left out.
    fn kept(&self, exchange: &Exchange) -> Option<&'a Endpoint> {
        let (_, token) = exchange.notes.session.as_ref()?;
        let endpoint = self.cluster.keeping((*token)?)?;
        let tried = [self.avoided, &self.tried].concat();
        let is_out =
            tried.contains(&endpoint.address) || endpoint.load.health().is_ejected(usage::uptime());
        (!is_out).then_some(endpoint)
    }

    /// The next endpoint to try, noted in the exchange.
    fn next(&self, exchange: &mut Exchange) -> Option<Endpoint> {
        if self.tried.len() >= self.limit {
            return None;
        }
        let cluster = self.cluster;
        if let Some(endpoint) = dial::original(&self.front.connection, cluster) {
            let fresh = !self.tried.contains(&endpoint.address);
            return fresh.then(|| {
                exchange.try_endpoint(&endpoint);
                endpoint
            });
        }
        if let Some(endpoint) = self.kept(exchange) {
            exchange.try_endpoint(endpoint);
            return Some(endpoint.clone());
        }
        let pick = |avoid: &[SocketAddr]| match cluster.upstream {
            None => cluster.pick(|n| fastrand::usize(..n), avoid),
            Some(_) => {
                let from = self.front.connection.workload();
                let ask = Ask {
                    key: self.key,
                    labels: Some(&from.labels),
                    now: usage::uptime(),
                };
                cluster.choose(&ask, |n| fastrand::usize(..n), avoid)
            }
        };
        let fresh = match self.avoided {
            [] => None,
            avoided => pick(&[avoided, &self.tried].concat()),
        };
        let endpoint = fresh.or_else(|| pick(&self.tried))?;
        exchange.try_endpoint(endpoint);
        Some(endpoint.clone())
    }

    fn failed(&mut self, endpoint: &Endpoint, failure: Outcome) {
        let unreached = matches!(failure, Outcome::ConnectFailed(_));
        if unreached && self.cluster.upstream.is_some() {
            let now = usage::uptime();
            self.cluster.note(endpoint, Conduct::Failed, now);
        }
        self.tried.push(endpoint.address);
        self.failure = failure;
    }

    /// What becomes of a request that could not be sent or got no answer: it itself if it may be
    /// sent again.
    fn again(
        &mut self,
        endpoint: &Endpoint,
        reused: bool,
        mut error: Unanswered,
        copy: Option<Request<RequestBody>>,
    ) -> Result<Request<RequestBody>, Outcome> {
        let unsent = error.take_message();
        let why: Arc<str> = dial::chain(error.error()).into();
        if error.error().is_parse() {
            return Err(Outcome::BadAnswer(why));
        }
        let may_copy = reused && !self.fresh;
        if reused {
            self.fresh = true;
        } else {
            self.failed(endpoint, Outcome::ConnectFailed(Arc::clone(&why)));
        }
        let again = unsent.or(copy.filter(|_| may_copy));
        again.ok_or_else(|| match is_refused(error.error()) {
            true => Outcome::StreamRefused(why),
            false => Outcome::UpstreamGone(why),
        })
    }

    async fn http1(
        &mut self,
        exchange: &mut Exchange,
        mut request: Request<RequestBody>,
        switch: bool,
    ) -> Result<Answer, Outcome> {
        while let Some(endpoint) = self.next(exchange) {
            let pooled = self.pooled(&endpoint).await;
            let reused = pooled.is_some();
            let mut http1 = match pooled {
                Some(http1) => http1,
                None => match Box::pin(self.open(&endpoint)).await {
                    Ok(http1) => http1,
                    Err(why) => {
                        self.failed(&endpoint, why);
                        continue;
                    }
                },
            };
            if let Err(error) = http1.ready().await {
                if !reused {
                    let why = error.to_string().into();
                    self.failed(&endpoint, Outcome::ConnectFailed(why));
                }
                continue;
            }
            http_envoy::count(exchange, request.headers_mut());
            let copy = if reused { copy_of(&request) } else { None };
            let switching = switch.then(|| http1.switching());
            self.front.waiting.attach(http1.ending());
            let lease = Lease {
                pool: Rc::clone(self.front.pool_to(&endpoint)),
                endpoint,
                limit: self.cluster.limits().requests_per_connection,
                progress: exchange.progress.clone(),
                http1,
            };
            match lease.send(request).await {
                Ok((response, lease)) => return Ok(answer(response, lease, switching)),
                Err((error, endpoint)) => request = self.again(&endpoint, reused, error, copy)?,
            }
        }
        Err(self.failure.clone())
    }

    async fn http2(
        &mut self,
        exchange: &mut Exchange,
        mut request: Request<RequestBody>,
    ) -> Result<Answer, Outcome> {
        while let Some(endpoint) = self.next(exchange) {
            let pooled = if self.fresh {
                None
            } else {
                self.front.pool_to(&endpoint).http2(&endpoint)
            };
            let reused = pooled.is_some();
            let mut sender = match pooled {
                Some(sender) => sender,
                None => match Box::pin(self.open_http2(&endpoint)).await {
                    Ok(sender) => sender,
                    Err(why) => {
                        self.failed(&endpoint, why);
                        continue;
                    }
                },
            };
            http_envoy::count(exchange, request.headers_mut());
            let copy = copy_of(&request);
            match sender.send(request).await {
                Ok(response) => {
                    return Ok(Answer {
                        response,
                        lease: None,
                        switching: None,
                    });
                }
                Err(error) => {
                    request = self.again(&endpoint, reused, error, copy)?;
                }
            }
        }
        Err(self.failure.clone())
    }

    /// An idle connection from the pool.
    async fn pooled(&self, endpoint: &Endpoint) -> Option<Http1> {
        if self.fresh {
            return None;
        }
        let pool = self.front.pool_to(endpoint);
        if let Some(http1) = pool.take(endpoint) {
            return Some(http1);
        }
        let stream = pool.take_plain(endpoint)?;
        let tasks = &self.front.connection.thread.shared.tasks;
        http_upstream::http1(tasks, stream).await.ok()
    }

    async fn open(&self, endpoint: &Endpoint) -> Result<Http1, Outcome> {
        let upstream = self.dial(endpoint, "http/1.1").await?;
        self.front.pool_to(endpoint).admit(endpoint);
        http_upstream::http1(&self.front.connection.thread.shared.tasks, upstream)
            .await
            .map_err(|error| Outcome::ConnectFailed(error.to_string().into()))
    }

    /// Opens the one HTTP/2 connection to the endpoint, unless another request has meanwhile.
    async fn open_http2(&self, endpoint: &Endpoint) -> Result<Http2, Outcome> {
        let pool = self.front.pool_to(endpoint);
        let opening = pool.opening(endpoint);
        let _turn = opening.lock().await;
        if let Some(sender) = pool.http2(endpoint) {
            return Ok(sender);
        }
        let upstream = self.dial(endpoint, "h2").await?;
        let tasks = &self.front.connection.thread.shared.tasks;
        let sender = http_upstream::http2(tasks, upstream)
            .await
            .map_err(|error| Outcome::ConnectFailed(error.to_string().into()))?;
        pool.keep_http2(endpoint, &sender);
        Ok(sender)
    }

    async fn dial(&self, endpoint: &Endpoint, alpn: &'static str) -> Result<Upstream, Outcome> {
        if let Some(inbound) = &self.front.inbound {
            let connected = inbound.connect().await.map(Upstream::Plain);
            return connected.map_err(|error| {
                let why = format!("{}: {error}", endpoint.address);
                Outcome::ConnectFailed(why.into())
            });
        }
        let (connection, service) = (&self.front.connection, self.front.service.as_deref());
        let dialing = dial::endpoint(connection, service, endpoint, Some(alpn));
        match self.cluster.limits().connect_timeout {
            None => dialing.await,
            // Cancel-safe: what is given up is the attempt to connect.
            Some(limit) => match tokio::time::timeout(limit, dialing).await {
                Ok(dialed) => dialed,
                Err(_elapsed) => Err(dial::too_slow(endpoint.address)),
            },
        }
    }
}

fn answer(
    response: Response<Incoming>,
    lease: Lease,
    switching: Option<oneshot::Receiver<Prefixed<Upstream>>>,
) -> Answer {
    if response.status() == http::StatusCode::SWITCHING_PROTOCOLS && switching.is_some() {
        return Answer {
            response,
            lease: None,
            switching,
        };
    }
    lease.http1.stay();
    Answer {
        response,
        lease: Some(lease),
        switching: None,
    }
}

/// Whether the endpoint says that it did not look at the request.
fn is_refused(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error);
    let reason = cause.and_then(|cause| cause.downcast_ref::<h2::Error>()?.reason());
    reason == Some(h2::Reason::REFUSED_STREAM)
}

/// The request once more, if it has no body and may be sent twice.
fn copy_of(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    if !request.body().is_empty() || !http_headers::is_idempotent(request.method()) {
        return None;
    }
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}

/// The request in HTTP/2's form: an absolute target, no `Host`, no `Connection`.
fn as_http2(
    mut request: Request<RequestBody>,
    came_as: Version,
) -> Result<Request<RequestBody>, Outcome> {
    *request.version_mut() = Version::HTTP_2;
    if came_as == Version::HTTP_2 && request.uri().authority().is_some() {
        return Ok(request);
    }
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    // The request target's authority comes first (RFC 9112 section 3.2.2).
    if parts.authority.is_none() {
        let host = request.headers().get(HOST);
        parts.authority = host.and_then(|host| host.as_bytes().try_into().ok());
    }
    if parts.path_and_query.is_none() || request.method() == Method::OPTIONS {
        let path = parts.path_and_query.take();
        parts.path_and_query = path.or_else(|| Some(PathAndQuery::from_static("/")));
    }
    *request.uri_mut() = Uri::from_parts(parts)
        .map_err(|error| Outcome::Malformed(format!("request target: {error}").into()))?;
    let headers = request.headers_mut();
    headers.remove(HOST);
    headers.remove(CONNECTION);
    Ok(request)
}
