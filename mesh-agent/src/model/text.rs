// SPDX-License-Identifier: Apache-2.0

//! Conditions on one text: a header's value, a query parameter, a method, an authority.
//!
//! Invariant: a compiled condition is well formed, so matching cannot fail.

use std::fmt;

use regex::Regex;

/// A regular expression that must match the whole text.
#[derive(Clone, Debug)]
pub struct FullRegex {
    source: String,
    regex: Regex,
    /// With what every text that matches begins.
    prefix: String,
}

/// A regular expression that does not compile.
#[derive(Debug, thiserror::Error)]
#[error("regular expression {pattern:?} is not valid")]
pub struct NotRegex {
    pattern: String,
    #[source]
    source: regex::Error,
}

impl FullRegex {
    /// Compiles `pattern` (RE2 syntax, as Istio and the Gateway API have it).
    pub fn new(pattern: &str) -> Result<Self, NotRegex> {
        match Regex::new(&format!(r"\A(?:{pattern})\z")) {
            Ok(regex) => Ok(Self {
                source: pattern.to_owned(),
                regex,
                prefix: literal_prefix(pattern),
            }),
            Err(source) => Err(NotRegex {
                pattern: pattern.to_owned(),
                source,
            }),
        }
    }

    /// Whether all of `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// With what every text that matches begins, as far as the pattern begins with plain text.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

/// The plain text that a valid pattern begins with: nothing where it could be optional, or one of several.
fn literal_prefix(pattern: &str) -> String {
    if has_alternatives(pattern) {
        return String::new();
    }
    let mut prefix = String::new();
    let mut rest = pattern.strip_prefix('^').unwrap_or(pattern).chars();
    while let Some(next) = rest.next() {
        match next {
            '\\' => match rest.next() {
                Some(escaped) if escaped.is_ascii_punctuation() => prefix.push(escaped),
                _ => break,
            },
            // The last one may be there any number of times.
            '?' | '*' | '+' | '{' => {
                prefix.pop();
                break;
            }
            '.' | '^' | '$' | '|' | '(' | ')' | '[' | ']' | '}' => break,
            plain => prefix.push(plain),
        }
    }
    prefix
}

/// Whether a pattern is one of several, apart from what is in brackets of it; or may be, as it has flags.
fn has_alternatives(pattern: &str) -> bool {
    let (mut depth, mut class) = (0_usize, 0_usize);
    let mut characters = pattern.chars();
    while let Some(next) = characters.next() {
        match next {
            '\\' => drop(characters.next()),
            '[' => {
                class += 1;
                // A bracket that comes first is one of the class.
                let first = characters.as_str();
                let first = first.strip_prefix('^').unwrap_or(first);
                characters = first.strip_prefix(']').unwrap_or(first).chars();
            }
            ']' => class = class.saturating_sub(1),
            '(' if class == 0 => {
                depth += 1;
                // Flags may change what all the rest means.
                let rest = characters.as_str().strip_prefix('?');
                if rest.is_some_and(|rest| !rest.starts_with([':', 'P', '<'])) {
                    return true;
                }
            }
            ')' if class == 0 => depth = depth.saturating_sub(1),
            '|' if depth == 0 => return true,
            _ => {}
        }
    }
    false
}

impl PartialEq for FullRegex {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for FullRegex {}

/// A regular expression and what each of its matches is replaced with.
#[derive(Clone, Debug)]
pub struct Substitution {
    regex: Regex,
    /// In the form of the `regex` crate.
    replacement: String,
}

impl Substitution {
    /// Compiles `pattern` and `replacement` (RE2 syntax: `\1` is the first group, `\\` a backslash).
    pub fn new(pattern: &str, replacement: &str) -> Result<Self, NotRegex> {
        let refused = |source| NotRegex {
            pattern: pattern.to_owned(),
            source,
        };
        let regex = Regex::new(pattern).map_err(refused)?;
        let mut translated = String::with_capacity(replacement.len());
        let mut characters = replacement.chars();
        while let Some(character) = characters.next() {
            match character {
                '$' => translated.push_str("$$"),
                '\\' => match characters.next() {
                    Some('\\') => translated.push('\\'),
                    Some(group) if names_group(&regex, group) => {
                        translated.extend(['$', '{', group, '}']);
                    }
                    _ => {
                        let text = format!("{replacement:?} names no group of it");
                        return Err(refused(regex::Error::Syntax(text)));
                    }
                },
                other => translated.push(other),
            }
        }
        Ok(Self {
            regex,
            replacement: translated,
        })
    }

    /// `text` with every match replaced.
    pub fn apply(&self, text: &str) -> String {
        self.regex
            .replace_all(text, self.replacement.as_str())
            .into_owned()
    }
}

/// Whether `digit` is the number of a group.
fn names_group(regex: &Regex, digit: char) -> bool {
    let number = digit
        .to_digit(10)
        .and_then(|number| usize::try_from(number).ok());
    number.is_some_and(|number| number < regex.captures_len())
}

impl PartialEq for Substitution {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str() && self.replacement == other.replacement
    }
}

impl Eq for Substitution {}

/// A condition on one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextMatch {
    /// The text is there, whatever it says.
    Present,
    /// The text is this.
    Exact(String),
    /// The text begins with this.
    Prefix(String),
    /// The whole text matches.
    Regex(FullRegex),
}

impl TextMatch {
    /// Whether `text`, which is there, meets the condition.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Present => true,
            Self::Exact(want) => want == text,
            Self::Prefix(want) => text.starts_with(want.as_str()),
            Self::Regex(regex) => regex.matches(text),
        }
    }
}

impl fmt::Display for TextMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => f.write_str("present"),
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Regex(regex) => write!(f, "regex {}", regex.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, want: &str) {
        let regex = FullRegex::new(pattern).expect("valid");
        assert_eq!(regex.prefix(), want, "{pattern}");
    }

    #[test]
    fn a_pattern_begins_with_plain_text() {
        check("/api/v1/.*", "/api/v1/");
        check("^/api", "/api");
        check(r"/a\.b/[0-9]+", "/a.b/");
        check("/users/(me|you)/x", "/users/");
        check("/ab?", "/a");
        check("/ab*c", "/a");
        check("/ab+", "/a");
        check("/ab{0,2}", "/a");
        check("/a|/b", "");
        check("/a(x)|/b", "");
        check("(?i)/a", "");
        check(r"/a\d", "/a");
        check(r"/a\bc", "/a");
        check("/[|]x", "");
        check("/[](]|/b", "");
        check("/a(?i)b", "");
        check("", "");
    }

    #[test]
    fn what_matches_begins_with_the_prefix() {
        let pieces = [
            "/", "a", "b", ".", "*", "?", "+", "|", "(", ")", "[ab]", "[^a]", "[](]", "[^]|]",
            r"\.", r"\w", "{2}", "^", "(?i)",
        ];
        let mut random = fastrand::Rng::with_seed(11);
        let mut matched = 0;
        for _ in 0..20_000 {
            let length = random.usize(..8);
            let pattern: String = (0..length)
                .map(|_| pieces[random.usize(..pieces.len())])
                .collect();
            let Ok(regex) = FullRegex::new(&pattern) else {
                continue;
            };
            for _ in 0..20 {
                let letters = ['/', 'a', 'A', 'b', '.'];
                let length = random.usize(..5);
                let text: String = (0..length)
                    .map(|_| letters[random.usize(..letters.len())])
                    .collect();
                if regex.matches(&text) {
                    matched += 1;
                    let prefix = regex.prefix();
                    assert!(text.starts_with(prefix), "{pattern} {text} {prefix}");
                }
            }
        }
        assert!(matched > 1_000, "{matched}");
    }
}
