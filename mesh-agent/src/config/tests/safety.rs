// SPDX-License-Identifier: Apache-2.0

//! What Istio's analyzer would say, too, by its codes.

use std::sync::Arc;

use super::{
    fixture::{Mesh, canary},
    routes::{to, virtual_service, web},
};

/// All that is said, even if it is only for information.
fn said(mesh: &Mesh) -> Vec<String> {
    let report = Arc::clone(&mesh.index.report().borrow());
    report.problems.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn check(rules: &str, want: &[&str]) {
    let spec = format!("hosts: [web], http: [{rules}]");
    let mesh = Mesh::new(&(virtual_service("name: web", &spec) + &web()));
    let problems = said(&mesh);
    for part in want {
        let found = problems.iter().any(|text| text.contains(part));
        assert!(found, "no {part:?} in {problems:#?}");
    }
    assert_eq!(problems.len(), want.len(), "{problems:#?}");
}

fn on(matches: &str, subset: &str) -> String {
    format!("{{match: [{matches}], {}}}", to(subset))
}

const X: &str = "{uri: {prefix: /x}}";
const Y: &str = "{uri: {prefix: /y}, port: 80}";

#[test]
fn ist0130_a_rule_with_the_conditions_of_another_is_never_reached() {
    let rules = [on(X, "v1"), on(Y, "v1"), on(X, "v2")].join(", ");
    let want = "Warning [IST0130] (VirtualService default/web test.yaml:2) spec.http[2].match: never \
                reached: spec.http[0] has the same conditions";
    check(&rules, &[want]);
    let twice = [
        on(&format!("{X}, {Y}"), "v1"),
        on(&format!("{Y}, {X}"), "v2"),
    ]
    .join(", ");
    check(&twice, &["spec.http[1].match: never reached"]);
    check(&[on(X, "v1"), on(Y, "v2")].join(", "), &[]);
}

#[test]
fn ist0131_a_condition_that_an_earlier_rule_has_taken_has_no_effect() {
    let rules = [on(X, "v1"), on(&format!("{X}, {Y}"), "v2")].join(", ");
    let want = "Info [IST0131] (VirtualService default/web test.yaml:2) spec.http[1].match: 1 of 2 \
                conditions have no effect: spec.http[0] has the same";
    check(&rules, &[want]);
}

#[test]
fn ist0118_a_routed_port_says_what_is_spoken() {
    let unnamed = web().replace("name: http, port: 80", "name: web, port: 80");
    let unrouted = said(&Mesh::new(&unnamed));
    assert!(unrouted.is_empty(), "{unrouted:#?}");
    let spec = format!("hosts: [web], http: [{{{}}}]", to("v1"));
    let routed = said(&Mesh::new(
        &(virtual_service("name: web", &spec) + &unnamed),
    ));
    let want =
        "Info [IST0118] (Service default/web) spec.ports: neither the name \"web\" of port 80";
    assert!(routed[0].starts_with(want), "{routed:#?}");
    let declared = unnamed.replace("port: 80,", "port: 80, appProtocol: http,");
    let declared = said(&Mesh::new(
        &(virtual_service("name: web", &spec) + &declared),
    ));
    assert!(declared.is_empty(), "{declared:#?}");
}

#[test]
fn ist0109_two_rules_for_one_host_are_reported() {
    let spec = "hosts: [web], http: [{route: [{destination: {host: web}}]}]";
    let both = virtual_service("name: a", spec) + &virtual_service("name: b", spec);
    let problems = said(&Mesh::new(&(both + &canary("web"))));
    assert!(problems[0].starts_with("Error [IST0109]"), "{problems:#?}");
}

#[test]
fn ist0112_a_service_of_several_ports_needs_a_port() {
    let two = canary("web").replace(
        "ports: [{name: http, port: 80, targetPort: 8080}]",
        "ports: [{name: http, port: 81, targetPort: 8080}, {name: http-b, port: 82}]",
    );
    let other = super::fixture::service("other", "10.0.0.7");
    let spec = "hosts: [other], http: [{route: [{destination: {host: web}}]}]";
    let problems = said(&Mesh::new(
        &(virtual_service("name: a", spec) + &two + &other),
    ));
    let named = problems.iter().any(|text| text.contains("[IST0112]"));
    assert!(named, "{problems:#?}");
}
