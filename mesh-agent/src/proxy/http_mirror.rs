// SPDX-License-Identifier: Apache-2.0

//! Sends copies of requests elsewhere, and drops what is answered.
//!
//! Knows nothing of the client's answer. A copy is sent once the client's body has been taken in
//! whole; how many are under way for a pod is bounded, and what is beyond that is not copied.
//! Invariant: a copy that fails, or takes long, is noticed by nobody but the endpoint it went to.

use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

use http::{HeaderValue, Request, header::HOST, uri::Authority};
use http_body_util::BodyExt;

use super::{
    http_body::RequestBody,
    http_exchange::{Exchange, Front},
    http_forward::{self, Answer},
    http_replay::Replay,
    http_treated::Template,
};
use crate::model::{Cluster, Mirror, WorkloadUid, mirror};

/// How many copies of one source pod's requests are under way on one thread.
const MAX_COPIES: usize = 256;

/// How long a copy may take in all.
const PATIENCE: Duration = Duration::from_secs(15);

/// How much of an answer is read to use its connection again.
const MAX_DISCARDED: usize = 256 * 1024;

thread_local! {
    static BY_POD: RefCell<HashMap<WorkloadUid, usize>> = RefCell::default();
}

/// A place among a pod's copies.
struct Place(WorkloadUid);

impl Place {
    fn take(pod: &WorkloadUid) -> Option<Self> {
        BY_POD.with_borrow_mut(|by_pod| {
            let taken = by_pod.get(pod).copied().unwrap_or_default();
            if taken == MAX_COPIES {
                return None;
            }
            by_pod.insert(pod.clone(), taken + 1);
            Some(Self(pod.clone()))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        BY_POD.with_borrow_mut(|by_pod| {
            if let Some(taken) = by_pod.get_mut(&self.0) {
                *taken -= 1;
                if *taken == 0 {
                    by_pod.remove(&self.0);
                }
            }
        });
    }
}

/// The mirrors that get a copy of this request.
pub(crate) fn drawn(mirrors: &[Mirror]) -> Vec<Rc<Mirror>> {
    let mut random = |n| fastrand::usize(..n);
    let drawn = mirrors.iter().filter(|one| one.share.includes(&mut random));
    drawn.map(|one| Rc::new(one.clone())).collect()
}

/// Copies a request to `mirror`, when `body` (if it has one) has passed.
pub(crate) fn spawn(
    front: &Rc<Front>,
    template: &Template,
    body: Option<&Replay>,
    mirror: &Mirror,
) {
    let pod = &front.connection.pod.workload.uid;
    let Some(place) = Place::take(pod) else {
        tracing::debug!(%pod, "a request is not mirrored: too many copies are under way");
        return;
    };
    let shadow = front.shadow();
    let (template, cluster) = (template.clone(), std::sync::Arc::clone(&mirror.cluster));
    let passed = body.map(Replay::all);
    let copy = async move {
        let body = match passed {
            None => RequestBody::Empty,
            Some(passed) => match passed.await {
                Ok(copied) => Replay::of(copied).read(),
                // It was too large, or never ended.
                Err(_) => return,
            },
        };
        let sending = send(&shadow, &cluster, template.request(body));
        if tokio::time::timeout(PATIENCE, sending).await.is_err() {
            tracing::debug!(
                cluster = cluster.istio_name(),
                "a mirrored request took too long"
            );
        }
        drop(place);
    };
    front
        .connection
        .thread
        .shared
        .tasks
        .spawn_local("mirror", copy);
}

async fn send(shadow: &Rc<Front>, cluster: &Cluster, request: Request<RequestBody>) {
    let (mut parts, body) = request.into_parts();
    rename(&mut parts);
    let mut exchange = Exchange::unseen(shadow, &parts);
    let request = Request::from_parts(parts, body);
    let sent = Box::pin(http_forward::forward(
        shadow,
        &mut exchange,
        cluster,
        request,
        false,
    ));
    match sent.await {
        Ok(answer) => discard(answer).await,
        Err(outcome) => {
            let reason = outcome.reason().unwrap_or_default();
            tracing::debug!(reason, "a mirrored request got no answer");
        }
    }
}

/// Gives the copy its own host.
fn rename(parts: &mut http::request::Parts) {
    if let Some(host) = parts.headers.get(HOST).and_then(|host| host.to_str().ok())
        && let Ok(host) = HeaderValue::from_str(&mirror::shadow(host))
    {
        parts.headers.insert(HOST, host);
    }
    let Some(authority) = parts.uri.authority() else {
        return;
    };
    let Ok(shadow) = mirror::shadow(authority.as_str()).parse::<Authority>() else {
        return;
    };
    let mut uri = parts.uri.clone().into_parts();
    uri.authority = Some(shadow);
    if let Ok(uri) = http::Uri::from_parts(uri) {
        parts.uri = uri;
    }
}

/// Reads what nobody wants, so that its connection can be used again; if that is little.
pub(crate) async fn discard(answer: Answer) {
    let mut body = answer.response.into_body();
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return;
        };
        read += frame.data_ref().map_or(0, bytes::Bytes::len);
        if read > MAX_DISCARDED {
            return;
        }
    }
    if let Some(lease) = answer.lease {
        lease.give_back();
    }
}
