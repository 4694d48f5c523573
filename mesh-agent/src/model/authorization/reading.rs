// SPDX-License-Identifier: Apache-2.0

//! A request's head as policies see it, in every way in which an application may read it.
//!
//! An application may resolve dots, merge slashes or decode percent signs, or not. What it will do
//! is not known, so all of that is kept side by side, and whoever judges lets the reading count
//! that is worst for the caller. The request itself goes on as it came.
//!
//! Knows nothing of policies. Invariant: nothing is allocated for a path without anything ambiguous.
//! Reference: RFC 3986 section 6.2.2; Envoy `normalize_path` and `merge_slashes`.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header::HOST};

use super::{Clause, Pattern};
use crate::model::{
    normalize::{decode, is_ambiguous, resolve},
    token::{Token, TokenPart},
};

/// A request's head, for policies.
#[derive(Debug)]
pub struct RequestReading<'a> {
    pub(super) method: &'a str,
    path: &'a str,
    /// Dots resolved, needless percent encoding undone.
    resolved: Option<String>,
    /// All that, and everything decoded, and slashes merged.
    decoded: Option<String>,
    authority: Option<&'a str>,
    headers: &'a HeaderMap,
    token: Option<&'a Token>,
}

impl<'a> RequestReading<'a> {
    /// Reads a request's head.
    pub fn new(method: &'a Method, uri: &'a Uri, headers: &'a HeaderMap) -> Self {
        let path = uri.path();
        let (resolved, decoded) = if is_ambiguous(path) {
            (Some(resolve(path)), Some(decode(path)))
        } else {
            (None, None)
        };
        Self {
            method: method.as_str(),
            path,
            resolved,
            decoded,
            authority: uri.authority().map(http::uri::Authority::as_str),
            headers,
            token: None,
        }
    }

    /// The same of a request that is known by `token`.
    pub fn with_token(self, token: Option<&'a Token>) -> Self {
        Self { token, ..self }
    }

    /// Whether what its token says meets `clause`; without a token nothing is said.
    pub(super) fn says(&self, part: &TokenPart, clause: &Clause<Pattern>) -> bool {
        clause.met_if(|want| self.token.is_some_and(|token| token.has(part, want)))
    }

    /// All readings of the path.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        let more = [self.resolved.as_deref(), self.decoded.as_deref()];
        std::iter::once(self.path).chain(more.into_iter().flatten())
    }

    /// The target's authority, and `Host`: which of them an application believes is its own affair.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &str> {
        let told = self.headers.get_all(HOST).into_iter();
        self.authority.into_iter().chain(told.map(text))
    }

    /// All readings of a header: its values one by one, and joined.
    pub(super) fn with_header(
        &self,
        name: &HeaderName,
        judge: impl FnOnce(&[&str]) -> bool,
    ) -> bool {
        // HTTP/2 has it in a pseudo header.
        if *name == HOST
            && let Some(authority) = self.authority
            && !self.headers.contains_key(HOST)
        {
            return judge(&[authority]);
        }
        let mut values = self.headers.get_all(name).into_iter();
        match (values.next(), values.next()) {
            (None, _) => return judge(&[]),
            (Some(only), None) => return judge(&[&lossy(only)]),
            (Some(_), Some(_)) => {}
        }
        let all: Vec<Cow<'_, str>> = self.headers.get_all(name).into_iter().map(lossy).collect();
        let joined = all.join(",");
        let mut all: Vec<&str> = all.iter().map(AsRef::as_ref).collect();
        all.push(&joined);
        judge(&all)
    }
}

fn lossy(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}

/// A host that is not text is none that a policy could mean, and not empty either.
fn text(value: &HeaderValue) -> &str {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => text,
        Err(_not_text) => "\u{fffd}",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, want: &[&str]) {
        let uri: Uri = path.parse().unwrap();
        let headers = HeaderMap::new();
        let reading = RequestReading::new(&Method::GET, &uri, &headers);
        assert_eq!(reading.paths().collect::<Vec<_>>(), want, "{path}");
    }

    #[test]
    fn a_plain_path_has_one_reading() {
        check("/", &["/"]);
        check("/a/b.c/d;v=1?x=/../y", &["/a/b.c/d;v=1"]);
        check("http://a/b", &["/b"]);
    }

    #[test]
    fn an_ambiguous_path_has_all_readings_that_an_application_may_have() {
        check("/a/../b", &["/a/../b", "/b", "/b"]);
        check("/a/..", &["/a/..", "/", "/"]);
        check("/../../b", &["/../../b", "/b", "/b"]);
        check("/a/./b/.", &["/a/./b/.", "/a/b/", "/a/b/"]);
        check("//a///b/", &["//a///b/", "//a///b/", "/a/b/"]);
        check("/%61dmin", &["/%61dmin", "/admin", "/admin"]);
        check("/a%2Fb", &["/a%2Fb", "/a%2Fb", "/a/b"]);
        check("/a/..%2fb", &["/a/..%2fb", "/a/..%2fb", "/b"]);
        check("/a/%2e%2e/b", &["/a/%2e%2e/b", "/b", "/b"]);
        check("/a/..;x=1/b", &["/a/..;x=1/b", "/a/..;x=1/b", "/b"]);
        check("/a%5Cb", &["/a%5Cb", "/a%5Cb", "/a/b"]);
        check("/%", &["/%", "/%", "/%"]);
        check("/%zz%2", &["/%zz%2", "/%zz%2", "/%zz%2"]);
        check("/%ff", &["/%ff", "/%ff", "/\u{fffd}"]);
    }

    #[test]
    fn a_header_has_its_values_alone_and_joined() {
        let mut headers = HeaderMap::new();
        let name = HeaderName::from_static("x-role");
        let uri = Uri::from_static("http://shop/a");
        let all = |headers: &HeaderMap, name: &HeaderName| {
            let mut found = Vec::new();
            RequestReading::new(&Method::GET, &uri, headers).with_header(name, |values| {
                found.extend(values.iter().map(|value| (*value).to_owned()));
                true
            });
            found
        };
        assert!(all(&headers, &name).is_empty());
        headers.append(&name, HeaderValue::from_static("a"));
        assert_eq!(all(&headers, &name), ["a"]);
        headers.append(&name, HeaderValue::from_static("b"));
        assert_eq!(all(&headers, &name), ["a", "b", "a,b"]);
        assert_eq!(all(&headers, &HOST), ["shop"]);
    }
}
