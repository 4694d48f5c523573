// SPDX-License-Identifier: Apache-2.0

//! What a cluster's policy asks for around one try: the request's key, its admission, and what is
//! learnt of the endpoint.
//!
//! Knows nothing of connections. Clusters without a policy pass through untouched.

use http::{HeaderMap, HeaderValue, Request, Response};

use super::{
    Outcome,
    http_body::RequestBody,
    http_exchange::{Exchange, Front},
    usage,
};
use crate::model::{
    Cluster, Conduct, Key,
    fault::AbortStatus,
    hashing::{HashCookie, HashKey, HashPolicy},
};

/// Admits a try; gives its key, if endpoints are found by one.
pub(crate) async fn begin(
    front: &Front,
    exchange: &mut Exchange,
    cluster: &Cluster,
    request: &Request<RequestBody>,
    http2: bool,
) -> Result<Option<u64>, Outcome> {
    if cluster.upstream.is_none() {
        return Ok(None);
    }
    // What the last try held is free for this one.
    exchange.notes.admission = None;
    let usages = &front.connection.pod.usages;
    exchange.notes.admission = usages.admit(cluster, http2).await?;
    let Some(policy) = cluster.hash() else {
        return Ok(None);
    };
    let source = front.connection.peer.ip();
    Ok(match policy.key(request.headers(), request.uri(), source) {
        Key::Is(key) => Some(key),
        Key::None => None,
        Key::Wanted => cookie(policy).map(|cookie| give(exchange, cookie)),
    })
}

fn cookie(policy: &HashPolicy) -> Option<&HashCookie> {
    match &policy.key {
        HashKey::Cookie(cookie) => Some(cookie),
        HashKey::Header(_) | HashKey::Source | HashKey::Query(_) => None,
    }
}

/// Gives the client a cookie; the same in each try.
fn give(exchange: &mut Exchange, cookie: &HashCookie) -> u64 {
    if let Some((_, key)) = &exchange.notes.cookie {
        return *key;
    }
    let (said, key) = cookie.give(&format!("{:016x}", fastrand::u64(..)));
    let said = HeaderValue::try_from(said).expect("a cookie's parts were checked when it was read");
    exchange.notes.cookie = Some((said, key));
    key
}

/// Takes in an endpoint's answer.
pub(crate) fn answered<B>(exchange: &Exchange, cluster: &Cluster, response: &Response<B>) {
    if cluster.upstream.is_some() {
        let status = match grpc(exchange, response.headers()) {
            Some(status) => AbortStatus::Grpc(status).http(),
            None => response.status().as_u16(),
        };
        note(exchange, cluster, Conduct::Status(status));
    }
}

fn grpc(exchange: &Exchange, headers: &HeaderMap) -> Option<u32> {
    let said = headers.get("grpc-status").filter(|_| exchange.is_grpc)?;
    said.to_str().ok()?.parse().ok()
}

/// Takes in that the endpoint that was tried last did not answer in time.
pub(crate) fn too_slow(exchange: &Exchange, cluster: &Cluster) {
    if cluster.upstream.is_some() {
        note(exchange, cluster, Conduct::Failed);
    }
}

fn note(exchange: &Exchange, cluster: &Cluster, conduct: Conduct) {
    let tried = exchange.endpoint();
    let mut endpoints = cluster.endpoints.iter();
    if let Some(endpoint) = endpoints.find(|endpoint| Some(endpoint.address) == tried) {
        cluster.note(endpoint, conduct, usage::uptime());
    }
}
