// SPDX-License-Identifier: Apache-2.0

//! What a stream has written and the session has not yet sent.
//!
//! Large pieces are kept as they are, small ones are gathered, so that many small writes cost
//! little memory. Knows nothing of frames. Invariant: bytes leave in the order they came.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

/// Shorter pieces are copied.
const WORTH_KEEPING: usize = 2048;

/// Bytes in order, in as few pieces as is cheap.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pieces: VecDeque<Bytes>,
    /// After all pieces.
    tail: BytesMut,
    length: usize,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends a copy of `bytes`.
    pub(super) fn copy_in(&mut self, bytes: &[u8]) {
        self.length += bytes.len();
        self.tail.extend_from_slice(bytes);
    }

    /// Appends `bytes`.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if bytes.len() < WORTH_KEEPING {
            return self.copy_in(&bytes);
        }
        self.length += bytes.len();
        if !self.tail.is_empty() {
            self.pieces
                .push_back(std::mem::take(&mut self.tail).freeze());
        }
        self.pieces.push_back(bytes);
    }

    /// Moves the first `count` bytes, of which there must be so many, to the end of `out`.
    pub(super) fn move_to(&mut self, out: &mut Vec<u8>, mut count: usize) {
        debug_assert!(count <= self.length);
        self.length -= count;
        while count > 0 {
            let Some(piece) = self.pieces.front_mut() else {
                out.extend_from_slice(&self.tail[..count]);
                self.tail.advance(count);
                break;
            };
            let part = count.min(piece.len());
            out.extend_from_slice(&piece[..part]);
            piece.advance(part);
            count -= part;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
        if self.length == 0 {
            // Gives the memory back: most streams are idle most of the time.
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_the_order_they_came() {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut queue, mut want, mut got) = (Queue::default(), Vec::new(), Vec::new());
        for _ in 0..2000 {
            let count = random.usize(0..5000);
            let bytes: Vec<u8> = (0..count).map(|_| random.u8(..)).collect();
            want.extend_from_slice(&bytes);
            if random.bool() {
                queue.copy_in(&bytes);
            } else {
                queue.push(bytes.into());
            }
            let count = random.usize(0..=queue.len());
            queue.move_to(&mut got, count);
            assert_eq!(queue.len(), want.len() - got.len());
        }
        let rest = queue.len();
        queue.move_to(&mut got, rest);
        assert!(queue.is_empty());
        assert!(want == got, "order or bytes were lost");
    }
}
