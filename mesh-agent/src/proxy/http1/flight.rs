// SPDX-License-Identifier: Apache-2.0

//! One request and its answer between two streams, both directions at once.
//!
//! An answer may come before the request has ended; a client that ends its side behind its request still gets
//! its answer, and the endpoint sees that end. Each direction holds what one read gave and no more.
//!
//! Knows nothing of routes, pools and retries. Invariant: the client's stream is never written to
//! before the head of an answer was understood, nor the endpoint's beyond the request.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Method, StatusCode};
use tokio::io::AsyncWrite;

use super::{
    super::{
        Outcome, http_envoy, http_exchange::Exchange, http_upstream::MAX_HTTP1_BUFFER,
        stream::Upstream,
    },
    body::{Body, Framing},
    buffer::Buffer,
    client::Client,
    fields::Lines,
    head::{self, Name, ResponseHead},
};
use crate::{model::HeaderEdits, tasks::Drain};

/// How large the head of an answer may be, as with hyper.
const MAX_HEAD: usize = MAX_HTTP1_BUFFER;

/// How many buffers of a body are carried before others have their turn.
const STEPS_AT_ONCE: usize = 4;

/// How many interim answers may precede one.
const MAX_INTERIM: u8 = 100;

/// Why there is no whole answer.
#[derive(Debug)]
pub(super) enum Stop {
    /// The client has gone, or has cut its request short.
    ClientGone,
    /// The endpoint has gone without a word.
    Unanswered(Arc<str>),
    /// The exchange ends so.
    Failed(Outcome),
}

/// A request on its way to an endpoint.
pub(super) struct Sending {
    pub(super) out: Vec<u8>,
    pub(super) at: usize,
    /// Where in `out` the number of the try stands, if it is said.
    count_at: Option<usize>,
    pub(super) body: Body,
    /// `out` is still all that was taken from the client.
    pub(super) is_held: bool,
    /// All of it is out.
    pub(super) is_done: bool,
    /// Nothing more can be sent.
    broken: Option<io::Error>,
    /// The client's end was passed on.
    is_closed: bool,
}

/// An answer on its way to the client.
pub(super) struct Answer {
    input: Buffer,
    out: Vec<u8>,
    at: usize,
    body: Option<Body>,
    interim: u8,
    /// The endpoint takes no further request on the connection.
    close: bool,
}

/// A request, its answer, and who waits for it.
pub(super) struct Flight<'a> {
    pub(super) client: &'a mut Client,
    pub(super) exchange: Box<Exchange>,
    pub(super) sending: Sending,
    pub(super) answer: Answer,
    pub(super) edits: Option<Arc<HeaderEdits>>,
    /// The client's connection ends with the answer.
    pub(super) close: bool,
    pub(super) drain: &'a Drain,
}

impl Sending {
    /// A request of which nothing is out.
    pub(super) fn new(out: Vec<u8>, count_at: Option<usize>, body: Body) -> Self {
        Self {
            out,
            at: 0,
            count_at,
            body,
            is_held: true,
            is_done: false,
            broken: None,
            is_closed: false,
        }
    }

    /// Begins anew on another connection; all of it must be held.
    pub(super) fn rewind(&mut self) {
        self.at = 0;
        self.is_done = false;
        self.broken = None;
        self.is_closed = false;
    }

    /// Says which try this is, of at most nine; before anything of it is out.
    pub(super) fn count(&mut self, attempts: u32) {
        let digit =
            char::from_digit(attempts.min(9), 10).and_then(|digit| u8::try_from(digit).ok());
        if let (Some(at), Some(digit)) = (self.count_at, digit) {
            self.out[at] = digit;
        }
    }

    /// Whether nothing was written.
    pub(super) fn is_unsent(&self) -> bool {
        self.is_held && self.at == 0
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
        client: &mut Client,
        upstream: &mut Upstream,
    ) -> Poll<Result<(), Stop>> {
        for _ in 0..STEPS_AT_ONCE {
            while self.at < self.out.len() {
                let rest = &self.out[self.at..];
                match ready!(Pin::new(&mut *upstream).poll_write(context, rest)) {
                    Ok(count) if count > 0 => self.at += count,
                    other => return self.breaks(other),
                }
            }
            if self.body.has_ended() {
                self.is_done = true;
                return Poll::Ready(Ok(()));
            }
            self.is_held = false;
            if client.buffer().is_empty() {
                match ready!(client.poll_fill(context)) {
                    Ok(count) if count > 0 => {}
                    Ok(_) | Err(_) => return Poll::Ready(Err(Stop::ClientGone)),
                }
            }
            self.out.clear();
            self.at = 0;
            if self.body.is_chunked() {
                let carried = self.body.carry(client.buffer(), &mut self.out);
                if let Err(error) = carried {
                    let outcome = Outcome::Malformed(error.to_string().into());
                    return Poll::Ready(Err(Stop::Failed(outcome)));
                }
            } else {
                let own = self.body.plain(client.buffer().data().len());
                let data = &client.buffer().data()[..own];
                match ready!(Pin::new(&mut *upstream).poll_write(context, data)) {
                    Ok(count) if count > 0 => {
                        client.buffer().consume(count);
                        self.body.passed(count);
                    }
                    other => return self.breaks(other),
                }
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// The endpoint takes no more; what it says is still worth hearing.
    fn breaks(&mut self, written: io::Result<usize>) -> Poll<Result<(), Stop>> {
        let zero = || io::Error::from(io::ErrorKind::WriteZero);
        self.broken = Some(written.err().unwrap_or_else(zero));
        Poll::Ready(Ok(()))
    }
}

impl Answer {
    /// An answer of which nothing has come.
    pub(super) fn new() -> Self {
        Self {
            input: Buffer::default(),
            out: Vec::new(),
            at: 0,
            body: None,
            interim: 0,
            close: false,
        }
    }

    /// Whether the client may have seen something of it.
    pub(super) fn has_begun(&self) -> bool {
        self.body.is_some()
    }

    /// Whether the connection it came over can take another request.
    pub(super) fn leaves_reusable(&self) -> bool {
        let odd = self.body.as_ref().is_none_or(Body::is_odd);
        !self.close && !odd && self.input.is_empty()
    }
}

impl Flight<'_> {
    /// Carries what can be carried; ready when the client has the whole answer.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        upstream: &mut Upstream,
    ) -> Poll<Result<(), Stop>> {
        if !self.sending.is_done && self.sending.broken.is_none() {
            let sent = self.sending.poll(context, self.client, upstream);
            if let Poll::Ready(Err(stop)) = sent {
                return Poll::Ready(Err(stop));
            }
        }
        if self.sending.is_done {
            if self.client.look(context).is_err() {
                return Poll::Ready(Err(Stop::ClientGone));
            }
            let ended = self.client.has_ended() && self.client.buffer().is_empty();
            if ended && !self.sending.is_closed {
                // An error shows when the answer is read.
                let closed = Pin::new(&mut *upstream).poll_shutdown(context);
                self.sending.is_closed = closed.is_ready();
            }
        }
        if self.answer.body.is_none() {
            ready!(self.poll_head(context, upstream))?;
        }
        self.poll_body(context, upstream)
    }

    fn poll_head(
        &mut self,
        context: &mut Context<'_>,
        upstream: &mut Upstream,
    ) -> Poll<Result<(), Stop>> {
        loop {
            if !self.answer.input.has_room() {
                if self.answer.input.data().len() >= MAX_HEAD {
                    return Poll::Ready(Err(bad("head of the answer is too large")));
                }
                self.answer.input.grow();
            }
            let why: Arc<str> = match ready!(self.answer.input.poll_fill(context, upstream)) {
                Ok(count) if count > 0 => {
                    if self.understand()? {
                        return Poll::Ready(Ok(()));
                    }
                    continue;
                }
                Ok(_) => "connection closed before the answer was complete".into(),
                Err(error) => error.to_string().into(),
            };
            let broken = self.sending.broken.as_ref();
            let why = broken.map_or(why, |error| error.to_string().into());
            return Poll::Ready(Err(Stop::Unanswered(why)));
        }
    }

    /// Makes of what has come what the client gets; false if the head has not ended.
    fn understand(&mut self) -> Result<bool, Stop> {
        loop {
            let to_head = self.exchange.method == Method::HEAD;
            let mut room = head::room();
            let head = match head::response(self.answer.input.data(), &mut room, to_head) {
                Ok(Some(head)) => head,
                Ok(None) => return Ok(false),
                Err(error) => return Err(bad(&error.to_string())),
            };
            let length = head.length;
            if head.status.is_informational() {
                self.answer.interim += 1;
                if self.answer.interim > MAX_INTERIM {
                    return Err(bad("answer has too many interim ones in front"));
                }
                self.answer.input.consume(length);
                if self.answer.input.is_empty() {
                    return Ok(false);
                }
                continue;
            }
            self.exchange.answered(head.status);
            // To close a connection that idles would lose the request on its way at that moment.
            self.close |= self.drain.is_leaving();
            let available = self.answer.input.data().len() - length;
            let said = http_envoy::answer(&self.exchange);
            let edits = [Some(&said), self.edits.as_deref()];
            self.answer.out = written(&head, to_head, edits, self.close, available);
            self.answer.close = head.close;
            let mut body = Body::new(head.body);
            self.answer.input.consume(length);
            let carried = body.carry(&mut self.answer.input, &mut self.answer.out);
            self.answer.body = Some(body);
            // Nothing has been written: the client need not see half an answer.
            return match carried {
                Ok(()) => Ok(true),
                Err(error) => {
                    self.answer.body = None;
                    Err(bad(&error.to_string()))
                }
            };
        }
    }

    fn poll_body(
        &mut self,
        context: &mut Context<'_>,
        upstream: &mut Upstream,
    ) -> Poll<Result<(), Stop>> {
        let Answer {
            input,
            out,
            at,
            body: Some(body),
            ..
        } = &mut self.answer
        else {
            return Poll::Pending;
        };
        for _ in 0..STEPS_AT_ONCE {
            while *at < out.len() {
                match ready!(self.client.poll_write(context, &out[*at..])) {
                    Ok(count) if count > 0 => *at += count,
                    Ok(_) | Err(_) => return Poll::Ready(Err(Stop::ClientGone)),
                }
            }
            if body.has_ended() {
                return Poll::Ready(Ok(()));
            }
            out.clear();
            *at = 0;
            if input.is_empty() {
                match ready!(input.poll_fill(context, upstream)) {
                    Ok(count) if count > 0 => {}
                    Ok(_) if body.is_until_close() => {
                        body.close(out);
                        continue;
                    }
                    Ok(_) => {
                        return Poll::Ready(Err(cut(
                            "connection closed before the answer was complete",
                        )));
                    }
                    Err(error) => return Poll::Ready(Err(cut(&error.to_string()))),
                }
            }
            if body.is_chunked() {
                if let Err(error) = body.carry(input, out) {
                    return Poll::Ready(Err(cut(&error.to_string())));
                }
            } else {
                let own = body.plain(input.data().len());
                match ready!(self.client.poll_write(context, &input.data()[..own])) {
                    Ok(count) if count > 0 => {
                        input.consume(count);
                        body.passed(count);
                    }
                    Ok(_) | Err(_) => return Poll::Ready(Err(Stop::ClientGone)),
                }
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Notes in the exchange how much was carried.
    pub(super) fn count(&mut self) {
        self.exchange.request_bytes = self.sending.body.bytes();
        self.exchange.response_bytes = self.answer.body.as_ref().map_or(0, Body::bytes);
    }

    /// Whether the connection to the endpoint can take another request.
    pub(super) fn leaves_reusable(&self) -> bool {
        self.sending.is_done && !self.sending.is_closed && self.answer.leaves_reusable()
    }
}

fn bad(why: &str) -> Stop {
    Stop::Failed(Outcome::BadAnswer(why.into()))
}

fn cut(why: &str) -> Stop {
    Stop::Failed(Outcome::UpstreamGone(why.into()))
}

/// The head of the answer as the client gets it.
fn written(
    head: &ResponseHead<'_>,
    to_head: bool,
    edits: [Option<&HeaderEdits>; 2],
    close: bool,
    available: usize,
) -> Vec<u8> {
    let mut lines = Lines::passed(&head.fields);
    let bare = head.status == StatusCode::NO_CONTENT || head.status == StatusCode::NOT_MODIFIED;
    if bare {
        lines.drop_all(Name::ContentLength);
    }
    if bare || to_head {
        lines.drop_all(Name::TransferEncoding);
    }
    for edits in edits.into_iter().flatten() {
        lines.edit(&edits.response);
    }
    let last: &[u8] = match (head.body == Framing::Close, close) {
        (false, false) => b"",
        (false, true) => b"connection: close\r\n",
        (true, false) => b"transfer-encoding: chunked\r\n",
        (true, true) => b"transfer-encoding: chunked\r\nconnection: close\r\n",
    };
    let status = head.status.as_str();
    let parts = ["HTTP/1.1 ", status, " ", head.reason].map(str::as_bytes);
    lines.write(&parts, last, available)
}
