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
