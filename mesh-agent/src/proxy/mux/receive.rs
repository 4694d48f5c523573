// SPDX-License-Identifier: Apache-2.0

//! What the peer sent, applied to a session.
//!
//! Knows nothing of where the bytes come from. Invariant: a peer that does what it may not do ends
//! the session; what it says about streams that are over by now is ignored, because it cannot know
//! yet.

use http::StatusCode;

use super::{
    decode::Piece,
    frame::{EARLY_WINDOW, Frame, MAX_WINDOW, Open, Parting, Reason},
    session::{MuxError, Role, Session},
    state::{Phase, Stream},
};

/// Frames that wait to be sent, per stream that the peer may have: more are only caused by one
/// that opens streams and never reads.
const MOST_CONTROL: usize = 8;

impl Session {
    /// Applies what was received.
    ///
    /// # Errors
    /// If the peer broke the protocol: the session must end then.
    pub(super) fn receive(&mut self, mut bytes: &[u8]) -> Result<(), MuxError> {
        self.heard = true;
        self.woken.extend(self.listener.take());
        // Out of `self`, so that pieces can be applied while it is borrowed.
        let mut decoder = std::mem::take(&mut self.decoder);
        while let Some(piece) = decoder.next(&mut bytes)? {
            match piece {
                Piece::Data { stream, bytes } => self.on_bytes(stream, bytes)?,
                Piece::Frame(frame) => self.on_frame(frame)?,
            }
        }
        self.decoder = decoder;
        Ok(())
    }

    fn on_frame(&mut self, frame: Frame) -> Result<(), MuxError> {
        match frame {
            Frame::Hello { max_streams } => self.on_hello(max_streams),
            Frame::Open { stream, open } => self.on_open(stream, open),
            Frame::Accept {
                stream,
                window,
                baggage,
            } => self.on_accept(stream, window, baggage),
            Frame::Refuse { stream, status } => self.on_refuse(stream, status),
            Frame::End { stream } => self.on_end(stream),
            Frame::Reset { stream, reason } => self.on_reset(stream, reason),
            Frame::Credit { stream, bytes } => self.on_credit(stream, bytes),
            Frame::Ping(token) => {
                // Of several at once the last is answered: the peer hears that we live.
                self.pong = Some(token);
                Ok(())
            }
            Frame::Pong(_) => Ok(()),
            Frame::GoAway { last, parting } => self.on_go_away(last, parting),
        }
    }

    fn on_hello(&mut self, max_streams: u32) -> Result<(), MuxError> {
        if self.role == Role::Server || self.is_greeted {
            return Err(MuxError::Violation("a hello out of turn"));
        }
        self.is_greeted = true;
        self.peer_takes = usize::try_from(max_streams).unwrap_or(usize::MAX);
        Ok(())
    }

    fn on_open(&mut self, id: u32, open: Open) -> Result<(), MuxError> {
        if self.role == Role::Client {
            return Err(MuxError::Violation("a stream opened by the server"));
        }
        if id != self.last + 1 {
            return Err(MuxError::Violation("a stream out of turn"));
        }
        self.last = id;
        let most = self.limits.max_streams;
        if self.control.len() > MOST_CONTROL * most.max(100) {
            return Err(MuxError::Violation("streams without reading"));
        }
        // Streams that are over and held by us still count somewhat: opening and resetting must
        // not be a way around the limit.
        if self.live >= most || self.streams.len() >= 2 * most {
            self.reset(id, Reason::NotActedOn);
            return Ok(());
        }
        self.streams.insert(id, Stream::offered(open.window));
        self.live += 1;
        self.arrivals.push_back((id, open));
        Ok(())
    }

    fn on_accept(&mut self, id: u32, window: u32, baggage: Option<String>) -> Result<(), MuxError> {
        let Some(stream) = self.opening_stream(id)? else {
            return Ok(());
        };
        stream.phase = Phase::Open;
        stream.accepted = Some(baggage);
        stream.credit += window - EARLY_WINDOW;
        let reader = stream.reader.take();
        self.woken.extend(reader);
        self.schedule(id);
        Ok(())
    }

    fn on_refuse(&mut self, id: u32, status: StatusCode) -> Result<(), MuxError> {
        if self.opening_stream(id)?.is_some() {
            self.break_off(id, MuxError::Refused(status));
        }
        Ok(())
    }

    fn on_bytes(&mut self, id: u32, bytes: &[u8]) -> Result<(), MuxError> {
        let Some(stream) = self.sending_stream(id)? else {
            return Ok(());
        };
        let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let Some(room) = stream.room.checked_sub(count) else {
            return Err(MuxError::Violation("more bytes than there is room for"));
        };
        stream.room = room;
        if stream.held {
            stream.received.extend_from_slice(bytes);
            let reader = stream.reader.take();
            self.woken.extend(reader);
        }
        Ok(())
    }

    fn on_end(&mut self, id: u32) -> Result<(), MuxError> {
        let Some(stream) = self.sending_stream(id)? else {
            return Ok(());
        };
        stream.peer_ended = true;
        let reader = stream.reader.take();
        self.woken.extend(reader);
        self.settle(id);
        Ok(())
    }

    fn on_reset(&mut self, id: u32, reason: Reason) -> Result<(), MuxError> {
        if self.live_stream(id)?.is_some() {
            self.break_off(
                id,
                match reason {
                    Reason::Cancelled => MuxError::Reset,
                    Reason::NotActedOn => MuxError::NotActedOn,
                },
            );
        }
        Ok(())
    }

    fn on_credit(&mut self, id: u32, bytes: u32) -> Result<(), MuxError> {
        let Some(stream) = self.live_stream(id)? else {
            return Ok(());
        };
        if matches!(stream.phase, Phase::Opening) {
            return Err(MuxError::Violation("credit before an answer"));
        }
        let credit = stream.credit.checked_add(bytes);
        match credit.filter(|credit| *credit <= MAX_WINDOW) {
            Some(credit) => stream.credit = credit,
            None => return Err(MuxError::Violation("a window without bounds")),
        }
        self.schedule(id);
        Ok(())
    }

    fn on_go_away(&mut self, last: u32, parting: Parting) -> Result<(), MuxError> {
        if parting == Parting::Violation {
            return Err(MuxError::Accused);
        }
        self.is_going = true;
        if self.role == Role::Client {
            let untouched: Vec<u32> = self.streams.keys().copied().collect();
            for id in untouched.into_iter().filter(|id| *id > last) {
                self.break_off(id, MuxError::NotActedOn);
            }
        }
        Ok(())
    }

    /// A stream that is not over; `None` for one that is. One that never was is a violation.
    fn live_stream(&mut self, id: u32) -> Result<Option<&mut Stream>, MuxError> {
        if id > self.last {
            return Err(MuxError::Violation("a stream that was never opened"));
        }
        Ok(self.streams.get_mut(&id).filter(|stream| !stream.is_over()))
    }

    /// A stream of ours that waits for its answer.
    fn opening_stream(&mut self, id: u32) -> Result<Option<&mut Stream>, MuxError> {
        if self.role == Role::Server {
            return Err(MuxError::Violation("an answer from the client"));
        }
        let Some(stream) = self.live_stream(id)? else {
            return Ok(None);
        };
        if !matches!(stream.phase, Phase::Opening) {
            return Err(MuxError::Violation("a second answer"));
        }
        Ok(Some(stream))
    }

    /// A stream on which the peer may send.
    fn sending_stream(&mut self, id: u32) -> Result<Option<&mut Stream>, MuxError> {
        let Some(stream) = self.live_stream(id)? else {
            return Ok(None);
        };
        if stream.peer_ended {
            return Err(MuxError::Violation("bytes after the end"));
        }
        if matches!(stream.phase, Phase::Opening) {
            return Err(MuxError::Violation("bytes before an answer"));
        }
        Ok(Some(stream))
    }
}
