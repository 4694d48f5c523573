// SPDX-License-Identifier: Apache-2.0

//! What rules say about the tokens of a request, and what becomes of its head.

use http::{HeaderValue, Request, header::AUTHORIZATION, request};
use serde_json::{Value, json};

use super::*;

/// The moment of these tests.
const NOW: u64 = 1_000_000;

fn rule(issuer: &str) -> TokenRule {
    TokenRule {
        issuer: issuer.into(),
        audiences: Vec::new(),
        keys: KeySource::Nowhere,
        locations: vec![
            Location::Header(AUTHORIZATION, "Bearer ".to_owned()),
            Location::Param("access_token".to_owned()),
        ],
        payload_header: None,
        claim_headers: Vec::new(),
        keeps_token: false,
        space_delimited: Arc::from(["scope".to_owned()]),
    }
}

fn all(rules: Vec<TokenRule>) -> Authentication {
    let rules = AttachedRules {
        name: "shop/tokens".into(),
        rules: rules.into_iter().map(Arc::new).collect(),
        ports: None,
    };
    Authentication::new(vec![rules])
}

fn with_header(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| base64url::encode(value.to_string().as_bytes());
    format!("{}.{}.c2ln", part(header), part(claims))
}

fn token(claims: &Value) -> String {
    with_header(&json!({"alg": "ES256"}), claims)
}

fn of(issuer: &str) -> String {
    token(&json!({"iss": issuer, "sub": "anna"}))
}

/// Signatures aside.
fn verify(rule: &Arc<TokenRule>, text: &str) -> Result<Arc<Token>, TokenFault> {
    let jwt = Jwt::parse(text)?;
    jwt.check(rule, NOW)?;
    jwt.into_token(rule).map(Arc::new)
}

fn get(target: &str, headers: &[(&str, &str)]) -> request::Parts {
    let mut request = Request::get(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn bearer(token: &str) -> request::Parts {
    get("/a", &[("authorization", &format!("Bearer {token}"))])
}

fn principal(rules: &Authentication, head: &mut request::Parts) -> Result<String, TokenFault> {
    let known = rules.admit(80, head, verify)?;
    let known = known.and_then(|token| token.principal().map(str::to_owned));
    Ok(known.unwrap_or_default())
}

#[track_caller]
fn check(rules: Vec<TokenRule>, mut head: request::Parts, want: Result<&str, TokenFault>) {
    let is = principal(&all(rules), &mut head);
    assert_eq!(is.as_deref().map_err(|fault| *fault), want);
}

#[test]
fn without_a_token_a_request_passes_and_is_nobodys() {
    check(vec![rule("i")], get("/a", &[]), Ok(""));
    let other = get("/a", &[("authorization", "Basic YTpi")]);
    check(vec![rule("i")], other, Ok(""));
    check(vec![], bearer("rubbish"), Ok(""));
}

#[test]
fn a_token_is_found_where_it_may_be() {
    let text = of("i");
    check(vec![rule("i")], bearer(&text), Ok("i/anna"));
    let query = format!("/a?x=1&access_token={text}");
    check(vec![rule("i")], get(&query, &[]), Ok("i/anna"));
    let mut special = rule("i");
    special.locations = vec![
        Location::Header("x-jwt".parse().unwrap(), String::new()),
        Location::Cookie("session".to_owned()),
    ];
    check(vec![special.clone()], bearer("rubbish"), Ok(""));
    let header = get("/a", &[("x-jwt", &text)]);
    check(vec![special.clone()], header, Ok("i/anna"));
    let cookie = format!("a=b; session={text}; c=d");
    check(
        vec![special],
        get("/a", &[("cookie", &cookie)]),
        Ok("i/anna"),
    );
}

#[test]
fn a_token_that_is_wrong_is_refused_in_envoys_words() {
    use TokenFault as Fault;
    let header = |header: Value| with_header(&header, &json!({"iss": "i"}));
    let claims = |claims: Value| token(&claims);
    for (text, want) in [
        ("", Fault::BadForm),
        ("a.b", Fault::BadForm),
        ("a.b.c.d", Fault::BadForm),
        ("+.b.c", Fault::HeaderNotBase64),
        ("YQ.b.c", Fault::HeaderNotJson),
        (&header(json!({})), Fault::NoAlgorithm),
        (&header(json!({"alg": "none"})), Fault::UnknownAlgorithm),
        (&header(json!({"alg": "HS256"})), Fault::UnknownAlgorithm),
        (
            &header(json!({"alg": "ES256", "kid": 1})),
            Fault::KeyIdNotString,
        ),
        (
            &header(json!({"alg": "ES256", "crit": ["b64"]})),
            Fault::Critical,
        ),
        (&claims(json!([])), Fault::PayloadNotJson),
        (&claims(json!({"sub": "a"})), Fault::UnknownIssuer),
        (&claims(json!({"iss": "other"})), Fault::UnknownIssuer),
        (&claims(json!({"iss": 1})), Fault::NotString("iss")),
        (
            &claims(json!({"iss": "i", "exp": "x"})),
            Fault::NotInteger("exp"),
        ),
        (
            &claims(json!({"iss": "i", "exp": -1})),
            Fault::NotInteger("exp"),
        ),
        (&claims(json!({"iss": "i", "aud": 1})), Fault::BadAudience),
    ] {
        check(vec![rule("i")], bearer(text), Err(want));
    }
    assert_eq!(Fault::Expired.to_string(), "Jwt is expired");
}

#[test]
fn clocks_may_differ_by_a_minute() {
    for (claims, want) in [
        (json!({"exp": NOW - 60}), Ok("")),
        (json!({"exp": NOW - 61}), Err(TokenFault::Expired)),
        (json!({"nbf": NOW + 60}), Ok("")),
        (json!({"nbf": NOW + 61}), Err(TokenFault::NotYetValid)),
        (json!({"iat": NOW + 61}), Err(TokenFault::NotYetValid)),
        (json!({"exp": u64::MAX, "nbf": 0}), Ok("")),
    ] {
        let mut claims = claims;
        claims["iss"] = "i".into();
        check(vec![rule("i")], bearer(&token(&claims)), want);
    }
}

#[test]
fn one_of_the_audiences_is_enough() {
    let mut wanted = rule("i");
    wanted.audiences = vec!["shop.example".into(), "other".into()];
    for (audience, want) in [
        (json!("shop.example"), Ok("")),
        (json!(["a", "other"]), Ok("")),
        (json!("https://shop.example/"), Ok("")),
        (json!("a"), Err(TokenFault::WrongAudience)),
        (json!([]), Err(TokenFault::WrongAudience)),
    ] {
        let text = token(&json!({"iss": "i", "aud": audience}));
        check(vec![wanted.clone()], bearer(&text), want);
    }
    assert_eq!(TokenFault::WrongAudience.status(), 403);
    assert_eq!(TokenFault::Expired.status(), 401);
}

#[test]
fn of_several_rules_one_whose_token_is_good_is_enough_and_no_token_may_be_bad() {
    let two = || vec![rule("i"), rule("j")];
    check(two(), bearer(&of("j")), Ok("j/anna"));
    check(two(), bearer(&of("k")), Err(TokenFault::UnknownIssuer));
    check(two(), bearer("rubbish"), Err(TokenFault::BadForm));
    let late = token(&json!({"iss": "j", "exp": 1}));
    check(two(), bearer(&late), Err(TokenFault::Expired));
    let mut elsewhere = rule("j");
    elsewhere.locations = vec![Location::Header("x-jwt".parse().unwrap(), String::new())];
    let both = vec![rule("i"), elsewhere];
    let only_other = get("/a", &[("x-jwt", &of("j"))]);
    check(both.clone(), only_other, Ok("j/anna"));
    let other_bad = get("/a", &[("x-jwt", "rubbish")]);
    check(both, other_bad, Err(TokenFault::BadForm));
}

#[test]
fn of_several_tokens_all_must_be_good() {
    let query = format!("/a?access_token={}", of("i"));
    let twice = get(&query, &[("authorization", "Bearer rubbish")]);
    check(vec![rule("i")], twice, Err(TokenFault::BadForm));
    let good = format!("Bearer {}", of("i"));
    let values = [("authorization", &*good), ("authorization", "Bearer x")];
    check(
        vec![rule("i")],
        get("/a", &values),
        Err(TokenFault::BadForm),
    );
}

#[test]
fn a_rule_is_for_its_ports() {
    let one = Authentication::new(vec![AttachedRules {
        name: "a/b".into(),
        rules: vec![Arc::new(rule("i"))],
        ports: Some(Arc::from([8080])),
    }]);
    assert_eq!(principal(&one, &mut bearer("rubbish")), Ok(String::new()));
    let asked = one.admit(8080, &mut bearer("rubbish"), verify);
    assert_eq!(asked, Err(TokenFault::BadForm));
    let spoken = Spoken::from([(8080, Speech::Http), (9, Speech::Opaque)]);
    assert_eq!(one.heed(80, &spoken), Heed::Nothing);
    assert_eq!(one.heed(8080, &spoken), Heed::RequestsOnly);
    assert_eq!(one.heed(8080, &Spoken::new()), Heed::Requests);
    let everywhere = all(vec![rule("i")]);
    assert_eq!(everywhere.heed(9, &spoken), Heed::Nothing);
    let mut giving = rule("i");
    giving.payload_header = Some("x-payload".parse().unwrap());
    assert_eq!(all(vec![giving]).heed(80, &spoken), Heed::RequestsOnly);
}

#[test]
fn the_token_goes_on_only_if_it_is_to() {
    let text = of("i");
    let target = format!("/a?x=1&access_token={text}&y=2");
    let good = format!("Bearer {text}");
    let cookie = format!("a=b; s={text}");
    let head = || {
        let values = [
            ("authorization", "Basic x"),
            ("authorization", &*good),
            ("cookie", &*cookie),
        ];
        get(&target, &values)
    };
    let mut taking = rule("i");
    taking.locations.push(Location::Cookie("s".to_owned()));
    let mut taken = head();
    principal(&all(vec![taking.clone()]), &mut taken).unwrap();
    assert_eq!(taken.uri, "/a?x=1&y=2");
    assert_eq!(taken.headers["authorization"], "Basic x");
    assert_eq!(taken.headers["cookie"], "a=b");
    taking.keeps_token = true;
    let mut kept = head();
    principal(&all(vec![taking]), &mut kept).unwrap();
    assert_eq!((kept.uri, kept.headers), (head().uri, head().headers));
}

fn giving() -> TokenRule {
    let name = |name: &'static str| http::HeaderName::from_static(name);
    let mut giving = rule("i");
    giving.payload_header = Some(name("x-payload"));
    giving.claim_headers = vec![
        (name("x-sub"), "sub".to_owned()),
        (name("x-level"), "level".to_owned()),
        (name("x-city"), "address.city".to_owned()),
        (name("x-roles"), "roles".to_owned()),
        (name("x-odd"), "odd".to_owned()),
        (name("x-none"), "none".to_owned()),
    ];
    giving
}

#[test]
fn the_application_gets_what_the_token_says() {
    let claims = json!({
        "iss": "i", "sub": "anna", "level": 3, "roles": ["a"], "address": {"city": "x"}, "odd": "a\nb"
    });
    let text = token(&claims);
    let mut head = bearer(&text);
    principal(&all(vec![giving()]), &mut head).unwrap();
    let payload = text.split('.').nth(1).unwrap();
    assert_eq!(head.headers["x-payload"], payload);
    let is = ["x-sub", "x-level", "x-city", "x-roles"].map(|name| head.headers[name].clone());
    let want = ["anna", "3", "x", &base64url::encode(b"[\"a\"]")];
    assert_eq!(is, want.map(|text| HeaderValue::from_str(text).unwrap()));
    assert!(!head.headers.contains_key("x-odd"), "no header can say it");
    assert!(!head.headers.contains_key("x-none"));
}

#[test]
fn a_client_cannot_bring_what_only_a_token_gives() {
    let forged = [
        ("x-sub", "root"),
        ("x-sub", "again"),
        ("X_Sub", "root"),
        ("x-payload", "e30"),
        ("x-other", "stays"),
        ("connection", "close, x-sub"),
    ];
    let preflight = || {
        let mut head = get("/a", &forged);
        head.method = http::Method::OPTIONS;
        head.headers.insert("origin", HeaderValue::from_static("a"));
        let method = HeaderValue::from_static("GET");
        head.headers.insert("access-control-request-method", method);
        head
    };
    for mut head in [get("/a", &forged), preflight()] {
        principal(&all(vec![giving()]), &mut head).unwrap();
        for name in ["x-sub", "x_sub", "x-payload"] {
            assert!(!head.headers.contains_key(name), "{name}");
        }
        assert_eq!(head.headers["x-other"], "stays");
        assert_eq!(head.headers["connection"], "close");
    }
    // Where another rule knows the request, too.
    let rules = all(vec![rule("j"), giving()]);
    let mut head = bearer(&of("j"));
    head.headers
        .insert("x-sub", HeaderValue::from_static("root"));
    assert_eq!(principal(&rules, &mut head), Ok("j/anna".to_owned()));
    assert!(!head.headers.contains_key("x-sub"));
}

#[test]
fn a_preflight_of_a_browser_has_no_token_to_be_judged() {
    let mut head = bearer("rubbish");
    head.method = http::Method::OPTIONS;
    check(vec![rule("i")], head, Err(TokenFault::BadForm));
    let mut head = bearer("rubbish");
    head.method = http::Method::OPTIONS;
    head.headers.insert("origin", HeaderValue::from_static("a"));
    let method = HeaderValue::from_static("GET");
    head.headers.insert("access-control-request-method", method);
    check(vec![rule("i")], head, Ok(""));
}

#[test]
fn what_a_token_says_is_found_by_name() {
    let claims = json!({
        "iss": "i", "sub": "s", "azp": "web", "aud": ["a", "b"], "scope": "read write",
        "admin": true, "level": 3, "groups": ["x", "y"], "realm": {"roles": ["r"], "name": "n"}
    });
    let text = token(&claims);
    let token = verify(&Arc::new(rule("i")), &text).unwrap();
    let claim = |names: &[&str]| TokenPart::Claim(names.iter().map(|it| (*it).into()).collect());
    for (part, want, is) in [
        (TokenPart::Principal, "i/s", true),
        (TokenPart::Principal, "i/*", true),
        (TokenPart::Principal, "i", false),
        (TokenPart::Audiences, "b", true),
        (TokenPart::Audiences, "c", false),
        (TokenPart::Presenter, "web", true),
        (claim(&["scope"]), "write", true),
        (claim(&["scope"]), "read write", false),
        (claim(&["groups"]), "y", true),
        (claim(&["groups"]), "*", true),
        (claim(&["groups"]), "z", false),
        (claim(&["admin"]), "true", true),
        (claim(&["level"]), "3", true),
        (claim(&["realm", "roles"]), "r", true),
        (claim(&["realm", "name"]), "n", true),
        (claim(&["realm"]), "*", false),
        (claim(&["realm", "name", "x"]), "*", false),
        (claim(&["none"]), "*", false),
    ] {
        assert_eq!(token.has(&part, &Pattern::new(want)), is, "{part:?} {want}");
    }
}

#[test]
fn the_answer_says_where_and_why() {
    let head = get("http://shop.example/a\"b?access_token=secret", &[]);
    let refusal = TokenRefusal::new(TokenFault::Expired, &head.uri, &head.headers);
    assert_eq!(
        refusal.challenge,
        "Bearer realm=\"http://shop.example/a_b\", error=\"invalid_token\""
    );
    assert_eq!(refusal.details, "jwt_authn_access_denied{Jwt_is_expired}");
}
