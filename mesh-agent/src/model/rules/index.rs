// SPDX-License-Identifier: Apache-2.0

//! Where rules are by what most tells them apart: the path of their matches, or the value of a header.
//!
//! Of a thousand rules a request tries the few whose paths it has, and where many share a path, the few whose
//! header it carries; what has neither is tried for every request. A regular expression is found by the plain
//! text that it begins with. Only exact values of one header are looked up: that on which most of the rules
//! that share a path have a condition.

use std::collections::{HashMap, HashSet};

use http::{HeaderMap, HeaderName};

use crate::model::{
    condition::{HttpMatch, joined},
    path::Literal,
    route::HttpRule,
    text::TextMatch,
};

/// Below that trying all of them is as fast.
const FEW: usize = 8;

/// How many lengths of prefixes are looked up; a path has few more segments than that.
const MAX_LENGTHS: usize = 30;

/// Positions of rules, ascending.
type Positions = Vec<usize>;

/// A header, and where rules are by its value.
type ByHeader = (HeaderName, HashMap<Box<str>, Positions>);

/// Where rules are by one of their conditions.
#[derive(Clone, Default)]
pub(super) struct Index {
    exact: HashMap<Box<[u8]>, Positions>,
    prefixes: HashMap<Box<[u8]>, Positions>,
    /// The lengths of all prefixes, ascending.
    lengths: Vec<usize>,
    /// Rules that may match any path.
    anywhere: Positions,
    /// Rules that want one of some values of a header; they are in none of the lists above.
    by_header: Option<ByHeader>,
}

/// Walks over several ascending lists as if they were one; what is in two of them comes twice.
pub(super) struct Merged<'a> {
    lists: [&'a [usize]; MAX_LENGTHS + 3],
    count: usize,
}

/// The paths of a rule's matches; empty if it may match any, as all regular expressions do unless `regexes`
/// count by what they begin with.
fn paths(rule: &HttpRule, regexes: bool) -> HashSet<Literal<'_>> {
    let mut all = HashSet::new();
    for one in &rule.matches {
        let path = one.path.as_ref();
        let path = path.filter(|path| regexes || !path.is_regex());
        match path.map(|path| path.literal()) {
            None | Some(Literal::Any) => return HashSet::new(),
            Some(path) => all.insert(path),
        };
    }
    all
}

/// The values of `name` of which a request must have one; none if others match, too.
fn values<'r>(rule: &'r HttpRule, name: &HeaderName) -> Option<HashSet<&'r str>> {
    if rule.matches.is_empty() {
        return None;
    }
    let value = |one: &'r HttpMatch| {
        let mut exact = one.headers.iter().filter(|(has, _)| has == name);
        exact.find_map(|(_, want)| match want {
            TextMatch::Exact(text) => Some(text.as_str()),
            _ => None,
        })
    };
    rule.matches.iter().map(value).collect()
}

/// How many of `all` there are of each.
fn count<T: Eq + std::hash::Hash>(all: impl Iterator<Item = T>) -> HashMap<T, usize> {
    let mut counts = HashMap::new();
    for one in all {
        *counts.entry(one).or_default() += 1;
    }
    counts
}

/// The rules that share their path with too many, with how many at most.
fn crowded(rules: &[HttpRule], regexes: bool) -> Vec<(usize, usize)> {
    let all: Vec<_> = rules.iter().map(|rule| paths(rule, regexes)).collect();
    let sharing = count(all.iter().flatten());
    let anywhere = all.iter().filter(|paths| paths.is_empty()).count();
    let crowds = all.iter().map(|paths| {
        let most = paths.iter().filter_map(|path| sharing.get(path)).max();
        most.copied().unwrap_or(anywhere)
    });
    crowds
        .enumerate()
        .filter(|(_, count)| *count > FEW)
        .collect()
}

/// The header that tells most of the crowded rules apart, and which of them it does.
fn by_header(rules: &[HttpRule], regexes: bool) -> Option<(ByHeader, HashSet<usize>)> {
    let crowded = crowded(rules, regexes);
    let matches = crowded.iter().flat_map(|(at, _)| &rules[*at].matches);
    let exact = |want: &TextMatch| matches!(want, TextMatch::Exact(_));
    let conditions = matches.flat_map(|one| &one.headers);
    let names = count(
        conditions
            .filter(|(_, want)| exact(want))
            .map(|(name, _)| name),
    );
    // Of equals always the same one, so that equal rules have equal indexes.
    let (name, _) = names
        .into_iter()
        .max_by_key(|(name, count)| (*count, std::cmp::Reverse(name.as_str())))?;
    let wanted = crowded
        .iter()
        .filter_map(|(at, crowd)| Some((*at, *crowd, values(&rules[*at], name)?)));
    let wanted: Vec<_> = wanted.collect();
    let sharing = count(wanted.iter().flat_map(|(_, _, values)| values));
    let (mut map, mut moved) = (HashMap::<Box<str>, Positions>::new(), HashSet::new());
    for (at, crowd, values) in &wanted {
        if values.iter().all(|value| sharing[value] < *crowd) {
            for value in values {
                map.entry((*value).into()).or_default().push(*at);
            }
            moved.insert(*at);
        }
    }
    (!moved.is_empty()).then(|| ((name.clone(), map), moved))
}

impl Index {
    /// None where it would not help.
    pub(super) fn new(rules: &[HttpRule]) -> Option<Self> {
        if rules.len() < FEW {
            return None;
        }
        // Regular expressions begin with texts of many lengths.
        Self::counting(rules, true).or_else(|| Self::counting(rules, false))
    }

    fn counting(rules: &[HttpRule], regexes: bool) -> Option<Self> {
        let mut index = Self::default();
        let mut elsewhere = HashSet::new();
        if let Some((found, moved)) = by_header(rules, regexes) {
            index.by_header = Some(found);
            elsewhere = moved;
        }
        for (position, rule) in rules.iter().enumerate() {
            if !elsewhere.contains(&position) {
                index.add(position, &paths(rule, regexes));
            }
        }
        index.lengths = index.prefixes.keys().map(|prefix| prefix.len()).collect();
        index.lengths.sort_unstable();
        index.lengths.dedup();
        (index.lengths.len() <= MAX_LENGTHS).then_some(index)
    }

    fn add(&mut self, position: usize, paths: &HashSet<Literal<'_>>) {
        if paths.is_empty() {
            self.anywhere.push(position);
        }
        for path in paths {
            let (map, text) = match path {
                Literal::Exact(text) => (&mut self.exact, text),
                Literal::Prefix(text) => (&mut self.prefixes, text),
                Literal::Any => continue,
            };
            map.entry(text.as_bytes().into())
                .or_default()
                .push(position);
        }
    }

    /// The positions of all rules that may match, in their order.
    pub(super) fn find(&self, path: &[u8], headers: &HeaderMap) -> Merged<'_> {
        let mut merged = Merged {
            lists: [&[]; MAX_LENGTHS + 3],
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
        if let Some((name, map)) = &self.by_header
            && let Some(value) = joined(headers, name)
        {
            merged.add(map.get(&*value));
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
