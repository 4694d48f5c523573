// SPDX-License-Identifier: Apache-2.0

//! What both ends of a bulk session say before the bytes: which stream it continues, whether that
//! may be, and whether it is done.
//!
//! Knows nothing of TLS or streams. Invariant: whatever bytes come, parsing never panics and takes
//! no memory. Reference: ADR 14.

use http::StatusCode;
use rustls::ConnectionCommon;

/// The name of a session of the mux, which only its two ends know.
pub(in super::super) type Name = [u8; 16];

/// What a name is exported as.
const LABEL: &[u8] = b"EXPORTER-mesh-bulk-1";

/// The version of the header.
const VERSION: u8 = 1;

/// Bytes of a request.
pub(super) const REQUEST: usize = 24;

/// Bytes of an answer.
pub(super) const ANSWER: usize = 2;

/// The answer to a request that may be.
pub(super) const MAY: StatusCode = StatusCode::OK;

/// What the client says after the answer: its bytes, and soon the server's, go on here.
pub(super) const GO: u8 = 1;

/// What the client says instead, if the stream has begun to end meanwhile.
pub(super) const STAY: u8 = 0;

/// Which stream a session continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Of which session of the mux.
    pub(super) session: Name,
    /// Its number there.
    pub(super) stream: u32,
}

/// What came is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeaderError {
    /// No such version.
    #[error("a bulk session of unknown version {0}")]
    Version(u8),
    /// Set where nothing may be.
    #[error("reserved bytes of a bulk session's header are set")]
    Reserved,
    /// No stream has such a number.
    #[error("a bulk session for stream {0}")]
    Stream(u32),
    /// No answer is such a status.
    #[error("a bulk session was answered with {0}")]
    Status(u16),
}

/// The name of the session of the mux that runs over `tls`.
///
/// # Errors
/// If its handshake is not complete.
pub(in super::super) fn name_of<Data>(tls: &ConnectionCommon<Data>) -> Result<Name, rustls::Error> {
    tls.export_keying_material(Name::default(), LABEL, None)
}

impl Request {
    pub(super) fn put(self) -> [u8; REQUEST] {
        let mut bytes = [0; REQUEST];
        bytes[0] = VERSION;
        bytes[4..20].copy_from_slice(&self.session);
        bytes[20..].copy_from_slice(&self.stream.to_be_bytes());
        bytes
    }

    pub(super) fn parse(bytes: [u8; REQUEST]) -> Result<Self, HeaderError> {
        let [version, r0, r1, r2, rest @ ..] = bytes;
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        if [r0, r1, r2] != [0; 3] {
            return Err(HeaderError::Reserved);
        }
        let [session @ .., s0, s1, s2, s3] = rest;
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        if stream == 0 || stream > i32::MAX.unsigned_abs() {
            return Err(HeaderError::Stream(stream));
        }
        Ok(Self { session, stream })
    }
}

/// An answer's bytes.
pub(super) fn put_answer(status: StatusCode) -> [u8; ANSWER] {
    status.as_u16().to_be_bytes()
}

/// The answer that the bytes are.
pub(super) fn parse_answer(bytes: [u8; ANSWER]) -> Result<StatusCode, HeaderError> {
    let code = u16::from_be_bytes(bytes);
    match StatusCode::from_u16(code) {
        Ok(status) if status == MAY || status.is_client_error() || status.is_server_error() => {
            Ok(status)
        }
        _ => Err(HeaderError::Status(code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_what_was_put() {
        let request = Request {
            session: *b"0123456789abcdef",
            stream: 0x0102_0304,
        };
        let bytes = request.put();
        assert_eq!(bytes, *b"\x01\0\0\x000123456789abcdef\x01\x02\x03\x04");
        assert_eq!(Request::parse(bytes), Ok(request));
    }

    #[test]
    fn no_bytes_make_the_parser_panic_and_what_it_takes_it_would_put() {
        let mut random = fastrand::Rng::with_seed(11);
        let good = Request {
            session: [7; 16],
            stream: 1,
        };
        for _ in 0..20_000 {
            let mut bytes = if random.bool() {
                good.put()
            } else {
                [0; REQUEST]
            };
            for _ in 0..random.usize(0..4) {
                bytes[random.usize(..REQUEST)] = random.u8(..);
            }
            if let Ok(request) = Request::parse(bytes) {
                assert_eq!(request.put(), bytes);
            }
            let answer = [random.u8(..), random.u8(..)];
            if let Ok(status) = parse_answer(answer) {
                assert_eq!(put_answer(status), answer);
            }
        }
    }

    #[track_caller]
    fn refused(at: usize, value: u8, want: HeaderError) {
        let mut bytes = Request {
            session: [7; 16],
            stream: 1,
        }
        .put();
        bytes[at] = value;
        assert_eq!(Request::parse(bytes), Err(want));
    }

    #[test]
    fn what_this_version_does_not_know_is_refused() {
        refused(0, 2, HeaderError::Version(2));
        refused(2, 1, HeaderError::Reserved);
        refused(23, 0, HeaderError::Stream(0));
        refused(20, 0x80, HeaderError::Stream(0x8000_0001));
        assert_eq!(parse_answer([0, 100]), Err(HeaderError::Status(100)));
        assert_eq!(parse_answer([0, 204]), Err(HeaderError::Status(204)));
    }
}
