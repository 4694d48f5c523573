// SPDX-License-Identifier: Apache-2.0

//! Rules in the order in which they are tried, and which of them are worth trying for a request.
//!
//! Invariant: whoever tries only the candidates, in their order, finds the rule that whoever tries all of
//! them finds.

use std::{collections::HashSet, fmt, ops::Deref};

use http::{HeaderMap, HeaderName};

use super::route::HttpRule;

mod index;

use self::index::{Index, Merged};

/// Rules in the order in which they are tried.
#[derive(Clone, Default)]
pub struct Rules {
    rules: Vec<HttpRule>,
    /// None if there are few rules, or too many lengths of prefixes.
    index: Option<Index>,
    /// The headers that any rule looks at.
    names: Vec<HeaderName>,
    /// Whether requests are only sent on, whichever rule decides.
    plain: bool,
}

/// The rules that may match a request, in their order.
#[expect(
    clippy::large_enum_variant,
    reason = "it lives on the stack for one decision: a box would be an allocation for each"
)]
enum Candidates<'a> {
    All(std::slice::Iter<'a, HttpRule>),
    Some(&'a [HttpRule], Merged<'a>),
}

impl Rules {
    /// Whether all that these rules may decide is plain, or an answer without a body of its own.
    pub fn are_plain(&self) -> bool {
        self.plain || self.rules.is_empty()
    }

    /// The rules that may match a request with this path and these headers, in their order; all that do are
    /// among them.
    pub fn candidates(&self, path: &str, headers: &HeaderMap) -> impl Iterator<Item = &HttpRule> {
        match &self.index {
            None => Candidates::All(self.rules.iter()),
            Some(index) => Candidates::Some(&self.rules, index.find(path.as_bytes(), headers)),
        }
    }

    /// The names of all headers that a rule has conditions on, each once.
    pub fn header_names(&self) -> &[HeaderName] {
        &self.names
    }
}

impl<'a> Iterator for Candidates<'a> {
    type Item = &'a HttpRule;

    fn next(&mut self) -> Option<&'a HttpRule> {
        match self {
            Self::All(rules) => rules.next(),
            Self::Some(rules, positions) => rules.get(positions.next()?),
        }
    }
}

impl From<Vec<HttpRule>> for Rules {
    fn from(rules: Vec<HttpRule>) -> Self {
        Self {
            index: Index::new(&rules),
            names: header_names(&rules),
            plain: rules.iter().all(HttpRule::is_plain),
            rules,
        }
    }
}

fn header_names(rules: &[HttpRule]) -> Vec<HeaderName> {
    let matches = rules.iter().flat_map(|rule| &rule.matches);
    let conditions = matches.flat_map(|one| one.headers.iter().chain(&one.without_headers));
    let names: HashSet<&HeaderName> = conditions.map(|(name, _)| name).collect();
    let mut names: Vec<HeaderName> = names.into_iter().cloned().collect();
    names.sort_by(|one, other| one.as_str().cmp(other.as_str()));
    names
}

impl FromIterator<HttpRule> for Rules {
    fn from_iter<I: IntoIterator<Item = HttpRule>>(rules: I) -> Self {
        Self::from(rules.into_iter().collect::<Vec<_>>())
    }
}

impl Deref for Rules {
    type Target = [HttpRule];

    fn deref(&self) -> &[HttpRule] {
        &self.rules
    }
}

impl<'a> IntoIterator for &'a Rules {
    type Item = &'a HttpRule;
    type IntoIter = std::slice::Iter<'a, HttpRule>;

    fn into_iter(self) -> Self::IntoIter {
        self.rules.iter()
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rules.fmt(f)
    }
}

#[cfg(test)]
mod tests;
