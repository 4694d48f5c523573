// SPDX-License-Identifier: Apache-2.0

//! What HTTP/1 messages mean, read by the letter: whatever a proxy sends must be beyond doubt.

use std::collections::BTreeMap;

use tokio::{io::AsyncReadExt, net::TcpStream};

/// Fields by lower-case name, values in their order.
type Fields = BTreeMap<String, Vec<String>>;

/// A request as an endpoint saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Asked {
    pub(in super::super) line: String,
    pub(in super::super) fields: Fields,
    pub(in super::super) body: Vec<u8>,
    /// All of it came.
    pub(in super::super) whole: bool,
}

/// An answer as a client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Answer {
    pub(in super::super) status: String,
    pub(in super::super) fields: Fields,
    pub(in super::super) body: Vec<u8>,
    pub(in super::super) whole: bool,
}

/// A stream that messages are read from.
pub(in super::super) struct Wire {
    stream: TcpStream,
    bytes: Vec<u8>,
}

/// A message at the front of bytes.
enum Read<T> {
    Whole(T, usize),
    /// It has not ended; what has come of it if its head has.
    Partial(Option<T>),
}

impl Wire {
    pub(in super::super) fn new(stream: TcpStream) -> Self {
        let bytes = Vec::new();
        Self { stream, bytes }
    }

    pub(in super::super) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// The next request; nothing if the stream ends before its head does.
    pub(in super::super) async fn request(&mut self) -> Option<Asked> {
        loop {
            let partial = match request(&self.bytes) {
                Read::Whole(asked, length) => {
                    self.bytes.drain(..length);
                    return Some(asked);
                }
                Read::Partial(partial) => partial,
            };
            match self.stream.read_buf(&mut self.bytes).await {
                Ok(count) if count > 0 => {}
                _ => {
                    self.bytes.clear();
                    return partial;
                }
            }
        }
    }
}

/// The answers in `bytes` to requests with `methods`.
pub(in super::super) fn answers(bytes: &[u8], methods: &[String]) -> Vec<Answer> {
    let (mut rest, mut answers) = (bytes, Vec::new());
    while !rest.is_empty() {
        let method = methods.get(answers.len()).map_or("", String::as_str);
        match answer(rest, method) {
            Read::Whole(answer, length) => {
                answers.push(answer);
                rest = &rest[length..];
            }
            Read::Partial(partial) => {
                answers.extend(partial);
                break;
            }
        }
    }
    answers
}

fn request(bytes: &[u8]) -> Read<Asked> {
    let Some((line, fields, length)) = head(bytes) else {
        return Read::Partial(None);
    };
    let (body, taken) = body(&bytes[length..], &fields, false);
    let asked = Asked {
        line,
        fields,
        body,
        whole: taken.is_some(),
    };
    match taken {
        Some(taken) => Read::Whole(asked, length + taken),
        None => Read::Partial(Some(asked)),
    }
}

fn answer(bytes: &[u8], method: &str) -> Read<Answer> {
    let Some((line, fields, length)) = head(bytes) else {
        return Read::Partial(None);
    };
    let status = line.get(..12).unwrap_or(&line).to_owned();
    let code = status.get(9..).unwrap_or_default();
    let bare = method == "HEAD" || code.starts_with('1') || code == "204" || code == "304";
    let (body, taken) = match bare {
        true => (Vec::new(), Some(0)),
        false => body(&bytes[length..], &fields, true),
    };
    let answer = Answer {
        status,
        fields,
        body,
        whole: taken.is_some(),
    };
    match taken {
        Some(taken) => Read::Whole(answer, length + taken),
        None => Read::Partial(Some(answer)),
    }
}

/// The first line, the fields and the length of a head.
fn head(bytes: &[u8]) -> Option<(String, Fields, usize)> {
    let length = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..length - 4]).into_owned();
    assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "{text:?}");
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let mut fields = Fields::new();
    for line in lines {
        let (name, value) = line.split_once(':').expect("a field has a colon");
        assert_eq!(name, name.trim(), "{text:?}");
        let values = fields.entry(name.to_ascii_lowercase()).or_default();
        values.push(value.trim().to_owned());
    }
    Some((first, fields, length))
}

/// The body at the front of `bytes`, and how many of them it takes if it has ended.
fn body(bytes: &[u8], fields: &Fields, until_close: bool) -> (Vec<u8>, Option<usize>) {
    let one = |name: &str| {
        let values = fields.get(name)?;
        assert_eq!(values.len(), 1, "{name} is there once");
        Some(values[0].as_str())
    };
    match (one("transfer-encoding"), one("content-length")) {
        (Some(coding), None) => {
            assert!(coding.eq_ignore_ascii_case("chunked"), "{coding}");
            chunked(bytes)
        }
        (None, Some(length)) => {
            let length: usize = length.parse().expect("a length");
            let whole = bytes.len() >= length;
            (
                bytes[..length.min(bytes.len())].to_vec(),
                whole.then_some(length),
            )
        }
        (None, None) if until_close => (bytes.to_vec(), Some(bytes.len())),
        (None, None) => (Vec::new(), Some(0)),
        (Some(_), Some(_)) => panic!("a proxy sent both a length and a coding: {fields:?}"),
    }
}

/// The data of chunks without extensions; trailers are taken as data.
fn chunked(bytes: &[u8]) -> (Vec<u8>, Option<usize>) {
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let line = bytes[at..].windows(2).position(|two| two == b"\r\n");
        let Some(line) = line else {
            return (data, None);
        };
        let size = std::str::from_utf8(&bytes[at..at + line]).expect("a size is text");
        let size = usize::from_str_radix(size, 16).expect("a size is a number");
        at += line + 2;
        if bytes.len() < at + size + 2 {
            data.extend_from_slice(&bytes[at..bytes.len().min(at + size)]);
            return (data, None);
        }
        data.extend_from_slice(&bytes[at..at + size]);
        at += size;
        if size == 0 {
            let end = bytes[at - 2..]
                .windows(4)
                .position(|four| four == b"\r\n\r\n");
            let Some(end) = end else {
                return (data, None);
            };
            data.extend_from_slice(&bytes[at..at + end]);
            return (data, Some(at + end + 2));
        }
        assert_eq!(&bytes[at..at + 2], b"\r\n", "a chunk ends in its line");
        at += 2;
    }
}
