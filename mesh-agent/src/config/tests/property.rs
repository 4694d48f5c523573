// SPDX-License-Identifier: Apache-2.0

//! Compiled matches against a slow, obvious reading of the same words, on random rules and requests.
//!
//! The reference reads what is written, for every request anew, in the words of Istio's
//! documentation; it shares nothing with the compiled form.

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use super::fixture::Mesh;
use crate::{
    config::{
        condition,
        facts::Findings,
        istio::{HttpMatchRequest, StringMatch},
        problem::Origin,
    },
    model::{
        Backend, Client, Decision, HttpRoutes, HttpRule, ObjectRef, Position, Refusal, RequestHead,
        ResponseFlag, Schedule, ServicePort, Workload,
    },
};

/// One random choice after the other, the same in every run.
struct Chance(fastrand::Rng);

/// Patterns with what they mean, written out.
type Pattern = (&'static str, fn(&str) -> bool);

const PATTERNS: [Pattern; 4] = [
    ("a.*", |text| text.starts_with('a')),
    (".*b", |text| text.ends_with('b')),
    ("/v[12]", |text| text == "/v1" || text == "/v2"),
    ("", str::is_empty),
];

const WORDS: [&str; 6] = ["", "a", "ab", "b", "A", "aab"];
const PATHS: [&str; 8] = ["/", "/a", "/a/", "/a/b", "/ab", "/A/b", "/v1", "/v2"];
const NAMES: [&str; 3] = ["x-a", "x-b", "x-c"];
const METHODS: [&str; 3] = ["GET", "POST", "a"];

impl Chance {
    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.0.usize(..all.len())].clone()
    }

    fn yes(&mut self, of_ten: usize) -> bool {
        self.0.usize(..10) < of_ten
    }

    fn text(&mut self, words: &[&str]) -> StringMatch {
        let mut text = StringMatch::default();
        match self.0.usize(..3) {
            0 => text.exact = Some(self.of(words).to_owned()),
            1 => text.prefix = Some(self.of(words).to_owned()),
            _ => text.regex = Some(self.of(&PATTERNS).0.to_owned()),
        }
        text
    }

    fn maybe(&mut self, words: &[&str]) -> Option<StringMatch> {
        self.yes(2).then(|| self.text(words))
    }

    fn map(&mut self, of_ten: usize) -> BTreeMap<String, Option<StringMatch>> {
        let mut map = BTreeMap::new();
        for name in NAMES {
            if self.yes(of_ten) {
                let present = self.yes(3);
                let text = self.text(&WORDS);
                map.insert(name.to_owned(), (!present).then_some(text));
            }
        }
        map
    }

    fn written(&mut self) -> HttpMatchRequest {
        HttpMatchRequest {
            uri: self.yes(6).then(|| self.text(&PATHS)),
            ignore_uri_case: self.yes(3),
            method: self.maybe(&METHODS),
            authority: self.maybe(&WORDS),
            scheme: self.yes(1).then(|| self.text(&["http", "https"])),
            headers: self.map(2),
            without_headers: self.map(1),
            query_params: self.map(1),
            source_namespace: if self.yes(1) {
                self.of(&["default", "shop"]).to_owned()
            } else {
                String::new()
            },
            source_labels: if self.yes(1) {
                [("app".to_owned(), self.of(&["client", "other"]).to_owned())].into()
            } else {
                BTreeMap::new()
            },
            ..HttpMatchRequest::default()
        }
    }

    fn asked(&mut self) -> Asked {
        let mut asked = Asked {
            method: self.of(&METHODS),
            path: self.of(&PATHS),
            authority: self.of(&WORDS),
            headers: Vec::new(),
            query: Vec::new(),
        };
        for name in NAMES {
            for _ in 0..self.0.usize(..3) {
                if self.yes(4) {
                    asked.headers.push((name, self.of(&WORDS)));
                }
            }
            if self.yes(3) {
                asked.query.push((name, self.of(&WORDS)));
            }
        }
        asked
    }
}

/// A request in plain words.
#[derive(Debug)]
struct Asked {
    method: &'static str,
    path: &'static str,
    authority: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    query: Vec<(&'static str, &'static str)>,
}

fn meets(want: &StringMatch, is: &str, any_case: bool) -> bool {
    let fold = |text: &str| match any_case {
        true => text.to_ascii_lowercase(),
        false => text.to_owned(),
    };
    if let Some(exact) = &want.exact {
        return fold(exact) == fold(is);
    }
    if let Some(prefix) = &want.prefix {
        return fold(is).starts_with(&fold(prefix));
    }
    let Some(regex) = &want.regex else {
        return true;
    };
    let known = PATTERNS.iter().find(|(pattern, _)| pattern == regex);
    known.expect("a pattern of the table").1(is)
}

impl Asked {
    fn header(&self, name: &str) -> Option<String> {
        let values: Vec<&str> = self
            .headers
            .iter()
            .filter(|(known, _)| *known == name)
            .map(|(_, value)| *value)
            .collect();
        (!values.is_empty()).then(|| values.join(","))
    }

    /// The obvious reading.
    fn met_by(&self, want: &HttpMatchRequest, namespace: &str, app: &str) -> bool {
        let is = |want: &Option<StringMatch>, is: &str| match want {
            Some(want) => meets(want, is, false),
            None => true,
        };
        if let Some(uri) = &want.uri
            && !meets(uri, self.path, want.ignore_uri_case)
        {
            return false;
        }
        if !is(&want.method, self.method)
            || !is(&want.authority, self.authority)
            || !is(&want.scheme, "http")
        {
            return false;
        }
        for (name, want) in &want.headers {
            match self.header(name) {
                None => return false,
                Some(value) if !is(want, &value) => return false,
                Some(_) => {}
            }
        }
        for (name, want) in &want.without_headers {
            let value = self.header(name);
            let met = match want {
                None => value.is_some(),
                Some(want) => meets(want, &value.unwrap_or_default(), false),
            };
            if met {
                return false;
            }
        }
        for (name, want) in &want.query_params {
            match self.query.iter().find(|(known, _)| known == name) {
                None => return false,
                Some((_, value)) if !is(want, value) => return false,
                Some(_) => {}
            }
        }
        let from = want.source_namespace.is_empty() || want.source_namespace == namespace;
        from && want.source_labels.get("app").is_none_or(|want| want == app)
    }
}

fn object() -> ObjectRef {
    ObjectRef {
        kind: "VirtualService".into(),
        namespace: "default".into(),
        name: "random".into(),
    }
}

fn compiled(rules: &[Vec<HttpMatchRequest>]) -> HttpRoutes {
    let mut findings = Findings::new(object(), Origin::default());
    let rules = rules.iter().enumerate().map(|(index, matches)| {
        let refusal = Refusal {
            status: 200,
            flag: ResponseFlag::None,
            reason: "random".into(),
            route: index.to_string().into(),
        };
        let compile = |one| condition::compile(one, "match", &mut findings);
        HttpRule {
            name: index.to_string().into(),
            origin: object(),
            matches: matches.iter().map(compile).collect(),
            backends: vec![Backend::Refused(refusal)],
            weights: vec![1],
            schedule: Schedule::new(&[1], Position::default()),
            timeout: None,
            treatment: None,
        }
    });
    let rules: Vec<HttpRule> = rules.collect();
    assert!(!findings.rejected, "{:?}", findings.problems);
    HttpRoutes {
        rules: rules.into(),
        origin: object(),
    }
}

/// The route that the compiled rules choose.
fn decided(port: &ServicePort, client: &Workload, asked: &Asked) -> String {
    let pairs: Vec<String> = asked
        .query
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let uri: Uri = match pairs.is_empty() {
        true => asked.path.parse().unwrap(),
        false => format!("{}?{}", asked.path, pairs.join("&"))
            .parse()
            .unwrap(),
    };
    let mut headers = HeaderMap::new();
    for (name, value) in &asked.headers {
        let name = HeaderName::from_static(name);
        headers.append(name, HeaderValue::from_static(value));
    }
    let head = RequestHead {
        method: &Method::from_bytes(asked.method.as_bytes()).unwrap(),
        uri: &uri,
        authority: asked.authority,
        scheme: "http",
        headers: &headers,
    };
    match port.decide(&Client { workload: client }, &head) {
        Decision::Refuse(refusal) => refusal.route.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn compiled_matches_decide_as_the_obvious_reading_does() {
    let mesh = Mesh::new(&super::routes::web());
    let mut port = ServicePort::clone(&mesh.service("default", "web").ports[0]);
    let client = Workload::clone(&mesh.workload("client"));
    let mut chance = Chance(fastrand::Rng::with_seed(20_261_126));
    let (mut matched, mut unmatched) = (0, 0);
    for _ in 0..400 {
        let rules: Vec<Vec<HttpMatchRequest>> = (0..chance.0.usize(1..6))
            .map(|_| {
                (0..chance.0.usize(1..4))
                    .map(|_| chance.written())
                    .collect()
            })
            .collect();
        port.routes = Some(Arc::new(compiled(&rules)));
        for _ in 0..50 {
            let asked = chance.asked();
            let met = |one: &HttpMatchRequest| asked.met_by(one, "default", "client");
            let first = rules.iter().position(|matches| matches.iter().any(met));
            let want = first.map_or_else(|| "-".to_owned(), |index| index.to_string());
            let got = decided(&port, &client, &asked);
            assert_eq!(got, want, "{asked:#?}\n{rules:#?}");
            match first {
                Some(_) => matched += 1,
                None => unmatched += 1,
            }
        }
    }
    assert!(
        matched > 2_000 && unmatched > 2_000,
        "{matched} {unmatched}"
    );
}
