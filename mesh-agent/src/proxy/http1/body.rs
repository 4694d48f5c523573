// SPDX-License-Identifier: Apache-2.0

//! How a body is framed, and how its data moves from one buffer to another.
//!
//! Knows nothing of sockets. Invariant: a body that goes out chunked is framed here, whatever its
//! frames were when it came. Reference: RFC 9112 section 6.

use std::io::Write;

use super::{
    buffer::Buffer,
    chunks::{BadChunk, Chunks},
};

/// How a body ends, as its head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    Empty,
    /// After so many bytes, more than 0.
    Length(u64),
    /// After a chunk of size 0.
    Chunked,
    /// With its connection.
    Close,
}

/// A body on its way.
#[derive(Debug)]
pub(super) struct Body {
    rest: Rest,
    bytes: u64,
}

#[derive(Debug)]
enum Rest {
    Length(u64),
    Chunked(Chunks),
    Close { ended: bool },
}

/// What ends every chunked body that we send.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

impl Body {
    /// A body of which nothing has come yet.
    pub(super) fn new(framing: Framing) -> Self {
        let rest = match framing {
            Framing::Empty => Rest::Length(0),
            Framing::Length(length) => Rest::Length(length),
            Framing::Chunked => Rest::Chunked(Chunks::default()),
            Framing::Close => Rest::Close { ended: false },
        };
        Self { rest, bytes: 0 }
    }

    /// Bytes of data so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether all of it has come.
    pub(super) fn has_ended(&self) -> bool {
        match &self.rest {
            Rest::Length(left) => *left == 0,
            Rest::Chunked(chunks) => chunks.has_ended(),
            Rest::Close { ended } => *ended,
        }
    }

    /// Whether it ends with its connection.
    pub(super) fn is_until_close(&self) -> bool {
        matches!(self.rest, Rest::Close { .. })
    }

    /// Whether it goes out in chunks.
    pub(super) fn is_chunked(&self) -> bool {
        !matches!(self.rest, Rest::Length(_))
    }

    /// Whether its framing had more to it than was needed.
    pub(super) fn is_odd(&self) -> bool {
        matches!(&self.rest, Rest::Chunked(chunks) if chunks.is_odd())
    }

    /// How many of `available` bytes are its own, if it goes out as it comes.
    pub(super) fn plain(&self, available: usize) -> usize {
        match self.rest {
            Rest::Length(left) => usize::try_from(left).unwrap_or(usize::MAX).min(available),
            Rest::Chunked(_) | Rest::Close { .. } => 0,
        }
    }

    /// Notes that `count` of these bytes are out.
    pub(super) fn passed(&mut self, count: usize) {
        let count = u64::try_from(count).expect("a length fits u64");
        self.bytes += count;
        if let Rest::Length(left) = &mut self.rest {
            *left -= count;
        }
    }

    /// The connection that it comes over has ended; what ends it on the other side.
    pub(super) fn close(&mut self, out: &mut Vec<u8>) {
        if let Rest::Close { ended } = &mut self.rest {
            *ended = true;
            out.extend_from_slice(LAST_CHUNK);
        }
    }

    /// Moves what is its own from `input` to `out`, framed as it goes out.
    pub(super) fn carry(&mut self, input: &mut Buffer, out: &mut Vec<u8>) -> Result<(), BadChunk> {
        let data = input.data();
        let taken = match &mut self.rest {
            Rest::Length(_) => {
                let count = self.plain(data.len());
                out.extend_from_slice(&data[..count]);
                self.passed(count);
                count
            }
            Rest::Close { .. } => {
                chunk(data, out);
                self.passed(data.len());
                data.len()
            }
            Rest::Chunked(chunks) => {
                let mut at = 0;
                while at < data.len() && !chunks.has_ended() {
                    let step = chunks.step(&data[at..])?;
                    let begin = at + step.skip;
                    at = begin + step.data;
                    chunk(&data[begin..at], out);
                    self.bytes += u64::try_from(step.data).expect("a length fits u64");
                }
                if chunks.has_ended() {
                    out.extend_from_slice(LAST_CHUNK);
                }
                at
            }
        };
        input.consume(taken);
        Ok(())
    }
}

fn chunk(data: &[u8], out: &mut Vec<u8>) {
    if !data.is_empty() {
        write!(out, "{:x}\r\n", data.len()).expect("a vector takes everything");
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(framing: Framing, bytes: &[u8], want: &[u8], left: &[u8], ended: bool) {
        let (mut body, mut input, mut out) = (Body::new(framing), Buffer::of(bytes), Vec::new());
        body.carry(&mut input, &mut out).expect("well framed");
        assert_eq!(out, want);
        assert_eq!((input.data(), body.has_ended()), (left, ended));
    }

    #[test]
    fn a_body_takes_what_is_its_own_and_no_more() {
        check(Framing::Empty, b"GET", b"", b"GET", true);
        check(Framing::Length(3), b"abcGET", b"abc", b"GET", true);
        check(Framing::Length(5), b"abc", b"abc", b"", false);
        check(
            Framing::Chunked,
            b"1\r\na\r\n0\r\n\r\nGET",
            b"1\r\na\r\n0\r\n\r\n",
            b"GET",
            true,
        );
        check(Framing::Close, b"abc", b"3\r\nabc\r\n", b"", false);
    }

    #[test]
    fn chunks_go_out_without_what_nobody_needs() {
        check(
            Framing::Chunked,
            b"0002;ext=1\r\nab\r\n0;x\r\nTrailer: 1\r\n\r\n",
            b"2\r\nab\r\n0\r\n\r\n",
            b"",
            true,
        );
    }

    #[test]
    fn a_body_that_ends_with_its_connection_gets_an_end_of_its_own() {
        let (mut body, mut out) = (Body::new(Framing::Close), Vec::new());
        body.close(&mut out);
        assert!(body.has_ended());
        assert_eq!(out, LAST_CHUNK);
    }
}
