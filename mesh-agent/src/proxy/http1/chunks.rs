// SPDX-License-Identifier: Apache-2.0

//! Where the data of a chunked body lies, and where the body ends.
//!
//! What is read here is never passed on as it came: whoever sends the body on frames it anew, so
//! that chunk extensions, odd sizes and trailers of one side cannot mean something else to the
//! other. Knows nothing of sockets: bytes in, verdict out, and split bytes give the same verdict.
//! Invariant: a line that does not end in CR LF is no line. Reference: RFC 9112 section 7.1.

/// How many bytes of chunk extensions, and of trailers, a body may have.
const MAX_EXTRA: usize = 16 * 1024;

/// The digits of the greatest size.
const MAX_DIGITS: u8 = 15;

/// The body is not framed as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadChunk {
    #[error("chunk size is not a number")]
    Size,
    #[error("chunk size is too large")]
    TooLarge,
    #[error("chunk line does not end in CR LF")]
    Line,
    #[error("chunk does not end where its size says")]
    End,
    #[error("chunk extensions or trailers are too long")]
    Extra,
}

/// How far a chunked body has been read.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    state: State,
    left: u64,
    digits: u8,
    extra: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    /// Behind the size: an extension, or nothing.
    Extension,
    SizeEnd,
    Data,
    DataEnd,
    DataEndLf,
    /// At the start of a trailer line.
    Trailer,
    /// In a trailer line.
    Field,
    FieldEnd,
    LastEnd,
    Ended,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// So many are framing.
    pub(super) skip: usize,
    /// So many behind them are data.
    pub(super) data: usize,
}

impl Chunks {
    /// Whether the body has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Whether it had what nobody needs: extensions or trailers.
    pub(super) fn is_odd(&self) -> bool {
        self.extra > 0
    }

    /// Reads up to and through the next data in `bytes`.
    pub(super) fn step(&mut self, bytes: &[u8]) -> Result<Step, BadChunk> {
        let mut skip = 0;
        while self.state != State::Ended {
            if self.state == State::Data {
                let rest = bytes.len() - skip;
                let data = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest);
                self.left -= u64::try_from(data).expect("a length fits u64");
                if self.left == 0 {
                    self.state = State::DataEnd;
                }
                return Ok(Step { skip, data });
            }
            let Some(byte) = bytes.get(skip) else {
                break;
            };
            self.state = self.framing(*byte)?;
            skip += 1;
        }
        Ok(Step { skip, data: 0 })
    }

    fn framing(&mut self, byte: u8) -> Result<State, BadChunk> {
        match self.state {
            State::Size => self.size(byte),
            State::Extension => match byte {
                b'\r' => Ok(State::SizeEnd),
                b'\n' => Err(BadChunk::Line),
                _ => self.extra(State::Extension),
            },
            State::SizeEnd if byte != b'\n' => Err(BadChunk::Line),
            State::SizeEnd if self.left == 0 => Ok(State::Trailer),
            State::SizeEnd => Ok(State::Data),
            State::DataEnd if byte == b'\r' => Ok(State::DataEndLf),
            State::DataEndLf if byte == b'\n' => {
                self.digits = 0;
                Ok(State::Size)
            }
            State::DataEnd | State::DataEndLf => Err(BadChunk::End),
            State::Trailer if byte == b'\r' => Ok(State::LastEnd),
            State::Field if byte == b'\r' => Ok(State::FieldEnd),
            State::Trailer | State::Field if byte == b'\n' => Err(BadChunk::Line),
            State::Trailer | State::Field => self.extra(State::Field),
            State::FieldEnd if byte == b'\n' => Ok(State::Trailer),
            State::LastEnd if byte == b'\n' => Ok(State::Ended),
            State::FieldEnd | State::LastEnd => Err(BadChunk::Line),
            State::Data | State::Ended => unreachable!("these have no framing"),
        }
    }

    fn size(&mut self, byte: u8) -> Result<State, BadChunk> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ if self.digits == 0 => return Err(BadChunk::Size),
            b'\r' => return Ok(State::SizeEnd),
            b';' | b' ' | b'\t' => return self.extra(State::Extension),
            b'\n' => return Err(BadChunk::Line),
            _ => return Err(BadChunk::Size),
        };
        if self.digits == MAX_DIGITS {
            return Err(BadChunk::TooLarge);
        }
        self.digits += 1;
        self.left = self.left << 4 | u64::from(digit);
        Ok(State::Size)
    }

    fn extra(&mut self, next: State) -> Result<State, BadChunk> {
        self.extra += 1;
        if self.extra > MAX_EXTRA {
            return Err(BadChunk::Extra);
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data, how much was read, and whether the body ended; fed `piece` bytes at a time.
    fn read(bytes: &[u8], piece: usize) -> Result<(Vec<u8>, usize, bool), BadChunk> {
        let (mut chunks, mut data, mut at) = (Chunks::default(), Vec::new(), 0);
        for part in bytes.chunks(piece) {
            let mut part = part;
            while !part.is_empty() && !chunks.has_ended() {
                let step = chunks.step(part)?;
                let end = step.skip + step.data;
                data.extend_from_slice(&part[step.skip..end]);
                at += end;
                part = &part[end..];
            }
        }
        Ok((data, at, chunks.has_ended()))
    }

    #[track_caller]
    fn check(bytes: &[u8], want: Result<(&[u8], usize, bool), BadChunk>) {
        let want = want.map(|(data, at, ended)| (data.to_vec(), at, ended));
        for piece in 1..=bytes.len() {
            assert_eq!(read(bytes, piece), want, "in pieces of {piece}");
        }
    }

    #[test]
    fn data_is_found_however_it_is_split() {
        check(b"3\r\nabc\r\n0\r\n\r\n", Ok((b"abc", 13, true)));
        check(
            b"01\r\na\r\nA\r\n0123456789\r\n0\r\n\r\nGET",
            Ok((b"a0123456789", 27, true)),
        );
        check(b"0\r\n\r\n", Ok((b"", 5, true)));
        check(b"5\r\nab", Ok((b"ab", 5, false)));
    }

    #[test]
    fn extensions_and_trailers_are_read_over() {
        check(b"1;a=\"b\"\r\nx\r\n0 \r\n\r\n", Ok((b"x", 18, true)));
        check(b"1\r\nx\r\n0\r\nA: b\r\nC: d\r\n\r\n", Ok((b"x", 23, true)));
        let long = [b"1;".as_slice(), &[b'a'; MAX_EXTRA], b"\r\n"].concat();
        assert_eq!(read(&long, long.len()), Err(BadChunk::Extra));
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        check(b"\r\n0\r\n\r\n", Err(BadChunk::Size));
        check(b"0x1\r\na\r\n", Err(BadChunk::Size));
        check(b"-1\r\na\r\n", Err(BadChunk::Size));
        check(b"+1\r\na\r\n", Err(BadChunk::Size));
        check(b" 1\r\na\r\n", Err(BadChunk::Size));
        check(b"1\na\r\n0\r\n\r\n", Err(BadChunk::Line));
        check(b"1\rXa\r\n", Err(BadChunk::Line));
        check(b"1;a\nb\r\n0\r\n\r\n", Err(BadChunk::Line));
        check(b"1\r\nab\r\n", Err(BadChunk::End));
        check(b"1\r\na\n0\r\n\r\n", Err(BadChunk::End));
        check(b"0\r\n\n", Err(BadChunk::Line));
        check(b"0\r\nA: b\nC: d\r\n\r\n", Err(BadChunk::Line));
        check(b"10000000000000001\r\na\r\n", Err(BadChunk::TooLarge));
        check(b"0000000000000001\r\na\r\n", Err(BadChunk::TooLarge));
    }
}
