// SPDX-License-Identifier: Apache-2.0

//! Finds the frames of the mux in bytes.
//!
//! Knows nothing of what frames mean to streams. DATA is handed on as it comes, never gathered.
//!
//! Invariant: whatever bytes come, the decoder never panics and never holds more than the longest
//! OPEN; what it yields is well formed. Reference: ADR 11.

use std::net::{IpAddr, SocketAddr};

use http::StatusCode;

use super::frame::{
    EARLY_WINDOW, Frame, FrameError, HEADER, Header, Kind, MAX_STREAM, MAX_WINDOW, Open, Parting,
    Reason, is_text,
};

/// What the decoder found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    Frame(Frame),
    /// A part of a DATA frame, never empty.
    Data {
        stream: u32,
        bytes: &'a [u8],
    },
}

/// Finds frames in bytes that come in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    head: [u8; HEADER],
    head_length: usize,
    /// Of a frame that is not complete.
    payload: Vec<u8>,
    /// Of a DATA frame, how much of it is still to come.
    data_left: usize,
}

impl Decoder {
    /// The next piece at the front of `input`, and `input` after it; `None` when all is taken.
    pub(super) fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
    ) -> Result<Option<Piece<'a>>, FrameError> {
        if self.head_length < HEADER {
            self.fill_head(input);
            if self.head_length < HEADER {
                return Ok(None);
            }
            let header = Header::parse(self.head)?;
            if header.kind == Kind::Data {
                self.data_left = header.length;
            }
        }
        let header = Header::parse(self.head)?;
        if header.kind == Kind::Data {
            return Ok(self.data(header.stream, input));
        }
        Ok(self.frame(header, input)?.map(Piece::Frame))
    }

    fn fill_head(&mut self, input: &mut &[u8]) {
        let bytes = take(input, HEADER - self.head_length);
        self.head[self.head_length..self.head_length + bytes.len()].copy_from_slice(bytes);
        self.head_length += bytes.len();
    }

    fn data<'a>(&mut self, stream: u32, input: &mut &'a [u8]) -> Option<Piece<'a>> {
        let bytes = take(input, self.data_left);
        self.data_left -= bytes.len();
        if self.data_left == 0 {
            self.head_length = 0;
        }
        (!bytes.is_empty()).then_some(Piece::Data { stream, bytes })
    }

    fn frame(&mut self, header: Header, input: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
        let bytes = take(input, header.length - self.payload.len());
        if self.payload.is_empty() && bytes.len() == header.length {
            self.head_length = 0;
            return header.decode(bytes).map(Some);
        }
        self.payload.extend_from_slice(bytes);
        if self.payload.len() < header.length {
            return Ok(None);
        }
        self.head_length = 0;
        header.decode(&std::mem::take(&mut self.payload)).map(Some)
    }
}

/// At most `count` bytes from the front of `input`.
fn take<'a>(input: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (front, rest) = input.split_at(count.min(input.len()));
    *input = rest;
    front
}

impl Header {
    fn decode(self, payload: &[u8]) -> Result<Frame, FrameError> {
        let mut reader = Reader(payload);
        let frame = reader.frame(self);
        frame
            .filter(|_| reader.0.is_empty())
            .ok_or(FrameError::Payload(self.kind as u8))
    }
}

/// Takes values from the front of a payload; `None` when there is none.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn frame(&mut self, Header { kind, stream, .. }: Header) -> Option<Frame> {
        Some(match kind {
            Kind::Hello => Frame::Hello {
                max_streams: self.u32()?,
            },
            Kind::Open => Frame::Open {
                stream,
                open: self.open()?,
            },
            Kind::Accept => Frame::Accept {
                stream,
                window: self.window()?,
                baggage: self.rest_as_text()?,
            },
            Kind::Refuse => {
                let status = StatusCode::from_u16(self.u16()?).ok()?;
                let is_refusal = status.is_client_error() || status.is_server_error();
                is_refusal.then_some(Frame::Refuse { stream, status })?
            }
            Kind::End => Frame::End { stream },
            Kind::Reset => Frame::Reset {
                stream,
                reason: match self.u8()? {
                    1 => Reason::Cancelled,
                    2 => Reason::NotActedOn,
                    _ => return None,
                },
            },
            Kind::Credit => {
                let bytes = self.u32()?;
                (1..=MAX_WINDOW).contains(&bytes).then_some(())?;
                Frame::Credit { stream, bytes }
            }
            Kind::Ping => Frame::Ping(u64::from_be_bytes(self.array()?)),
            Kind::Pong => Frame::Pong(u64::from_be_bytes(self.array()?)),
            Kind::GoAway => Frame::GoAway {
                last: self.u32().filter(|last| *last <= MAX_STREAM)?,
                parting: match self.u8()? {
                    0 => Parting::Leaving,
                    1 => Parting::Violation,
                    _ => return None,
                },
            },
            Kind::Data => return None,
        })
    }

    fn open(&mut self) -> Option<Open> {
        let window = self.window()?;
        let ip = match self.u8()? {
            4 => IpAddr::from(self.array::<4>()?),
            6 => IpAddr::from(self.array::<16>()?),
            _ => return None,
        };
        Some(Open {
            window,
            authority: SocketAddr::new(ip, self.u16()?),
            forwarded: self.text()?,
            baggage: self.text()?,
            traceparent: self.text()?,
        })
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (front, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*front)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn window(&mut self) -> Option<u32> {
        self.u32()
            .filter(|window| (EARLY_WINDOW..=MAX_WINDOW).contains(window))
    }

    /// A length and so many bytes; the outer `None` if that is no text, the inner if it is empty.
    fn text(&mut self) -> Option<Option<String>> {
        let length = usize::from(self.u16()?);
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        let text = str::from_utf8(text).ok().filter(|text| is_text(text))?;
        Some((!text.is_empty()).then(|| text.to_owned()))
    }

    fn rest_as_text(&mut self) -> Option<Option<String>> {
        let text = str::from_utf8(std::mem::take(&mut self.0)).ok();
        let text = text.filter(|text| is_text(text))?;
        Some((!text.is_empty()).then(|| text.to_owned()))
    }
}

#[cfg(test)]
mod tests;
