// SPDX-License-Identifier: Apache-2.0

//! What a route makes of a request's URL: where a client is sent instead, or what its endpoint sees.
//!
//! Knows nothing of how an answer is written. Invariant: paths and host names that exist here are
//! well formed, so that only what a client sent can fail.
//! Reference: Gateway API `HTTPRequestRedirectFilter`, `HTTPURLRewriteFilter`, `HTTPPathModifier`.

use std::sync::Arc;

use http::{
    HeaderValue, Uri,
    uri::{Authority, PathAndQuery},
};

use super::{
    condition::HttpMatch,
    edits::HeaderEdits,
    route::RequestHead,
    text::{NotRegex, Substitution},
};

/// What becomes of a path; the query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEdit {
    /// This instead of all of it.
    Full(String),
    /// This instead of the prefix that the rule matched; without trailing slash.
    Prefix(String),
    /// This instead of the text that the rule matched, be it all or what the path begins with
    /// (VirtualService `rewrite.uri`).
    Matched(String),
    /// What this makes of it (VirtualService `rewrite.uriRegexRewrite`).
    Regex(Substitution),
}

/// A text that is no path.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a path")]
pub struct NotPath(String);

/// An answer that sends the client elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// HTTP status code.
    pub status: u16,
    /// `http` or `https`; the request's own if `None`.
    pub scheme: Option<Arc<str>>,
    /// The host; the request's own if `None`.
    pub host: Option<Arc<str>>,
    /// The port, which is not written if it is the scheme's own; with the host if `None`.
    pub port: Option<u16>,
    /// What becomes of the path; it stays if `None`.
    pub path: Option<PathEdit>,
    /// What is changed in the headers of the answer, if anything is.
    pub edits: Option<Arc<HeaderEdits>>,
}

/// What the endpoint sees instead of what the client sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UrlRewrite {
    /// `Host` and `:authority`; the request's own if `None`.
    pub authority: Option<Authority>,
    /// What becomes of the path; it stays if `None`.
    pub path: Option<PathEdit>,
}

/// A request's URL, rewritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// Instead of `Host` and `:authority`, if it changes.
    pub authority: Option<Authority>,
    /// Instead of path and query, if they change.
    pub path: Option<PathAndQuery>,
}

/// What the client sent makes no URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request's host is not one that it can be sent to")]
pub struct NotLocated;

impl PathEdit {
    /// `path` instead of the whole path.
    pub fn full(path: &str) -> Result<Self, NotPath> {
        Ok(Self::Full(checked(path)?.to_owned()))
    }

    /// `prefix` instead of the prefix that the rule matched.
    pub fn prefix(prefix: &str) -> Result<Self, NotPath> {
        let trimmed = checked(prefix)?.trim_end_matches('/');
        Ok(Self::Prefix(trimmed.to_owned()))
    }

    /// `path`, which may bring a query along, instead of the whole path.
    pub fn with_query(path: &str) -> Result<Self, NotPath> {
        let (bare, _) = path.split_once('?').unwrap_or((path, ""));
        checked(bare)?;
        match path.parse::<PathAndQuery>() {
            Ok(parsed) if parsed.as_str() == path => Ok(Self::Full(path.to_owned())),
            Ok(_) | Err(_) => Err(NotPath(path.to_owned())),
        }
    }

    /// `text` instead of what the rule matched.
    pub fn matched(text: &str) -> Result<Self, NotPath> {
        Ok(Self::Matched(checked(text)?.to_owned()))
    }

    /// What `replacement` makes of each match of `pattern`; `\1` stands for its first group.
    pub fn regex(pattern: &str, replacement: &str) -> Result<Self, NotRegex> {
        Ok(Self::Regex(Substitution::new(pattern, replacement)?))
    }

    /// The new path of a request that met `condition`.
    fn apply(&self, path: &str, condition: Option<&HttpMatch>) -> String {
        let matched = condition.and_then(|condition| condition.path.as_ref());
        let changed = match self {
            Self::Full(path) => path.clone(),
            Self::Prefix(prefix) => {
                let rest = matched.and_then(|matched| matched.rest(path));
                format!("{prefix}{}", rest.unwrap_or(path))
            }
            Self::Matched(text) => {
                let rest = match matched {
                    // Without a condition the root is what matches.
                    None => path.strip_prefix('/'),
                    Some(matched) => matched.rest(path),
                };
                format!("{text}{}", rest.unwrap_or_default())
            }
            Self::Regex(substitution) => substitution.apply(path),
        };
        if changed.is_empty() {
            "/".to_owned()
        } else {
            changed
        }
    }
}

/// Empty, or absolute and without query.
fn checked(path: &str) -> Result<&str, NotPath> {
    let parsed = path.parse::<PathAndQuery>();
    let whole = path.starts_with('/') && parsed.is_ok_and(|parsed| parsed.as_str() == path);
    if path.is_empty() || whole && !path.contains(['?', '#']) {
        Ok(path)
    } else {
        Err(NotPath(path.to_owned()))
    }
}

/// `path` with the query that `uri` has, unless it has one itself.
fn with_query(path: String, uri: &Uri) -> String {
    match uri.query() {
        Some(_) if path.contains('?') => path,
        Some(query) => format!("{path}?{query}"),
        None => path,
    }
}

impl Redirect {
    /// The same with the changes of `edits` in the headers of its answer.
    #[must_use]
    pub fn with(self, edits: &HeaderEdits) -> Self {
        let response = &edits.response;
        let edits = (!response.is_empty()).then(|| HeaderEdits {
            request: Vec::new(),
            response: response.clone(),
        });
        Self {
            edits: edits.map(Arc::new),
            ..self
        }
    }

    /// The `Location` for a request that met `condition`.
    pub fn location(
        &self,
        head: &RequestHead<'_>,
        condition: Option<&HttpMatch>,
    ) -> Result<HeaderValue, NotLocated> {
        let scheme = self.scheme.as_deref().unwrap_or(head.scheme);
        let asked: Authority;
        let whole = match &self.host {
            Some(host) => host,
            None => {
                asked = head.authority.parse().or(Err(NotLocated))?;
                asked.as_str()
            }
        };
        let path = match &self.path {
            Some(edit) => edit.apply(head.uri.path(), condition),
            None => head.uri.path().to_owned(),
        };
        let path = with_query(path, head.uri);
        let location = match self.port {
            Some(port) if well_known_port(scheme) == Some(port) => {
                format!("{scheme}://{}{path}", without_port(whole))
            }
            Some(port) => format!("{scheme}://{}:{port}{path}", without_port(whole)),
            None => format!("{scheme}://{}{path}", self.as_asked(whole)),
        };
        location.try_into().or(Err(NotLocated))
    }
}

impl Redirect {
    /// The host with the port that the client used, unless that is the other scheme's own.
    fn as_asked<'a>(&self, whole: &'a str) -> &'a str {
        let other = match self.scheme.as_deref() {
            Some("https") => ":80",
            Some("http") => ":443",
            _ => return whole,
        };
        whole.strip_suffix(other).unwrap_or(whole)
    }
}

/// An authority's host.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

impl UrlRewrite {
    /// What a request that met `condition` looks like to the endpoint.
    pub fn apply(&self, uri: &Uri, condition: Option<&HttpMatch>) -> Result<Rewritten, NotPath> {
        let rewritten = |edit: &PathEdit| {
            let path = with_query(edit.apply(uri.path(), condition), uri);
            match PathAndQuery::try_from(path.as_str()) {
                Ok(parsed) if path.starts_with('/') => Ok(parsed),
                Ok(_) | Err(_) => Err(NotPath(path)),
            }
        };
        Ok(Rewritten {
            authority: self.authority.clone(),
            path: self.path.as_ref().map(rewritten).transpose()?,
        })
    }
}

/// The port that goes without saying.
pub fn well_known_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::model::PathMatch;

    fn under(prefix: &str) -> HttpMatch {
        HttpMatch {
            path: Some(PathMatch::prefix(prefix).unwrap()),
            ..HttpMatch::default()
        }
    }

    #[track_caller]
    fn check_prefix(path: &str, matched: &str, replacement: &str, want: &str) {
        let edit = PathEdit::prefix(replacement).unwrap();
        assert_eq!(
            edit.apply(path, Some(&under(matched))),
            want,
            "{path}: {matched} to {replacement}"
        );
    }

    #[test]
    fn a_replaced_prefix_leaves_exactly_one_slash() {
        check_prefix("/foo/bar", "/foo", "/xyz", "/xyz/bar");
        check_prefix("/foo/bar", "/foo", "/xyz/", "/xyz/bar");
        check_prefix("/foo/bar", "/foo/", "/xyz", "/xyz/bar");
        check_prefix("/foo/bar", "/foo/", "/xyz/", "/xyz/bar");
        check_prefix("/foo", "/foo", "/xyz", "/xyz");
        check_prefix("/foo/", "/foo", "/xyz", "/xyz/");
        check_prefix("/foo/bar", "/foo", "", "/bar");
        check_prefix("/foo/", "/foo", "", "/");
        check_prefix("/foo", "/foo", "", "/");
        check_prefix("/foo/", "/foo", "/", "/");
        check_prefix("/foo", "/foo", "/", "/");
        check_prefix("/a/b", "/", "/xyz", "/xyz/a/b");
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for text in ["relative", "/a?b=c", "/a#b", "/with space", "http://a/b"] {
            assert_eq!(PathEdit::full(text), Err(NotPath(text.to_owned())));
        }
    }

    #[track_caller]
    fn check_location(redirect: &Redirect, authority: &str, target: &str, want: &str) {
        let head = RequestHead {
            method: &Method::GET,
            uri: &target.parse().unwrap(),
            authority,
            scheme: "http",
            headers: &HeaderMap::new(),
        };
        let location = redirect.location(&head, Some(&under("/old")));
        let said = location
            .as_ref()
            .map_or("none", |value| value.to_str().unwrap());
        assert_eq!(said, want, "{redirect:?}");
    }

    #[test]
    fn a_location_keeps_what_the_redirect_does_not_name() {
        let to = |scheme: Option<&str>, host: Option<&str>, port: u16, path: Option<PathEdit>| {
            Redirect {
                status: 302,
                scheme: scheme.map(Into::into),
                host: host.map(Into::into),
                port: Some(port),
                path,
                edits: None,
            }
        };
        let new = Some(PathEdit::prefix("/new").unwrap());
        for (redirect, want) in [
            (
                to(None, Some("example.org"), 80, None),
                "http://example.org/old/a?b=c",
            ),
            (to(None, None, 8083, None), "http://shop:8083/old/a?b=c"),
            (to(Some("https"), None, 443, None), "https://shop/old/a?b=c"),
            (
                to(Some("https"), None, 80, None),
                "https://shop:80/old/a?b=c",
            ),
            (to(None, None, 80, new), "http://shop/new/a?b=c"),
            (
                to(None, None, 80, Some(PathEdit::full("/one").unwrap())),
                "http://shop/one?b=c",
            ),
        ] {
            check_location(&redirect, "shop:8080", "/old/a?b=c", want);
        }
        let plain = to(None, None, 80, None);
        check_location(&plain, "[::1]:80", "/", "http://[::1]/");
        check_location(&plain, "not a host", "/", "none");
    }

    #[test]
    fn a_rewrite_changes_path_and_host_and_keeps_the_query() {
        let rewrite = UrlRewrite {
            authority: Some("other".parse().unwrap()),
            path: Some(PathEdit::prefix("/").unwrap()),
        };
        let rewritten = rewrite
            .apply(&"/old/a?b=c".parse().unwrap(), Some(&under("/old")))
            .unwrap();
        assert_eq!(rewritten.authority.unwrap().as_str(), "other");
        assert_eq!(rewritten.path.unwrap().as_str(), "/a?b=c");
    }

    #[test]
    fn a_redirect_without_a_port_keeps_the_clients_unless_it_is_the_other_schemes_own() {
        for (scheme, host, authority, want) in [
            (None, None, "shop:8080", "http://shop:8080/"),
            (Some("https"), None, "shop:80", "https://shop/"),
            (Some("https"), None, "shop:8080", "https://shop:8080/"),
            (Some("http"), None, "shop:443", "http://shop/"),
            (None, Some("other:81"), "shop", "http://other:81/"),
        ] {
            let redirect = Redirect {
                status: 301,
                scheme: scheme.map(Into::into),
                host: host.map(Into::into),
                port: None,
                path: None,
                edits: None,
            };
            check_location(&redirect, authority, "/", want);
        }
    }

    #[test]
    fn a_redirects_own_query_replaces_the_requests() {
        let redirect = Redirect {
            status: 301,
            scheme: None,
            host: None,
            port: None,
            path: Some(PathEdit::with_query("/new?x=y").unwrap()),
            edits: None,
        };
        check_location(&redirect, "shop", "/old?a=b", "http://shop/new?x=y");
        assert!(PathEdit::with_query("new?x=y").is_err());
    }

    #[track_caller]
    fn check_matched(edit: &PathEdit, condition: Option<PathMatch>, path: &str, want: &str) {
        let met = condition.map(|path| HttpMatch {
            path: Some(path),
            ..HttpMatch::default()
        });
        assert_eq!(edit.apply(path, met.as_ref()), want, "{edit:?}");
    }

    #[test]
    fn a_virtual_service_replaces_the_text_that_it_matched() {
        let edit = PathEdit::matched("/new").unwrap();
        let prefix = |text| Some(PathMatch::text_prefix(text, false));
        check_matched(&edit, prefix("/v2"), "/v2example", "/newexample");
        check_matched(&edit, prefix("/v2/"), "/v2/a", "/newa");
        let exact = PathMatch::text_exact("/v2", false);
        check_matched(&edit, Some(exact), "/v2", "/new");
        let regex = PathMatch::regex("/v[0-9]/.*").unwrap();
        check_matched(&edit, Some(regex), "/v2/a", "/new");
        check_matched(&edit, None, "/a", "/newa");
        let any_case = Some(PathMatch::text_prefix("/V2", true));
        check_matched(&edit, any_case, "/v2/a", "/new/a");
    }

    #[test]
    fn a_regex_rewrites_every_match_with_its_groups() {
        let edit = PathEdit::regex("^/service/([^/]+)(/.*)$", r"\2/instance/\1").unwrap();
        check_matched(&edit, None, "/service/foo/v1/api", "/v1/api/instance/foo");
        let edit = PathEdit::regex("one", "two").unwrap();
        check_matched(&edit, None, "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz");
        let edit = PathEdit::regex("(?i)/xxx/", "/$1/").unwrap();
        check_matched(&edit, None, "/aaa/XxX/bbb", "/aaa/$1/bbb");
        assert!(PathEdit::regex("(", "").is_err());
        assert!(PathEdit::regex("a", r"\1").is_err());
    }

    #[test]
    fn a_rewrite_that_makes_no_path_fails() {
        let rewrite = UrlRewrite {
            authority: None,
            path: Some(PathEdit::regex("^/", "").unwrap()),
        };
        assert!(rewrite.apply(&"/a".parse().unwrap(), None).is_err());
    }
}
