// SPDX-License-Identifier: Apache-2.0

//! Services of the user's that decide about requests, for CUSTOM policies: what they are asked, and
//! what becomes of what they answer.
//!
//! Knows nothing of connections. Invariant: an answer that is not clearly a yes is a no, unless the
//! provider itself says that errors are not.
//! References: istio/api `mesh/v1alpha1/config.proto`; Envoy's ext_authz filter.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION, WWW_AUTHENTICATE},
    request,
    uri::PathAndQuery,
};

use super::{authorization::Pattern, service::ServiceName};

/// A service that decides about requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// As policies name it.
    pub name: Arc<str>,
    /// The Service that is asked.
    pub service: ServiceName,
    /// One of its ports.
    pub port: u16,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Whether requests pass when there is no answer.
    pub fail_open: bool,
    /// The status of the answer to requests that do not pass then.
    pub status_on_error: StatusCode,
    /// How it is asked.
    pub check: Check,
    /// What it sees of bodies, if it does.
    pub body: Option<ShownBody>,
}

/// How much of a request's body a provider sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShownBody {
    /// So many bytes at most.
    pub most: usize,
    /// Whether it sees the beginning of a body that is longer; else such a request does not pass.
    pub partial: bool,
    /// Whether they are told over gRPC as bytes, not as text.
    pub as_bytes: bool,
}

/// What a provider is shown of one body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// From its beginning.
    pub bytes: Bytes,
    /// Whether more may follow.
    pub is_partial: bool,
}

/// Tells a provider whether it sees the beginning of a body or all of it; a client's word for it is not shown.
pub const PARTIAL: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");

/// How a provider is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// By a request like that which it decides about.
    Http(HttpCheck),
    /// By Envoy's `envoy.service.auth.v3.Authorization`.
    Grpc,
}

/// What a check over HTTP asks, and what of the answer goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpCheck {
    /// Stands before the path.
    pub path_prefix: String,
    /// The request's headers that it sees, in lower case.
    pub include: Vec<Pattern>,
    /// What it sees besides.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// The answer's headers that the application gets.
    pub upstream_on_allow: Vec<Pattern>,
    /// The answer's headers that the client gets with a yes.
    pub downstream_on_allow: Vec<Pattern>,
    /// The answer's headers that the client gets with a no; all if none are named.
    pub downstream_on_deny: Vec<Pattern>,
}

/// What is done with a request that a provider allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Set in the request.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Added to the request.
    pub append: Vec<(HeaderName, HeaderValue)>,
    /// Taken out of the request.
    pub remove: Vec<HeaderName>,
    /// Added to the answer.
    pub to_client: Vec<(HeaderName, HeaderValue)>,
}

/// Seen in every check over HTTP.
const ALWAYS_ASKED: [HeaderName; 1] = [AUTHORIZATION];

/// Sent with every no over HTTP.
const ALWAYS_ANSWERED: [HeaderName; 3] = [CONTENT_TYPE, WWW_AUTHENTICATE, LOCATION];

/// About a connection or a body, so never copied from one message to another.
fn is_framing(name: &HeaderName) -> bool {
    const FRAMING: [&str; 8] = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    ];
    name == CONTENT_LENGTH || name == HOST || FRAMING.contains(&name.as_str())
}

fn is_named(patterns: &[Pattern], name: &HeaderName) -> bool {
    !is_framing(name) && name != PARTIAL && patterns.iter().any(|one| one.matches(name.as_str()))
}

type Pairs = Vec<(HeaderName, HeaderValue)>;

fn named(headers: &HeaderMap, wants: impl Fn(&HeaderName) -> bool) -> Pairs {
    let wanted = headers.iter().filter(|(name, _)| wants(name));
    wanted
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

impl Excerpt {
    /// As [`PARTIAL`] says it.
    pub fn is_partial(&self) -> HeaderValue {
        HeaderValue::from_static(if self.is_partial { "true" } else { "false" })
    }
}

impl HttpCheck {
    /// What is asked about the request with this head and what is `shown` of its body; nothing if its path
    /// cannot be asked about.
    pub fn request(
        &self,
        head: &request::Parts,
        shown: Option<&Excerpt>,
    ) -> Option<Request<Bytes>> {
        let body = shown.map_or_else(Bytes::new, |shown| shown.bytes.clone());
        let target = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let target = format!("{}{target}", self.path_prefix);
        let length = HeaderValue::from(body.len());
        let mut asked = Request::new(body);
        *asked.method_mut() = head.method.clone();
        *asked.uri_mut() = Uri::try_from(target).ok()?;
        let authority = head.uri.authority().map(|it| it.as_str().as_bytes());
        let host = match authority {
            Some(authority) => HeaderValue::from_bytes(authority).ok(),
            None => head.headers.get(HOST).cloned(),
        };
        let headers = asked.headers_mut();
        headers.extend(host.map(|host| (HOST, host)));
        let is_asked =
            |name: &HeaderName| ALWAYS_ASKED.contains(name) || is_named(&self.include, name);
        for (name, value) in named(&head.headers, is_asked) {
            headers.append(name, value);
        }
        for (name, value) in &self.add {
            headers.insert(name, value.clone());
        }
        if let Some(shown) = shown {
            headers.insert(PARTIAL, shown.is_partial());
        }
        headers.insert(CONTENT_LENGTH, length);
        Some(asked)
    }

    /// What a yes with these headers asks for.
    pub fn allowance(&self, answer: &HeaderMap) -> Allowance {
        Allowance {
            set: named(answer, |name| is_named(&self.upstream_on_allow, name)),
            to_client: named(answer, |name| is_named(&self.downstream_on_allow, name)),
            ..Allowance::default()
        }
    }

    /// The headers of a no that the client gets.
    pub fn denied(&self, answer: &HeaderMap) -> Pairs {
        named(answer, |name| match self.downstream_on_deny.as_slice() {
            [] => !is_framing(name),
            some => ALWAYS_ANSWERED.contains(name) || is_named(some, name),
        })
    }
}

impl Allowance {
    /// Changes a request's headers.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in self.remove.iter().filter(|name| !is_framing(name)) {
            headers.remove(name);
        }
        // Of several of one name all stay, and none of the client's.
        for (name, _) in &self.set {
            headers.remove(name);
        }
        for (name, value) in self.set.iter().chain(&self.append) {
            if !is_framing(name) {
                headers.append(name, value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(target: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::post(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn shown(headers: &HeaderMap) -> Vec<String> {
        let text = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
        };
        let mut all: Vec<String> = headers.iter().map(text).collect();
        all.sort();
        all
    }

    fn check() -> HttpCheck {
        HttpCheck {
            path_prefix: "/check".to_owned(),
            include: vec![Pattern::new("x-ext-*"), Pattern::new("cookie")],
            add: vec![(
                HeaderName::from_static("x-mesh"),
                HeaderValue::from_static("yes"),
            )],
            upstream_on_allow: vec![Pattern::new("x-user"), Pattern::new("content-length")],
            downstream_on_allow: vec![Pattern::new("set-cookie")],
            downstream_on_deny: vec![Pattern::new("x-why")],
        }
    }

    #[test]
    fn a_check_shows_what_is_named_and_nothing_else() {
        let sent = [
            ("x-envoy-auth-partial-body", "forged"),
            ("host", "shop"),
            ("authorization", "Bearer a"),
            ("x-ext-a", "1"),
            ("x-other", "2"),
            ("x-mesh", "forged"),
            ("content-length", "7"),
        ];
        let mut all = check();
        all.include.push(Pattern::new("x-e*"));
        let asked = all.request(&head("/a?b=c", &sent), None).unwrap();
        assert_eq!(asked.uri(), "/check/a?b=c");
        assert_eq!(asked.method(), "POST");
        let want = [
            "authorization: Bearer a",
            "content-length: 0",
            "host: shop",
            "x-ext-a: 1",
            "x-mesh: yes",
        ];
        assert_eq!(shown(asked.headers()), want);
        let excerpt = Excerpt {
            bytes: Bytes::from_static(b"four"),
            is_partial: true,
        };
        let asked = all.request(&head("/a", &sent), Some(&excerpt)).unwrap();
        assert_eq!(asked.headers()[PARTIAL], "true");
        assert_eq!(asked.headers()[CONTENT_LENGTH], "4");
        assert_eq!(asked.body(), "four");
    }

    #[test]
    fn a_yes_overrides_what_the_client_says() {
        let answer = head(
            "/",
            &[
                ("x-user", "anna"),
                ("content-length", "9"),
                ("set-cookie", "a"),
                ("x", "y"),
            ],
        );
        let allowance = check().allowance(&answer.headers);
        let mut request = head("/", &[("x-user", "root"), ("x-user", "again"), ("a", "b")]);
        allowance.apply(&mut request.headers);
        assert_eq!(shown(&request.headers), ["a: b", "x-user: anna"]);
        let names: Vec<&str> = allowance
            .to_client
            .iter()
            .map(|(it, _)| it.as_str())
            .collect();
        assert_eq!(names, ["set-cookie"]);
    }

    #[test]
    fn a_no_shows_what_is_named_or_all() {
        let sent = [
            ("x-why", "no"),
            ("location", "/login"),
            ("x-inner", "secret"),
            ("content-length", "3"),
            ("connection", "close"),
        ];
        let answer = head("/", &sent).headers;
        let names = |check: &HttpCheck| {
            let denied = check.denied(&answer).into_iter();
            let mut names: Vec<String> = denied.map(|(name, _)| name.to_string()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&check()), ["location", "x-why"]);
        let all = names(&HttpCheck::default());
        assert_eq!(all, ["location", "x-inner", "x-why"]);
    }
}
