// SPDX-License-Identifier: Apache-2.0

//! Bodies on their way through: frames are passed on as they come, never collected.
//!
//! A request's body tells whether it has ended; a response's holds the exchange, which is over when
//! the body is. Knows nothing of connections. Invariant: a response body that breaks ends
//! in an error, so the client never sees an end of what was cut short.

use std::{
    cell::Cell,
    error::Error,
    pin::Pin,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::{sync::Notify, time::Sleep};

use super::{
    Outcome, http_ahead::Ahead, http_ending::Waiting, http_exchange::Exchange, http_lease::Lease,
    http_replay::Reader,
};

/// How long an endpoint may take to answer `Expect: 100-continue` before the body is sent anyway.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// Why a response body ended early.
type Broken = Box<dyn Error + Send + Sync>;

/// How far a request's body has come.
pub(crate) struct Progress {
    bytes: Cell<u64>,
    ended: Cell<bool>,
    /// Some of it was read ahead, and has not gone on.
    held_back: Cell<bool>,
    /// Told when the body has ended.
    waiting: Weak<Waiting>,
}

/// The body of a request to an endpoint.
pub(crate) enum RequestBody {
    /// There is none.
    Empty,
    /// The client's, as it comes.
    Streaming {
        /// What the client sends.
        body: Incoming,
        /// Shared with the exchange.
        progress: Rc<Progress>,
        /// Holds the body back until the endpoint wants it.
        gate: Option<Pin<Box<dyn Future<Output = ()>>>>,
    },
    /// One that is kept while it passes.
    Replayed(Reader),
    /// One whose beginning was read ahead.
    Ahead(Box<Ahead>),
}

/// The body of a response to the client.
pub(crate) enum ReplyBody {
    /// Our own words.
    Own {
        /// What is to be sent.
        text: Bytes,
        /// Recorded when the body has been sent.
        exchange: Option<Box<Exchange>>,
    },
    /// The endpoint's, as it comes.
    Streaming(Box<Streaming>),
}

/// A response body under way.
pub(crate) struct Streaming {
    pub(crate) body: Incoming,
    pub(crate) exchange: Box<Exchange>,
    pub(crate) lease: Option<Lease>,
    /// When the route's time limit passes.
    pub(crate) deadline: Option<Pin<Box<Sleep>>>,
}

impl Progress {
    /// Of a body of which nothing has come.
    pub(crate) fn new(waiting: &Rc<Waiting>) -> Rc<Self> {
        Rc::new(Self {
            bytes: Cell::new(0),
            ended: Cell::new(false),
            held_back: Cell::new(false),
            waiting: Rc::downgrade(waiting),
        })
    }

    /// Bytes that have come so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    fn end(&self) {
        if !self.ended.replace(true) {
            self.tell();
        }
    }

    fn tell(&self) {
        if let Some(waiting) = self.waiting.upgrade() {
            waiting.tell();
        }
    }

    /// From now on what comes does not go on at once.
    pub(crate) fn hold_back(&self) {
        self.held_back.set(true);
    }

    /// What was held back has gone on.
    pub(crate) fn let_go(&self) {
        if self.held_back.replace(false) && self.ended.get() {
            self.tell();
        }
    }

    /// Whether all of the body has come.
    pub(crate) fn has_come(&self) -> bool {
        self.ended.get()
    }

    /// Whether all of the body was passed on.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.get() && !self.held_back.get()
    }
}

impl RequestBody {
    /// Passes `body` on, and tells `waiting` when it has ended.
    pub(crate) fn new(body: Incoming, waiting: &Rc<Waiting>) -> (Self, Option<Rc<Progress>>) {
        if body.is_end_stream() {
            return (Self::Empty, None);
        }
        let progress = Progress::new(waiting);
        let streaming = Self::Streaming {
            body,
            progress: Rc::clone(&progress),
            gate: None,
        };
        (streaming, Some(progress))
    }

    /// Whether there is no body.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// Holds the body back until `wanted` is told, or the endpoint says nothing for long.
    pub(crate) fn hold(&mut self, wanted: Arc<Notify>) {
        if let Self::Streaming { gate, .. } = self {
            *gate = Some(Box::pin(async move {
                // Whether it came or not, the body is sent now.
                tokio::time::timeout(CONTINUE_WAIT, wanted.notified())
                    .await
                    .ok();
            }));
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let (body, progress, gate) = match self.get_mut() {
            Self::Empty => return Poll::Ready(None),
            Self::Replayed(reader) => return reader.poll(context),
            Self::Ahead(ahead) => return ahead.poll(context),
            Self::Streaming {
                body,
                progress,
                gate,
            } => (body, progress, gate),
        };
        if let Some(held) = gate {
            ready!(held.as_mut().poll(context));
            *gate = None;
        }
        let frame = ready!(Pin::new(&mut *body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(bytes) = frame.data_ref() {
                    progress.bytes.set(progress.bytes.get() + length(bytes));
                }
                if body.is_end_stream() {
                    progress.end();
                }
            }
            Some(Err(_)) => {}
            None => progress.end(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming { body, .. } => body.is_end_stream(),
            Self::Replayed(reader) => reader.is_end(),
            Self::Ahead(ahead) => ahead.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Replayed(reader) => reader.hint(),
            Self::Ahead(ahead) => ahead.size_hint(),
            Self::Streaming { body, .. } => body.size_hint(),
        }
    }
}

impl ReplyBody {
    /// Our own words, recorded when they have been sent.
    pub(crate) fn own(text: Bytes, exchange: Option<Box<Exchange>>) -> Self {
        Self::Own { text, exchange }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Own { text, exchange } => {
                if text.is_empty() {
                    return Poll::Ready(None);
                }
                let text = std::mem::take(text);
                if let Some(exchange) = exchange {
                    exchange.response_bytes += length(&text);
                }
                Poll::Ready(Some(Ok(Frame::data(text))))
            }
            Self::Streaming(streaming) => streaming.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own { text, .. } => text.is_empty(),
            Self::Streaming(streaming) => streaming.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own { text, .. } => SizeHint::with_exact(length(text)),
            Self::Streaming(streaming) => streaming.body.size_hint(),
        }
    }
}

impl Streaming {
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            self.deadline = None;
            self.cut(Outcome::TimedOut);
            return Poll::Ready(Some(Err("the route's time limit has passed".into())));
        }
        match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => {
                if let Some(bytes) = frame.data_ref() {
                    self.exchange.response_bytes += length(bytes);
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.exchange.note_grpc(trailers);
                    self.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                self.cut(Outcome::UpstreamGone(super::dial::chain(&error).into()));
                Poll::Ready(Some(Err(error.into())))
            }
            None => {
                self.complete();
                Poll::Ready(None)
            }
        }
    }

    fn complete(&mut self) {
        self.exchange.end(Outcome::Complete);
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    fn cut(&mut self, outcome: Outcome) {
        self.exchange.end(outcome);
        self.exchange.mark_truncated();
        self.lease = None;
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        // The server does not ask for more once the last byte has come.
        if self.body.is_end_stream() {
            self.complete();
        }
    }
}

fn length(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).expect("a length fits u64")
}
