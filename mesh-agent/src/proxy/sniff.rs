// SPDX-License-Identifier: Apache-2.0

//! Tells from a client's first bytes what it speaks.
//!
//! Knows nothing of sockets: bytes in, verdict out, so it can be asked again when more have come.
//! Invariant: a verdict other than [`First::Undecided`] never changes with more bytes, and at most
//! [`ENOUGH`] bytes are ever needed. References: RFC 9113 section 3.4 (preface), RFC 9112 section 3.

/// After this many bytes there is always a verdict.
pub const ENOUGH: usize = 32;

/// What opens every HTTP/2 connection.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest method that is looked for (`VERSION-CONTROL` and some room).
const METHOD_MAX: usize = 20;

/// What the first bytes of a client are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// The beginning of an HTTP/1 request line.
    Http1,
    /// The HTTP/2 preface.
    Http2,
    /// Anything else, TLS among it.
    Opaque,
    /// Too few bytes to tell.
    Undecided,
}

/// Judges the first bytes of a client.
pub fn first(bytes: &[u8]) -> First {
    if bytes.is_empty() {
        return First::Undecided;
    }
    let preface = &PREFACE[..PREFACE.len().min(bytes.len())];
    if bytes.starts_with(preface) {
        return if bytes.len() >= PREFACE.len() {
            First::Http2
        } else {
            First::Undecided
        };
    }
    request_line(bytes)
}

/// A method in capitals, one space, and the start of a target: `/`, `*`, `http://`, `https://`, or an
/// authority after CONNECT.
fn request_line(bytes: &[u8]) -> First {
    let Some(space) = bytes.iter().take(METHOD_MAX + 1).position(|&b| b == b' ') else {
        return if bytes.len() <= METHOD_MAX && bytes.iter().copied().all(is_method) {
            First::Undecided
        } else {
            First::Opaque
        };
    };
    let (method, target) = (&bytes[..space], &bytes[space + 1..]);
    if method.is_empty() || !method.iter().copied().all(is_method) {
        return First::Opaque;
    }
    match target.first() {
        None => First::Undecided,
        Some(b'/' | b'*') => First::Http1,
        Some(byte) if method == b"CONNECT" && (byte.is_ascii_alphanumeric() || *byte == b'[') => {
            First::Http1
        }
        Some(_) => absolute(target),
    }
}

fn absolute(target: &[u8]) -> First {
    let mut verdict = First::Opaque;
    for scheme in [b"http://".as_slice(), b"https://"] {
        let common = scheme.len().min(target.len());
        if target[..common].eq_ignore_ascii_case(&scheme[..common]) {
            if common == scheme.len() {
                return First::Http1;
            }
            verdict = First::Undecided;
        }
    }
    verdict
}

fn is_method(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte == b'-' || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], want: First) {
        assert_eq!(first(bytes), want, "{:?}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn requests_are_told_from_other_protocols() {
        check(b"GET / HTTP/1.1\r\n", First::Http1);
        check(b"OPTIONS * HTTP/1.1\r\n", First::Http1);
        check(b"GET http://a/ HTTP/1.1\r\n", First::Http1);
        check(b"M-SEARCH /x", First::Http1);
        check(b"CONNECT a:443 HTTP/1.1", First::Http1);
        check(PREFACE, First::Http2);
        check(b"\x16\x03\x01\x02\x00\x01", First::Opaque);
        check(b"EHLO example.com\r\n", First::Opaque);
        check(b"EHLO host.example\r\n", First::Opaque);
        check(b"PING\r\n", First::Opaque);
        check(b"get / HTTP/1.1\r\n", First::Opaque);
        check(b"*1\r\n$4\r\nPING\r\n", First::Opaque);
        check(&[0, 0, 0, 8, 4, 210, 22, 47], First::Opaque);
    }

    #[test]
    fn a_part_of_a_beginning_is_undecided() {
        for whole in [PREFACE, b"GET /", b"PRI /", b"POST https://a/"] {
            for end in 0..4 {
                check(&whole[..end], First::Undecided);
            }
        }
        check(b"POST http", First::Undecided);
    }

    #[test]
    fn a_verdict_is_never_taken_back() {
        let whole: [&[u8]; 6] = [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n____________",
            b"PRI * HTTP/1.1\r\nHost: a\r\n\r\n____________",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n____________",
            b"GET https://example.com/ HTTP/1.1\r\n______",
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJKLMN",
            b"EHLO http.example.com and some more text__",
        ];
        for bytes in whole {
            let last = first(bytes);
            assert_ne!(last, First::Undecided);
            for end in 0..bytes.len() {
                let verdict = first(&bytes[..end]);
                assert!(verdict == last || verdict == First::Undecided, "{end}");
                assert!(end < ENOUGH || verdict == last, "{end}");
            }
        }
    }
}
