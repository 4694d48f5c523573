// SPDX-License-Identifier: Apache-2.0

//! Carries out what a route asks for besides sending a request on.
//!
//! Knows nothing of endpoints. Invariant: what is refused or answered here never leaves the
//! client's node.

use std::{rc::Rc, sync::Arc};

use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderValue, Method, Request, Response, Uri, Version,
    header::{CONTENT_LENGTH, CONTENT_TYPE, SET_COOKIE, TRANSFER_ENCODING},
    request,
};

use super::{
    Outcome, buckets,
    budgets::Loan,
    custom::Rejection,
    http_body::{ReplyBody, RequestBody},
    http_exchange::{Exchange, Front},
    http_forward::{self, Answer},
    http_mirror,
    http_replay::Replay,
    http_retry::Sending,
    usage,
};
use crate::model::{Cluster, CorsDecision, DirectAnswer, Fault, Treatment, session::Token};

/// A request's head, to be sent any number of times.
#[derive(Clone)]
pub(crate) struct Template {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    extensions: Extensions,
}

impl Template {
    fn new(head: request::Parts) -> Self {
        Self {
            method: head.method,
            uri: head.uri,
            version: head.version,
            headers: head.headers,
            extensions: head.extensions,
        }
    }

    /// The request with `body`.
    pub(crate) fn request(&self, body: RequestBody) -> Request<RequestBody> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers.clone();
        *request.extensions_mut() = self.extensions.clone();
        request
    }
}

/// What comes before a request is sent: waits, or says how it ends instead.
pub(crate) async fn before(
    exchange: &mut Exchange,
    treatment: &Treatment,
    head: &request::Parts,
) -> Result<(), Outcome> {
    if let Some(session) = &treatment.session {
        let token = session.token(&head.headers);
        exchange.notes.session = Some((Arc::clone(session), token));
    }
    let cors = treatment.cors.as_ref();
    let cors = cors.map_or(CorsDecision::Pass, |cors| {
        cors.decide(&head.method, &head.headers)
    });
    // What is answered here is not limited.
    if !treatment.limits.is_empty() && !matches!(cors, CorsDecision::Answer(_)) {
        let source = exchange.source();
        let admitted = buckets::admit(&treatment.limits, &source.identity, usage::uptime());
        let admitted = admitted.map_err(|(limit, after)| {
            exchange.telemetry().limited(&limit.origin);
            Outcome::Limited {
                reason: Arc::clone(&limit.reason),
                after,
            }
        });
        if admitted.is_err()
            && let CorsDecision::Mark(said) = cors
        {
            exchange.notes.said = Some(Box::new(said));
            return admitted;
        }
        admitted?;
    }
    if let Some(fault) = &treatment.fault {
        inject(exchange, fault).await?;
    }
    match cors {
        CorsDecision::Pass => Ok(()),
        CorsDecision::Answer(answer) => Err(Outcome::Answered(Arc::new(answer))),
        CorsDecision::Mark(said) => {
            exchange.notes.said = Some(Box::new(said));
            Ok(())
        }
    }
}

/// Waits, or says how the request ends instead.
async fn inject(exchange: &mut Exchange, fault: &Fault) -> Result<(), Outcome> {
    let injected = fault.draw(&mut |n| fastrand::usize(..n));
    if let Some(delay) = injected.delay {
        exchange.notes.delayed = true;
        // Given up with the request, when the client goes away.
        tokio::time::sleep(delay).await;
    }
    injected
        .abort
        .map_or(Ok(()), |status| Err(Outcome::Aborted(status)))
}

/// Sends a request, its copies, and it again where that is asked for.
pub(crate) async fn send(
    front: &Rc<Front>,
    exchange: &mut Exchange,
    (cluster, request): (&Cluster, Request<RequestBody>),
    switch: bool,
    treatment: &Treatment,
) -> Result<Answer, Outcome> {
    // What switches protocols is no request that could be copied.
    let mirrors = match switch {
        true => Vec::new(),
        false => http_mirror::drawn(&treatment.mirrors),
    };
    let retry = treatment.retry.as_ref();
    if mirrors.is_empty() && retry.is_none() {
        return http_forward::forward(front, exchange, cluster, request, switch).await;
    }
    let (head, body) = request.into_parts();
    let template = Template::new(head);
    let bytes = front.connection.bytes();
    let body = (!body.is_empty()).then(|| Replay::new(body, Loan::of(bytes)));
    for mirror in mirrors {
        http_mirror::spawn(front, &template, body.as_ref(), &mirror);
    }
    let sending = Sending {
        front,
        cluster,
        template: &template,
        body: body.as_ref(),
        switch,
    };
    match retry {
        Some(policy) => Box::pin(sending.repeat(exchange, policy)).await,
        None => {
            let request = template.request(body.as_ref().map_or(RequestBody::Empty, Replay::read));
            http_forward::forward(front, exchange, cluster, request, switch).await
        }
    }
}

/// Has the client bring along by what its session keeps to the endpoint that answered, if that is
/// another one than before.
pub(crate) fn keep_session(exchange: &mut Exchange, headers: &mut HeaderMap) {
    let answered = exchange.endpoint().map(Token::of);
    if let Some((session, token)) = exchange.notes.session.take()
        && let Some(answered) = answered
        && token != Some(answered)
    {
        session.give(answered, headers);
    }
}

/// Says in a response what the route has to say to pages of other origins, and gives a cookie.
pub(crate) fn mark(exchange: &mut Exchange, headers: &mut HeaderMap) {
    if let Some(said) = exchange.notes.said.take() {
        for (name, value) in &*said {
            headers.insert(name, value.clone());
        }
    }
    for (name, value) in std::mem::take(&mut exchange.notes.to_client) {
        headers.append(name, value);
    }
    if let Some((cookie, _)) = exchange.notes.cookie.take() {
        headers.append(SET_COOKIE, cookie);
    }
}

/// Makes `response` the answer that the configuration gives; to gRPC only its headers are added.
pub(crate) fn answer(answer: &DirectAnswer, response: &mut Response<ReplyBody>, is_grpc: bool) {
    if !is_grpc {
        *response.body_mut() = ReplyBody::own(Bytes::copy_from_slice(&answer.body), None);
        let plain = HeaderValue::from_static("text/plain");
        match answer.body.is_empty() {
            true => response.headers_mut().remove(CONTENT_TYPE),
            false => response.headers_mut().insert(CONTENT_TYPE, plain),
        };
    }
    let headers = response.headers_mut();
    for (name, value) in &answer.headers {
        headers.insert(name, value.clone());
    }
}

/// Makes `response` the answer of a provider that says no; to gRPC only its headers are added.
pub(crate) fn reject(rejection: &Rejection, response: &mut Response<ReplyBody>, is_grpc: bool) {
    if !is_grpc {
        *response.body_mut() = ReplyBody::own(rejection.body.clone(), None);
        if rejection.body.is_empty() {
            response.headers_mut().remove(CONTENT_TYPE);
        }
    }
    let headers = response.headers_mut();
    for (name, _) in rejection
        .headers
        .iter()
        .filter(|(name, _)| !is_grpc && name == CONTENT_TYPE)
    {
        headers.remove(name);
    }
    for (name, value) in &rejection.headers {
        if !(is_grpc && name == CONTENT_TYPE) && name != CONTENT_LENGTH && name != TRANSFER_ENCODING
        {
            headers.append(name, value.clone());
        }
    }
}
