// SPDX-License-Identifier: Apache-2.0

//! Rows about what only a request can tell: hosts, methods, paths, headers.

use super::*;

#[test]
fn hosts_methods_and_paths_are_judged_by_request() {
    let operation = Operation::default;
    for (operation, matches) in [
        (
            Operation {
                methods: any(texts(["GET"])),
                ..operation()
            },
            true,
        ),
        (
            Operation {
                methods: any(texts(["get"])),
                ..operation()
            },
            false,
        ),
        (
            Operation {
                methods: any(texts(["PO*", "GE*"])),
                ..operation()
            },
            true,
        ),
        (
            Operation {
                methods: none(texts(["GET"])),
                ..operation()
            },
            false,
        ),
        (
            Operation {
                paths: any(paths(["/a/*"])),
                ..operation()
            },
            true,
        ),
        (
            Operation {
                paths: any(paths(["/a"])),
                ..operation()
            },
            false,
        ),
        (
            Operation {
                paths: any(paths(["/a/{*}"])),
                ..operation()
            },
            true,
        ),
        (
            Operation {
                paths: none(paths(["/a/b"])),
                ..operation()
            },
            false,
        ),
        (
            Operation {
                hosts: any([HostPattern::new("SHOP.example")]),
                ..operation()
            },
            true,
        ),
        (
            Operation {
                hosts: none([HostPattern::new("*.example")]),
                ..operation()
            },
            false,
        ),
    ] {
        let ask = Ask::get("http://shop.example:80/a/b?c=/d");
        let allow = vec![policy(Action::Allow, to(operation.clone()))];
        check(allow, &ask, ("depends", matches));
        let deny = vec![policy(Action::Deny, to(operation))];
        check(deny, &ask, ("depends", !matches));
    }
}

#[test]
fn without_requests_an_allow_rule_that_needs_one_never_matches_and_a_deny_rule_ignores_that_part() {
    let rule = |port| Operation {
        ports: any([port]),
        methods: any(texts(["GET"])),
        ..Operation::default()
    };
    // `Depends` denies where there is no request to be judged.
    check(
        vec![policy(Action::Allow, to(rule(8080)))],
        &Ask::get("/"),
        ("depends", true),
    );
    check(
        vec![policy(Action::Allow, to(rule(80)))],
        &Ask::get("/"),
        NO,
    );
    check(
        vec![policy(Action::Deny, to(rule(8080)))],
        &Ask::get("/"),
        ("depends", false),
    );
    check(
        vec![policy(Action::Deny, to(rule(80)))],
        &Ask::get("/"),
        YES,
    );
    // An alternative that needs no request does not help an ALLOW rule that has one that does.
    let mixed = vec![Rule {
        operations: vec![
            rule(80),
            Operation {
                ports: any([8080]),
                ..Operation::default()
            },
        ],
        ..Rule::default()
    }];
    check(
        vec![policy(Action::Allow, mixed)],
        &Ask::get("/"),
        ("depends", true),
    );
}

#[test]
fn a_header_condition_needs_the_header() {
    let header = |clause| when(Condition::Header(HeaderName::from_static("x-role"), clause));
    let allow = |clause| vec![policy(Action::Allow, header(clause))];
    let ask = || Ask::get("/");
    check(allow(any(texts(["admin"]))), &ask(), ("depends", false));
    check(
        allow(any(texts(["admin"]))),
        &ask().with_header("x-role", "admin"),
        ("depends", true),
    );
    check(
        allow(any(texts(["*"]))),
        &ask().with_header("x-role", ""),
        ("depends", false),
    );
    check(allow(none(texts(["admin"]))), &ask(), ("depends", true));
    check(
        allow(none(texts(["admin"]))),
        &ask().with_header("x-role", "admin"),
        ("depends", false),
    );
}

#[test]
fn a_header_that_is_sent_twice_neither_hides_a_value_nor_borrows_one() {
    let header = |clause| when(Condition::Header(HeaderName::from_static("x-role"), clause));
    let twice = || {
        Ask::get("/")
            .with_header("x-role", "admin")
            .with_header("x-role", "guest")
    };
    let policies = |action, clause| vec![policy(action, header(clause))];
    check(
        policies(Action::Deny, any(texts(["admin"]))),
        &twice(),
        ("depends", false),
    );
    check(
        policies(Action::Allow, any(texts(["admin"]))),
        &twice(),
        ("depends", false),
    );
    check(
        policies(Action::Allow, none(texts(["guest"]))),
        &twice(),
        ("depends", false),
    );
    check(
        policies(Action::Deny, none(texts(["guest"]))),
        &twice(),
        ("depends", false),
    );
}

#[test]
fn a_path_is_judged_in_every_way_an_application_may_read_it() {
    let rules = |clause| {
        to(Operation {
            paths: clause,
            ..Operation::default()
        })
    };
    for path in [
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/public/..%2fadmin",
        "/public/..%5Cadmin",
        "/public/..;/admin",
        "/public//../../admin",
    ] {
        let allow = policy(Action::Allow, rules(any(paths(["/public/*"]))));
        check(vec![allow], &Ask::get(path), ("depends", false));
        let deny = policy(Action::Deny, rules(any(paths(["/admin"]))));
        check(vec![deny], &Ask::get(path), ("depends", false));
        let others = policy(Action::Deny, rules(none(paths(["/public/*"]))));
        check(vec![others], &Ask::get(path), ("depends", false));
    }
    for path in ["//admin", "/%61dmin", "/./admin", "/admin%3Fx"] {
        let deny = policy(Action::Deny, rules(any(paths(["/admin*"]))));
        check(vec![deny], &Ask::get(path), ("depends", false));
    }
}

#[test]
fn a_host_is_the_targets_and_that_of_the_header() {
    let rules = |host| {
        to(Operation {
            hosts: any([HostPattern::new(host)]),
            ..Operation::default()
        })
    };
    let ask = || Ask::get("http://good/").with_header("host", "evil");
    check(
        vec![policy(Action::Allow, rules("good"))],
        &ask(),
        ("depends", false),
    );
    check(
        vec![policy(Action::Deny, rules("evil"))],
        &ask(),
        ("depends", false),
    );
}

#[test]
fn a_rule_on_tokens_needs_one_that_says_so() {
    let source = |clause| {
        from(Source {
            request_principals: clause,
            ..Source::default()
        })
    };
    let allow = |rules| vec![policy(Action::Allow, rules)];
    let deny = |rules| vec![policy(Action::Deny, rules)];
    let anna = || Ask::get("/").with_token(&serde_json::json!({"iss": "i", "sub": "anna"}));
    let anybody = || any(texts(["*"]));
    check(allow(source(anybody())), &Ask::get("/"), ("depends", false));
    check(allow(source(anybody())), &anna(), ("depends", true));
    check(
        allow(source(any(texts(["i/anna"])))),
        &anna(),
        ("depends", true),
    );
    check(
        allow(source(any(texts(["i/bob"])))),
        &anna(),
        ("depends", false),
    );
    // The usual way to demand a token.
    check(
        deny(source(none(texts(["*"])))),
        &Ask::get("/"),
        ("depends", false),
    );
    check(deny(source(none(texts(["*"])))), &anna(), ("depends", true));
    let claim = |clause| when(Condition::Token(TokenPart::Presenter, clause));
    check(allow(claim(none(texts(["x"])))), &anna(), ("depends", true));
    check(allow(claim(anybody())), &anna(), ("depends", false));
}

#[test]
fn a_provider_is_asked_about_what_its_policy_matches_and_its_yes_is_not_the_last_word() {
    let provider = Arc::new(crate::model::provider::Provider {
        name: "p".into(),
        service: crate::model::ServiceName::new("a", "b"),
        port: 80,
        timeout: std::time::Duration::from_secs(1),
        fail_open: false,
        status_on_error: http::StatusCode::FORBIDDEN,
        check: crate::model::provider::Check::Grpc,
        body: None,
    });
    let rules = |path| {
        to(Operation {
            paths: any(paths([path])),
            ..Operation::default()
        })
    };
    let attach =
        |policy: Policy, provider: Option<&Arc<crate::model::provider::Provider>>| Attached {
            policy: Arc::new(policy),
            ports: None,
            provider: provider.map(Arc::clone),
        };
    let custom = |path| policy(Action::Custom, rules(path));
    let authorization = Authorization::new(vec![
        attach(custom("/a*"), Some(&provider)),
        attach(custom("/ab*"), Some(&provider)),
        attach(policy(Action::Deny, rules("/ad*")), None),
    ]);
    for (path, asked, allowed) in [
        ("/", 0, true),
        ("/a", 1, true),
        ("/ab", 1, true),
        ("/ad", 1, false),
    ] {
        let ask = Ask::get(path);
        let providers = authorization.providers(&ask.caller(), &ask.reading());
        assert_eq!(providers.len(), asked, "{path}");
        let judged = authorization.request(&ask.caller(), &ask.reading());
        assert_eq!(judged.is_ok(), allowed, "{path}");
    }
    let verdict = authorization.connection(&Ask::get("/").caller());
    assert!(matches!(verdict, Verdict::Depends(_)), "{verdict:?}");
    let everything = attach(policy(Action::Custom, anything()), Some(&provider));
    let everything = Authorization::new(vec![everything]);
    let verdict = everything.connection(&Ask::get("/").caller());
    assert!(matches!(verdict, Verdict::Depends(_)), "{verdict:?}");
}
