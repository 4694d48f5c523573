// SPDX-License-Identifier: Apache-2.0

//! The frames of the mux, and how they are written.
//!
//! A frame is a header of eight bytes (kind, flags, length, stream) and a payload; numbers are big
//! endian. Knows nothing of what frames mean to streams.
//!
//! Invariant: a header that was parsed is that of a known kind, with a length and a stream that
//! its kind may have. Reference: ADR 11.

use std::net::{IpAddr, SocketAddr};

use http::StatusCode;

/// Bytes of a header.
pub(super) const HEADER: usize = 8;

/// Bytes of a DATA frame's payload, at most: small enough to be fair, as large as a TLS record.
pub(super) const MAX_DATA: usize = 16 * 1024;

/// Bytes of a text, at most.
const MAX_TEXT: usize = 4096;

/// Window, address, three texts with their lengths.
const MAX_OPEN: usize = 4 + 19 + 3 * (2 + MAX_TEXT);

/// The highest number of a stream.
pub(super) const MAX_STREAM: u32 = 0x7fff_ffff;

/// What may be sent on a stream before it is accepted; no window is smaller.
pub(super) const EARLY_WINDOW: u32 = 64 * 1024;

/// The largest window.
pub(super) const MAX_WINDOW: u32 = 0x3fff_ffff;

/// What came is not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No such kind in this version.
    #[error("frame of unknown kind {0}")]
    Kind(u8),
    /// No flags are defined in this version.
    #[error("flags {flags:#04x} in a frame of kind {kind}")]
    Flags {
        /// Of which kind.
        kind: u8,
        /// Which flags.
        flags: u8,
    },
    /// Too short or too long for its kind.
    #[error("{length} bytes in a frame of kind {kind}")]
    Length {
        /// Of which kind.
        kind: u8,
        /// How long.
        length: u16,
    },
    /// For a stream where there can be none, or none where there must be one.
    #[error("stream {stream} in a frame of kind {kind}")]
    Stream {
        /// Of which kind.
        kind: u8,
        /// For which stream.
        stream: u32,
    },
    /// The payload is not what its kind has.
    #[error("bad payload in a frame of kind {0}")]
    Payload(u8),
}

/// Everything but DATA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// The first of the server's: how many streams it takes.
    Hello {
        max_streams: u32,
    },
    Open {
        stream: u32,
        open: Open,
    },
    Accept {
        stream: u32,
        window: u32,
        baggage: Option<String>,
    },
    Refuse {
        stream: u32,
        status: StatusCode,
    },
    /// The sender's direction has ended in order.
    End {
        stream: u32,
    },
    Reset {
        stream: u32,
        reason: Reason,
    },
    /// So many more bytes may be sent.
    Credit {
        stream: u32,
        bytes: u32,
    },
    Ping(u64),
    Pong(u64),
    /// Streams after `last` were not acted on, and none will be.
    GoAway {
        last: u32,
        parting: Parting,
    },
}

/// What a stream is opened with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Open {
    /// What the other end may send; the session sets it.
    pub(in super::super) window: u32,
    pub(in super::super) authority: SocketAddr,
    pub(in super::super) forwarded: Option<String>,
    pub(in super::super) baggage: Option<String>,
    pub(in super::super) traceparent: Option<String>,
}

/// Why a stream is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Its user gave it up.
    Cancelled,
    /// Nobody looked at it: it may be tried elsewhere.
    NotActedOn,
}

/// Why a session takes no more streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parting {
    /// Its end is near; what is open finishes.
    Leaving,
    /// The peer broke the protocol; what is open is lost.
    Violation,
}

/// A header that may be.
#[derive(Clone, Copy)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) length: usize,
    pub(super) stream: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Hello = 1,
    Open = 2,
    Accept = 3,
    Refuse = 4,
    Data = 5,
    End = 6,
    Reset = 7,
    Credit = 8,
    Ping = 9,
    Pong = 10,
    GoAway = 11,
}

const KINDS: [Kind; 11] = [
    Kind::Hello,
    Kind::Open,
    Kind::Accept,
    Kind::Refuse,
    Kind::Data,
    Kind::End,
    Kind::Reset,
    Kind::Credit,
    Kind::Ping,
    Kind::Pong,
    Kind::GoAway,
];

/// Whether `text` can be sent: it fits, and holds no control characters.
pub(super) fn is_text(text: &str) -> bool {
    text.len() <= MAX_TEXT && !text.chars().any(char::is_control)
}

impl Kind {
    /// The shortest and the longest payload.
    fn lengths(self) -> (usize, usize) {
        match self {
            Self::End => (0, 0),
            Self::Reset => (1, 1),
            Self::Refuse => (2, 2),
            Self::Hello | Self::Credit => (4, 4),
            Self::GoAway => (5, 5),
            Self::Ping | Self::Pong => (8, 8),
            Self::Accept => (4, 4 + MAX_TEXT),
            Self::Open => (4 + 7 + 3 * 2, MAX_OPEN),
            Self::Data => (1, MAX_DATA),
        }
    }

    fn is_of_a_stream(self) -> bool {
        !matches!(self, Self::Hello | Self::Ping | Self::Pong | Self::GoAway)
    }
}

impl Header {
    pub(super) fn parse(bytes: [u8; HEADER]) -> Result<Self, FrameError> {
        let [code, flags, l0, l1, s0, s1, s2, s3] = bytes;
        let known = KINDS.into_iter().find(|kind| *kind as u8 == code);
        let kind = known.ok_or(FrameError::Kind(code))?;
        if flags != 0 {
            return Err(FrameError::Flags { kind: code, flags });
        }
        let length = u16::from_be_bytes([l0, l1]);
        let (least, most) = kind.lengths();
        if !(least..=most).contains(&usize::from(length)) {
            return Err(FrameError::Length { kind: code, length });
        }
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        let is_of_a_stream = (1..=MAX_STREAM).contains(&stream);
        if kind.is_of_a_stream() != is_of_a_stream || stream > MAX_STREAM {
            return Err(FrameError::Stream { kind: code, stream });
        }
        let length = usize::from(length);
        Ok(Self {
            kind,
            length,
            stream,
        })
    }
}

/// Appends the header of a DATA frame; its payload of `length` bytes must follow.
pub(super) fn put_data_header(out: &mut Vec<u8>, stream: u32, length: usize) {
    debug_assert!((1..=MAX_DATA).contains(&length));
    put_header(out, Kind::Data, stream, length);
}

fn put_header(out: &mut Vec<u8>, kind: Kind, stream: u32, length: usize) {
    let length = u16::try_from(length).expect("every payload is shorter than 64 KiB");
    out.extend_from_slice(&[kind as u8, 0]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&stream.to_be_bytes());
}

impl Frame {
    /// Appends the frame. A text that cannot be sent is left out: texts only inform.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        let (kind, stream) = self.kind();
        put_header(out, kind, stream, 0);
        match self {
            Self::Hello { max_streams } => out.extend_from_slice(&max_streams.to_be_bytes()),
            Self::Open { open, .. } => open.put(out),
            Self::Accept {
                window, baggage, ..
            } => {
                out.extend_from_slice(&window.to_be_bytes());
                let baggage = baggage.as_deref().filter(|text| is_text(text));
                out.extend_from_slice(baggage.unwrap_or_default().as_bytes());
            }
            Self::Refuse { status, .. } => out.extend_from_slice(&status.as_u16().to_be_bytes()),
            Self::End { .. } => {}
            Self::Reset { reason, .. } => out.push(match reason {
                Reason::Cancelled => 1,
                Reason::NotActedOn => 2,
            }),
            Self::Credit { bytes, .. } => out.extend_from_slice(&bytes.to_be_bytes()),
            Self::Ping(token) | Self::Pong(token) => out.extend_from_slice(&token.to_be_bytes()),
            Self::GoAway { last, parting } => {
                out.extend_from_slice(&last.to_be_bytes());
                out.push(match parting {
                    Parting::Leaving => 0,
                    Parting::Violation => 1,
                });
            }
        }
        let length = u16::try_from(out.len() - begin - HEADER).expect("texts are bounded");
        out[begin + 2..begin + 4].copy_from_slice(&length.to_be_bytes());
    }

    fn kind(&self) -> (Kind, u32) {
        match self {
            Self::Hello { .. } => (Kind::Hello, 0),
            Self::Open { stream, .. } => (Kind::Open, *stream),
            Self::Accept { stream, .. } => (Kind::Accept, *stream),
            Self::Refuse { stream, .. } => (Kind::Refuse, *stream),
            Self::End { stream } => (Kind::End, *stream),
            Self::Reset { stream, .. } => (Kind::Reset, *stream),
            Self::Credit { stream, .. } => (Kind::Credit, *stream),
            Self::Ping(_) => (Kind::Ping, 0),
            Self::Pong(_) => (Kind::Pong, 0),
            Self::GoAway { .. } => (Kind::GoAway, 0),
        }
    }
}

impl Open {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.window.to_be_bytes());
        match self.authority.ip() {
            IpAddr::V4(ip) => {
                out.push(4);
                out.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                out.push(6);
                out.extend_from_slice(&ip.octets());
            }
        }
        out.extend_from_slice(&self.authority.port().to_be_bytes());
        for text in [&self.forwarded, &self.baggage, &self.traceparent] {
            let text = text.as_deref().filter(|text| is_text(text));
            let text = text.unwrap_or_default();
            let length = u16::try_from(text.len()).expect("a text that can be sent is short");
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(text.as_bytes());
        }
    }
}
