// SPDX-License-Identifier: Apache-2.0

//! Compiled conditions of a route rule on a request and its client.
//!
//! One [`HttpMatch`] is an AND of all its parts; a rule is an OR of its matches. Conditions on the
//! destination port and on gateways were decided when the match was compiled.

use std::{borrow::Cow, fmt};

use http::{HeaderMap, HeaderName};

use super::{
    path::PathMatch,
    route::{Client, RequestHead},
    text::TextMatch,
};

/// The conditions of one match; an empty one matches every request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpMatch {
    /// On the path, without query.
    pub path: Option<PathMatch>,
    /// On the method.
    pub method: Option<TextMatch>,
    /// On `Host` or `:authority`, port included.
    pub authority: Option<TextMatch>,
    /// On the scheme.
    pub scheme: Option<TextMatch>,
    /// On headers; several values of one name count as one, joined by commas.
    pub headers: Vec<(HeaderName, TextMatch)>,
    /// On headers that must not match; a missing one counts as empty.
    pub without_headers: Vec<(HeaderName, TextMatch)>,
    /// On decoded query parameters; of several with one name the first counts.
    pub query: Vec<(String, TextMatch)>,
    /// Labels that the client must carry.
    pub source_labels: Vec<(String, String)>,
    /// The client's namespace.
    pub source_namespace: Option<String>,
}

impl HttpMatch {
    /// Whether `head`, sent by `client`, meets all conditions.
    pub fn matches(&self, client: &Client<'_>, head: &RequestHead<'_>) -> bool {
        let text = |want: &Option<TextMatch>, is: &str| want.as_ref().is_none_or(|w| w.matches(is));
        self.path
            .as_ref()
            .is_none_or(|path| path.matches(head.uri.path()))
            && text(&self.method, head.method.as_str())
            && text(&self.authority, head.authority)
            && text(&self.scheme, head.scheme)
            && self.client_matches(client)
            && self.headers_match(head.headers)
            && self.query_matches(head.uri.query().unwrap_or_default())
    }

    fn client_matches(&self, client: &Client<'_>) -> bool {
        let workload = client.workload;
        let namespace = self.source_namespace.as_deref();
        namespace.is_none_or(|namespace| namespace == &*workload.namespace)
            && self
                .source_labels
                .iter()
                .all(|(key, value)| workload.labels.get(key) == Some(value))
    }

    fn headers_match(&self, headers: &HeaderMap) -> bool {
        self.headers
            .iter()
            .all(|(name, want)| joined(headers, name).is_some_and(|value| want.matches(&value)))
            && self.without_headers.iter().all(|(name, unwanted)| {
                let value = joined(headers, name);
                match unwanted {
                    TextMatch::Present => value.is_none(),
                    _ => !unwanted.matches(value.as_deref().unwrap_or_default()),
                }
            })
    }

    fn query_matches(&self, query: &str) -> bool {
        self.query.iter().all(|(name, want)| {
            parameters(query)
                .find(|(key, _)| key == name)
                .is_some_and(|(_, value)| want.matches(&value))
        })
    }

    /// Whether every request matches, whoever sends it.
    pub fn is_catch_all(&self) -> bool {
        let all_paths = PathMatch::text_prefix("/", false);
        let all_segments = PathMatch::prefix("/").ok();
        let path_free = self
            .path
            .as_ref()
            .is_none_or(|path| *path == all_paths || Some(path) == all_segments.as_ref());
        path_free
            && Self {
                path: None,
                ..self.clone()
            } == Self::default()
    }
}

/// All values of `name`, as one text; bytes that are no UTF-8 become the replacement character.
pub(super) fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    let mut values = headers.get_all(name).iter();
    let first = String::from_utf8_lossy(values.next()?.as_bytes());
    Some(values.fold(first, |mut text, value| {
        text.to_mut().push(',');
        text.to_mut()
            .push_str(&String::from_utf8_lossy(value.as_bytes()));
        text
    }))
}

/// The decoded names and values of a query string.
pub(super) fn parameters(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(name), decode(value))
        })
}

/// Resolves `%xx`; what is not of that form stays as it is.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                bytes.push(high << 4 | low);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// One line for `proxy-config routes`.
impl fmt::Display for HttpMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{path}")?,
            None => f.write_str("/*")?,
        }
        for (name, want) in [
            ("method", &self.method),
            ("authority", &self.authority),
            ("scheme", &self.scheme),
        ] {
            if let Some(want) = want {
                write!(f, " {name}={want}")?;
            }
        }
        for (name, want) in &self.headers {
            write!(f, " header {name}={want}")?;
        }
        for (name, want) in &self.without_headers {
            write!(f, " without {name}={want}")?;
        }
        for (name, want) in &self.query {
            write!(f, " query {name}={want}")?;
        }
        for (key, value) in &self.source_labels {
            write!(f, " from {key}={value}")?;
        }
        match &self.source_namespace {
            Some(namespace) => write!(f, " from namespace {namespace}"),
            None => Ok(()),
        }
    }
}
