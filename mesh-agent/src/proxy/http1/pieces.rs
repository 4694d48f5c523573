// SPDX-License-Identifier: Apache-2.0

//! A request's head, read and written as on a kept connection.

use http::{HeaderName, HeaderValue};

use super::{
    super::{RequestHeaders, http_ids::Seen},
    fields::Lines,
    head::{self, Judged, RequestHead},
};
use crate::model::HeaderEdit;

/// As a browser sends it, about.
const HEAD: &[u8] =
    b"GET /v1/carts/17?currency=EUR HTTP/1.1\r\nHost: carts.shop.svc.cluster.local\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: application/json\r\nAccept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br\r\nX-Request-Id: 5b6f8c1e-6a0e-4f5e-9a54-0d3f5a1d2c3b\r\n\
    Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
    Authorization: Bearer 0123456789abcdef0123456789abcdef\r\nConnection: keep-alive\r\n\r\n";

/// The same from a client that says of itself neither which request nor which trace it is.
const BARE: &[u8] =
    b"GET /v1/carts/17?currency=EUR HTTP/1.1\r\nHost: carts.shop.svc.cluster.local\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: application/json\r\nAccept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br\r\n\
    Authorization: Bearer 0123456789abcdef0123456789abcdef\r\nConnection: keep-alive\r\n\r\n";

fn with_head<T>(bytes: &[u8], uses: impl FnOnce(&RequestHead<'_>) -> T) -> T {
    let mut room = head::room();
    match head::request(bytes, &mut room) {
        Judged::Plain(head) => uses(&head),
        other => panic!("{other:?}"),
    }
}

/// Reads the head.
pub(crate) fn read_head() -> Box<dyn FnMut() -> usize> {
    Box::new(|| with_head(HEAD, |head| head.length + head.fields.len()))
}

fn write(bytes: &[u8], wanted: RequestHeaders, edits: &[HeaderEdit]) -> usize {
    with_head(bytes, |head| {
        let mut seen = Seen::default();
        for (field, _) in head.fields.iter() {
            seen.note(field.name, field.value);
        }
        let made = seen.missing(wanted);
        let mut lines = Lines::passed(&head.fields);
        lines.mark(&made);
        lines.edit(edits);
        let parts = [head.method.as_str(), " ", head.uri.path(), " HTTP/1.1"].map(str::as_bytes);
        lines.write(&parts, b"", 0).len()
    })
}

/// Reads the head and writes it as it goes on.
pub(crate) fn write_head() -> Box<dyn FnMut() -> usize> {
    Box::new(|| write(HEAD, RequestHeaders::Trace, &[]))
}

/// The same of a client that brings neither an id nor a trace, with both.
pub(crate) fn mark_head() -> Box<dyn FnMut() -> usize> {
    Box::new(|| write(BARE, RequestHeaders::Trace, &[]))
}

/// The same without.
pub(crate) fn bare_head() -> Box<dyn FnMut() -> usize> {
    Box::new(|| write(BARE, RequestHeaders::None, &[]))
}

/// The same with a header set and one removed.
pub(crate) fn edit_head() -> Box<dyn FnMut() -> usize> {
    let set = HeaderName::from_static("x-version");
    let edits = [
        HeaderEdit::Set(set, HeaderValue::from_static("v2")),
        HeaderEdit::Remove(HeaderName::from_static("accept-language")),
    ];
    Box::new(move || write(HEAD, RequestHeaders::Trace, &edits))
}
