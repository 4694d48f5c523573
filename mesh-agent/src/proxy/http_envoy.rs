// SPDX-License-Identifier: Apache-2.0

//! What Envoy says beside what it carries, for those who ask for it: to endpoints which try this is, how long it
//! may take and what the path was, to clients how long the endpoint took.
//!
//! Nothing is said unless the agent was told to. Knows nothing of sockets. Invariant: what is said of a
//! try and its time is ours alone: a client's word for it does not go on. Reference: Envoy's router filter.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{RequestHeaders, http_decide::Way, http_exchange::Exchange};
use crate::model::{HeaderEdit, HeaderEdits};

const TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// By what endpoints are told how the client's request came.
pub(crate) const PROTOCOL: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Takes away what is said of the try.
pub(crate) static UNCOUNTED: [HeaderEdit; 1] = [HeaderEdit::Remove(ATTEMPTS)];

/// The last line of a head that says that this is the first try.
pub(crate) const FIRST: &[u8] = b"x-envoy-attempt-count: 1\r\n";

/// How far from its head's end the number of the try stands in that line.
pub(crate) const COUNT_FROM_END: usize = b"1\r\n\r\n".len();

/// Whether anything is said.
pub(crate) fn is_wanted(exchange: &Exchange) -> bool {
    exchange.request_headers() == RequestHeaders::Envoy
}

/// What is said in a request before its route changes it. `has_protocol` tells whether the client has said how
/// it came; it is asked only where anything is said.
pub(crate) fn request(
    exchange: &Exchange,
    way: &Way,
    has_protocol: impl FnOnce() -> bool,
) -> HeaderEdits {
    let mut edits = HeaderEdits::default();
    if !is_wanted(exchange) {
        return edits;
    }
    if !has_protocol() {
        let value = HeaderValue::from_static("http");
        edits.request.push(HeaderEdit::Set(PROTOCOL, value));
    }
    // A client's word for it does not go on either.
    edits.request.push(match limit(way) {
        Some(limit) if !limit.is_zero() => HeaderEdit::Set(TIMEOUT, millis(limit)),
        Some(_) | None => HeaderEdit::Remove(TIMEOUT),
    });
    let rewritten = way.rewritten.as_ref();
    if rewritten.is_some_and(|rewritten| rewritten.path.is_some())
        && let Some(path) = exchange.uri.path_and_query()
        && let Ok(path) = HeaderValue::from_str(path.as_str())
    {
        edits.request.push(HeaderEdit::Set(ORIGINAL_PATH, path));
    }
    edits
}

/// How long the endpoint may take: one try if that has a limit of its own.
fn limit(way: &Way) -> Option<Duration> {
    let retry = way.treatment.as_ref().and_then(|all| all.retry.as_ref());
    let one = retry.and_then(|retry| retry.per_try_timeout);
    match (one, way.timeout) {
        (Some(one), Some(all)) => Some(one.min(all)),
        (one, all) => one.or(all),
    }
}

/// Says in a request which try it is.
pub(crate) fn count(exchange: &Exchange, headers: &mut HeaderMap) {
    if is_wanted(exchange) {
        headers.insert(ATTEMPTS, HeaderValue::from(exchange.attempts()));
    }
}

/// What is said in an answer before its route changes it.
pub(crate) fn answer(exchange: &Exchange) -> HeaderEdits {
    let mut edits = HeaderEdits::default();
    if is_wanted(exchange)
        && let Some(took) = exchange.upstream_duration()
    {
        let edit = HeaderEdit::Set(SERVICE_TIME, millis(took));
        edits.response.push(edit);
    }
    edits
}

fn millis(duration: Duration) -> HeaderValue {
    HeaderValue::from(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
