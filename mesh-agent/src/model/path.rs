// SPDX-License-Identifier: Apache-2.0

//! Which paths a route rule matches, and which of two matches is better.
//!
//! Gateway API order: an exact path beats any prefix, a longer prefix beats a shorter one. A
//! Gateway API prefix covers whole segments: `/api` matches `/api` and `/api/v1`, never `/apix`.
//! A VirtualService's prefix is that of a string, and its rules are tried in the order written.
//!
//! Knows nothing of requests or Kubernetes: a path is a `&str` without its query.
//! Invariant: a [`PathMatch`] that exists is well formed, so matching cannot fail.

use std::fmt;

use super::text::{FullRegex, NotRegex};

/// The path condition of one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathMatch {
    kind: Kind,
    /// ASCII case makes no difference; never with a regular expression.
    ignore_case: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Exact(String),
    /// Without trailing slash; empty covers every path.
    Segments(String),
    Text(String),
    Regex(FullRegex),
}

/// What a path that matches looks like, as far as a map can find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Literal<'a> {
    /// It is this.
    Exact(&'a str),
    /// It begins with this.
    Prefix(&'a str),
    /// It may be any.
    Any,
}

/// How well a path is described: the greater, the better. Variants stand worst first; lengths are
/// in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathRank {
    /// A regular expression, by its length (Istio's order; the Gateway API leaves it open).
    Regex(usize),
    /// A prefix, by its length.
    Prefix(usize),
    /// The whole path, by its length.
    Exact(usize),
}

/// The path of a rule does not begin with a slash.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("path {0:?} does not begin with '/'")]
pub struct NotAbsolute(String);

impl PathMatch {
    /// Matches `path` and nothing else (Gateway API `Exact`).
    pub fn exact(path: &str) -> Result<Self, NotAbsolute> {
        Ok(Self::of(Kind::Exact(absolute(path)?.to_owned())))
    }

    /// Matches `path` and all below it; a trailing slash makes no difference (`PathPrefix`).
    pub fn prefix(path: &str) -> Result<Self, NotAbsolute> {
        let trimmed = absolute(path)?.trim_end_matches('/');
        Ok(Self::of(Kind::Segments(trimmed.to_owned())))
    }

    /// Matches whole paths of this form.
    pub fn regex(pattern: &str) -> Result<Self, NotRegex> {
        Ok(Self::of(Kind::Regex(FullRegex::new(pattern)?)))
    }

    /// Matches this text and nothing else (VirtualService `exact`).
    pub fn text_exact(path: &str, ignore_case: bool) -> Self {
        Self {
            kind: Kind::Exact(path.to_owned()),
            ignore_case,
        }
    }

    /// Matches what begins with this text, also amid a segment (VirtualService `prefix`).
    pub fn text_prefix(path: &str, ignore_case: bool) -> Self {
        Self {
            kind: Kind::Text(path.to_owned()),
            ignore_case,
        }
    }

    /// What every path that matches is or begins with.
    pub(super) fn literal(&self) -> Literal<'_> {
        match &self.kind {
            Kind::Exact(_) | Kind::Segments(_) | Kind::Text(_) if self.ignore_case => Literal::Any,
            Kind::Exact(text) => Literal::Exact(text),
            Kind::Segments(text) | Kind::Text(text) => Literal::Prefix(text),
            Kind::Regex(regex) => match regex.prefix() {
                "" => Literal::Any,
                prefix => Literal::Prefix(prefix),
            },
        }
    }

    /// Whether it is a regular expression.
    pub(super) fn is_regex(&self) -> bool {
        matches!(self.kind, Kind::Regex(_))
    }

    fn of(kind: Kind) -> Self {
        Self {
            kind,
            ignore_case: false,
        }
    }

    /// Whether `path` is one of those described.
    pub fn matches(&self, path: &str) -> bool {
        match &self.kind {
            Kind::Exact(want) => want.len() == path.len() && self.begins(path, want),
            Kind::Text(want) => self.begins(path, want),
            Kind::Segments(want) => path
                .strip_prefix(want.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Kind::Regex(regex) => regex.matches(path),
        }
    }

    /// What of `path` comes after the prefix, if that is what is described and it has it.
    pub fn rest<'a>(&self, path: &'a str) -> Option<&'a str> {
        match &self.kind {
            Kind::Segments(want) | Kind::Text(want) if self.matches(path) => path.get(want.len()..),
            Kind::Segments(_) | Kind::Text(_) | Kind::Exact(_) | Kind::Regex(_) => None,
        }
    }

    /// Whether a prefix is described.
    pub fn is_prefix(&self) -> bool {
        matches!(self.kind, Kind::Segments(_) | Kind::Text(_))
    }

    fn begins(&self, path: &str, want: &str) -> bool {
        path.as_bytes().get(..want.len()).is_some_and(|head| {
            if self.ignore_case {
                head.eq_ignore_ascii_case(want.as_bytes())
            } else {
                head == want.as_bytes()
            }
        })
    }

    /// How this condition stands against others.
    pub fn rank(&self) -> PathRank {
        match &self.kind {
            Kind::Exact(path) => PathRank::Exact(path.len()),
            Kind::Segments(path) | Kind::Text(path) => PathRank::Prefix(path.len()),
            Kind::Regex(regex) => PathRank::Regex(regex.as_str().len()),
        }
    }
}

fn absolute(path: &str) -> Result<&str, NotAbsolute> {
    if path.starts_with('/') {
        Ok(path)
    } else {
        Err(NotAbsolute(path.to_owned()))
    }
}

/// As `istioctl proxy-config routes` has it: `/v2*` for a prefix.
impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Exact(path) => f.write_str(path),
            Kind::Text(path) => write!(f, "{path}*"),
            Kind::Segments(path) if path.is_empty() => f.write_str("/*"),
            Kind::Segments(path) => write!(f, "{path}/*"),
            Kind::Regex(regex) => write!(f, "regex {}", regex.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rule: &PathMatch, path: &str, want: bool) {
        assert_eq!(rule.matches(path), want, "{rule:?} against {path:?}");
    }

    #[test]
    fn a_gateway_prefix_ends_at_a_segment_boundary() {
        for (prefix, path, want) in [
            ("/api", "/api", true),
            ("/api/", "/api/v1", true),
            ("/api/", "/api", true),
            ("/api", "/apix", false),
            ("/api", "/ap", false),
            ("/", "/anything", true),
        ] {
            check(&PathMatch::prefix(prefix).unwrap(), path, want);
        }
    }

    #[test]
    fn a_virtual_service_prefix_is_that_of_a_string() {
        check(&PathMatch::text_prefix("/v2", false), "/v2example", true);
        check(&PathMatch::text_prefix("/V2", false), "/v2example", false);
        check(&PathMatch::text_prefix("/V2", true), "/v2example", true);
    }

    #[test]
    fn an_exact_path_is_the_whole_path() {
        check(&PathMatch::exact("/a").unwrap(), "/a", true);
        check(&PathMatch::exact("/a").unwrap(), "/a/", false);
        check(&PathMatch::text_exact("/A", true), "/a", true);
        check(&PathMatch::text_exact("/A", false), "/a", false);
    }

    #[test]
    fn a_regex_matches_the_whole_path() {
        let rule = PathMatch::regex("/v[0-9]|/w").unwrap();
        check(&rule, "/v1", true);
        check(&rule, "/w", true);
        check(&rule, "/v1/x", false);
        assert!(PathMatch::regex("/(").is_err());
    }

    #[test]
    fn exact_beats_prefix_beats_regex_and_longer_beats_shorter() {
        assert!(PathRank::Exact(1) > PathRank::Prefix(usize::MAX));
        assert!(PathRank::Prefix(5) > PathRank::Prefix(4));
        assert!(PathRank::Prefix(0) > PathRank::Regex(usize::MAX));
    }

    #[test]
    fn a_relative_path_is_refused() {
        assert_eq!(PathMatch::prefix("api"), Err(NotAbsolute("api".to_owned())));
        assert_eq!(PathMatch::exact(""), Err(NotAbsolute(String::new())));
    }
}
