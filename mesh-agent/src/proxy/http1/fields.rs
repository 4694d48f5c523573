// SPDX-License-Identifier: Apache-2.0

//! The fields of a head as they go on: in their order and spelling, without those of the
//! connection they came over, changed as the route says.
//!
//! Knows nothing of sockets. Invariant: what frames a message is never changed by a route, and
//! every line written ends in CR LF.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, header};

use super::{
    super::http_ids::{self, Made, Mark},
    head::{self, Name, Named, tokens},
};
use crate::model::HeaderEdit;

/// Room for what is added to a head.
const ADDED: usize = 64;

/// Room for fields that are added.
const ADDED_LINES: usize = 4;

/// The fields of one head.
pub(super) struct Lines<'h>(Vec<Line<'h>>);

struct Line<'h> {
    name: &'h str,
    kind: Name,
    value: Cow<'h, [u8]>,
}

impl<'h> Lines<'h> {
    /// The fields that go on.
    pub(super) fn passed(fields: &Named<'h>) -> Self {
        // Nearly always: none, or `close` or `keep-alive` alone.
        let mut options = fields.values(Name::Connection).flat_map(tokens);
        let names_more = options.any(head_field);
        let mut lines = Vec::with_capacity(fields.len() + ADDED_LINES);
        for (field, kind) in fields.iter() {
            let ends_here = matches!(kind, Name::Connection | Name::Hop)
                || names_more && is_named(fields, field.name, kind);
            if !ends_here {
                lines.push(Line {
                    name: field.name,
                    kind,
                    value: Cow::Borrowed(field.value),
                });
            }
        }
        Self(lines)
    }

    /// Takes all fields of the kind out.
    pub(super) fn drop_all(&mut self, kind: Name) {
        self.0.retain(|line| line.kind != kind);
    }

    /// Gives the request another host.
    pub(super) fn host(&mut self, host: &[u8]) {
        for line in &mut self.0 {
            if line.kind == Name::Host {
                line.value = Cow::Owned(host.to_vec());
            }
        }
    }

    /// Adds what the request is followed by.
    pub(super) fn mark(&mut self, made: &'h Made) {
        if let Some(id) = &made.id {
            self.set(&http_ids::REQUEST_ID, Name::RequestId, id);
        }
        if let Some(parent) = &made.parent {
            // It belonged to what was not there, or could not be read.
            self.0
                .retain(|line| http_ids::mark(line.name) != Some(Mark::State));
            self.set(&http_ids::TRACE_PARENT, Name::Other, parent);
        }
    }

    /// Changes what a route says.
    pub(super) fn edit(&mut self, edits: &'h [HeaderEdit]) {
        for edit in edits {
            match edit {
                HeaderEdit::Set(name, value) if is_free(name) => {
                    self.set(name, head::name(name.as_str()), value.as_bytes());
                }
                HeaderEdit::Add(name, value) if is_free(name) => self.add(name, value),
                HeaderEdit::Remove(name) if is_free(name) => {
                    self.0.retain(|line| !is(line, name));
                }
                HeaderEdit::Set(..) | HeaderEdit::Add(..) | HeaderEdit::Remove(_) => {}
            }
        }
    }

    fn set(&mut self, name: &'h HeaderName, kind: Name, value: &'h [u8]) {
        let Some(first) = self.0.iter().position(|line| is(line, name)) else {
            return self.push(name, kind, value);
        };
        self.0[first].value = Cow::Borrowed(value);
        let mut at = 0;
        self.0.retain(|line| {
            at += 1;
            at - 1 <= first || !is(line, name)
        });
    }

    fn add(&mut self, name: &'h HeaderName, value: &'h HeaderValue) {
        let old = self.0.iter_mut().rev().find(|line| is(line, name));
        match old {
            Some(line) if *name != header::SET_COOKIE => {
                line.value = Cow::Owned([&*line.value, b",", value.as_bytes()].concat());
            }
            _ => self.push(name, head::name(name.as_str()), value.as_bytes()),
        }
    }

    fn push(&mut self, name: &'h HeaderName, kind: Name, value: &'h [u8]) {
        self.0.push(Line {
            name: name.as_str(),
            kind,
            value: Cow::Borrowed(value),
        });
    }

    /// Writes a head: the first line in `parts`, the fields, and `last`, whole lines.
    pub(super) fn write(&self, parts: &[&[u8]], last: &[u8], room_for_body: usize) -> Vec<u8> {
        let first: usize = parts.iter().map(|part| part.len()).sum();
        let fields = self
            .0
            .iter()
            .map(|line| line.name.len() + line.value.len() + 4);
        let length = first + fields.sum::<usize>() + last.len() + ADDED + room_for_body;
        let mut out = Vec::with_capacity(length);
        for part in parts {
            out.extend_from_slice(part);
        }
        out.extend_from_slice(b"\r\n");
        for line in &self.0 {
            out.extend_from_slice(line.name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(&line.value);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(last);
        out.extend_from_slice(b"\r\n");
        out
    }
}

fn is(line: &Line<'_>, name: &HeaderName) -> bool {
    line.name.eq_ignore_ascii_case(name.as_str())
}

/// Whether a route may change the field; framing and hops are not its to change.
fn is_free(name: &HeaderName) -> bool {
    match head::name(name.as_str()) {
        Name::ContentLength
        | Name::TransferEncoding
        | Name::Connection
        | Name::Hop
        | Name::Special
        | Name::Host => false,
        Name::ContentType | Name::UserAgent | Name::RequestId | Name::Other => true,
    }
}

/// Whether a connection option can be the name of a field.
fn head_field(token: &[u8]) -> bool {
    !token.is_empty()
        && !token.eq_ignore_ascii_case(b"close")
        && !token.eq_ignore_ascii_case(b"keep-alive")
}

/// Whether a `Connection` among `fields` names the field: then it ends here. The framing is not
/// for that, Host is nobody's to remove, and what a request is followed by is not one connection's.
fn is_named(fields: &Named<'_>, field: &str, kind: Name) -> bool {
    if matches!(
        kind,
        Name::Host | Name::ContentLength | Name::TransferEncoding
    ) || http_ids::mark(field).is_some()
    {
        return false;
    }
    let mut options = fields.values(Name::Connection).flat_map(tokens);
    options.any(|token| token.eq_ignore_ascii_case(field.as_bytes()))
}

#[cfg(test)]
mod tests {
    use httparse::Header;

    use super::*;

    fn fields<'h>(pairs: &[(&'h str, &'h str)]) -> Vec<Header<'h>> {
        pairs
            .iter()
            .map(|(name, value)| Header {
                name,
                value: value.as_bytes(),
            })
            .collect()
    }

    #[track_caller]
    fn check(pairs: &[(&str, &str)], edits: &[HeaderEdit], want: &str) {
        let fields = fields(pairs);
        let mut lines = Lines::passed(&Named::of(&fields));
        lines.edit(edits);
        let text = lines.write(&[b"GET"], b"", 0);
        assert_eq!(
            String::from_utf8(text).expect("text"),
            format!("GET\r\n{want}\r\n")
        );
    }

    #[test]
    fn what_belongs_to_one_connection_ends_here() {
        check(
            &[
                ("HOST", "a"),
                ("Connection", "keep-alive, X-Private, Host"),
                ("x-private", "1"),
                ("Keep-Alive", "timeout=5"),
                ("Proxy-Connection", "close"),
                ("Connection", "content-length,transfer-encoding"),
                ("Content-Length", "3"),
                ("Accept", "*/*"),
                ("accept", "b"),
            ],
            &[],
            "HOST: a\r\nContent-Length: 3\r\nAccept: */*\r\naccept: b\r\n",
        );
    }

    #[test]
    fn edits_set_add_and_remove_in_order() {
        let name = HeaderName::from_static;
        let value = HeaderValue::from_static;
        check(
            &[
                ("X-Set", "a"),
                ("x-SET", "b"),
                ("X-Add", "older"),
                ("x-add", "old"),
                ("x-gone", "1"),
                ("Set-Cookie", "a=1"),
            ],
            &[
                HeaderEdit::Set(name("x-set"), value("new")),
                HeaderEdit::Add(name("x-add"), value("new")),
                HeaderEdit::Add(name("x-fresh"), value("1")),
                HeaderEdit::Set(name("x-other"), value("2")),
                HeaderEdit::Remove(name("x-gone")),
                HeaderEdit::Add(header::SET_COOKIE, value("b=2")),
            ],
            "X-Set: new\r\nX-Add: older\r\nx-add: old,new\r\nSet-Cookie: a=1\r\nx-fresh: 1\r\nx-other: 2\r\n\
             set-cookie: b=2\r\n",
        );
    }

    #[test]
    fn no_edit_changes_what_frames_the_message() {
        let edits = [
            HeaderEdit::Set(header::CONTENT_LENGTH, HeaderValue::from_static("9")),
            HeaderEdit::Add(
                header::TRANSFER_ENCODING,
                HeaderValue::from_static("chunked"),
            ),
            HeaderEdit::Remove(header::CONTENT_LENGTH),
            HeaderEdit::Set(header::CONNECTION, HeaderValue::from_static("x")),
        ];
        check(&[("Content-Length", "3")], &edits, "Content-Length: 3\r\n");
    }
}
