// SPDX-License-Identifier: Apache-2.0

//! One stream as its session sees it: windows, what is received and what is to be sent.
//!
//! Knows nothing of other streams. Invariants: `room` is what the peer was told it may send and
//! has not; the reader is told of an end only if the peer sent END.

use std::task::{Context, Waker};

use bytes::BytesMut;

use super::{frame::EARLY_WINDOW, queue::Queue, session::MuxError};

/// How far a stream is.
#[derive(Debug)]
pub(super) enum Phase {
    /// Ours; the peer has not answered yet.
    Opening,
    /// The peer's; we have not answered yet.
    Offered,
    Open,
    /// Over, and not in order.
    Broken(MuxError),
}

/// How far our direction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    No,
    /// To be sent after what is queued.
    Wanted,
    Sent,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) phase: Phase,
    /// The peer accepted it, with this baggage; kept if it broke since.
    pub(super) accepted: Option<Option<String>>,
    /// Somebody holds it.
    pub(super) held: bool,
    /// It counts among the live ones.
    pub(super) live: bool,
    /// It goes on elsewhere.
    pub(super) moved: bool,

    pub(super) received: BytesMut,
    /// What the peer may have under way in all.
    pub(super) window: u32,
    /// What the peer may still send.
    pub(super) room: u32,
    /// Consumed, and not yet given back to the peer.
    pub(super) owed: u32,
    pub(super) credit_is_queued: bool,
    pub(super) peer_ended: bool,
    pub(super) reader: Option<Waker>,

    pub(super) queue: Queue,
    /// What we may still send.
    pub(super) credit: u32,
    pub(super) end: End,
    pub(super) is_ready: bool,
    pub(super) writer: Option<Waker>,
}

impl Stream {
    /// A stream of ours: the peer may fill `window` once it has accepted.
    pub(super) fn ours(window: u32) -> Self {
        Self::new(Phase::Opening, window, EARLY_WINDOW)
    }

    /// A stream of the peer's, which lets us send `credit`.
    pub(super) fn offered(credit: u32) -> Self {
        Self::new(Phase::Offered, EARLY_WINDOW, credit)
    }

    fn new(phase: Phase, window: u32, credit: u32) -> Self {
        Self {
            phase,
            accepted: None,
            held: true,
            live: true,
            moved: false,
            received: BytesMut::new(),
            window,
            room: window,
            owed: 0,
            credit_is_queued: false,
            peer_ended: false,
            reader: None,
            queue: Queue::default(),
            credit,
            end: End::No,
            is_ready: false,
            writer: None,
        }
    }

    pub(super) fn broken(&self) -> Option<&MuxError> {
        match &self.phase {
            Phase::Broken(error) => Some(error),
            Phase::Opening | Phase::Offered | Phase::Open => None,
        }
    }

    /// Whether nothing more is sent in either direction.
    pub(super) fn is_over(&self) -> bool {
        self.broken().is_some() || (self.peer_ended && self.end == End::Sent)
    }

    /// Whether there is something that may be sent.
    pub(super) fn can_send(&self) -> bool {
        if self.broken().is_some() {
            return false;
        }
        if self.queue.is_empty() {
            self.end == End::Wanted
        } else {
            self.credit > 0
        }
    }

    /// Ends it out of order: what was to be sent is lost, what was received can still be read.
    pub(super) fn break_off(&mut self, error: MuxError, woken: &mut Vec<Waker>) {
        self.phase = Phase::Broken(error);
        self.queue = Queue::default();
        woken.extend(self.reader.take());
        woken.extend(self.writer.take());
    }
}

/// Keeps the task's waker, if it is not kept already.
pub(super) fn keep(place: &mut Option<Waker>, context: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(context.waker()),
        None => *place = Some(context.waker().clone()),
    }
}
