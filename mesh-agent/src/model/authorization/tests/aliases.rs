// SPDX-License-Identifier: Apache-2.0

//! What principals mean where the own trust domain has several names.

use super::*;
use crate::model::TrustDomains;

fn domains() -> TrustDomains {
    TrustDomains::new("td", ["old-td", "older-td"].map(Arc::from))
}

fn source(principals: &[&str], not: &[&str]) -> Source {
    let patterns = |texts: &[&str]| texts.iter().map(|text| Pattern::new(text)).collect();
    Source {
        principals: Clause {
            any: patterns(principals),
            none: patterns(not),
        },
        ..Source::default()
    }
}

/// Whether who has an identity is one of these, as a source and as a condition.
#[track_caller]
fn check(source: &Source, identity: &str, want: bool) {
    let identity = SpiffeId::parse(&format!("spiffe://{identity}")).unwrap();
    let ask = Ask {
        identity: Some(identity),
        ..Ask::get("/")
    };
    let condition = Rule {
        conditions: vec![Condition::Source(source.clone())],
        ..Rule::default()
    };
    for rules in [from(source.clone()), vec![condition]] {
        let plain = Arc::new(policy(Action::Allow, rules));
        let known = plain.known_by(&domains());
        let judged = all(vec![Policy::clone(&known)]).connection(&ask.caller());
        let is_allowed = judged == Verdict::Allowed;
        assert_eq!(is_allowed, want, "{source:?}: {:?}", ask.identity);
    }
}

#[test]
fn a_principal_of_one_name_is_one_of_all() {
    for written in ["td", "old-td", "older-td"] {
        let principal = format!("{written}/ns/shop/sa/web");
        let source = source(&[&principal], &[]);
        for presented in ["td", "old-td", "older-td"] {
            check(&source, &format!("{presented}/ns/shop/sa/web"), true);
            check(&source, &format!("{presented}/ns/shop/sa/db"), false);
        }
        check(&source, "other/ns/shop/sa/web", false);
    }
    let stranger = source(&["other/ns/shop/sa/web"], &[]);
    check(&stranger, "td/ns/shop/sa/web", false);
    check(&stranger, "old-td/ns/shop/sa/web", false);
    check(&stranger, "other/ns/shop/sa/web", true);
}

#[test]
fn who_is_excluded_by_one_name_is_by_all() {
    let source = source(&[], &["old-td/ns/shop/sa/web"]);
    for name in ["td", "old-td", "older-td"] {
        check(&source, &format!("{name}/ns/shop/sa/web"), false);
        check(&source, &format!("{name}/ns/shop/sa/db"), true);
    }
    check(&source, "other/ns/shop/sa/web", true);
}

#[test]
fn stars_mean_what_they_mean_for_one_of_the_names() {
    check(
        &source(&["td/ns/shop/*"], &[]),
        "old-td/ns/shop/sa/web",
        true,
    );
    check(
        &source(&["td/ns/shop/*"], &[]),
        "old-td/ns/bank/sa/web",
        false,
    );
    check(&source(&["old*"], &[]), "td/ns/shop/sa/web", true);
    check(&source(&["older*"], &[]), "old-td/ns/shop/sa/web", true);
    check(&source(&["other*"], &[]), "td/ns/shop/sa/web", false);
    let part = source(&["*er-td/ns/shop/sa/web"], &[]);
    check(&part, "td/ns/shop/sa/web", true);
    check(&part, "bitter-td/ns/shop/sa/web", true);
    check(&part, "td/ns/shop/sa/db", false);
    check(&source(&["*/sa/web"], &[]), "other/ns/shop/sa/web", true);
    check(&source(&["*"], &[]), "other/ns/shop/sa/web", true);
}

#[test]
fn what_names_no_principal_stays_the_same_policy() {
    let one = Arc::new(policy(Action::Deny, anything()));
    assert!(Arc::ptr_eq(&one, &one.known_by(&domains())));
    let named = from(source(&["td/ns/shop/sa/web"], &[]));
    let named = Arc::new(policy(Action::Deny, named));
    let alone = TrustDomains::new("td", []);
    assert!(Arc::ptr_eq(&named, &named.known_by(&alone)));
    assert!(!Arc::ptr_eq(&named, &named.known_by(&domains())));
}
