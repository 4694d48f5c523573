// SPDX-License-Identifier: Apache-2.0

//! Judges the heads of requests and answers, strictly.
//!
//! A request that is not plain is not refused here: it goes the way of hyper, which answers it as
//! it always has. An answer has no other way, so what could be read in two ways is an error. Knows nothing of
//! sockets and routes. Invariant: a plain head has exactly one reading, by its RFC and by lax
//! parsers. Reference: RFC 9112 sections 2.2, 3 and 6.3, and 11.2 on request smuggling.

use std::mem::MaybeUninit;

use http::{Method, StatusCode, Uri};
use httparse::{Header, ParserConfig, Status};

use super::{super::http_headers, body::Framing};

/// How many fields a head may have, as with hyper.
const MAX_FIELDS: usize = 100;

/// The digits of the longest length that fits.
const MAX_LENGTH_DIGITS: usize = 18;

/// Where the fields of a head are put.
pub(super) type Fields<'h> = [MaybeUninit<Header<'h>>; MAX_FIELDS];

/// Room for a head's fields.
pub(super) fn room<'h>() -> Fields<'h> {
    [const { MaybeUninit::uninit() }; MAX_FIELDS]
}

/// What the first bytes of a client are.
#[derive(Debug)]
pub(super) enum Judged<T> {
    /// The head has not ended.
    Partial,
    /// Not for us.
    Odd,
    /// A head.
    Plain(T),
}

/// The head of a request.
#[derive(Debug)]
pub(super) struct RequestHead<'h> {
    /// How many bytes it has.
    pub(super) length: usize,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) fields: Named<'h>,
    pub(super) body: Framing,
    /// The client wants its connection closed after the answer.
    pub(super) close: bool,
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct ResponseHead<'h> {
    /// How many bytes it has.
    pub(super) length: usize,
    pub(super) status: StatusCode,
    pub(super) reason: &'h str,
    pub(super) fields: Named<'h>,
    pub(super) body: Framing,
    /// The endpoint takes no further request on the connection.
    pub(super) close: bool,
}

/// An answer that is not HTTP/1, or that could be read in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadHead {
    #[error("answer is not HTTP/1: {0}")]
    Syntax(httparse::Error),
    #[error("status of the answer is out of range")]
    Status,
    #[error("answer has several lengths, or one that is not a number")]
    Length,
    #[error("answer has a transfer coding other than chunked, or several")]
    Coding,
    #[error("answer has both a length and a transfer coding")]
    Both,
    #[error("answer switches protocols without having been asked")]
    Switches,
}

/// A field that matters to a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    /// `Keep-Alive` and `Proxy-Connection`: of one connection only.
    Hop,
    ContentType,
    UserAgent,
    RequestId,
    /// Asks for what only hyper's way can do.
    Special,
    Other,
}

/// The fields of a head, each of which was looked at once for what it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'h> {
    fields: &'h [Header<'h>],
    names: [Name; MAX_FIELDS],
}

/// What the framing fields of a head say.
#[derive(Default)]
struct Framed {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
}

/// Judges the first bytes of a request.
pub(super) fn request<'h>(bytes: &'h [u8], room: &'h mut Fields<'h>) -> Judged<RequestHead<'h>> {
    if !bytes.first().is_none_or(u8::is_ascii_uppercase) {
        return Judged::Odd;
    }
    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(bytes, room) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Judged::Partial,
        Err(_) => return Judged::Odd,
    };
    if parsed.version != Some(1) || has_bare_line_feed(&bytes[..length]) {
        return Judged::Odd;
    }
    let target = parsed.path.unwrap_or_default();
    let method = Method::from_bytes(parsed.method.unwrap_or_default().as_bytes());
    let (Ok(method), Some(uri)) = (method, origin_form(target)) else {
        return Judged::Odd;
    };
    let fields = Named::of(parsed.headers);
    let Some(framed) = plain_fields(&fields) else {
        return Judged::Odd;
    };
    if method == Method::CONNECT {
        return Judged::Odd;
    }
    Judged::Plain(RequestHead {
        length,
        method,
        uri,
        fields,
        body: match framed.length {
            _ if framed.chunked => Framing::Chunked,
            None | Some(0) => Framing::Empty,
            Some(length) => Framing::Length(length),
        },
        close: framed.close,
    })
}

/// A target that is a path, and the same after parsing.
fn origin_form(target: &str) -> Option<Uri> {
    if !target.starts_with('/') || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let uri = Uri::try_from(target).ok()?;
    // A fragment, for one, does not survive.
    (uri.path_and_query()?.as_str() == target).then_some(uri)
}

/// What the fields of a plain request say; nothing if it is not plain.
fn plain_fields(fields: &Named<'_>) -> Option<Framed> {
    let (mut framed, mut hosts) = (Framed::default(), 0);
    for (field, name) in fields.iter() {
        match name {
            Name::Special => return None,
            Name::Host => hosts += 1,
            Name::ContentType if http_headers::names_grpc(field.value) => return None,
            Name::ContentLength => {
                let length = decimal(field.value)?;
                if framed.length.replace(length).is_some() {
                    return None;
                }
            }
            Name::TransferEncoding => {
                if framed.chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                    return None;
                }
                framed.chunked = true;
            }
            Name::Connection => framed.connection(field.value),
            Name::Hop | Name::ContentType | Name::UserAgent | Name::RequestId | Name::Other => {}
        }
    }
    let both = framed.chunked && framed.length.is_some();
    (hosts == 1 && !both).then_some(framed)
}

/// Judges the first bytes of an answer; `to_head` if the request was a HEAD.
pub(super) fn response<'h>(
    bytes: &'h [u8],
    room: &'h mut Fields<'h>,
    to_head: bool,
) -> Result<Option<ResponseHead<'h>>, BadHead> {
    let mut parsed = httparse::Response::new(&mut []);
    let config = ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut parsed, bytes, room) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(None),
        Err(error) => return Err(BadHead::Syntax(error)),
    };
    let status = StatusCode::from_u16(parsed.code.unwrap_or_default());
    let Ok(status) = status else {
        return Err(BadHead::Status);
    };
    let fields = Named::of(parsed.headers);
    let framed = answer_fields(&fields)?;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(BadHead::Switches);
    }
    let old = parsed.version == Some(0);
    if framed.chunked && (old || framed.length.is_some()) {
        return Err(BadHead::Both);
    }
    let bare = to_head
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    let body = match framed.length {
        _ if bare => Framing::Empty,
        _ if framed.chunked => Framing::Chunked,
        Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
        None => Framing::Close,
    };
    Ok(Some(ResponseHead {
        length,
        status,
        reason: parsed.reason.unwrap_or_default(),
        fields,
        body,
        close: framed.close || old && !framed.keep_alive || body == Framing::Close,
    }))
}

fn answer_fields(fields: &Named<'_>) -> Result<Framed, BadHead> {
    let mut framed = Framed::default();
    for (field, name) in fields.iter() {
        match name {
            Name::ContentLength => {
                let length = decimal(field.value).ok_or(BadHead::Length)?;
                if framed.length.replace(length).is_some() {
                    return Err(BadHead::Length);
                }
            }
            Name::TransferEncoding => {
                if framed.chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(BadHead::Coding);
                }
                framed.chunked = true;
            }
            Name::Connection => framed.connection(field.value),
            _ => {}
        }
    }
    Ok(framed)
}

impl<'h> Named<'h> {
    /// `fields`, of a head that has no more than are read.
    pub(super) fn of(fields: &'h [Header<'h>]) -> Self {
        let mut names = [Name::Other; MAX_FIELDS];
        for (known, field) in names.iter_mut().zip(fields) {
            *known = name(field.name);
        }
        Self { fields, names }
    }

    /// All of them, with what they are.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'h Header<'h>, Name)> {
        self.fields.iter().zip(self.names)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.fields.len()
    }

    /// The values of all that are `name`.
    pub(super) fn values(&self, name: Name) -> impl Iterator<Item = &'h [u8]> {
        let is_it =
            move |(field, found): (&'h Header<'h>, Name)| (found == name).then_some(field.value);
        self.iter().filter_map(is_it)
    }
}

impl Framed {
    fn connection(&mut self, value: &[u8]) {
        for option in tokens(value) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }
}

/// The parts of a comma-separated value.
pub(super) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Which field `name` is.
pub(super) fn name(name: &str) -> Name {
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    match name.len() {
        2 if is("te") => Name::Special,
        4 if is("host") => Name::Host,
        6 if is("expect") => Name::Special,
        7 if is("upgrade") || is("trailer") => Name::Special,
        10 if is("connection") => Name::Connection,
        10 if is("keep-alive") => Name::Hop,
        10 if is("user-agent") => Name::UserAgent,
        12 if is("content-type") => Name::ContentType,
        12 if is("x-request-id") => Name::RequestId,
        14 if is("content-length") => Name::ContentLength,
        14 if is("http2-settings") => Name::Special,
        16 if is("proxy-connection") => Name::Hop,
        17 if is("transfer-encoding") => Name::TransferEncoding,
        _ => Name::Other,
    }
}

fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > MAX_LENGTH_DIGITS {
        return None;
    }
    value.iter().try_fold(0, |sum: u64, byte| {
        let digit = byte.is_ascii_digit().then(|| byte - b'0')?;
        Some(sum * 10 + u64::from(digit))
    })
}

/// Whether a line ends in LF alone. Without an early exit, so that it is done many at a time.
fn has_bare_line_feed(head: &[u8]) -> bool {
    let pairs = head.iter().zip(&head[1..]);
    pairs.fold(false, |found, (before, byte)| {
        found | ((*byte == b'\n') & (*before != b'\r'))
    })
}

#[cfg(test)]
mod tests;
