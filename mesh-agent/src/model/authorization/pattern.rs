// SPDX-License-Identifier: Apache-2.0

//! The forms in which policies say texts: exact, prefix, suffix, present, path templates.
//!
//! Invariant: a pattern that exists is well formed, so matching cannot fail.

use std::fmt;

use crate::model::text::{FullRegex, NotRegex};

/// A condition on one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// `*`: any text but an empty one.
    Present,
    /// This text.
    Exact(String),
    /// `text*`.
    Prefix(String),
    /// `*text`.
    Suffix(String),
}

impl Pattern {
    /// Reads the form that manifests write. A star elsewhere than at an end is an ordinary character.
    pub fn new(text: &str) -> Self {
        match (text, text.strip_prefix('*'), text.strip_suffix('*')) {
            ("*", _, _) => Self::Present,
            (_, Some(suffix), _) => Self::Suffix(suffix.to_owned()),
            (_, None, Some(prefix)) => Self::Prefix(prefix.to_owned()),
            (exact, None, None) => Self::Exact(exact.to_owned()),
        }
    }

    /// Whether `text` meets it.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Present => !text.is_empty(),
            Self::Exact(want) => text == want,
            Self::Prefix(want) => text.starts_with(want.as_str()),
            Self::Suffix(want) => text.ends_with(want.as_str()),
        }
    }

    fn matches_any_case(&self, text: &str) -> bool {
        let (text, same) = (text.as_bytes(), <[u8]>::eq_ignore_ascii_case);
        match self {
            Self::Present => !text.is_empty(),
            Self::Exact(want) => same(text, want.as_bytes()),
            Self::Prefix(want) => {
                let start = text.get(..want.len());
                start.is_some_and(|start| same(start, want.as_bytes()))
            }
            Self::Suffix(want) => {
                let from = text.len().checked_sub(want.len());
                from.is_some_and(|from| same(&text[from..], want.as_bytes()))
            }
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Present => "",
            Self::Exact(text) | Self::Prefix(text) | Self::Suffix(text) => text,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => f.write_str("*"),
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
        }
    }
}

/// A condition on `Host` or `:authority`, in any case. Without a port it is one on the host alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    pattern: Pattern,
    with_port: bool,
}

impl HostPattern {
    /// Reads the form that manifests write.
    pub fn new(text: &str) -> Self {
        let pattern = Pattern::new(text);
        let said = pattern.text();
        Self {
            with_port: port(said).is_some() || said.ends_with(':'),
            pattern,
        }
    }

    /// Whether `authority` meets it.
    pub fn matches(&self, authority: &str) -> bool {
        let alone = host(authority);
        let whole = self.with_port && self.pattern.matches_any_case(authority);
        whole || (!self.with_port && self.pattern.matches_any_case(alone))
    }
}

/// The colon and port at the end of an authority.
fn port(authority: &str) -> Option<&str> {
    let (host, port) = authority.rsplit_once(':')?;
    // Colons within an IPv6 address stand between brackets.
    let plain = !host.contains(':') || host.ends_with(']');
    let digits = !port.is_empty()
        && port
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'*');
    (plain && digits).then(|| &authority[host.len()..])
}

/// An authority without port and without the dot that may end a name.
fn host(authority: &str) -> &str {
    let authority = authority.strip_suffix(':').unwrap_or(authority);
    let host = &authority[..authority.len() - port(authority).map_or(0, str::len)];
    host.strip_suffix('.').unwrap_or(host)
}

/// A condition on a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPattern {
    /// As for other texts.
    Plain(Pattern),
    /// With `{*}` for one segment, and `{**}` for any number of them.
    Template(FullRegex),
}

/// A path with braces that is no template.
#[derive(Debug, thiserror::Error)]
pub enum NotTemplate {
    /// Braces around something else, or beside other characters.
    #[error("{0:?} is neither {{*}} nor {{**}} nor without braces and stars")]
    Segment(String),
    /// Nothing may be matched behind any number of segments.
    #[error("{{**}} must be the last operator")]
    NotLast,
    /// It does not compile.
    #[error(transparent)]
    Regex(#[from] NotRegex),
}

impl PathPattern {
    /// Reads the form that manifests write.
    ///
    /// # Errors
    /// If it has braces and is no template.
    pub fn new(text: &str) -> Result<Self, NotTemplate> {
        if !text.contains(['{', '}']) {
            return Ok(Self::Plain(Pattern::new(text)));
        }
        let mut regex = String::new();
        let mut ended = false;
        for (index, segment) in text.split('/').enumerate() {
            if index > 0 {
                regex.push('/');
            }
            match segment {
                "{*}" | "{**}" if ended => return Err(NotTemplate::NotLast),
                "{*}" => regex.push_str("[^/]+"),
                "{**}" => {
                    ended = true;
                    regex.push_str("(?s:.*)");
                }
                plain if plain.contains(['{', '}', '*']) => {
                    return Err(NotTemplate::Segment(plain.to_owned()));
                }
                plain => regex.push_str(&regex::escape(plain)),
            }
        }
        Ok(Self::Template(FullRegex::new(&regex)?))
    }

    /// Whether `path` meets it.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Plain(pattern) => pattern.matches(path),
            Self::Template(regex) => regex.matches(path),
        }
    }
}

/// One field and its `not` counterpart: one of these, and none of those.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause<T> {
    /// One of these, if there are any.
    pub any: Vec<T>,
    /// None of these.
    pub none: Vec<T>,
}

impl<T> Default for Clause<T> {
    fn default() -> Self {
        Self {
            any: Vec::new(),
            none: Vec::new(),
        }
    }
}

impl<T> Clause<T> {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }

    /// Whether it is met where `has` says whether one of the values that there are meets one.
    pub(super) fn met_if(&self, has: impl Fn(&T) -> bool) -> bool {
        (self.any.is_empty() || self.any.iter().any(&has)) && !self.none.iter().any(&has)
    }

    /// Whether the one value that there is meets it; a value that is missing meets no condition.
    pub(super) fn met<V: Copy>(&self, value: Option<V>, meets: impl Fn(&T, V) -> bool) -> bool {
        self.met_if(|want| value.is_some_and(|value| meets(want, value)))
    }

    /// Whether a value meets it that may be read in several ways. If that speaks `against` the
    /// caller one reading is enough, else all must.
    pub(super) fn met_by<V: Copy, I: Iterator<Item = V>>(
        &self,
        readings: impl Fn() -> I,
        against: bool,
        meets: impl Fn(&T, V) -> bool,
    ) -> bool {
        let one_of = |wanted: &[T], reading| wanted.iter().any(|want| meets(want, reading));
        let there = readings().next().is_some();
        let one = |wanted: &[T]| readings().any(|reading| one_of(wanted, reading));
        let all = |wanted: &[T]| there && readings().all(|reading| one_of(wanted, reading));
        let (any, none) = if against {
            (one(&self.any), all(&self.none))
        } else {
            (all(&self.any), one(&self.none))
        };
        (self.any.is_empty() || any) && !none
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let compiled = Pattern::new(pattern);
        assert_eq!(compiled.to_string(), pattern);
        for text in yes {
            assert!(compiled.matches(text), "{pattern} against {text:?}");
        }
        for text in no {
            assert!(!compiled.matches(text), "{pattern} against {text:?}");
        }
    }

    #[test]
    fn a_star_alone_at_the_end_or_at_the_start() {
        check("*", &["a", " "], &[""]);
        check("a", &["a"], &["", "ab", "A"]);
        check("a*", &["a", "ab"], &["", "ba"]);
        check("*a", &["a", "ba"], &["", "ab"]);
        check("a*b", &["a*b"], &["ab", "axb"]);
    }

    #[track_caller]
    fn check_host(pattern: &str, yes: &[&str], no: &[&str]) {
        let compiled = HostPattern::new(pattern);
        for text in yes {
            assert!(compiled.matches(text), "{pattern} against {text:?}");
        }
        for text in no {
            assert!(!compiled.matches(text), "{pattern} against {text:?}");
        }
    }

    #[test]
    fn a_host_is_compared_in_any_case_and_its_port_only_if_the_pattern_has_one() {
        let same = [
            "example.com",
            "EXAMPLE.com",
            "example.com:80",
            "example.com.",
            "example.com.:8",
        ];
        check_host(
            "Example.com",
            &same,
            &["example.com.evil", "xexample.com", ""],
        );
        check_host(
            "example.com:80",
            &["EXAMPLE.COM:80"],
            &["example.com", "example.com:8080"],
        );
        check_host("*.com", &["a.com", "a.COM:1"], &["a.org"]);
        check_host("example.*", &["example.org:2"], &["an.example.org"]);
        check_host("example.com:*", &["example.com:1"], &["example.com"]);
        check_host("*", &["a"], &[""]);
        check_host("[::1]", &["[::1]:80", "[::1]"], &["[::2]", "[::1"]);
        check_host("*:8080", &["a:8080"], &["a:80", "a"]);
    }

    #[track_caller]
    fn check_path(pattern: &str, yes: &[&str], no: &[&str]) {
        let compiled = PathPattern::new(pattern).unwrap();
        for path in yes {
            assert!(compiled.matches(path), "{pattern} against {path}");
        }
        for path in no {
            assert!(!compiled.matches(path), "{pattern} against {path}");
        }
    }

    #[test]
    fn templates_match_one_segment_or_the_rest() {
        check_path(
            "/a/{*}/b",
            &["/a/x/b"],
            &["/a//b", "/a/x/y/b", "/a/b", "/a/x/bc"],
        );
        check_path("/a/{**}", &["/a/", "/a/x", "/a/x/y"], &["/a", "/ab/x"]);
        check_path("/a/{*}/{**}", &["/a/x/", "/a/x/y/z"], &["/a/x", "/a"]);
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for text in [
            "/{a}",
            "/a/{*}b",
            "/{**}/{*}",
            "/{",
            "/a*/{*}",
            "/{**}/{**}",
        ] {
            assert!(PathPattern::new(text).is_err(), "{text}");
        }
    }
}
