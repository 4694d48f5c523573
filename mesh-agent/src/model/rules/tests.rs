// SPDX-License-Identifier: Apache-2.0

//! Which rules are tried.

use http::HeaderValue;

use super::*;
use crate::model::{
    HttpMatch, ObjectRef, PathMatch, Position, Schedule, condition::joined, text::TextMatch,
};

type Header = Option<(HeaderName, TextMatch)>;

fn rule(name: usize, matches: Vec<(Option<PathMatch>, Header)>) -> HttpRule {
    HttpRule {
        name: name.to_string().into(),
        origin: ObjectRef {
            kind: "VirtualService".into(),
            namespace: "default".into(),
            name: "web".into(),
        },
        matches: matches
            .into_iter()
            .map(|(path, header)| HttpMatch {
                path,
                headers: header.into_iter().collect(),
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

fn by_path(name: usize, path: PathMatch) -> HttpRule {
    rule(name, vec![(Some(path), None)])
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
        12 => Some(PathMatch::regex(&format!("{path}[ab]?")).unwrap()),
        13 => Some(PathMatch::regex(&format!("{path}|/b.*")).unwrap()),
        2 => Some(PathMatch::text_exact(&path, true)),
        3 => Some(PathMatch::text_prefix(&path, true)),
        4..8 => Some(PathMatch::text_exact(&path, false)),
        8..10 => Some(PathMatch::prefix(&path).unwrap()),
        10 => Some(PathMatch::text_prefix("", false)),
        11 => Some(PathMatch::exact(&path).unwrap()),
        _ => Some(PathMatch::text_prefix(&path, false)),
    }
}

/// A condition on one of few headers and values, and now and then none.
fn header(random: &mut fastrand::Rng) -> Header {
    let name = ["x-user", "x-team"][random.usize(..2)];
    let value = random.u8(..9).to_string();
    let want = match random.u8(..8) {
        0 => return None,
        1 => TextMatch::Prefix(value),
        2 => TextMatch::Present,
        _ => TextMatch::Exact(value),
    };
    Some((HeaderName::from_static(name), want))
}

/// Headers as a client may send them, a name twice among them.
fn sent(random: &mut fastrand::Rng) -> HeaderMap {
    let one = |_| {
        let name = ["x-user", "x-team"][random.usize(..2)];
        let value = HeaderValue::from(random.u16(..9));
        (HeaderName::from_static(name), value)
    };
    let mut headers = HeaderMap::new();
    for (name, value) in (0..2).map(one) {
        headers.append(name, value);
    }
    headers
}

fn matching<'a>(
    tried: impl Iterator<Item = &'a HttpRule>,
    path: &str,
    headers: &HeaderMap,
) -> Vec<&'a str> {
    let met = |one: &HttpMatch| {
        let has = |(name, want): &(HeaderName, TextMatch)| {
            joined(headers, name).is_some_and(|value| want.matches(&value))
        };
        one.path.as_ref().is_none_or(|want| want.matches(path)) && one.headers.iter().all(has)
    };
    let matches = |rule: &&HttpRule| rule.matches.is_empty() || rule.matches.iter().any(met);
    let mut names: Vec<&str> = tried.filter(matches).map(|rule| &*rule.name).collect();
    names.dedup();
    names
}

#[test]
fn the_candidates_are_all_that_match_in_their_order() {
    let mut random = fastrand::Rng::with_seed(7);
    for crowded in [false, true].repeat(200) {
        let count = random.usize(..60);
        let rules: Rules = (0..count)
            .map(|name| {
                let conditions = (0..random.usize(..3)).map(|_| {
                    let everybody = PathMatch::text_prefix("/", false);
                    let path = if crowded {
                        Some(everybody)
                    } else {
                        condition(&mut random)
                    };
                    (path, header(&mut random))
                });
                rule(name, conditions.collect())
            })
            .collect();
        for _ in 0..20 {
            let (path, headers) = (path(&mut random), sent(&mut random));
            let (all, few) = (rules.iter(), rules.candidates(&path, &headers));
            assert_eq!(
                matching(few, &path, &headers),
                matching(all, &path, &headers),
                "{path} {headers:?} {rules:?}"
            );
        }
    }
}

#[track_caller]
fn check_tried(
    rules: &Rules,
    path: &str,
    header: Option<(&'static str, &'static str)>,
    want: &[&str],
) {
    let mut headers = HeaderMap::new();
    if let Some((name, value)) = header {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let tried = rules.candidates(path, &headers);
    assert_eq!(tried.map(|rule| &*rule.name).collect::<Vec<_>>(), want);
}

#[test]
fn of_a_thousand_paths_one_is_tried() {
    let path = |name| PathMatch::text_prefix(&format!("/v1/{name:04}/"), false);
    let rules: Rules = (0..1_000).map(|name| by_path(name, path(name))).collect();
    check_tried(&rules, "/v1/0777/x", None, &["777"]);
    check_tried(&rules, "/v2", None, &[]);
}

#[test]
fn of_a_thousand_regular_expressions_one_is_tried() {
    let path = |name| PathMatch::regex(&format!("/v1/{name:04}/[a-z]+")).unwrap();
    let rules: Rules = (0..1_000).map(|name| by_path(name, path(name))).collect();
    check_tried(&rules, "/v1/0777/x", None, &["777"]);
    check_tried(&rules, "/v2", None, &[]);
}

#[test]
fn regular_expressions_of_many_lengths_do_not_spoil_the_rest() {
    let long = |name: usize| PathMatch::regex(&format!("/{}.*", "a".repeat(name))).unwrap();
    let short = |name: usize| PathMatch::text_exact(&format!("/{name}"), false);
    let regexes = (0..100).map(|name| by_path(name, long(name)));
    let rules: Rules = regexes
        .chain((100..200).map(|name| by_path(name, short(name))))
        .collect();
    assert_eq!(rules.candidates("/150", &HeaderMap::new()).count(), 101);
}

fn user(name: usize) -> Header {
    let value = TextMatch::Exact(format!("u{name}"));
    Some((HeaderName::from_static("x-user"), value))
}

#[test]
fn of_a_thousand_headers_at_one_path_one_is_tried() {
    let everybody = || Some(PathMatch::text_prefix("/", false));
    let rules = (0..1_000).map(|name| rule(name, vec![(everybody(), user(name))]));
    let rules: Rules = rules
        .chain([by_path(1_000, everybody().unwrap())])
        .collect();
    check_tried(&rules, "/x", Some(("x-user", "u777")), &["777", "1000"]);
    check_tried(&rules, "/x", None, &["1000"]);
    assert_eq!(rules.header_names(), ["x-user"]);
}

#[test]
fn paths_tell_apart_what_shares_a_header() {
    let path = |name| Some(PathMatch::text_prefix(&format!("/v1/{name:04}/"), false));
    let rules: Rules = (0..1_000)
        .map(|name| rule(name, vec![(path(name), user(0))]))
        .collect();
    check_tried(&rules, "/v1/0777/x", Some(("x-user", "u0")), &["777"]);
}

#[test]
fn more_lengths_than_are_looked_up_are_tried_one_by_one() {
    let long = |name: usize| PathMatch::text_prefix(&"/".repeat(name + 1), false);
    let rules: Rules = (0..100).map(|name| by_path(name, long(name))).collect();
    assert_eq!(rules.candidates("/", &HeaderMap::new()).count(), 100);
}
