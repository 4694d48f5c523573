// SPDX-License-Identifier: Apache-2.0

//! One exchange from the request to the record of it: endpoints are tried, the answer is carried
//! back, or ours is given.
//!
//! Knows nothing of heads and bodies. Invariant: a request is sent again only if no byte of it was
//! sent, or if it has no body and sending it twice does no harm; and never to another cluster.
//! Reference: RFC 9110 section 9.2.2.

use std::{future::poll_fn, net::SocketAddr, rc::Rc, time::Instant};

use http::{Method, StatusCode};

use super::{
    super::{
        Outcome,
        copy::Abort,
        dial::{self, MAX_TRIES},
        http_exchange::{Exchange, Front},
        http_pool,
        stream::Upstream,
    },
    Then,
    body::Body,
    client::Client,
    flight::{Answer, Flight, Sending, Stop},
    request::{Onward, Request},
};
use crate::model::{Cluster, Endpoint};

/// A connection in use; reset unless it was taken out.
struct Lease(Option<Upstream>);

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(upstream) = self.0.take() {
            upstream.abort();
        }
    }
}

/// Carries one exchange to its end.
pub(super) async fn run(front: &Rc<Front>, client: &mut Client, request: Request) -> Then {
    let is_repeatable = request.is_repeatable();
    let drain = &front.connection.thread.drain;
    let Request {
        exchange,
        way,
        out,
        count_at,
        body,
        close,
        ..
    } = request;
    let Onward {
        cluster,
        timeout,
        edits,
    } = match way {
        Ok(way) => way,
        Err(outcome) => {
            let close = close || drain.is_leaving();
            return refuse(client, exchange, outcome, body, close).await;
        }
    };
    let mut flight = Flight {
        client,
        exchange,
        sending: Sending::new(out, count_at, body),
        answer: Answer::new(),
        edits,
        close,
        drain,
    };
    let ended = {
        let tries = tries(front, &mut flight, &cluster, is_repeatable);
        match timeout {
            None => tries.await,
            Some(timeout) => {
                let deadline = tokio::time::Instant::from_std(Instant::now() + timeout);
                // Cancel-safe: what is given up is the whole exchange with the endpoint.
                let in_time = tokio::time::timeout_at(deadline, tries).await;
                in_time.unwrap_or(Err(Stop::Failed(Outcome::TimedOut)))
            }
        }
    };
    conclude(flight, ended).await
}

/// Sends the request to endpoints of `cluster` until one has answered.
async fn tries(
    front: &Rc<Front>,
    flight: &mut Flight<'_>,
    cluster: &Cluster,
    is_repeatable: bool,
) -> Result<(), Stop> {
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut failure = Outcome::NoEndpoint;
    let mut fresh = false;
    while tried.len() < MAX_TRIES {
        let Some(endpoint) = cluster.pick(|n| fastrand::usize(..n), &tried) else {
            break;
        };
        flight.exchange.try_endpoint(endpoint);
        let pooled = if fresh {
            None
        } else {
            front.pool.take_plain(endpoint)
        };
        let reused = pooled.is_some();
        let upstream = match pooled {
            Some(upstream) => Ok(upstream),
            None => Box::pin(open(front, endpoint)).await,
        };
        let upstream = match upstream {
            Ok(upstream) => upstream,
            Err(why) => {
                tried.push(endpoint.address);
                failure = why;
                continue;
            }
        };
        // Whoever went meanwhile must not have his request acted upon.
        if !reused && flight.client.look_once().await.is_err() {
            return Err(Stop::ClientGone);
        }
        flight.sending.count(flight.exchange.attempts());
        match once(front, flight, endpoint, upstream).await {
            Err(Stop::Unanswered(why)) => {
                let again = flight.sending.is_unsent()
                    || is_repeatable && flight.sending.is_held && reused && !fresh;
                if !again {
                    return Err(Stop::Failed(Outcome::UpstreamGone(why)));
                }
                if reused {
                    fresh = true;
                } else {
                    tried.push(endpoint.address);
                    failure = Outcome::ConnectFailed(why);
                }
                flight.sending.rewind();
                flight.answer = Answer::new();
            }
            ended => return ended,
        }
    }
    Err(Stop::Failed(failure))
}

async fn open(front: &Rc<Front>, endpoint: &Endpoint) -> Result<Upstream, Outcome> {
    let (connection, service) = (&front.connection, front.service.as_deref());
    let upstream = dial::endpoint(connection, service, endpoint, Some("http/1.1")).await?;
    front.pool.admit(endpoint);
    Ok(upstream)
}

/// Sends the request over `upstream` and carries the answer back.
async fn once(
    front: &Rc<Front>,
    flight: &mut Flight<'_>,
    endpoint: &Endpoint,
    upstream: Upstream,
) -> Result<(), Stop> {
    let mut lease = Lease(Some(upstream));
    poll_fn(|context| match &mut lease.0 {
        Some(upstream) => flight.poll(context, upstream),
        None => unreachable!("it is taken out below only"),
    })
    .await?;
    // Of a request that has not ended the endpoint must not think that it has.
    if flight.sending.is_done
        && let Some(upstream) = lease.0.take()
    {
        if flight.leaves_reusable() {
            front.pool.put_plain(endpoint, upstream);
        } else {
            http_pool::end(&front.connection.thread.shared.tasks, upstream);
        }
    }
    Ok(())
}

/// Makes the record, or gives our own answer.
async fn conclude(mut flight: Flight<'_>, ended: Result<(), Stop>) -> Then {
    flight.count();
    let close = flight.close || flight.drain.is_leaving();
    let outcome = match ended {
        Ok(()) => {
            flight.exchange.end(Outcome::Complete);
            return if flight.close || !flight.sending.is_done {
                Then::End
            } else {
                Then::Go
            };
        }
        Err(Stop::ClientGone) => return Then::Break,
        Err(Stop::Unanswered(why)) => Outcome::UpstreamGone(why),
        Err(Stop::Failed(outcome)) => outcome,
    };
    if flight.answer.has_begun() {
        flight.exchange.end(outcome);
        return Then::Break;
    }
    // The endpoint gave up because the client has: there is nobody to answer.
    if matches!(outcome, Outcome::UpstreamGone(_)) && flight.client.has_ended() {
        return Then::Break;
    }
    let (exchange, body) = (flight.exchange, flight.sending.body);
    refuse(flight.client, exchange, outcome, body, close).await
}

/// Our own answer, in Envoy's words.
async fn refuse(
    client: &mut Client,
    mut exchange: Box<Exchange>,
    outcome: Outcome,
    mut body: Body,
    close: bool,
) -> Then {
    // What has come of the body is of no use; if that is not all, the connection ends.
    let read = body.carry(client.buffer(), &mut Vec::new());
    let close = close || read.is_err() || !body.has_ended();
    let answer = own(&outcome, close, exchange.method == Method::HEAD);
    exchange.request_bytes = body.bytes();
    exchange.response_bytes = answer.body_bytes;
    exchange.status = answer.status;
    exchange.end(outcome);
    match client.write(&answer.bytes).await {
        Ok(()) if close => Then::End,
        Ok(()) => Then::Go,
        Err(_gone) => Then::Break,
    }
}

struct Own {
    bytes: Vec<u8>,
    status: u16,
    body_bytes: u64,
}

fn own(outcome: &Outcome, close: bool, to_head: bool) -> Own {
    let text = outcome.body();
    let status =
        StatusCode::from_u16(outcome.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let reason = status.canonical_reason().unwrap_or("<none>");
    let code = status.as_str();
    let mut bytes = format!("HTTP/1.1 {code} {reason}\r\n").into_bytes();
    if !text.is_empty() {
        bytes.extend_from_slice(b"content-type: text/plain\r\n");
    }
    if let Outcome::Redirected { location, .. } = outcome {
        bytes.extend_from_slice(b"location: ");
        bytes.extend_from_slice(location.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(format!("content-length: {}\r\n", text.len()).as_bytes());
    if close {
        bytes.extend_from_slice(b"connection: close\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    let body = if to_head { "" } else { &text };
    bytes.extend_from_slice(body.as_bytes());
    Own {
        bytes,
        status: status.as_u16(),
        body_bytes: u64::try_from(body.len()).expect("a length fits u64"),
    }
}
