// SPDX-License-Identifier: Apache-2.0

//! How a call ended: a code, and a sentence that travels percent-encoded.
//!
//! Knows nothing of HTTP/2 but the two headers.

use std::fmt::{self, Write};

use http::{HeaderMap, HeaderValue, StatusCode};

/// The header, or trailer, of the code.
pub(super) const STATUS: &str = "grpc-status";

/// The header, or trailer, of the sentence.
pub(super) const MESSAGE: &str = "grpc-message";

/// A message longer than this is cut: headers are limited.
const MESSAGE_MAX_BYTES: usize = 1024;

/// What kind of end it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "gRPC's own names and meanings")]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

/// The end of a call that brought no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Status {
    /// What kind of end.
    pub code: Code,
    /// For people.
    pub message: String,
}

const CODES: [(Code, &str); 17] = [
    (Code::Ok, "OK"),
    (Code::Cancelled, "CANCELLED"),
    (Code::Unknown, "UNKNOWN"),
    (Code::InvalidArgument, "INVALID_ARGUMENT"),
    (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
    (Code::NotFound, "NOT_FOUND"),
    (Code::AlreadyExists, "ALREADY_EXISTS"),
    (Code::PermissionDenied, "PERMISSION_DENIED"),
    (Code::ResourceExhausted, "RESOURCE_EXHAUSTED"),
    (Code::FailedPrecondition, "FAILED_PRECONDITION"),
    (Code::Aborted, "ABORTED"),
    (Code::OutOfRange, "OUT_OF_RANGE"),
    (Code::Unimplemented, "UNIMPLEMENTED"),
    (Code::Internal, "INTERNAL"),
    (Code::Unavailable, "UNAVAILABLE"),
    (Code::DataLoss, "DATA_LOSS"),
    (Code::Unauthenticated, "UNAUTHENTICATED"),
];

impl Code {
    /// The name as gRPC writes it.
    pub fn name(self) -> &'static str {
        CODES
            .iter()
            .find(|(code, _)| *code == self)
            .map_or("UNKNOWN", |(_, name)| name)
    }

    /// The code with this number; what has none is unknown.
    pub(super) fn from_number(number: usize) -> Self {
        CODES.get(number).map_or(Self::Unknown, |(code, _)| *code)
    }

    fn number(self) -> HeaderValue {
        let place = CODES.iter().position(|(code, _)| *code == self);
        HeaderValue::from(place.unwrap_or(2))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Status {
    /// A status of any code.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// The other side cannot be reached, or cannot work now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, message)
    }

    /// The request makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// Reads the end of a call from its trailers, or headers; `None` if they do not tell.
    pub(super) fn read(headers: &HeaderMap) -> Option<Self> {
        let number = headers.get(STATUS)?.to_str().ok()?.parse().ok()?;
        let message = headers.get(MESSAGE).map(HeaderValue::as_bytes);
        Some(Self {
            code: Code::from_number(number),
            message: decoded(message.unwrap_or_default()),
        })
    }

    /// Adds the two headers.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        headers.insert(STATUS, self.code.number());
        // Encoded text is printable ASCII, which a header can always carry.
        if let Ok(message) = HeaderValue::try_from(encoded(&self.message))
            && !self.message.is_empty()
        {
            headers.insert(MESSAGE, message);
        }
    }

    /// What an answer means that comes from no gRPC server.
    pub(super) fn from_http(status: StatusCode) -> Self {
        let code = match status.as_u16() {
            400 => Code::Internal,
            401 => Code::Unauthenticated,
            403 => Code::PermissionDenied,
            404 => Code::Unimplemented,
            429 | 502..=504 => Code::Unavailable,
            _ => Code::Unknown,
        };
        Self::new(code, format!("the server answered {status} without gRPC"))
    }
}

fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if out.len() >= MESSAGE_MAX_BYTES {
            break;
        }
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => write!(out, "%{byte:02X}").expect("a string takes everything"),
        }
    }
    out
}

/// What is no valid escape stays as it is.
fn decoded(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn survives(code: Code, message: &str) {
        let status = Status::new(code, message);
        let mut headers = HeaderMap::new();
        status.write(&mut headers);
        assert_eq!(Status::read(&headers), Some(status));
    }

    #[test]
    fn a_status_survives_the_wire() {
        survives(Code::Ok, "");
        survives(Code::Unauthenticated, "100 % \u{fc}ber\nzwei Zeilen");
        survives(Code::Unavailable, "a%41b");
    }

    #[test]
    fn every_code_has_its_number() {
        for (number, (code, _)) in CODES.iter().enumerate() {
            assert_eq!(*code as usize, number);
            assert_eq!(Code::from_number(number), *code);
        }
        assert_eq!(Code::from_number(99), Code::Unknown);
    }

    #[test]
    fn a_broken_escape_stays_as_it_is() {
        assert_eq!(decoded(b"50%"), "50%");
        assert_eq!(decoded(b"%zz%41"), "%zzA");
    }

    #[test]
    fn a_long_message_is_cut() {
        let mut headers = HeaderMap::new();
        Status::unavailable("x".repeat(100_000)).write(&mut headers);
        assert!(headers[MESSAGE].len() <= MESSAGE_MAX_BYTES);
    }
}
