// SPDX-License-Identifier: Apache-2.0

//! The compiled form against one that is slow and obvious: policies as they are written, evaluated
//! text by text, on requests that can be read in one way only. And what must hold between the
//! verdict on a connection and those on its requests.

use super::*;

/// A rule as it is written.
#[derive(Clone, Debug, Default)]
struct Written {
    principals: Vec<&'static str>,
    not_principals: Vec<&'static str>,
    namespaces: Vec<&'static str>,
    ports: Vec<u16>,
    methods: Vec<&'static str>,
    not_paths: Vec<&'static str>,
    paths: Vec<&'static str>,
    header: Vec<&'static str>,
    not_header: Vec<&'static str>,
    subjects: Vec<&'static str>,
    not_subjects: Vec<&'static str>,
    groups: Vec<&'static str>,
    not_groups: Vec<&'static str>,
    unknowable: bool,
}

const PRINCIPALS: [&str; 4] = ["td/ns/a/sa/x", "td/ns/a/*", "*/sa/x", "*"];
const NAMESPACES: [&str; 3] = ["a", "b", "*"];
const METHODS: [&str; 3] = ["GET", "P*", "*"];
const PATHS: [&str; 5] = ["/", "/a*", "*b", "/a/b", "*"];
const ROLES: [&str; 3] = ["x", "y*", "*"];
const SUBJECTS: [&str; 4] = ["i/a", "i/*", "*/b", "*"];
const GROUPS: [&str; 3] = ["g", "h*", "*"];

fn some<T: Copy>(values: &[T]) -> Vec<T> {
    let count = fastrand::usize(..6).saturating_sub(3);
    (0..count)
        .map(|_| values[fastrand::usize(..values.len())])
        .collect()
}

impl Written {
    fn random() -> Self {
        Self {
            principals: some(&PRINCIPALS),
            not_principals: some(&PRINCIPALS),
            namespaces: some(&NAMESPACES),
            ports: some(&[80, 8080]),
            methods: some(&METHODS),
            paths: some(&PATHS),
            not_paths: some(&PATHS),
            header: some(&ROLES),
            not_header: some(&ROLES),
            subjects: some(&SUBJECTS),
            not_subjects: some(&SUBJECTS),
            groups: some(&GROUPS),
            not_groups: some(&GROUPS),
            unknowable: fastrand::u8(..10) == 0,
        }
    }

    fn compile(&self) -> Rule {
        let clause = |any: &[&str], none: &[&str]| Clause {
            any: any.iter().map(|text| Pattern::new(text)).collect(),
            none: none.iter().map(|text| Pattern::new(text)).collect(),
        };
        let path = |texts: &[&str]| -> Vec<PathPattern> {
            let compile = |text: &&str| PathPattern::new(text).unwrap();
            texts.iter().map(compile).collect()
        };
        let name = HeaderName::from_static("x-role");
        Rule {
            sources: vec![Source {
                principals: clause(&self.principals, &self.not_principals),
                namespaces: clause(&self.namespaces, &[]),
                request_principals: clause(&self.subjects, &self.not_subjects),
                ..Source::default()
            }],
            operations: vec![Operation {
                ports: any(self.ports.iter().copied()),
                methods: clause(&self.methods, &[]),
                paths: Clause {
                    any: path(&self.paths),
                    none: path(&self.not_paths),
                },
                ..Operation::default()
            }],
            conditions: {
                let groups = TokenPart::Claim(vec!["realm".to_owned(), "groups".to_owned()]);
                let header = clause(&self.header, &self.not_header);
                let token = clause(&self.groups, &self.not_groups);
                let mut all = Vec::new();
                if !header.is_empty() {
                    all.push(Condition::Header(name, header));
                }
                if !token.is_empty() {
                    all.push(Condition::Token(groups, token));
                }
                if self.unknowable {
                    all.push(Condition::Unknowable);
                }
                all
            },
        }
    }

    /// `None` if that cannot be known.
    fn matches(&self, ask: &Ask) -> Option<bool> {
        let principal = ask.identity.as_ref().map(|id| &id.as_str()[9..]);
        let namespace = ask.identity.as_ref().map(SpiffeId::namespace);
        let role = ask.headers.get("x-role");
        let role = role.map(|role| role.to_str().unwrap());
        let known = one_of(&self.principals, principal)
            && none_of(&self.not_principals, principal)
            && one_of(&self.namespaces, namespace)
            && (self.ports.is_empty() || self.ports.contains(&ask.port))
            && one_of(&self.methods, Some(ask.method.as_str()))
            && one_of(&self.paths, Some(ask.uri.path()))
            && none_of(&self.not_paths, Some(ask.uri.path()))
            && one_of(&self.header, role)
            && none_of(&self.not_header, role)
            && one_of(&self.subjects, ask.subject())
            && none_of(&self.not_subjects, ask.subject())
            && (self.groups.is_empty()
                || ask.groups().iter().any(|it| one_of(&self.groups, Some(it))))
            && ask
                .groups()
                .iter()
                .all(|it| none_of(&self.not_groups, Some(it)));
        (!known || !self.unknowable).then_some(known)
    }
}

/// What the tokens of these tests say.
const TOKENS: [(&str, &[&str]); 3] = [("i/a", &[]), ("i/b", &["g"]), ("j/b", &["h", "hh"])];

impl Ask {
    fn subject(&self) -> Option<&str> {
        self.token.as_ref().and_then(Token::principal)
    }

    fn groups(&self) -> &'static [&'static str] {
        let subject = self.subject();
        let mut tokens = TOKENS.iter();
        let found = tokens.find(|(its, _)| Some(*its) == subject);
        found.map_or(&[], |(_, groups)| groups)
    }
}

fn one_of(patterns: &[&str], text: Option<&str>) -> bool {
    patterns.is_empty() || !none_of(patterns, text)
}

fn none_of(patterns: &[&str], text: Option<&str>) -> bool {
    !patterns.iter().any(|pattern| {
        let text = match text {
            Some(text) if !text.is_empty() => text,
            _ => return false,
        };
        match *pattern {
            "*" => true,
            _ if pattern.starts_with('*') => text.ends_with(&pattern[1..]),
            _ if pattern.ends_with('*') => text.starts_with(&pattern[..pattern.len() - 1]),
            _ => text == *pattern,
        }
    })
}

fn allowed(policies: &[(Action, Vec<Written>)], ask: &Ask) -> bool {
    let any = |action: Action, unknown: bool| {
        let of_action = policies.iter().filter(|(its, _)| *its == action);
        let mut rules = of_action.flat_map(|(_, rules)| rules);
        rules.any(|rule| rule.matches(ask).unwrap_or(unknown))
    };
    if any(Action::Custom, true) || any(Action::Deny, true) {
        return false;
    }
    let closed = policies.iter().any(|(action, _)| *action == Action::Allow);
    !closed || any(Action::Allow, false)
}

fn random_ask() -> Ask {
    let identity = match fastrand::u8(..4) {
        0 => None,
        1 => Some(SpiffeId::new("td", "b", "x")),
        2 => Some(SpiffeId::new("td", "a", "y")),
        _ => Some(SpiffeId::new("td", "a", "x")),
    };
    let uris = ["/", "/a", "/a/b", "/c"];
    let ask = Ask {
        identity,
        port: if fastrand::bool() { 80 } else { 8080 },
        method: if fastrand::bool() {
            Method::GET
        } else {
            Method::POST
        },
        ..Ask::get(uris[fastrand::usize(..uris.len())])
    };
    let ask = match TOKENS.get(fastrand::usize(..6)) {
        None => ask,
        Some((principal, groups)) => {
            let (issuer, subject) = principal.split_once('/').unwrap();
            let realm = serde_json::json!({"groups": groups});
            ask.with_token(&serde_json::json!({"iss": issuer, "sub": subject, "realm": realm}))
        }
    };
    match fastrand::u8(..4) {
        0 => ask.with_header("x-role", "x"),
        1 => ask.with_header("x-role", "yes"),
        2 => ask.with_header("x-role", ""),
        _ => ask,
    }
}

#[test]
fn the_compiled_policies_say_what_the_written_ones_say() {
    let seed = fastrand::get_seed();
    let actions = [
        Action::Custom,
        Action::Deny,
        Action::Allow,
        Action::Allow,
        Action::Audit,
    ];
    let (mut yes, mut no, mut early) = (0, 0, 0);
    for round in 0..4_000 {
        let written: Vec<(Action, Vec<Written>)> = (0..fastrand::usize(..4))
            .map(|_| {
                let rules = (0..fastrand::usize(..3)).map(|_| Written::random());
                (actions[fastrand::usize(..actions.len())], rules.collect())
            })
            .collect();
        let compiled = |(action, rules): &(Action, Vec<Written>)| {
            policy(*action, rules.iter().map(Written::compile).collect())
        };
        let authorization = all(written.iter().map(compiled).collect());
        for _ in 0..8 {
            let ask = random_ask();
            let want = allowed(&written, &ask);
            let is = authorization.request(&ask.caller(), &ask.reading()).is_ok();
            let place = format!("seed {seed} round {round}: {written:#?}");
            assert_eq!(is, want, "{place}");
            match authorization.connection(&ask.caller()) {
                Verdict::Allowed => assert!(is, "allowed before its requests, but {place}"),
                Verdict::Denied(_) => assert!(!is, "denied before its requests, but {place}"),
                Verdict::Depends(_) => early += 1,
            }
            yes += usize::from(is);
            no += usize::from(!is);
        }
    }
    assert!(
        yes > 1000 && no > 1000 && early > 1000,
        "{yes} {no} {early}"
    );
}
