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
