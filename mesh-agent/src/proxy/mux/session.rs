// SPDX-License-Identifier: Apache-2.0

//! The mux without I/O: streams, their windows, and what their users may do with them.
//!
//! What the peer sent comes in through `receive.rs`, what is to be sent goes out through
//! `send.rs`. Wakers are gathered in [`Session::woken`] and woken by whoever lent the session out.
//!
//! Invariants: bytes of a stream stay in order and none is lost but by a reset; a stream takes no
//! more memory than its window (`window.rs`) and [`SEND_QUEUE`]; a stream whose reader stops affects
//! no other; a stream is forgotten when it is over on the wire and nobody holds it. Reference: ADR 11.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;

use super::{
    super::budgets::Loan,
    MuxLimits,
    decode::Decoder,
    frame::{Frame, FrameError, MAX_STREAM, Open, Parting, Reason},
    number::ByNumber,
    state::{End, Phase, Stream, keep},
};

/// What a stream may have written that is not sent yet, in bytes.
pub(super) const SEND_QUEUE: usize = 64 * 1024;

/// What a server is taken to allow before it says so.
const UNTOLD_MAX_STREAMS: usize = 100;

/// Why a session or a stream ended out of order.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MuxError {
    /// The connection broke.
    #[error("the tunnel's connection")]
    Io(#[source] Arc<io::Error>),
    /// The peer closed the connection while there were streams.
    #[error("the peer closed the tunnel")]
    Ended,
    /// The peer sent what is no frame.
    #[error("the peer broke the tunnel's protocol")]
    Frame(#[from] FrameError),
    /// The peer sent what may not be sent then.
    #[error("the peer broke the tunnel's protocol: {0}")]
    Violation(&'static str),
    /// The peer says that we broke the protocol.
    #[error("the peer says that we broke the tunnel's protocol")]
    Accused,
    /// The peer reset the stream.
    #[error("the peer reset the stream")]
    Reset,
    /// The peer never looked at the stream.
    #[error("the peer takes no more streams")]
    NotActedOn,
    /// The peer refused the stream.
    #[error("http status: {0}")]
    Refused(StatusCode),
    /// We closed the tunnel.
    #[error("the tunnel was closed")]
    Closed,
    /// The peer did not answer pings.
    #[error("the peer is silent")]
    Silent,
}

/// A stream that did not come about.
#[derive(Clone, Debug)]
pub(in super::super) enum Unopened {
    /// The peer said no.
    Refused(StatusCode),
    /// The peer did not act on it.
    NotActedOn,
    /// It or its session broke; nothing that was sent on it reached an application unless it was
    /// sent before the answer.
    Broken(MuxError),
}

/// Which end of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Opens streams.
    Client,
    /// Answers them.
    Server,
}

/// What is sent before any bytes of streams.
#[derive(Debug)]
pub(super) enum Control {
    Frame(Frame),
    /// What the stream owes by the time it is sent.
    Credit(u32),
}

/// One end of a mux.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) role: Role,
    pub(super) limits: MuxLimits,
    pub(super) streams: ByNumber<Stream>,
    /// How many of them are not over.
    pub(super) live: usize,
    /// How many are held that go on elsewhere: the session lives as long as they.
    pub(super) moved: usize,
    /// What the windows of its streams have beyond the least.
    pub(super) loan: Loan,
    /// The highest stream that was opened.
    pub(super) last: u32,
    /// How many streams the peer takes.
    pub(super) peer_takes: usize,
    /// The peer said hello.
    pub(super) is_greeted: bool,
    pub(super) decoder: Decoder,
    pub(super) control: VecDeque<Control>,
    /// Streams that can send, in turn.
    pub(super) ready: VecDeque<u32>,
    /// Streams that the peer opened and nobody looked at yet.
    pub(super) arrivals: VecDeque<(u32, Open)>,
    pub(super) pong: Option<u64>,
    /// Something came since the last look.
    pub(super) heard: bool,
    pub(super) listener: Option<Waker>,
    /// The peer takes no more streams.
    pub(super) is_going: bool,
    /// We open no more streams, or told the peer to open no more.
    pub(super) is_closing: bool,
    pub(super) ended: Option<MuxError>,
    pub(super) woken: Vec<Waker>,
}

impl Session {
    pub(super) fn new(role: Role, limits: MuxLimits) -> Self {
        let mut control = VecDeque::new();
        if role == Role::Server {
            let max_streams = u32::try_from(limits.max_streams).unwrap_or(u32::MAX);
            control.push_back(Control::Frame(Frame::Hello { max_streams }));
        }
        Self {
            role,
            limits,
            streams: ByNumber::default(),
            live: 0,
            moved: 0,
            loan: Loan::default(),
            last: 0,
            peer_takes: UNTOLD_MAX_STREAMS,
            is_greeted: false,
            decoder: Decoder::default(),
            control,
            ready: VecDeque::new(),
            arrivals: VecDeque::new(),
            pong: None,
            heard: false,
            listener: None,
            is_going: false,
            is_closing: false,
            ended: None,
            woken: Vec::new(),
        }
    }

    /// Whether a stream can be opened now.
    pub(super) fn has_place(&self) -> bool {
        let takes_more = !self.is_going && !self.is_closing && self.ended.is_none();
        takes_more && self.live < self.peer_takes && self.last < MAX_STREAM
    }

    /// Opens a stream. Its window in `open` is set here.
    pub(super) fn open(&mut self, mut open: Open) -> Result<u32, Unopened> {
        debug_assert_eq!(self.role, Role::Client);
        if let Some(error) = &self.ended {
            return Err(Unopened::Broken(error.clone()));
        }
        if !self.has_place() {
            return Err(Unopened::NotActedOn);
        }
        self.last += 1;
        open.window = self.window();
        self.streams.insert(self.last, Stream::ours(open.window));
        self.live += 1;
        let stream = self.last;
        self.push(Frame::Open { stream, open });
        Ok(stream)
    }

    /// Waits for the answer to a stream of ours; gives the peer's baggage.
    pub(super) fn poll_answer(
        &mut self,
        id: u32,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<String>, Unopened>> {
        let stream = self.stream(id);
        if let Some(baggage) = stream.accepted.take() {
            return Poll::Ready(Ok(baggage));
        }
        match &stream.phase {
            Phase::Broken(MuxError::Refused(status)) => {
                Poll::Ready(Err(Unopened::Refused(*status)))
            }
            Phase::Broken(MuxError::NotActedOn) => Poll::Ready(Err(Unopened::NotActedOn)),
            Phase::Broken(error) => Poll::Ready(Err(Unopened::Broken(error.clone()))),
            Phase::Opening | Phase::Offered | Phase::Open => {
                keep(&mut stream.reader, context);
                Poll::Pending
            }
        }
    }

    /// The next stream that the peer opened and did not give up since.
    pub(super) fn next_arrival(&mut self) -> Option<(u32, Open)> {
        while let Some((id, open)) = self.arrivals.pop_front() {
            if self.stream(id).broken().is_none() {
                return Some((id, open));
            }
            self.let_go(id);
        }
        None
    }

    /// Accepts a stream of the peer's.
    pub(super) fn accept(&mut self, id: u32, baggage: Option<String>) {
        // If the peer gave up meanwhile, the first use of the stream says so.
        if matches!(self.stream(id).phase, Phase::Offered) {
            let window = self.window();
            let stream = self.stream(id);
            stream.phase = Phase::Open;
            stream.room += window - stream.window;
            stream.window = window;
            self.push(Frame::Accept {
                stream: id,
                window,
                baggage,
            });
            self.schedule(id);
        }
    }

    /// Refuses a stream of the peer's.
    pub(super) fn refuse(&mut self, id: u32, status: StatusCode) {
        let stream = self.stream(id);
        if matches!(stream.phase, Phase::Offered) {
            stream.phase = Phase::Broken(MuxError::Refused(status));
            self.push(Frame::Refuse { stream: id, status });
            self.settle(id);
        }
    }

    /// Waits for bytes to read; none is the orderly end.
    pub(super) fn poll_received(
        &mut self,
        id: u32,
        context: &mut Context<'_>,
    ) -> Poll<Result<&[u8], MuxError>> {
        let stream = self.stream(id);
        if !stream.received.is_empty() || stream.peer_ended {
            return Poll::Ready(Ok(&stream.received));
        }
        if let Some(error) = stream.broken() {
            return Poll::Ready(Err(error.clone()));
        }
        keep(&mut stream.reader, context);
        Poll::Pending
    }

    /// Takes all that [`Session::poll_received`] showed.
    pub(super) fn take_received(&mut self, id: u32) -> Bytes {
        std::mem::take(&mut self.stream(id).received).freeze()
    }

    /// Forgets the first `count` bytes that [`Session::poll_received`] showed.
    pub(super) fn skip_received(&mut self, id: u32, count: usize) {
        let received = &mut self.stream(id).received;
        received.advance(count);
        if received.is_empty() {
            // Gives the memory back: most streams are idle most of the time.
            *received = BytesMut::new();
        }
    }

    /// Waits for room to write; gives how much there is, at most `want`.
    pub(super) fn poll_room(
        &mut self,
        id: u32,
        want: usize,
        context: &mut Context<'_>,
    ) -> Poll<Result<usize, MuxError>> {
        let stream = self.stream(id);
        if let Some(error) = stream.broken() {
            return Poll::Ready(Err(error.clone()));
        }
        let room = SEND_QUEUE - stream.queue.len();
        if room == 0 && want > 0 {
            keep(&mut stream.writer, context);
            return Poll::Pending;
        }
        Poll::Ready(Ok(room.min(want)))
    }

    /// Queues a copy of `bytes`, for which there must be room.
    pub(super) fn write_copy(&mut self, id: u32, bytes: &[u8]) {
        self.stream(id).queue.copy_in(bytes);
        self.schedule(id);
    }

    /// Queues `bytes`, for which there must be room.
    pub(super) fn write(&mut self, id: u32, bytes: Bytes) {
        self.stream(id).queue.push(bytes);
        self.schedule(id);
    }

    /// Ends our direction in order, after what was written.
    pub(super) fn shut_down(&mut self, id: u32) -> Result<(), MuxError> {
        let stream = self.stream(id);
        if stream.end != End::No {
            return Ok(());
        }
        if let Some(error) = stream.broken() {
            return Err(error.clone());
        }
        stream.end = End::Wanted;
        self.schedule(id);
        Ok(())
    }

    /// Nobody holds the stream any more. What was written and ended in order still goes out; the
    /// rest is reset.
    pub(super) fn let_go(&mut self, id: u32) {
        let stream = self.stream(id);
        stream.held = false;
        stream.reader = None;
        stream.writer = None;
        stream.received = BytesMut::new();
        let had_moved = std::mem::take(&mut stream.moved);
        let still_sends = stream.end == End::Wanted && matches!(stream.phase, Phase::Open);
        if !stream.is_over() && !still_sends {
            self.reset(id, Reason::Cancelled);
        }
        if had_moved {
            self.moved -= 1;
        }
        self.settle(id);
    }

    /// Gives the stream up and tells the peer.
    pub(super) fn reset(&mut self, id: u32, reason: Reason) {
        self.push(Frame::Reset { stream: id, reason });
        self.break_off(id, MuxError::Closed);
    }

    /// Ends a stream out of order, if it is not over.
    pub(super) fn break_off(&mut self, id: u32, error: MuxError) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.is_over()
        {
            stream.break_off(error, &mut self.woken);
        }
        self.settle(id);
    }

    /// A client opens no more streams, and ends with the last one. A server asks its client for
    /// that; what is on its way is still served.
    pub(super) fn close(&mut self) {
        if self.is_closing || self.ended.is_some() {
            return;
        }
        self.is_closing = true;
        if self.role == Role::Server {
            let (last, parting) = (MAX_STREAM, Parting::Leaving);
            self.push(Frame::GoAway { last, parting });
        }
    }

    /// Whether our direction is to be ended: only a client knows that nothing is on its way.
    pub(super) fn is_finished(&self) -> bool {
        self.role == Role::Client
            && self.is_closing
            && self.live + self.moved == 0
            && !self.wants_to_send()
    }

    /// The session is over: so are all its streams.
    pub(super) fn end(&mut self, error: &MuxError) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(error.clone());
        self.control.clear();
        self.ready.clear();
        let all: Vec<u32> = self.streams.keys().copied().collect();
        for id in all {
            self.break_off(id, error.clone());
            self.wake(id);
        }
        self.woken.extend(self.listener.take());
    }

    /// Whether the peer may continue the stream elsewhere.
    pub(super) fn may_move(&self, id: u32) -> bool {
        let stream = self.streams.get(&id);
        stream.is_some_and(|one| one.held && !one.is_over() && matches!(one.phase, Phase::Open))
    }

    /// The stream goes on elsewhere.
    pub(super) fn note_moved(&mut self, id: u32) {
        let stream = self.stream(id);
        if !std::mem::replace(&mut stream.moved, true) {
            self.moved += 1;
        }
    }

    /// Wakes whoever waits for the stream.
    pub(super) fn wake(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            self.woken.extend(stream.reader.take());
            self.woken.extend(stream.writer.take());
        }
    }

    /// Waits for [`Session::wake`].
    pub(super) fn wait(&mut self, id: u32, context: &mut Context<'_>) {
        keep(&mut self.stream(id).reader, context);
    }

    /// Tells the peer, as far as it listens, that it broke the protocol.
    pub(super) fn accuse(&mut self) {
        let (last, parting) = (self.last, Parting::Violation);
        self.control.clear();
        self.ready.clear();
        self.push(Frame::GoAway { last, parting });
    }

    pub(super) fn push(&mut self, frame: Frame) {
        if self.ended.is_none() {
            self.control.push_back(Control::Frame(frame));
        }
    }

    /// A stream that somebody holds, or that is live.
    pub(super) fn stream(&mut self, id: u32) -> &mut Stream {
        self.streams
            .get_mut(&id)
            .expect("a stream is known as long as it is held or live")
    }

    /// Counts a stream that is over no longer, and forgets it if nobody holds it.
    pub(super) fn settle(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if !stream.is_over() {
            return;
        }
        if std::mem::take(&mut stream.live) {
            self.live -= 1;
        }
        if !stream.held {
            let window = stream.window;
            self.streams.remove(&id);
            self.give_window(window);
        }
    }
}
