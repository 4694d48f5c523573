// SPDX-License-Identifier: Apache-2.0

//! Heads and bodies of HTTP/1.1, as clients and endpoints may send them.
//!
//! Besides that nothing panics: a head is judged alike however it is cut, and what is sent on for it
//! means the same to the next reader. Knows nothing of sockets.

use super::{
    body::{Body, Framing},
    buffer::Buffer,
    chunks::{BadChunk, Chunks},
    fields::Lines,
    head::{self, Judged, RequestHead},
};

/// Requests that are plain, and some that are not.
pub const REQUEST_SEEDS: &[&[u8]] = &[
    b"GET /a?b=c HTTP/1.1\r\nHost: a.b\r\nUser-Agent: x\r\nConnection: close, x-a\r\nX-A: 1\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc",
    b"PUT /%2e HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nTE: trailers\r\nExpect: 100-continue\r\n\r\n",
];

/// Answers of each framing.
pub const ANSWER_SEEDS: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nKeep-Alive: timeout=5\r\n\r\nabc",
    b"HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
    b"HTTP/1.0 404 Not Found\r\nConnection: keep-alive\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
];

/// How the body is framed, then the body.
pub const BODY_SEEDS: &[&[u8]] = &[
    b"\x003\r\nabc\r\n0\r\n\r\nGET",
    b"\x001;a=b\r\nx\r\n0 \r\nA: b\r\n\r\n",
    b"\x05abcdefgh",
    b"\x01",
];

/// So many beginnings of an input are looked at, about: all of a long one would take too long.
const CUTS: usize = 64;

/// A plain head has no beginning that is not one of a plain head, depends on nothing behind it, and
/// is sent on as a head that is just as plain and asks for the same.
pub fn http1_request(bytes: &[u8]) {
    let mut room = head::room();
    let Judged::Plain(head) = head::request(bytes, &mut room) else {
        return;
    };
    for end in (0..head.length).step_by(head.length / CUTS + 1) {
        let mut room = head::room();
        let cut = head::request(&bytes[..end], &mut room);
        assert!(matches!(cut, Judged::Partial), "cut at {end}: {cut:?}");
    }
    let mut room = head::room();
    same(&head, head::request(&bytes[..head.length], &mut room));
    let target = head
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let parts = [head.method.as_str(), " ", target, " HTTP/1.1"].map(str::as_bytes);
    let written = Lines::passed(&head.fields).write(&parts, b"", 0);
    let mut room = head::room();
    let again = head::request(&written, &mut room);
    same(&head, again);
}

fn same(head: &RequestHead<'_>, again: Judged<RequestHead<'_>>) {
    let Judged::Plain(again) = again else {
        panic!("{head:?} became {again:?}");
    };
    assert_eq!(
        (&again.method, &again.uri, again.body),
        (&head.method, &head.uri, head.body)
    );
}

/// An answer's head has no beginning that is one, depends on nothing behind it, and is sent on as a
/// head that frames the same body.
pub fn http1_answer(bytes: &[u8]) {
    for to_head in [false, true] {
        let mut room = head::room();
        let Ok(Some(head)) = head::response(bytes, &mut room, to_head) else {
            continue;
        };
        for end in (0..head.length).step_by(head.length / CUTS + 1) {
            let mut room = head::room();
            let cut = head::response(&bytes[..end], &mut room, to_head);
            assert!(matches!(cut, Ok(None)), "cut at {end}: {cut:?}");
        }
        let first = ["HTTP/1.1 ", head.status.as_str(), " ", head.reason].map(str::as_bytes);
        let last: &[u8] = match head.body {
            Framing::Close => b"Transfer-Encoding: chunked\r\n",
            Framing::Empty | Framing::Length(_) | Framing::Chunked => b"",
        };
        let written = Lines::passed(&head.fields).write(&first, last, 0);
        let mut room = head::room();
        let again = head::response(&written, &mut room, to_head);
        let Ok(Some(again)) = again else {
            panic!("{head:?} became {again:?}");
        };
        let framing = match head.body {
            Framing::Close => Framing::Chunked,
            other => other,
        };
        assert_eq!((again.status, again.body), (head.status, framing));
    }
}

/// However a body is cut, the same goes on, and the next reader finds in it what came.
pub fn http1_body(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else {
        return;
    };
    let framing = match first {
        0 => Framing::Chunked,
        length => Framing::Length(u64::from(*length)),
    };
    let whole = carried(framing, bytes, bytes.len());
    for step in [1, 3, 7] {
        let parts = carried(framing, bytes, step);
        match (&parts, &whole) {
            (Ok(parts), Ok(whole)) => assert_eq!(parts, whole, "cut every {step} bytes"),
            _ => assert_eq!(parts.is_err(), whole.is_err(), "cut every {step} bytes"),
        }
    }
}

/// The data that goes on, how much is taken for it, and whether that is all.
fn carried(
    framing: Framing,
    bytes: &[u8],
    step: usize,
) -> Result<(Vec<u8>, usize, bool), BadChunk> {
    let (mut body, mut out, mut taken) = (Body::new(framing), Vec::new(), 0);
    for part in bytes.chunks(step.max(1)) {
        if body.has_ended() {
            break;
        }
        let mut input = Buffer::of(part);
        body.carry(&mut input, &mut out)?;
        taken += part.len() - input.data().len();
    }
    let data = match body.is_chunked() {
        true => unframed(&out, body.has_ended()),
        false => out,
    };
    assert_eq!(
        body.bytes(),
        u64::try_from(data.len()).expect("a length fits u64")
    );
    Ok((data, taken, body.has_ended()))
}

/// The data in what we framed ourselves.
fn unframed(framed: &[u8], ended: bool) -> Vec<u8> {
    let (mut chunks, mut data, mut at) = (Chunks::default(), Vec::new(), 0);
    while at < framed.len() {
        assert!(!chunks.has_ended(), "there is more behind the end");
        let step = chunks.step(&framed[at..]).expect("we framed it");
        let begin = at + step.skip;
        at = begin + step.data;
        data.extend_from_slice(&framed[begin..at]);
    }
    assert_eq!((chunks.has_ended(), chunks.is_odd()), (ended, false));
    data
}
