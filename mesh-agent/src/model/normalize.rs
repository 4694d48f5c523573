// SPDX-License-Identifier: Apache-2.0

//! Other spellings of one path: which of them requests are routed by and sent on with, and what policies make
//! of the others.
//!
//! Knows nothing of requests: a path is a `&str` without its query. Invariant: what is made of a path begins with a
//! slash if it did, and is made of itself again. References: RFC 3986 section 6.2.2; Istio's `pathNormalization`;
//! Envoy's `normalize_path`, `merge_slashes` and `path_with_escaped_slashes_action`.

use std::borrow::Cow;

/// How much of a path's spelling is undone before it is looked at; Istio's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathNormalization {
    /// Nothing: it is taken as it comes.
    None,
    /// Dot segments are resolved, backslashes turned, and what needs no percent encoding is decoded.
    #[default]
    Base,
    /// That, and several slashes are one.
    MergeSlashes,
    /// That, after encoded slashes and backslashes were decoded.
    DecodeAndMergeSlashes,
}

impl PathNormalization {
    /// What becomes of `path`; `None` if it stays as it is. What is plain is looked at once.
    pub fn of(self, path: &str) -> Option<String> {
        let merges = self >= Self::MergeSlashes;
        if self == Self::None || !path.starts_with('/') || !may_be_spelt(path, merges) {
            return None;
        }
        let mut plain = self.once(path)?;
        // What was decoded may be the end of another encoding: `%2%65`. Each turn makes it shorter.
        while let Some(plainer) = self.once(&plain) {
            plain = plainer;
        }
        Some(plain)
    }

    fn once(self, path: &str) -> Option<String> {
        let slashes = self == Self::DecodeAndMergeSlashes;
        let wanted = |byte| is_unreserved(byte) || slashes && matches!(byte, b'/' | b'\\');
        let plain = resolve_dots(&unescape(path, wanted).replace('\\', "/"), Dots::Parameters);
        let plain = match self >= Self::MergeSlashes {
            true => merge(&plain),
            false => plain,
        };
        (plain != path).then_some(plain)
    }
}

/// Whether a path may have another spelling.
fn may_be_spelt(path: &str, merges: bool) -> bool {
    let bytes = path.as_bytes();
    let pair = |pair: &[u8]| pair == b"/." || merges && pair == b"//";
    bytes.iter().any(|byte| matches!(byte, b'%' | b'\\')) || bytes.windows(2).any(pair)
}

/// Whether a path can be read in more than one way.
pub(super) fn is_ambiguous(path: &str) -> bool {
    may_be_spelt(path, true)
}

/// Dots resolved, backslashes turned, and what needs no percent encoding decoded.
pub(super) fn resolve(path: &str) -> String {
    let plain = unescape(path, is_unreserved);
    resolve_dots(&plain.replace('\\', "/"), Dots::Alone)
}

/// The same with everything decoded and slashes merged.
pub(super) fn decode(path: &str) -> String {
    let plain = unescape(path, |_| true).replace('\\', "/");
    resolve_dots(&plain, Dots::Merged)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Several slashes as one.
fn merge(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for letter in path.chars() {
        if letter != '/' || !merged.ends_with('/') {
            merged.push(letter);
        }
    }
    merged
}

/// Decodes those percent encodings that stand for a byte that `wants`.
fn unescape(path: &str, wants: impl Fn(u8) -> bool) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let bytes = path.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digit = |offset: usize| {
            let digit = char::from(*bytes.get(at + offset)?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        let byte = match (bytes[at], digit(1), digit(2)) {
            (b'%', Some(high), Some(low)) => Some(high * 16 + low),
            _ => None,
        };
        match byte.filter(|byte| wants(*byte)) {
            Some(byte) => {
                plain.push(byte);
                at += 3;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&plain).into_owned())
}

/// What counts as a segment of dots, or as none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dots {
    /// `.` and `..`.
    Alone,
    /// Those with parameters, too (`..;x`), as servers read them that know parameters.
    Parameters,
    /// All that, and what stands between two slashes is no segment if it is empty.
    Merged,
}

/// Resolves segments of dots.
fn resolve_dots(path: &str, dots: Dots) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        let name = match dots {
            Dots::Alone => segment,
            Dots::Parameters | Dots::Merged => segment.split(';').next().unwrap_or_default(),
        };
        match name {
            "." | ".." => {
                if name == ".." {
                    kept.pop();
                }
                // `/a/.` is `/a/`.
                if last {
                    kept.push("");
                }
            }
            "" if dots == Dots::Merged && !last && segment.is_empty() => {}
            _ => kept.push(segment),
        }
    }
    let mut resolved = String::with_capacity(path.len());
    for segment in &kept {
        resolved.push('/');
        resolved.push_str(segment);
    }
    if resolved.is_empty() {
        resolved.push('/');
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [PathNormalization; 4] = [
        PathNormalization::None,
        PathNormalization::Base,
        PathNormalization::MergeSlashes,
        PathNormalization::DecodeAndMergeSlashes,
    ];

    /// What each makes of `path`.
    #[track_caller]
    fn check(path: &str, base: &str, merged: &str, decoded: &str) {
        for (how, want) in ALL.into_iter().zip([path, base, merged, decoded]) {
            let made = how.of(path);
            assert_eq!(made.as_deref().unwrap_or(path), want, "{path} by {how:?}");
            assert_ne!(made.as_deref(), Some(path), "said to change: {path}");
            assert_eq!(how.of(want), None, "{want} is not plain by {how:?}");
        }
    }

    #[track_caller]
    fn check_same(path: &str, want: &str) {
        check(path, want, want, want);
    }

    #[test]
    fn a_plain_path_stays_as_it_is() {
        for path in [
            "/",
            "/a/b.c/d;v=1",
            "/a..b/...",
            "/a%20b",
            "/%25",
            "/%zz%2",
            "/%",
            "*",
        ] {
            check_same(path, path);
        }
    }

    #[test]
    fn dot_segments_are_resolved() {
        check_same("/a/../b", "/b");
        check_same("/a/./b/.", "/a/b/");
        check_same("/a/b/..", "/a/");
        check_same("/../../b", "/b");
        check_same("/..", "/");
        check_same("/a/%2e%2E/b", "/b");
        check_same("/a/.%2e/b", "/b");
        check_same("/.hidden", "/.hidden");
        check_same("/a/..;x/b/.;", "/b/");
        check_same("/a/%2e%2e;x/b", "/b");
        check_same("/a/..%3Bx/b", "/a/..%3Bx/b");
        check_same("/a/...;x", "/a/...;x");
    }

    #[test]
    fn what_needs_no_encoding_is_decoded_once() {
        check_same("/%61dmin%2D", "/admin-");
        check_same("/%2561", "/%2561");
        check_same("/a/%2%65%2%65/b", "/b");
    }

    #[test]
    fn what_was_made_plain_stays_so_and_has_no_dots_left() {
        let mut random = fastrand::Rng::with_seed(7);
        let letters = b"//..%%2e2E56fFcC\\a;";
        for _ in 0..20_000 {
            let length = random.usize(..16);
            let drawn = (0..length).map(|_| char::from(letters[random.usize(..letters.len())]));
            let path: String = std::iter::once('/').chain(drawn).collect();
            for how in &ALL[1..] {
                let plain = how.of(&path).unwrap_or_else(|| path.clone());
                assert_eq!(how.of(&plain), None, "{path} became {plain} by {how:?}");
                assert!(
                    plain.starts_with('/') && !plain.contains('\\'),
                    "{path}: {plain}"
                );
                let dots = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
                assert!(!plain.split('/').any(dots), "{path} became {plain}");
                let lower = plain.to_ascii_lowercase();
                assert!(!lower.contains("%2e"), "{path} became {plain}");
            }
        }
    }

    #[test]
    fn slashes_are_turned_merged_and_decoded_where_that_is_said() {
        check_same("/a\\b", "/a/b");
        check("//a///b/", "//a///b/", "/a/b/", "/a/b/");
        check("/a//../b", "/a/b", "/a/b", "/a/b");
        check("/a%2Fb", "/a%2Fb", "/a%2Fb", "/a/b");
        check("/a%5cb", "/a%5cb", "/a%5cb", "/a/b");
        check("/a/..%2fb", "/a/..%2fb", "/a/..%2fb", "/b");
        check("/a%2f%2fb", "/a%2f%2fb", "/a%2f%2fb", "/a/b");
        check("/a%252fb", "/a%252fb", "/a%252fb", "/a%252fb");
    }
}
