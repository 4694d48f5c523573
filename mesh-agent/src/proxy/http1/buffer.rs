// SPDX-License-Identifier: Apache-2.0

//! Room for bytes that were read and are not out of hand yet; none while there are no such bytes.
//!
//! Memory comes from a free list of the thread, so a connection that waits holds none and a busy
//! thread allocates none. Knows nothing of what the bytes mean.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};

use super::super::copy::{self, BUFFER_BYTES};

/// The room that is taken at first.
pub(super) const ROOM: usize = 16 * 1024;

/// The room that is taken while much comes at once.
const LARGE_ROOM: usize = BUFFER_BYTES;

/// How many pieces of memory of [`ROOM`] a thread keeps for later; the large ones are those of
/// [`copy`].
const SPARES: usize = 64;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes read from a stream and not taken yet.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    /// Empty while there is nothing in it.
    memory: Vec<u8>,
    start: usize,
    end: usize,
    /// The last read gave as much as there usually is room for.
    much: bool,
}

impl Buffer {
    /// Holds `bytes`.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut buffer = Self::default();
        if !bytes.is_empty() {
            buffer.memory = spare(ROOM);
            if buffer.memory.len() < bytes.len() {
                buffer.memory.resize(bytes.len(), 0);
            }
            buffer.memory[..bytes.len()].copy_from_slice(bytes);
            buffer.end = bytes.len();
        }
        buffer
    }

    /// The bytes.
    pub(super) fn data(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether more could be read without [`Buffer::grow`].
    pub(super) fn has_room(&self) -> bool {
        self.memory.is_empty() || self.end - self.start < self.memory.len()
    }

    /// Makes twice the room.
    pub(super) fn grow(&mut self) {
        let room = self.memory.len().max(ROOM / 2) * 2;
        self.memory.resize(room, 0);
    }

    /// Takes `count` bytes from the front.
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.end {
            self.release();
        }
    }

    /// Reads once, behind what is there; 0 at the end of the stream. There must be room.
    pub(super) fn poll_fill(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
    ) -> Poll<io::Result<usize>> {
        if self.memory.is_empty() {
            self.memory = spare(if self.much { LARGE_ROOM } else { ROOM });
        } else if self.end == self.memory.len() {
            self.memory.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let mut target = ReadBuf::new(&mut self.memory[self.end..]);
        let read = Pin::new(reader).poll_read(context, &mut target);
        let count = target.filled().len();
        self.end += count;
        if self.is_empty() {
            self.release();
        }
        ready!(read)?;
        self.much = count >= ROOM;
        Poll::Ready(Ok(count))
    }

    fn release(&mut self) {
        (self.start, self.end) = (0, 0);
        let memory = std::mem::take(&mut self.memory);
        match memory.len() {
            // An error means that the thread is ending: then the memory is simply freed.
            ROOM => drop(SPARE.try_with(|spare| {
                let mut spare = spare.borrow_mut();
                if spare.len() < SPARES {
                    spare.push(memory);
                }
            })),
            LARGE_ROOM => copy::give_buffer(memory.into_boxed_slice()),
            _ => {}
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.release();
    }
}

fn spare(room: usize) -> Vec<u8> {
    if room == LARGE_ROOM {
        return copy::take_buffer().into_vec();
    }
    let kept = SPARE.with_borrow_mut(Vec::pop);
    kept.unwrap_or_else(|| vec![0; ROOM])
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[track_caller]
    fn fill(buffer: &mut Buffer, bytes: &mut &[u8]) -> usize {
        let mut context = Context::from_waker(Waker::noop());
        match buffer.poll_fill(&mut context, bytes) {
            Poll::Ready(Ok(count)) => count,
            other => panic!("a slice is always ready: {other:?}"),
        }
    }

    #[test]
    fn bytes_come_out_as_they_went_in_and_memory_goes_back() {
        let mut buffer = Buffer::of(b"ab");
        assert_eq!(fill(&mut buffer, &mut b"cd".as_slice()), 2);
        buffer.consume(1);
        assert_eq!(buffer.data(), b"bcd");
        buffer.consume(3);
        assert!(buffer.is_empty() && buffer.memory.is_empty());
    }

    #[test]
    fn a_full_buffer_moves_up_or_grows() {
        let mut buffer = Buffer::of(&[1; ROOM]);
        assert!(!buffer.has_room());
        buffer.consume(1);
        assert!(buffer.has_room());
        assert_eq!(fill(&mut buffer, &mut [2, 3].as_slice()), 1);
        assert!(!buffer.has_room());
        buffer.grow();
        assert_eq!(fill(&mut buffer, &mut [4].as_slice()), 1);
        assert_eq!(buffer.data()[ROOM - 2..], [1, 2, 4]);
    }

    #[test]
    fn where_much_comes_more_is_read_at_once() {
        let mut buffer = Buffer::default();
        let mut stream = &[7; 3 * LARGE_ROOM][..];
        for want in [ROOM, LARGE_ROOM, LARGE_ROOM] {
            assert_eq!(fill(&mut buffer, &mut stream), want);
            buffer.consume(want);
        }
        assert_eq!(fill(&mut buffer, &mut b"little".as_slice()), 6);
        buffer.consume(6);
        assert_eq!(fill(&mut buffer, &mut stream), ROOM);
    }

    #[test]
    fn the_end_of_a_stream_is_no_bytes() {
        let mut buffer = Buffer::default();
        assert_eq!(fill(&mut buffer, &mut b"".as_slice()), 0);
        assert!(buffer.memory.is_empty());
    }
}
