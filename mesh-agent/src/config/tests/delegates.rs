// SPDX-License-Identifier: Apache-2.0

//! VirtualServices that leave rules to others.

use http::HeaderMap;

use super::{
    fixture::Mesh,
    routes::{WEB, to, virtual_service, web},
};
use crate::model::Decision;

const V1: &str = "v1@10.1.0.1:8080";
const V2: &str = "v2@10.1.0.2:8080";

/// `web` whose requests below `/a` are left to `default/other`, and go to v1 elsewhere.
fn root() -> String {
    let rules = format!(
        "{{name: root, match: [{{uri: {{prefix: /a}}}}], timeout: 3s, delegate: {{name: other}}}}, {{{}}}",
        to("v1")
    );
    virtual_service("name: web", &format!("hosts: [web], http: [{rules}]")) + &web()
}

fn with(delegate: &str) -> Mesh {
    Mesh::new(&(virtual_service("name: other", &format!("http: [{delegate}]")) + &root()))
}

#[test]
fn a_delegates_rules_decide_within_the_roots_match() {
    let mesh = with(&format!(
        "{{match: [{{uri: {{prefix: /a/b}}}}], {}}}, {{match: [{{method: {{exact: POST}}}}], {}}}",
        to("v2"),
        to("v2")
    ));
    mesh.check_problems(&[]);
    assert_eq!(mesh.get("client", WEB, "/a/b/c"), V2);
    assert_eq!(
        mesh.get("client", WEB, "/a/c"),
        V1,
        "the next rule of the root"
    );
    assert_eq!(mesh.get("client", WEB, "/b"), V1);
}

#[test]
fn what_a_delegate_does_not_say_it_inherits() {
    let timeout = |own: &str| {
        let mesh = with(&format!("{{name: own, {own}{}}}", to("v2")));
        mesh.check_problems(&[]);
        match mesh.decide("client", WEB, "GET", "/a", &HeaderMap::new()) {
            Decision::Forward { timeout, route, .. } => {
                (timeout.unwrap().as_secs(), route.to_string())
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(timeout(""), (3, "root-own".to_owned()));
    assert_eq!(timeout("timeout: 1s, ").0, 1);
}

#[test]
fn a_delegates_rule_that_matches_more_than_the_root_is_left_out() {
    let mesh = with(&format!(
        "{{match: [{{uri: {{prefix: /b}}}}], {}}}, {{{}}}",
        to("v2"),
        to("v2")
    ));
    mesh.check_problems(&[
        "spec.http[0].delegate: spec.http[0] of default/other matches what this rule does not",
    ]);
    assert_eq!(mesh.get("client", WEB, "/a"), V2);
    assert_eq!(mesh.get("client", WEB, "/b"), V1);
}

#[test]
fn a_delegate_that_is_not_there_answers_500() {
    let mesh = Mesh::new(&root());
    mesh.check_problems(&["there is no VirtualService default/other without hosts"]);
    assert_eq!(mesh.get("client", WEB, "/a"), "500 -");
    let hidden = virtual_service(
        "name: other",
        &format!("exportTo: [shop], http: [{{{}}}]", to("v2")),
    );
    let mesh = Mesh::new(&(hidden + &root()));
    assert_eq!(mesh.get("client", WEB, "/a"), "500 -");
}

#[test]
fn delegates_have_one_level_and_no_other_action() {
    let mesh = with("{delegate: {name: third}}");
    assert!(
        mesh.problems()
            .iter()
            .any(|text| text.contains("a delegate cannot delegate"))
    );
    let both = format!(
        "hosts: [web], http: [{{delegate: {{name: other}}, {}}}]",
        to("v1")
    );
    let mesh = Mesh::new(&(virtual_service("name: web", &both) + &web()));
    mesh.check_problems(&["delegate and route exclude each other"]);
}
