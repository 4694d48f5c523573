// SPDX-License-Identifier: Apache-2.0

//! RequestAuthentications: which pods they are for, what of them is refused, and what that does.

use std::time::Duration;

use super::fixture::{Mesh, pod, service};
use crate::{
    config::{Kind, ObjectKey},
    model::token::{Heed, KeyPlace, KeySource, Location, TokenRule},
};

fn tokens(place: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{{place}}}\nspec: {{{spec}}}\n"
    )
}

fn web() -> String {
    let namespace = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {istio-injection: enabled}}\n";
    namespace.to_owned() + &service("web", "10.0.0.1") + &pod("web", "10.1.0.1", "app: web")
}

const NAME: &str = "name: tokens";

/// The rules for the pod `web`.
fn rules(mesh: &Mesh) -> Vec<TokenRule> {
    let workload = mesh.workload("web");
    let rules = workload.inbound.authentication.rules();
    rules.map(|rule| (**rule).clone()).collect()
}

#[track_caller]
fn one(spec: &str) -> TokenRule {
    let mesh = Mesh::new(&(tokens(NAME, &format!("jwtRules: [{{{spec}}}]")) + &web()));
    mesh.check_problems(&[]);
    let all = rules(&mesh);
    let [rule] = all.as_slice() else {
        panic!("one rule: {all:?}");
    };
    rule.clone()
}

#[track_caller]
fn check_refused(spec: &str, want: &str) {
    let mesh = Mesh::new(&(tokens(NAME, &format!("jwtRules: [{{{spec}}}]")) + &web()));
    let said = mesh.problems();
    let found = said
        .iter()
        .any(|said| said.contains(want) && said.contains("all that it selects is denied"));
    assert!(found, "no {want:?} in {said:?}");
    let all = rules(&mesh);
    assert!(
        matches!(all.as_slice(), [rule] if rule.keys == KeySource::Nowhere),
        "{all:?}"
    );
}

#[test]
fn a_rule_has_its_defaults() {
    let rule = one("issuer: i, jwksUri: https://i/keys");
    let place = KeyPlace {
        url: "https://i/keys".into(),
        discover: false,
        timeout: Duration::from_secs(5),
    };
    assert_eq!(rule.keys, KeySource::Remote(place));
    let header = Location::Header(http::header::AUTHORIZATION, "Bearer ".to_owned());
    let param = Location::Param("access_token".to_owned());
    assert_eq!(rule.locations, [header, param]);
    assert!(!rule.keeps_token);
    assert_eq!(*rule.space_delimited, ["scope", "permission"]);
}

#[test]
fn a_rule_has_what_is_written() {
    let rule = one(
        "issuer: 'https://i', audiences: [a], timeout: 1500ms, forwardOriginalToken: true, \
         fromHeaders: [{name: X-Jwt, prefix: 't '}], fromParams: [p], fromCookies: [c], \
         outputPayloadToHeader: x-payload, spaceDelimitedClaims: [roles], \
         outputClaimToHeaders: [{header: x-sub, claim: sub}]",
    );
    let place = KeyPlace {
        url: "https://i".into(),
        discover: true,
        timeout: Duration::from_millis(1500),
    };
    assert_eq!(rule.keys, KeySource::Remote(place));
    let header = Location::Header("x-jwt".parse().unwrap(), "t ".to_owned());
    let param = Location::Param("p".to_owned());
    assert_eq!(
        rule.locations,
        [header, param, Location::Cookie("c".to_owned())]
    );
    assert!(rule.keeps_token);
    assert_eq!(*rule.space_delimited, ["scope", "permission", "roles"]);
    let outputs: Vec<&str> = rule.outputs().map(http::HeaderName::as_str).collect();
    assert_eq!(outputs, ["x-payload", "x-sub"]);
    let keys = r#"jwks: '{"keys":[{"kty":"RSA","n":"AQ","e":"AQ"}]}'"#;
    let rule = one(&format!("issuer: i, {keys}"));
    assert!(matches!(rule.keys, KeySource::Inline(keys) if keys.len() == 1));
}

#[test]
fn what_cannot_be_is_refused_and_no_token_passes_meanwhile() {
    let keys = "jwksUri: https://i/keys";
    check_refused(keys, "spec.jwtRules[0].issuer: must not be empty");
    check_refused("issuer: i", "jwtRules[0].jwksUri: neither jwks nor jwksUri");
    check_refused(
        "issuer: i, jwksUri: 'ftp://i'",
        "jwksUri: \"ftp://i\" is no http",
    );
    check_refused(
        "issuer: i, jwks: '{}'",
        "jwks: is no key set: it has no list",
    );
    let both = format!("issuer: i, jwks: '{{}}', {keys}");
    check_refused(&both, "jwks: jwks and jwksUri cannot stand together");
    let with = |rest: &str| format!("issuer: i, {keys}, {rest}");
    check_refused(&with("timeout: soon"), "timeout: \"soon\" is no duration");
    check_refused(
        &with("fromHeaders: [{name: 'a b'}]"),
        "fromHeaders[0].name: \"a b\"",
    );
    check_refused(
        &with("fromParams: ['']"),
        "fromParams: must not have empty names",
    );
    check_refused(
        &with("outputPayloadToHeader: Host"),
        "outputPayloadToHeader: \"Host\" cannot be written",
    );
    check_refused(
        &with("outputClaimToHeaders: [{header: x}]"),
        "claim: must not be empty",
    );
    check_refused(&with("unknown: 1"), "unknown field");
}

#[test]
fn a_bad_state_leaves_the_good_one() {
    let good = "jwtRules: [{issuer: i, jwksUri: 'https://i/keys'}]";
    let mut mesh = Mesh::new(&(tokens(NAME, good) + &web()));
    let before = rules(&mesh);
    mesh.apply(&(tokens(NAME, "jwtRules: [{issuer: ''}]") + &web()));
    assert_eq!(rules(&mesh), before);
    mesh.delete(&ObjectKey {
        kind: Kind::RequestAuthentication,
        namespace: "default".to_owned(),
        name: "tokens".to_owned(),
    });
    assert!(rules(&mesh).is_empty());
}

#[test]
fn it_is_for_the_pods_that_it_selects() {
    let rule = "jwtRules: [{issuer: i, jwksUri: 'https://i/keys'}]";
    let count = |place: &str, aim: &str| {
        let mesh = Mesh::new(&(tokens(place, &format!("{aim}{rule}")) + &web()));
        rules(&mesh).len()
    };
    assert_eq!(count(NAME, ""), 1);
    assert_eq!(count(NAME, "selector: {matchLabels: {app: web}}, "), 1);
    assert_eq!(count(NAME, "selector: {matchLabels: {app: other}}, "), 0);
    assert_eq!(count("name: t, namespace: istio-system", ""), 1);
    assert_eq!(count("name: t, namespace: other", ""), 0);
    assert_eq!(count(NAME, "targetRefs: [{kind: Service, name: web}], "), 1);
}

#[test]
fn what_a_port_speaks_decides_how_it_is_looked_at() {
    let rule = "jwtRules: [{issuer: i, jwksUri: 'https://i/keys'}]";
    let heed = |port: &str| {
        let text = format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {{clusterIP: 10.0.0.9, selector: {{app: web}}, ports: [{port}]}}\n"
        );
        let mesh = Mesh::new(&(tokens(NAME, rule) + &web() + &text));
        mesh.workload("web").inbound.heed(9000)
    };
    assert_eq!(heed("{name: http, port: 9000}"), Heed::RequestsOnly);
    assert_eq!(
        heed("{name: grpc, port: 1, targetPort: 9000}"),
        Heed::RequestsOnly
    );
    assert_eq!(heed("{name: mysql, port: 9000}"), Heed::Nothing);
    assert_eq!(heed("{name: https, port: 9000}"), Heed::Nothing);
    assert_eq!(heed("{name: a, port: 9000}"), Heed::Requests);
    let both = "{name: tcp, port: 1, targetPort: 9000}, {name: http, port: 2, targetPort: 9000}";
    assert_eq!(heed(both), Heed::RequestsOnly);
}

#[test]
fn keys_at_the_node_itself_are_warned_of() {
    for (url, want) in [
        ("https://127.0.0.1/keys", "127.0.0.1 is a loopback address"),
        (
            "https://localhost:8080/keys",
            "localhost is a loopback address",
        ),
        (
            "https://[::ffff:169.254.169.254]/",
            "is a link-local address",
        ),
    ] {
        let rules = format!("jwtRules: [{{issuer: i, jwksUri: '{url}'}}]");
        let mesh = Mesh::new(&(tokens(NAME, &rules) + &web()));
        mesh.check_problems(&["Warning [MESH0013]"]);
        mesh.check_problems(&[want]);
    }
}
