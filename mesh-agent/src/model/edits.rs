// SPDX-License-Identifier: Apache-2.0

//! What a route changes in the headers of a request and of its response.
//!
//! Invariant: never names `Host` or a pseudo header, so applying edits cannot redirect a request.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// The changes of one route, for both directions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// To the request, before it is sent to the endpoint.
    pub request: Vec<HeaderEdit>,
    /// To the response, before it is sent to the client.
    pub response: Vec<HeaderEdit>,
}

/// One change to one header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderEdit {
    /// This value replaces all others.
    Set(HeaderName, HeaderValue),
    /// `<old>,<new>` in the last line; a new line for `Set-Cookie`, which does not join.
    Add(HeaderName, HeaderValue),
    /// All values go.
    Remove(HeaderName),
}

impl HeaderEdits {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }

    /// Changes the headers of a request.
    pub fn apply_request(&self, headers: &mut HeaderMap) {
        self.request.iter().for_each(|edit| edit.apply(headers));
    }

    /// Changes the headers of a response.
    pub fn apply_response(&self, headers: &mut HeaderMap) {
        self.response.iter().for_each(|edit| edit.apply(headers));
    }
}

impl HeaderEdit {
    fn apply(&self, headers: &mut HeaderMap) {
        match self {
            Self::Set(name, value) => {
                headers.insert(name, value.clone());
            }
            Self::Add(name, value) => add(headers, name, value),
            Self::Remove(name) => {
                headers.remove(name);
            }
        }
    }
}

fn add(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue) {
    if *name == header::SET_COOKIE {
        headers.append(name, value.clone());
        return;
    }
    match headers.entry(name) {
        header::Entry::Vacant(entry) => {
            entry.insert(value.clone());
        }
        header::Entry::Occupied(mut entry) => {
            let last = entry.iter_mut().last();
            let last = last.expect("what is occupied has a value");
            let bytes = [last.as_bytes(), b",", value.as_bytes()].concat();
            let joined = HeaderValue::from_bytes(&bytes);
            *last = joined.expect("two header values and a comma are one");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_set_add_and_remove_in_order() {
        let name = |text: &'static str| HeaderName::from_static(text);
        let value = |text: &'static str| HeaderValue::from_static(text);
        let edits = HeaderEdits {
            request: vec![
                HeaderEdit::Set(name("x-set"), value("new")),
                HeaderEdit::Add(name("x-add"), value("new")),
                HeaderEdit::Add(name("x-fresh"), value("1")),
                HeaderEdit::Remove(name("x-gone")),
            ],
            response: vec![HeaderEdit::Add(header::SET_COOKIE, value("b=2"))],
        };
        let mut headers = HeaderMap::new();
        for (key, old) in [
            ("x-set", "a"),
            ("x-set", "b"),
            ("x-add", "older"),
            ("x-add", "old"),
            ("x-gone", "x"),
        ] {
            headers.append(name(key), value(old));
        }
        headers.append(header::SET_COOKIE, value("a=1"));
        edits.apply_request(&mut headers);
        edits.apply_response(&mut headers);
        let all = |key: &str| -> Vec<&[u8]> {
            headers
                .get_all(key)
                .iter()
                .map(HeaderValue::as_bytes)
                .collect()
        };
        assert_eq!(all("x-set"), [b"new"]);
        assert_eq!(all("x-add"), [b"older".as_slice(), b"old,new"]);
        assert_eq!(all("x-fresh"), [b"1"]);
        assert!(all("x-gone").is_empty());
        assert_eq!(all("set-cookie"), [b"a=1", b"b=2"]);
    }
}
