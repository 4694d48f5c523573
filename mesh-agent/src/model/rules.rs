// SPDX-License-Identifier: Apache-2.0

//! Rules in the order in which they are tried, and which of them are worth trying for a path.
//!
//! Rules are found by the exact paths and prefixes of their matches, so that of a thousand rules a
//! request tries the few whose paths it has; those without such a path are tried for every request.
//! Knows nothing of the other conditions. Invariant: whoever tries only the candidates, in their
//! order, finds the rule that whoever tries all of them finds.

use std::{collections::HashMap, fmt, ops::Deref};

use super::{path::Literal, route::HttpRule};

/// Below that trying all of them is as fast.
const FEW: usize = 8;

/// How many lengths of prefixes are looked up; a path has few more segments than that.
const MAX_LENGTHS: usize = 30;

/// Rules in the order in which they are tried.
#[derive(Clone, Default)]
pub struct Rules {
    rules: Vec<HttpRule>,
    /// None if there are few rules, or too many lengths of prefixes.
    index: Option<Index>,
    /// Whether requests are only sent on, whichever rule decides.
    plain: bool,
}

/// Positions of rules, ascending.
type Positions = Vec<usize>;

/// Where rules are by the path of one of their matches.
#[derive(Clone, Default)]
struct Index {
    exact: HashMap<Box<[u8]>, Positions>,
    prefixes: HashMap<Box<[u8]>, Positions>,
    /// The lengths of all prefixes, ascending.
    lengths: Vec<usize>,
    /// Rules that may match any path.
    anywhere: Positions,
}

/// Walks over several ascending lists as if they were one; what is in two of them comes twice.
struct Merged<'a> {
    lists: [&'a [usize]; MAX_LENGTHS + 2],
    count: usize,
}

/// The rules that may match a path, in their order.
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

    /// The rules that may match `path`, in their order; all that do are among them.
    pub fn candidates(&self, path: &str) -> impl Iterator<Item = &HttpRule> {
        match &self.index {
            None => Candidates::All(self.rules.iter()),
            Some(index) => Candidates::Some(&self.rules, index.find(path.as_bytes())),
        }
    }
}

impl Index {
    fn new(rules: &[HttpRule]) -> Option<Self> {
        if rules.len() < FEW {
            return None;
        }
        let mut index = Self::default();
        for (position, rule) in rules.iter().enumerate() {
            let paths = rule.matches.iter().map(|one| {
                let path = one.path.as_ref();
                path.map_or(Literal::Any, |path| path.literal())
            });
            let all = paths.collect::<Vec<_>>();
            if all.is_empty() || all.contains(&Literal::Any) {
                index.anywhere.push(position);
                continue;
            }
            for path in all {
                let (map, text) = match path {
                    Literal::Exact(text) => (&mut index.exact, text),
                    Literal::Prefix(text) => (&mut index.prefixes, text),
                    Literal::Any => continue,
                };
                let positions = map.entry(text.as_bytes().into()).or_default();
                if positions.last() != Some(&position) {
                    positions.push(position);
                }
            }
        }
        index.lengths = index.prefixes.keys().map(|prefix| prefix.len()).collect();
        index.lengths.sort_unstable();
        index.lengths.dedup();
        (index.lengths.len() <= MAX_LENGTHS).then_some(index)
    }

    fn find(&self, path: &[u8]) -> Merged<'_> {
        let mut merged = Merged {
            lists: [&[]; MAX_LENGTHS + 2],
            count: 0,
        };
        merged.add(Some(&self.anywhere));
        merged.add(self.exact.get(path));
        for length in &self.lengths {
            let Some(prefix) = path.get(..*length) else {
                break;
            };
            merged.add(self.prefixes.get(prefix));
        }
        merged
    }
}

impl<'a> Merged<'a> {
    fn add(&mut self, list: Option<&'a Positions>) {
        if let Some(list) = list.filter(|list| !list.is_empty()) {
            self.lists[self.count] = list;
            self.count += 1;
        }
    }
}

impl Iterator for Merged<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let lists = &mut self.lists[..self.count];
        let least = lists.iter_mut().filter(|list| !list.is_empty());
        let least = least.min_by_key(|list| list[0])?;
        let (first, rest) = least.split_first()?;
        *least = rest;
        Some(*first)
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
            plain: rules.iter().all(HttpRule::is_plain),
            rules,
        }
    }
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
mod tests {
    use super::*;
    use crate::model::{HttpMatch, ObjectRef, PathMatch, Position, Schedule};

    fn rule(name: usize, paths: Vec<Option<PathMatch>>) -> HttpRule {
        HttpRule {
            name: name.to_string().into(),
            origin: ObjectRef {
                kind: "VirtualService".into(),
                namespace: "default".into(),
                name: "web".into(),
            },
            matches: paths
                .into_iter()
                .map(|path| HttpMatch {
                    path,
                    ..HttpMatch::default()
                })
                .collect(),
            backends: Vec::new(),
            schedule: Schedule::new(&[], Position::default()),
            weights: Vec::new(),
            timeout: None,
            treatment: None,
        }
    }

    /// A path of few letters, so that paths and conditions meet.
    fn path(random: &mut fastrand::Rng) -> String {
        let mut path = "/".to_owned();
        for _ in 0..random.usize(..5) {
            path.push(['a', 'A', 'b', '/'][random.usize(..4)]);
        }
        path
    }

    fn condition(random: &mut fastrand::Rng) -> Option<PathMatch> {
        let path = path(random);
        match random.u8(..16) {
            0 => None,
            1 => Some(PathMatch::regex("/a.*").unwrap()),
            2 => Some(PathMatch::text_exact(&path, true)),
            3 => Some(PathMatch::text_prefix(&path, true)),
            4..8 => Some(PathMatch::text_exact(&path, false)),
            8..10 => Some(PathMatch::prefix(&path).unwrap()),
            10 => Some(PathMatch::text_prefix("", false)),
            11 => Some(PathMatch::exact(&path).unwrap()),
            _ => Some(PathMatch::text_prefix(&path, false)),
        }
    }

    fn matching<'a>(tried: impl Iterator<Item = &'a HttpRule>, path: &str) -> Vec<&'a str> {
        let matches = |rule: &&HttpRule| {
            let mut conditions = rule.matches.iter().map(|one| one.path.as_ref());
            rule.matches.is_empty()
                || conditions.any(|one| one.is_none_or(|condition| condition.matches(path)))
        };
        let mut names: Vec<&str> = tried.filter(matches).map(|rule| &*rule.name).collect();
        names.dedup();
        names
    }

    #[test]
    fn the_candidates_are_all_that_match_in_their_order() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..300 {
            let count = random.usize(..40);
            let rules: Rules = (0..count)
                .map(|name| {
                    let conditions = (0..random.usize(..3)).map(|_| condition(&mut random));
                    rule(name, conditions.collect())
                })
                .collect();
            for _ in 0..20 {
                let path = path(&mut random);
                let (all, few) = (rules.iter(), rules.candidates(&path));
                assert_eq!(
                    matching(few, &path),
                    matching(all, &path),
                    "{path} {rules:?}"
                );
            }
        }
    }

    #[test]
    fn of_a_thousand_paths_one_is_tried() {
        let paths = |name| PathMatch::text_prefix(&format!("/v1/{name:04}/"), false);
        let rules: Rules = (0..1_000)
            .map(|name| rule(name, vec![Some(paths(name))]))
            .collect();
        let tried: Vec<_> = rules
            .candidates("/v1/0777/x")
            .map(|rule| &*rule.name)
            .collect();
        assert_eq!(tried, ["777"]);
        assert_eq!(rules.candidates("/v2").count(), 0);
    }

    #[test]
    fn more_lengths_than_are_looked_up_are_tried_one_by_one() {
        let long = |name: usize| PathMatch::text_prefix(&"/".repeat(name + 1), false);
        let rules: Rules = (0..100)
            .map(|name| rule(name, vec![Some(long(name))]))
            .collect();
        assert_eq!(rules.candidates("/").count(), 100);
    }
}
