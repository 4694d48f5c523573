// SPDX-License-Identifier: Apache-2.0

//! AuthorizationPolicies that cannot be.

use super::{Mesh, WEB, policy, rule, verdict, web};

fn source(text: &str) -> String {
    rule(&format!("from: [{{source: {{{text}}}}}]"))
}

fn operation(text: &str) -> String {
    rule(&format!("to: [{{operation: {{{text}}}}}]"))
}

/// Refused by object, field and fix, and closed.
#[track_caller]
fn check_refused(spec: &str, part: &str) {
    let mesh = Mesh::new(&(policy(WEB, spec) + &web()));
    let said = mesh.problems().join("\n");
    let head = "Error [IST0106] (AuthorizationPolicy default/web test.yaml:2) ";
    let told = said.contains(head) && said.contains(part) && said.contains("; fix: ");
    assert!(told, "no {part:?} in {said}");
    assert_eq!(verdict(&mesh, "web", "default/client"), "denied", "{spec}");
}

#[test]
fn what_contradicts_itself_is_no_policy() {
    check_refused("action: DENY", "spec.rules: a DENY policy without rules");
    check_refused(
        "action: CUSTOM, provider: {name: x}",
        "spec.rules: a CUSTOM policy without",
    );
    check_refused(
        "action: CUSTOM, rules: [{}]",
        "spec.provider.name: a CUSTOM policy must",
    );
    check_refused("provider: {name: x}", "spec.provider: only a CUSTOM policy");
    check_refused(
        &("action: CUSTOM, provider: {name: x}, ".to_owned() + &source("namespaces: [a]")),
        "spec.rules[0].from[0].source: a CUSTOM policy cannot ask",
    );
    check_refused(
        "action: DENIE, rules: [{}]",
        "spec.action: unknown variant `DENIE`",
    );
    check_refused("rules: [{form: []}]", "spec.rules[0].form: unknown field");
    check_refused(
        "selector: {matchLabels: {app: web}}, targetRefs: [{kind: Service, name: web}]",
        "spec: only one of selector, targetRef and targetRefs",
    );
}

#[test]
fn a_source_that_cannot_be_is_refused() {
    check_refused(
        &rule("from: [{}]"),
        "spec.rules[0].from[0].source: must not be empty",
    );
    check_refused(
        &source(""),
        "spec.rules[0].from[0].source: must not be empty",
    );
    check_refused(
        &source("serviceAccounts: [a], namespaces: [b]"),
        "source.serviceAccounts: cannot stand beside principals or namespaces",
    );
    check_refused(
        &source("serviceAccounts: [a/b/c]"),
        "source.serviceAccounts[0]: \"a/b/c\" is no service",
    );
    check_refused(
        &source("serviceAccounts: [\"a*\"]"),
        "source.serviceAccounts[0]: \"a*\" has a star",
    );
    check_refused(
        &source("principals: [\"\"]"),
        "source.principals[0]: must not be empty",
    );
    check_refused(
        &source("principals: [\"spiffe://a\"]"),
        "must begin with the trust domain",
    );
    check_refused(
        &source("ipBlocks: [10.0.0.0/33]"),
        "source.ipBlocks[0]: \"10.0.0.0/33\" is neither",
    );
    check_refused(
        &source("notIpBlocks: [x]"),
        "source.notIpBlocks[0]: \"x\" is neither an address",
    );
}

#[test]
fn an_operation_or_condition_that_cannot_be_is_refused() {
    check_refused(
        &operation(""),
        "spec.rules[0].to[0].operation: must not be empty",
    );
    check_refused(
        &operation("ports: [http]"),
        "operation.ports[0]: \"http\" is no port",
    );
    check_refused(
        &operation("notPorts: [\"0\"]"),
        "operation.notPorts[0]: \"0\" is no port",
    );
    check_refused(
        &operation("paths: [\"/{a}\"]"),
        "operation.paths[0]: \"/{a}\" is no path template",
    );
    check_refused(
        &rule("when: [{key: source.ip}]"),
        "spec.rules[0].when[0]: must not be without values",
    );
    check_refused(
        &rule("when: [{key: source.port, values: [\"1\"]}]"),
        "spec.rules[0].when[0].key: \"source.port\" is no condition",
    );
    check_refused(
        &rule("when: [{key: \"request.auth.claims[a][]\", values: [x]}]"),
        "key: \"request.auth.claims[a][]\" is no condition",
    );
    check_refused(
        &rule("when: [{key: \"request.headers[a b]\", values: [x]}]"),
        "spec.rules[0].when[0].key: \"a b\" is no name of a header",
    );
}
