// SPDX-License-Identifier: Apache-2.0

//! Tries to get a request answered again, as its route says.
//!
//! Knows nothing of how a request is sent. Whether a try is repeated is the model's decision.
//! Invariant: a request whose body has passed and was not kept is never sent again.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use http::Method;

use super::{
    Outcome,
    http_body::RequestBody,
    http_choice,
    http_exchange::{Exchange, Front},
    http_forward::{self, Answer},
    http_mirror,
    http_replay::Replay,
    http_treated::Template,
};
use crate::model::{Cluster, RetryPolicy, TryEnd};

/// How long the answer of a try that is repeated is read.
const DISCARD: Duration = Duration::from_secs(1);

/// What is sent, as often as needed.
pub(crate) struct Sending<'a> {
    pub(crate) front: &'a Rc<Front>,
    pub(crate) cluster: &'a Cluster,
    pub(crate) template: &'a Template,
    pub(crate) body: Option<&'a Replay>,
    pub(crate) switch: bool,
}

impl Sending<'_> {
    /// Sends the request until it is answered, or no further try is due.
    pub(crate) async fn repeat(
        &self,
        exchange: &mut Exchange,
        policy: &RetryPolicy,
    ) -> Result<Answer, Outcome> {
        let mut tried: Vec<SocketAddr> = Vec::new();
        let mut retries = 0;
        // What a retry counts for, until it has ended.
        let mut _held = None;
        loop {
            let ended = self.once(exchange, policy, &tried).await;
            if !self.is_due(policy, exchange, &ended) {
                return ended;
            }
            if retries == policy.attempts {
                exchange.notes.exhausted = policy.attempts > 0;
                return ended;
            }
            _held = None;
            let usages = &self.front.connection.pod.usages;
            let Ok(admitted) = usages.admit_retry(self.cluster) else {
                exchange.notes.overflowed = true;
                return ended;
            };
            _held = admitted;
            retries += 1;
            if self.cluster.hash().is_none() {
                self.avoid(policy, exchange, &mut tried);
            }
            if let Ok(answer) = ended {
                self.discard(answer);
            }
            let wait = policy.backoff(retries, |below| fastrand::usize(..below));
            tokio::time::sleep(wait).await;
        }
    }

    /// Adds the endpoints that the next try leaves for the last.
    fn avoid(&self, policy: &RetryPolicy, exchange: &Exchange, tried: &mut Vec<SocketAddr>) {
        let last = exchange.endpoint();
        if policy.avoids_tried {
            tried.extend(last);
        }
        if let (true, Some(last)) = (policy.goes_elsewhere, last) {
            let from = self.front.connection.workload();
            tried.extend(self.cluster.beside(last, Some(&from.labels)));
        }
    }

    async fn once(
        &self,
        exchange: &mut Exchange,
        policy: &RetryPolicy,
        tried: &[SocketAddr],
    ) -> Result<Answer, Outcome> {
        let body = self.body.map_or(RequestBody::Empty, Replay::read);
        let request = self.template.request(body);
        let (front, cluster) = (self.front, self.cluster);
        let sent = http_forward::once(front, exchange, cluster, request, self.switch, tried);
        match policy.per_try_timeout {
            None => Box::pin(sent).await,
            // Cancel-safe: what is given up is this try, with its connection or stream.
            Some(limit) => {
                let timed = tokio::time::timeout(limit, Box::pin(sent)).await;
                timed.unwrap_or_else(|_elapsed| {
                    http_choice::too_slow(exchange, cluster);
                    Err(Outcome::TimedOut)
                })
            }
        }
    }

    fn is_due(
        &self,
        policy: &RetryPolicy,
        exchange: &Exchange,
        ended: &Result<Answer, Outcome>,
    ) -> bool {
        self.body.is_none_or(Replay::is_whole)
            && end_of(ended).is_some_and(|end| wants(policy, &exchange.method, &end))
    }

    fn discard(&self, answer: Answer) {
        let tasks = &self.front.connection.thread.shared.tasks;
        tasks.spawn_local("discard", async move {
            // What takes longer costs its connection.
            tokio::time::timeout(DISCARD, http_mirror::discard(answer))
                .await
                .ok();
        });
    }
}

fn wants(policy: &RetryPolicy, method: &Method, end: &TryEnd<'_>) -> bool {
    policy.on.includes(method, end)
}

/// How a try ended; `None` if nobody could do better.
fn end_of(ended: &Result<Answer, Outcome>) -> Option<TryEnd<'_>> {
    match ended {
        Ok(answer) if answer.switching.is_some() => None,
        Ok(answer) => {
            let response = &answer.response;
            Some(TryEnd::Answered(response.status(), response.headers()))
        }
        Err(Outcome::ConnectFailed(_)) => Some(TryEnd::NotConnected),
        Err(Outcome::StreamRefused(_)) => Some(TryEnd::StreamRefused),
        Err(Outcome::UpstreamGone(_)) => Some(TryEnd::Broken),
        Err(Outcome::TimedOut) => Some(TryEnd::TimedOut),
        Err(_) => None,
    }
}
