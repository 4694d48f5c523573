// SPDX-License-Identifier: Apache-2.0

//! Asks providers whether a request to a pod may pass, as that pod, for CUSTOM policies.
//!
//! A check goes out like any request of the pod: through a tunnel, under the provider's own policies.
//! Where the provider is to see the request's body, that is read first, and goes on behind the check as it came.
//! Knows nothing of policies. Invariants: without a clear yes a request does not pass, unless the
//! provider is declared to fail open; how many checks are under way is bounded.

mod grpc_check;

use std::{
    cell::{Cell, OnceCell},
    io::{self, ErrorKind},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
};

use ::http::{
    HeaderName, HeaderValue, Request, Response, StatusCode, Version, header::EXPECT, request,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use super::{
    Outcome,
    connection::Connection,
    dial,
    entrance::Entrance,
    http_ahead::{self, Unread},
    http_body::RequestBody,
    http_exchange::{Exchange, Front},
    http_forward,
    http_lease::Lease,
    http_replay::{Piece, Replay},
    seldom::Seldom,
    usage,
};
use crate::model::{
    Cluster,
    provider::{Allowance, Check, Excerpt, HttpCheck, Provider, ShownBody},
};

/// How many checks are under way on one thread.
const MAX_CHECKS: usize = 1024;

/// The largest body of an answer.
const BODY_MAX: usize = 64 * 1024;

/// Providers that give no answer.
static SILENT: Seldom = Seldom::new();

thread_local! {
    static UNDER_WAY: Cell<usize> = const { Cell::new(0) };
}

/// A provider's no, or that it gave no answer.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// Of the answer.
    pub status: StatusCode,
    /// In the words of Envoy's response code details.
    pub details: String,
    /// The answer's headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Its body.
    pub body: Bytes,
}

/// Why there is no answer.
type Failure = String;

/// A place among the checks under way.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        UNDER_WAY.with(|under_way| {
            let taken = under_way.get();
            (taken < MAX_CHECKS).then(|| {
                under_way.set(taken + 1);
                Self
            })
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        UNDER_WAY.with(|under_way| under_way.set(under_way.get() - 1));
    }
}

/// Reads what is to be `shown` of a request's body, if it has one; `most` is what any provider wants to see of it.
///
/// # Errors
/// How the request ends if there is nothing that can be shown.
pub(crate) async fn show(
    entrance: &Entrance,
    shown: &ShownBody,
    most: usize,
    head: &mut request::Parts,
    body: &mut RequestBody,
) -> Result<Option<Excerpt>, Outcome> {
    let pod = &entrance.pod().workload.uid;
    let excerpt = http_ahead::read(body, shown, most, pod).await;
    let excerpt = excerpt.map_err(|unread| match unread {
        Unread::TooLarge => Outcome::BodyTooLarge,
        Unread::TooSlow => Outcome::BodyTooSlow,
        Unread::Broken(error) if is_nonsense(&error) => {
            Outcome::Malformed(dial::chain(&error).into())
        }
        Unread::Broken(_) => Outcome::ClientGone,
    })?;
    if excerpt.is_some() {
        // Whoever waited to be told to send its body has been told.
        head.headers.remove(EXPECT);
    }
    Ok(excerpt)
}

/// Whether a body broke because of how it is framed, not because its client is gone.
fn is_nonsense(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error);
    let cause = cause.and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| {
        matches!(
            cause.kind(),
            ErrorKind::InvalidInput | ErrorKind::InvalidData
        )
    })
}

/// Asks `provider` about the request with this head and what is `shown` of its body; what is done with it if it
/// passes.
///
/// # Errors
/// How it ends if it does not.
pub(crate) async fn ask(
    entrance: &Entrance,
    provider: &Provider,
    head: &request::Parts,
    shown: Option<Excerpt>,
) -> Result<Allowance, Outcome> {
    let failure = match Place::take() {
        None => "too many checks are under way".to_owned(),
        Some(_place) => {
            let asking = Box::pin(check(entrance, provider, head, shown));
            // Cancel-safe: what is given up is the whole exchange with the provider.
            match tokio::time::timeout(provider.timeout, asking).await {
                Ok(Ok(answered)) => {
                    note_answer(&provider.name);
                    return answered.map_err(|rejection| Outcome::Rejected(Arc::new(rejection)));
                }
                Ok(Err(failure)) => failure,
                Err(_elapsed) => format!("no answer within {:?}", provider.timeout),
            }
        }
    };
    note_failure(provider, &failure);
    let name = &provider.name;
    if provider.fail_open {
        return Ok(Allowance::default());
    }
    Err(Outcome::Rejected(Arc::new(Rejection {
        status: provider.status_on_error,
        details: format!("ext_authz_error: {name}: {failure}"),
        headers: Vec::new(),
        body: Bytes::new(),
    })))
}

/// Says that a provider gave no answer, once in a while.
fn note_failure(provider: &Provider, failure: &str) {
    let (name, fails_open) = (&provider.name, provider.fail_open);
    if let Some(unsaid) = SILENT.happened(name, usage::uptime()) {
        tracing::warn!(provider = %name, failure, fails_open, unsaid, "a provider gives no answer");
    }
}

/// Says that a provider which gave none answers again.
fn note_answer(name: &str) {
    if let Some(unsaid) = SILENT.ended(name, usage::uptime()) {
        tracing::info!(provider = %name, unsaid, "a provider answers again");
    }
}

async fn check(
    entrance: &Entrance,
    provider: &Provider,
    head: &request::Parts,
    shown: Option<Excerpt>,
) -> Result<Result<Allowance, Rejection>, Failure> {
    let (front, cluster) = front(entrance, provider)?;
    match &provider.check {
        Check::Http(check) => {
            let asked = check.request(head, shown.as_ref());
            let asked = asked.ok_or_else(|| "the path cannot be asked about".to_owned())?;
            over_http(&front, &cluster, check, asked).await
        }
        Check::Grpc => {
            let as_bytes = provider.body.is_some_and(|body| body.as_bytes);
            let asked = grpc_check::request(entrance, &cluster, head, shown, as_bytes)?;
            let answer = send(&front, &cluster, asked).await?;
            let answer = crate::grpc::unary_answer(answer.0).await;
            let answer = answer.map_err(|status| status.to_string())?;
            Ok(grpc_check::judged(answer))
        }
    }
}

async fn over_http(
    front: &Rc<Front>,
    cluster: &Arc<Cluster>,
    check: &HttpCheck,
    asked: Request<Bytes>,
) -> Result<Result<Allowance, Rejection>, Failure> {
    let asked = asked.map(|body| match body.is_empty() {
        true => RequestBody::Empty,
        false => Replay::of(vec![Piece::Data(body)].into()).read(),
    });
    let (answer, lease) = send(front, cluster, asked).await?;
    let (parts, body) = answer.into_parts();
    let body = Limited::new(body, BODY_MAX).collect().await;
    let body = body.map_err(|error| format!("reading the answer: {error}"))?;
    if let Some(lease) = lease {
        lease.give_back();
    }
    if parts.status == StatusCode::OK {
        return Ok(Ok(check.allowance(&parts.headers)));
    }
    if parts.status.is_server_error() {
        return Err(format!("its status is {}", parts.status));
    }
    Ok(Err(Rejection {
        status: parts.status,
        details: "ext_authz_denied".to_owned(),
        headers: check.denied(&parts.headers),
        body: body.to_bytes(),
    }))
}

/// Sends what is asked.
async fn send(
    front: &Rc<Front>,
    cluster: &Arc<Cluster>,
    asked: Request<RequestBody>,
) -> Result<(Response<Incoming>, Option<Lease>), Failure> {
    let (parts, body) = asked.into_parts();
    let mut exchange = Exchange::unseen(front, &parts);
    let asked = Request::from_parts(parts, body);
    let sent = http_forward::forward(front, &mut exchange, cluster, asked, false);
    match Box::pin(sent).await {
        Ok(answer) => Ok((answer.response, answer.lease)),
        Err(outcome) => Err(outcome
            .reason()
            .unwrap_or("it cannot be reached")
            .to_owned()),
    }
}

/// The pod's own side towards the provider, and where that is.
fn front(entrance: &Entrance, provider: &Provider) -> Result<(Rc<Front>, Arc<Cluster>), Failure> {
    let thread = entrance.thread();
    let snapshot = thread.snapshot();
    let name = &provider.service;
    let missing = || format!("there is no Service {}/{}", name.namespace, name.name);
    let service = snapshot.services.get(name).ok_or_else(missing)?;
    let mut ports = service.ports.iter();
    let port = ports.find(|port| port.number == provider.port);
    let port = port.ok_or_else(|| format!("{} has no port {}", missing(), provider.port))?;
    let cluster = Arc::clone(&port.cluster);
    let to = entrance.to();
    if cluster.endpoints.iter().any(|one| one.address == to) {
        return Err("it would be asked about a request to itself".to_owned());
    }
    let pod = entrance.pod();
    let vip = service.vips.first().copied().unwrap_or(to.ip());
    let connection = Connection::own(
        thread,
        pod,
        SocketAddr::new(to.ip(), 0),
        SocketAddr::new(vip, provider.port),
    );
    let pool = thread.pools.of(&pod.workload.uid);
    let front = Front {
        connection: Rc::new(connection),
        service: Some(Arc::clone(service)),
        pool,
        own_pool: OnceCell::new(),
        waiting: Rc::default(),
        truncated: Cell::default(),
        switched: Cell::default(),
        inbound: None,
    };
    Ok((Rc::new(front), cluster))
}

/// A request to a service of gRPC's.
fn grpc_request(
    path: &'static str,
    authority: &str,
    body: RequestBody,
) -> Option<Request<RequestBody>> {
    Request::post(format!("http://{authority}{path}"))
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .ok()
}
