// SPDX-License-Identifier: Apache-2.0

//! One request and its answer: what is known of them, and the one record made of them.
//!
//! Knows nothing of how they are carried. Invariant: the record is made exactly once, when the
//! exchange is dropped; an exchange that nobody ended was left by its client.

use std::{
    cell::{Cell, OnceCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{
    HeaderMap, HeaderValue, Method, StatusCode, Uri, Version,
    header::{HOST, USER_AGENT},
    request,
};

use super::{
    Outcome, RequestHeaders,
    connection::Connection,
    http_body::Progress,
    http_ending::Waiting,
    http_headers,
    http_ids::{self, Made, Seen},
    http_notes::Notes,
    http_pool::Pool,
    inbound_http::Inbound,
};
use crate::{
    model::{
        Cluster, Endpoint, LoadGuard, PathNormalization, Service, ServicePort, Snapshot, Workload,
    },
    telemetry::{Flow, Reporter, RequestRecord, Telemetry},
};

/// The client's side of an HTTP connection, which its exchanges share.
pub(crate) struct Front {
    pub(crate) connection: Rc<Connection>,
    /// The Service that the connection was opened to, if it is known.
    pub(crate) service: Option<Arc<Service>>,
    /// The source pod's connections to endpoints.
    pub(crate) pool: Rc<Pool>,
    /// The connection's own ones, to endpoints that are told of their client.
    pub(crate) own_pool: OnceCell<Rc<Pool>>,
    /// What a client waits for that has ended its side.
    pub(crate) waiting: Rc<Waiting>,
    /// A response was cut short, so the connection must not end as if it were whole.
    pub(crate) truncated: Cell<bool>,
    /// What follows the response that switched protocols.
    pub(crate) switched: Cell<Option<super::http_upgrade::Switched>>,
    /// What decides, if the requests are for a pod of this node.
    pub(crate) inbound: Option<Inbound>,
}

/// One request and its answer.
pub(crate) struct Exchange {
    front: Rc<Front>,
    source: Arc<Workload>,
    started: Instant,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    host: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    request_id: Option<HeaderValue>,
    /// What it goes on with besides.
    pub(crate) made: Made,
    pub(crate) is_grpc: bool,
    grpc: Option<u32>,
    pub(crate) status: u16,
    pub(crate) progress: Option<Rc<Progress>>,
    pub(crate) response_bytes: u64,
    pub(crate) request_bytes: u64,
    upstream_began: Option<Instant>,
    route: Arc<str>,
    cluster: Option<Arc<Cluster>>,
    endpoint: Option<SocketAddr>,
    destination: Option<Arc<Workload>>,
    load: Option<LoadGuard>,
    attempts: u32,
    outcome: Option<Outcome>,
    /// Its budget has room for it.
    is_within: bool,
    /// What was done to it besides.
    pub(crate) notes: Notes,
}

/// What an exchange keeps of a request's head.
pub(crate) struct Noted {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    pub(crate) host: Option<HeaderValue>,
    pub(crate) user_agent: Option<HeaderValue>,
    pub(crate) request_id: Option<HeaderValue>,
    pub(crate) seen: Seen,
    pub(crate) is_grpc: bool,
}

impl Front {
    /// The Service port as it is to `client` now; `None` if there is none any more. Where the
    /// connection was opened to no Service, `authority` tells.
    pub(crate) fn port(&self, client: &Workload, authority: &str) -> Option<Arc<ServicePort>> {
        let snapshot = self.connection.thread.snapshot();
        let to = self.connection.orig_dst;
        match snapshot.service(to, client) {
            Some((_, port)) => Some(Arc::clone(port)),
            None if self.inbound.is_some() => None,
            None if let Some(service) = &self.service => still_there(&snapshot, service, to),
            None => Some(snapshot.elsewhere(to, client, authority)),
        }
    }

    /// What its requests are given: nothing at the pod that they are for.
    pub(crate) fn request_headers(&self) -> RequestHeaders {
        match self.inbound {
            None => self.connection.thread.shared.request_headers,
            Some(_) => RequestHeaders::None,
        }
    }

    /// How much of the spelling of paths is undone: nothing where policy judges all spellings.
    pub(crate) fn path_normalization(&self) -> PathNormalization {
        match self.inbound {
            None => self.connection.thread.shared.path_normalization,
            Some(_) => PathNormalization::None,
        }
    }

    /// The connections to the endpoint that its requests may be sent over.
    pub(crate) fn pool_to(&self, endpoint: &Endpoint) -> &Rc<Pool> {
        match endpoint.proxy_protocol {
            None => &self.pool,
            Some(_) => {
                let pools = &self.connection.thread.pools;
                self.own_pool.get_or_init(|| pools.apart())
            }
        }
    }

    /// The same for a request that is sent on behalf of the connection, but not by its client.
    pub(crate) fn shadow(&self) -> Rc<Self> {
        Rc::new(Self {
            connection: Rc::clone(&self.connection),
            service: self.service.clone(),
            pool: Rc::clone(&self.pool),
            own_pool: OnceCell::new(),
            waiting: Rc::default(),
            truncated: Cell::default(),
            switched: Cell::default(),
            inbound: None,
        })
    }
}

/// The port of a Service without an address, of which `to` is no ready endpoint any more.
fn still_there(snapshot: &Snapshot, last: &Service, to: SocketAddr) -> Option<Arc<ServicePort>> {
    let is_here = |port: &&Arc<ServicePort>| {
        let mut endpoints = port.cluster.endpoints.iter();
        last.vips.is_empty() && endpoints.any(|endpoint| endpoint.address == to)
    };
    let number = last.ports.iter().find(is_here)?.number;
    snapshot.services.get(&last.name)?.port(number).cloned()
}

impl Exchange {
    /// A request whose head has come; `progress` is its body's, if it has one.
    pub(crate) fn begin(
        front: &Rc<Front>,
        head: &request::Parts,
        progress: Option<Rc<Progress>>,
    ) -> Box<Self> {
        let noted = Noted {
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            host: head.headers.get(HOST).cloned(),
            user_agent: head.headers.get(USER_AGENT).cloned(),
            request_id: http_ids::id(&head.headers).cloned(),
            seen: Seen::of(&head.headers),
            is_grpc: http_headers::is_grpc(&head.headers),
        };
        Self::begin_with(front, front.connection.workload(), noted, progress)
    }

    /// The same, of what was noted already and of whose request it is.
    pub(crate) fn begin_with(
        front: &Rc<Front>,
        source: Arc<Workload>,
        noted: Noted,
        progress: Option<Rc<Progress>>,
    ) -> Box<Self> {
        thread_local!(static NO_ROUTE: Arc<str> = Arc::from("-"));
        Box::new(Self {
            front: Rc::clone(front),
            source,
            started: Instant::now(),
            method: noted.method,
            uri: noted.uri,
            version: noted.version,
            host: noted.host,
            user_agent: noted.user_agent,
            request_id: noted.request_id,
            made: noted.seen.missing(front.request_headers()),
            is_grpc: noted.is_grpc,
            grpc: None,
            status: 0,
            progress,
            response_bytes: 0,
            request_bytes: 0,
            upstream_began: None,
            route: NO_ROUTE.with(Arc::clone),
            cluster: None,
            endpoint: None,
            destination: None,
            load: None,
            attempts: 0,
            outcome: None,
            is_within: front.connection.begin_request(),
            notes: Notes::default(),
        })
    }

    /// A request of which no record is made.
    pub(crate) fn unseen(front: &Rc<Front>, head: &request::Parts) -> Box<Self> {
        let mut exchange = Self::begin(front, head, None);
        exchange.notes.unseen = true;
        exchange
    }

    /// Whether it may go on. A connection of HTTP/1 has one under way: there the budget of connections holds.
    pub(crate) fn admit(&self) -> Result<(), Outcome> {
        if self.is_within || self.version != Version::HTTP_2 {
            return Ok(());
        }
        self.front.connection.refuse_request();
        Err(Outcome::Overflow)
    }

    /// The Service port that decides about it.
    pub(crate) fn port(&self) -> Option<Arc<ServicePort>> {
        self.front.port(&self.source, self.authority())
    }

    /// The endpoint that was tried last.
    pub(crate) fn endpoint(&self) -> Option<SocketAddr> {
        self.endpoint
    }

    /// Where it is counted.
    pub(crate) fn telemetry(&self) -> &Telemetry {
        &self.front.connection.thread.shared.telemetry
    }

    /// How often endpoints were tried.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// What it is given besides.
    pub(crate) fn request_headers(&self) -> RequestHeaders {
        self.front.request_headers()
    }

    /// How long it took the endpoint to answer.
    pub(crate) fn upstream_duration(&self) -> Option<Duration> {
        let began = self.upstream_began?;
        Some(began.duration_since(self.started))
    }

    /// The workload that sent the request.
    pub(crate) fn source(&self) -> &Arc<Workload> {
        &self.source
    }

    /// `Host` or `:authority`; the request target's comes first (RFC 9112 section 3.2.2).
    pub(crate) fn authority(&self) -> &str {
        match self.uri.authority() {
            Some(authority) => authority.as_str(),
            None => text(self.host.as_ref()),
        }
    }

    /// Notes what the route decided.
    pub(crate) fn route(&mut self, route: Arc<str>, cluster: Option<Arc<Cluster>>) {
        self.route = route;
        self.cluster = cluster;
    }

    /// Notes the endpoint that is tried; what was tried before is no longer under way.
    pub(crate) fn try_endpoint(&mut self, endpoint: &Endpoint) {
        self.endpoint = Some(endpoint.address);
        self.destination.clone_from(&endpoint.workload);
        self.load = Some(endpoint.load.begin());
        self.attempts = self.attempts.saturating_add(1);
    }

    /// Notes the endpoint's answer.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.upstream_began = Some(Instant::now());
        self.status = status.as_u16();
    }

    /// Notes the gRPC status that headers or trailers carry.
    pub(crate) fn note_grpc(&mut self, headers: &HeaderMap) {
        if self.is_grpc
            && let Some(value) = headers.get("grpc-status")
        {
            self.grpc = text(Some(value)).parse().ok();
        }
    }

    /// Notes the gRPC status that we answer with.
    pub(crate) fn set_grpc(&mut self, status: u32) {
        self.grpc = Some(status);
    }

    /// Notes how the exchange ended; the first word counts.
    pub(crate) fn end(&mut self, outcome: Outcome) {
        if self.outcome.is_none() {
            self.outcome = Some(outcome);
        }
    }

    /// The Service that the request was for, where its connection was opened to none.
    fn told(&self) -> Option<Arc<Service>> {
        if self.front.service.is_some() || self.front.inbound.is_some() {
            return None;
        }
        let name = &self.cluster.as_ref()?.service;
        let snapshot = self.front.connection.thread.snapshot();
        snapshot.services.get(name).cloned()
    }

    /// What it is known by, brought or made.
    fn request_id(&self) -> Option<&str> {
        match (&self.request_id, &self.made.id) {
            (Some(brought), _) => Some(text(Some(brought))),
            (None, made) => std::str::from_utf8(made.as_ref()?).ok(),
        }
    }

    /// Notes that the client must not take what it got for the whole.
    pub(crate) fn mark_truncated(&self) {
        self.front.truncated.set(true);
    }
}

fn text(value: Option<&HeaderValue>) -> &str {
    value.and_then(|value| value.to_str().ok()).unwrap_or("")
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let ended = Instant::now();
        self.front.waiting.end();
        self.front.connection.end_request();
        if self.notes.unseen {
            return;
        }
        let abandoned = self.front.inbound.as_ref().map(Inbound::abandoned);
        let outcome = self.outcome.take().or(abandoned);
        let outcome = outcome.unwrap_or(Outcome::ClientGone);
        let connection = &self.front.connection;
        let other = |to: &&Arc<Workload>| to.enrolled && to.uid != self.source.uid;
        let tunnelled = self.destination.as_ref().filter(other);
        let cluster = self.cluster.as_ref().map(|cluster| cluster.istio_name());
        let body = self
            .progress
            .as_ref()
            .map_or(0, |progress| progress.bytes());
        let told = self.told();
        let outbound = Flow {
            reporter: Reporter::Source,
            source: Some(&self.source),
            source_identity: Some(&self.source.identity),
            destination: self.destination.as_ref(),
            destination_identity: tunnelled.map(|workload| &workload.identity),
            service: self.front.service.as_deref().or(told.as_deref()),
            mutual_tls: tunnelled.is_some(),
            peer: connection.peer,
            orig_dst: connection.orig_dst,
        };
        let inbound = self.front.inbound.as_ref().map(Inbound::flow);
        connection.thread.shared.telemetry.request(&RequestRecord {
            flow: inbound.unwrap_or(outbound),
            method: self.method.as_str(),
            path: self.uri.path_and_query().map_or("", |path| path.as_str()),
            authority: self.authority(),
            protocol: protocol(self.version),
            grpc: self.grpc,
            is_grpc: self.is_grpc,
            status: self.status,
            flags: &self.notes.flags(&outcome),
            request_bytes: self.request_bytes + body,
            response_bytes: self.response_bytes,
            duration: ended.duration_since(self.started),
            upstream_duration: self.upstream_duration(),
            route: &self.route,
            cluster: cluster.unwrap_or(""),
            endpoint: self.endpoint,
            user_agent: text(self.user_agent.as_ref()),
            request_id: self.request_id(),
            reason: outcome.reason(),
        });
    }
}
