// SPDX-License-Identifier: Apache-2.0

//! Row by row what policies mean, and the compiled form against an obvious one.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use super::*;
use crate::model::token::{Token, TokenPart};

mod aliases;
mod reference;
mod remarks;
mod requests;

/// Who asks for what.
struct Ask {
    identity: Option<SpiffeId>,
    from: &'static str,
    port: u16,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    token: Option<Token>,
}

impl Ask {
    /// A request of `web` in `shop`.
    fn get(uri: &'static str) -> Self {
        Self {
            identity: Some(SpiffeId::new("td", "shop", "web")),
            from: "10.1.0.1",
            port: 8080,
            method: Method::GET,
            uri: Uri::from_static(uri),
            headers: HeaderMap::new(),
            token: None,
        }
    }

    /// The same with a token of these claims.
    fn with_token(mut self, claims: &serde_json::Value) -> Self {
        self.token = Some(Token::of(claims));
        self
    }

    fn plaintext() -> Self {
        Self {
            identity: None,
            ..Self::get("/")
        }
    }

    fn with_header(mut self, name: &'static str, value: &'static str) -> Self {
        let name = HeaderName::from_static(name);
        self.headers.append(name, HeaderValue::from_static(value));
        self
    }

    fn caller(&self) -> Caller<'_> {
        Caller {
            identity: self.identity.as_ref(),
            address: self.from.parse().ok(),
            to: SocketAddr::from(([10, 1, 0, 2], self.port)),
        }
    }

    fn reading(&self) -> RequestReading<'_> {
        let reading = RequestReading::new(&self.method, &self.uri, &self.headers);
        reading.with_token(self.token.as_ref())
    }
}

fn all(policies: Vec<Policy>) -> Authorization {
    let attached = policies.into_iter().map(|policy| Attached {
        policy: Arc::new(policy),
        ports: None,
        provider: None,
    });
    Authorization::new(attached.collect())
}

fn policy(action: Action, rules: Vec<Rule>) -> Policy {
    Policy::new(&format!("shop/{}", action.as_str()), action, false, rules)
}

fn anything() -> Vec<Rule> {
    vec![Rule::default()]
}

fn from(source: Source) -> Vec<Rule> {
    vec![Rule {
        sources: vec![source],
        ..Rule::default()
    }]
}

fn to(operation: Operation) -> Vec<Rule> {
    vec![Rule {
        operations: vec![operation],
        ..Rule::default()
    }]
}

fn when(condition: Condition) -> Vec<Rule> {
    vec![Rule {
        conditions: vec![condition],
        ..Rule::default()
    }]
}

fn any<T>(values: impl IntoIterator<Item = T>) -> Clause<T> {
    Clause {
        any: values.into_iter().collect(),
        none: Vec::new(),
    }
}

fn none<T>(values: impl IntoIterator<Item = T>) -> Clause<T> {
    Clause {
        any: Vec::new(),
        none: values.into_iter().collect(),
    }
}

fn texts<const N: usize>(texts: [&str; N]) -> [Pattern; N] {
    texts.map(Pattern::new)
}

fn paths<const N: usize>(paths: [&str; N]) -> [PathPattern; N] {
    paths.map(|path| PathPattern::new(path).unwrap())
}

/// The verdict on the connection in one word, and whether the request is allowed.
fn judged(policies: Vec<Policy>, ask: &Ask) -> (&'static str, bool) {
    let authorization = all(policies);
    let verdict = match authorization.connection(&ask.caller()) {
        Verdict::Allowed => "allowed",
        Verdict::Denied(_) => "denied",
        Verdict::Depends(_) => "depends",
    };
    let request = authorization.request(&ask.caller(), &ask.reading());
    (verdict, request.is_ok())
}

#[track_caller]
fn check(policies: Vec<Policy>, ask: &Ask, want: (&str, bool)) {
    assert_eq!(judged(policies.clone(), ask), want, "{policies:#?}");
}

const YES: (&str, bool) = ("allowed", true);
const NO: (&str, bool) = ("denied", false);

#[test]
fn custom_comes_before_deny_before_allow_and_audit_decides_nothing() {
    use Action::{Allow, Audit, Custom, Deny};
    let get = Ask::get("/");
    let one = |action| policy(action, anything());
    check(vec![], &get, YES);
    check(vec![one(Audit)], &get, YES);
    check(vec![one(Allow)], &get, YES);
    check(vec![one(Allow), one(Deny)], &get, NO);
    check(vec![one(Deny)], &get, NO);
    let authorization = all(vec![one(Allow), one(Deny), one(Custom), one(Audit)]);
    let Verdict::Denied(denial) = authorization.connection(&get.caller()) else {
        panic!("not denied");
    };
    assert_eq!(
        denial.as_str(),
        "rbac_access_denied_matched_policy[shop/CUSTOM]"
    );
}

#[test]
fn an_allow_policy_without_rules_denies_all() {
    let nothing = policy(Action::Allow, vec![]);
    check(vec![nothing.clone()], &Ask::get("/"), NO);
    let authorization = all(vec![nothing]);
    let Verdict::Denied(denial) = authorization.connection(&Ask::get("/").caller()) else {
        panic!("not denied");
    };
    assert_eq!(denial.as_str(), "rbac_access_denied_matched_policy[none]");
}

#[test]
fn an_empty_rule_matches_everything() {
    check(
        vec![policy(Action::Allow, anything())],
        &Ask::plaintext(),
        YES,
    );
    check(
        vec![policy(Action::Deny, anything())],
        &Ask::plaintext(),
        NO,
    );
}

#[test]
fn without_an_allow_policy_what_is_not_denied_is_allowed() {
    let other = Source {
        namespaces: any(texts(["other"])),
        ..Source::default()
    };
    check(vec![policy(Action::Deny, from(other))], &Ask::get("/"), YES);
}

#[test]
fn sources_are_alternatives_and_their_fields_are_not() {
    let source = |namespace: &str, account: &str| Source {
        namespaces: any(texts([namespace])),
        principals: any(texts([&*format!("td/ns/shop/sa/{account}")])),
        ..Source::default()
    };
    let rules = |sources| {
        vec![Rule {
            sources,
            ..Rule::default()
        }]
    };
    let allow = |sources| vec![policy(Action::Allow, rules(sources))];
    let get = Ask::get("/");
    check(allow(vec![source("shop", "web")]), &get, YES);
    check(allow(vec![source("shop", "other")]), &get, NO);
    check(allow(vec![source("other", "web")]), &get, NO);
    let both = vec![source("other", "web"), source("shop", "web")];
    check(allow(both), &get, YES);
}

#[test]
fn each_identity_field_is_compared_with_its_part() {
    let source = Source::default;
    for (source, want) in [
        (
            Source {
                principals: any(texts(["td/ns/shop/sa/web"])),
                ..source()
            },
            YES,
        ),
        (
            Source {
                principals: any(texts(["spiffe://td/ns/shop/sa/web"])),
                ..source()
            },
            NO,
        ),
        (
            Source {
                principals: any(texts(["*/sa/web"])),
                ..source()
            },
            YES,
        ),
        (
            Source {
                principals: any(texts(["td/ns/shop/*"])),
                ..source()
            },
            YES,
        ),
        (
            Source {
                principals: any(texts(["*"])),
                ..source()
            },
            YES,
        ),
        (
            Source {
                principals: none(texts(["*"])),
                ..source()
            },
            NO,
        ),
        (
            Source {
                namespaces: any(texts(["sho*"])),
                ..source()
            },
            YES,
        ),
        (
            Source {
                namespaces: none(texts(["shop"])),
                ..source()
            },
            NO,
        ),
        (
            Source {
                service_accounts: any(["shop/web".to_owned()]),
                ..source()
            },
            YES,
        ),
        (
            Source {
                service_accounts: any(["other/web".to_owned()]),
                ..source()
            },
            NO,
        ),
        (
            Source {
                service_accounts: none(["shop/web".to_owned()]),
                ..source()
            },
            NO,
        ),
        (
            Source {
                trust_domains: any(texts(["td"])),
                ..source()
            },
            YES,
        ),
        (
            Source {
                trust_domains: any(texts(["other"])),
                ..source()
            },
            NO,
        ),
        (
            Source {
                trust_domains: none(texts(["td"])),
                ..source()
            },
            NO,
        ),
    ] {
        check(
            vec![policy(Action::Allow, from(source))],
            &Ask::get("/"),
            want,
        );
    }
}

#[test]
fn trust_domains_are_judged_at_the_connection() {
    let foreign = |domain| Source {
        trust_domains: any(texts([domain])),
        ..Source::default()
    };
    check(
        vec![policy(Action::Deny, from(foreign("td")))],
        &Ask::get("/"),
        NO,
    );
    check(
        vec![policy(Action::Deny, from(foreign("x")))],
        &Ask::get("/"),
        YES,
    );
}

#[test]
fn a_peer_without_identity_meets_no_identity_and_no_exclusion_of_one() {
    let named = Source {
        principals: any(texts(["*"])),
        ..Source::default()
    };
    let of_namespace = Source {
        namespaces: any(texts(["*"])),
        ..Source::default()
    };
    let excluded = Source {
        principals: none(texts(["td/ns/evil/sa/x"])),
        ..Source::default()
    };
    let nobody = Source {
        principals: none(texts(["*"])),
        ..Source::default()
    };
    let plain = Ask::plaintext();
    check(vec![policy(Action::Allow, from(named))], &plain, NO);
    check(vec![policy(Action::Allow, from(of_namespace))], &plain, NO);
    // The trap that `analyze` warns of.
    check(vec![policy(Action::Allow, from(excluded))], &plain, YES);
    // How plaintext is denied by policy.
    check(vec![policy(Action::Deny, from(nobody.clone()))], &plain, NO);
    check(
        vec![policy(Action::Deny, from(nobody))],
        &Ask::get("/"),
        YES,
    );
}

#[test]
fn addresses_are_those_of_the_connection() {
    let block = |text: &str| text.parse().unwrap();
    let source = |addresses| Source {
        addresses,
        ..Source::default()
    };
    for (addresses, want) in [
        (vec![any([block("10.1.0.0/16")])], YES),
        (vec![any([block("10.1.0.2/32")])], NO),
        (vec![none([block("10.1.0.1/32")])], NO),
        (
            vec![any([block("10.0.0.0/8")]), none([block("10.1.0.0/24")])],
            NO,
        ),
    ] {
        check(
            vec![policy(Action::Allow, from(source(addresses)))],
            &Ask::get("/"),
            want,
        );
    }
}

#[test]
fn what_is_asked_of_an_address_that_nobody_knows_counts_against_the_caller() {
    let block: ipnet::IpNet = "10.1.0.0/16".parse().unwrap();
    let unknown = Ask {
        from: "",
        ..Ask::get("/")
    };
    for clause in [any([block]), none([block])] {
        let source = Source {
            addresses: vec![clause],
            ..Source::default()
        };
        for action in [Action::Allow, Action::Deny] {
            let policies = vec![policy(action, from(source.clone()))];
            check(policies, &unknown, NO);
        }
    }
    check(vec![policy(Action::Allow, anything())], &unknown, YES);
}

#[test]
fn ports_are_the_workloads() {
    let at = |ports| Operation {
        ports,
        ..Operation::default()
    };
    check(
        vec![policy(Action::Allow, to(at(any([8080]))))],
        &Ask::get("/"),
        YES,
    );
    check(
        vec![policy(Action::Allow, to(at(any([80]))))],
        &Ask::get("/"),
        NO,
    );
    check(
        vec![policy(Action::Deny, to(at(none([8080]))))],
        &Ask::get("/"),
        YES,
    );
}

#[test]
fn what_nobody_knows_counts_against_the_caller() {
    let ask = Ask::get("/");
    check(
        vec![policy(Action::Deny, when(Condition::Unknowable))],
        &ask,
        NO,
    );
    check(
        vec![policy(Action::Allow, when(Condition::Unknowable))],
        &ask,
        NO,
    );
    let elsewhere = vec![Rule {
        sources: vec![Source {
            namespaces: any(texts(["other"])),
            ..Source::default()
        }],
        conditions: vec![Condition::Unknowable],
        ..Rule::default()
    }];
    check(vec![policy(Action::Deny, elsewhere)], &ask, YES);
}

#[test]
fn conditions_are_all_met() {
    let port = |port| Condition::DestinationPort(any([port]));
    let address = Condition::DestinationAddress(any(["10.1.0.2/32".parse().unwrap()]));
    let rule = |conditions| {
        vec![policy(
            Action::Allow,
            vec![Rule {
                conditions,
                ..Rule::default()
            }],
        )]
    };
    check(rule(vec![port(8080), address.clone()]), &Ask::get("/"), YES);
    check(rule(vec![port(80), address]), &Ask::get("/"), NO);
}
