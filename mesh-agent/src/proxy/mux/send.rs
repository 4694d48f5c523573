// SPDX-License-Identifier: Apache-2.0

//! What a session sends, and in which order.
//!
//! Frames without bytes of streams come first, in the order they arose; then streams take turns, a
//! frame each. Knows nothing of where the bytes go. Invariant: a stream sends no more than the
//! peer gave it credit for, and END only after all its bytes.

use super::{
    frame::{Frame, MAX_DATA, Reason, put_data_header},
    session::{Control, SEND_QUEUE, Session},
    state::End,
};

impl Session {
    /// Whether [`Session::fill`] would give anything.
    pub(super) fn wants_to_send(&self) -> bool {
        !self.control.is_empty() || !self.ready.is_empty() || self.pong.is_some()
    }

    /// Appends frames to `out` until it holds `enough` bytes or there are no more; `out` may end up
    /// longer by one frame.
    pub(super) fn fill(&mut self, out: &mut Vec<u8>, enough: usize) {
        if let Some(token) = self.pong.take() {
            Frame::Pong(token).put(out);
        }
        while out.len() < enough
            && let Some(control) = self.control.pop_front()
        {
            match control {
                Control::Frame(frame) => frame.put(out),
                Control::Credit(id) => self.put_credit(id, out),
            }
        }
        while out.len() < enough
            && let Some(id) = self.ready.pop_front()
        {
            self.put_bytes(id, out);
        }
    }

    /// Puts the stream in line, if it has something to send and is not there.
    pub(super) fn schedule(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.can_send() && !stream.is_ready && self.ended.is_none() {
            stream.is_ready = true;
            self.ready.push_back(id);
        }
    }

    fn put_credit(&mut self, id: u32, out: &mut Vec<u8>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.credit_is_queued = false;
        if stream.peer_ended || stream.broken().is_some() {
            return;
        }
        let bytes = std::mem::take(&mut stream.owed);
        stream.room += bytes;
        Frame::Credit { stream: id, bytes }.put(out);
    }

    fn put_bytes(&mut self, id: u32, out: &mut Vec<u8>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.is_ready = false;
        if !stream.can_send() {
            return;
        }
        let credit = usize::try_from(stream.credit).unwrap_or(usize::MAX);
        let count = stream.queue.len().min(credit).min(MAX_DATA);
        if count > 0 {
            put_data_header(out, id, count);
            stream.queue.move_to(out, count);
            stream.credit -= u32::try_from(count).expect("no more than the credit");
        }
        if stream.queue.len() <= SEND_QUEUE / 2 {
            self.woken.extend(stream.writer.take());
        }
        if stream.queue.is_empty() && stream.end == End::Wanted {
            stream.end = End::Sent;
            Frame::End { stream: id }.put(out);
            if !stream.held && !stream.is_over() {
                // Nobody is there to read what the peer may still send.
                self.reset(id, Reason::Cancelled);
            }
            self.settle(id);
        } else {
            self.schedule(id);
        }
    }
}
