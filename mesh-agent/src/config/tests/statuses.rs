// SPDX-License-Identifier: Apache-2.0

//! What the owners of objects are told.

use super::{
    fixture::{Mesh, canary, service},
    http_routes::{backend, backends, gateway, http_route},
};
use crate::config::{Conditions, ObjectStatus};

/// `metadata` as the API server has it.
fn of_api(name: &str, version: u32) -> String {
    format!("name: {name}, uid: u-{name}, generation: 3, resourceVersion: \"{version}\"")
}

fn status_of(mesh: &Mesh, name: &str) -> ObjectStatus {
    let statuses = mesh.index.statuses().borrow().clone();
    let found = statuses.iter().find(|status| status.key.name == name);
    found
        .unwrap_or_else(|| panic!("no status of {name}"))
        .clone()
}

/// All conditions of an object as `Type=reason` or `Type!reason`, and their messages.
fn said(mesh: &Mesh, name: &str) -> (Vec<String>, String) {
    let all = match status_of(mesh, name).conditions {
        Conditions::Own(all) => all,
        Conditions::Parents(parents) => parents
            .into_iter()
            .flat_map(|parent| parent.conditions)
            .collect(),
    };
    let short = |holds| if holds { "=" } else { "!" };
    let words = all
        .iter()
        .map(|one| format!("{}{}{}", one.kind, short(one.holds), one.reason));
    let messages: Vec<&str> = all.iter().map(|one| one.message.as_str()).collect();
    (words.collect(), messages.join("\n"))
}

#[track_caller]
fn check(yaml: &str, want: &[&str], part: &str) {
    let mesh = Mesh::with_statuses(&(yaml.to_owned() + &backends()));
    let (words, messages) = said(&mesh, "own");
    assert_eq!(words, want, "{messages}");
    assert!(messages.contains(part), "no {part:?} in {messages}");
}

const GOOD: [&str; 2] = ["Accepted=Accepted", "ResolvedRefs=ResolvedRefs"];

fn route(rules: &str) -> String {
    gateway(&of_api("own", 7), rules)
}

#[test]
fn a_route_that_is_in_force_is_accepted() {
    check(&route(&format!("{{{}}}", backend("v1"))), &GOOD, "port 80");
    let grpc =
        route(&format!("{{{}}}", backend("v1"))).replace("kind: HTTPRoute", "kind: GRPCRoute");
    check(&grpc, &GOOD, "All backends exist");
}

#[test]
fn a_status_names_the_state_it_judges_and_the_parent_as_written() {
    let mesh = Mesh::with_statuses(&(route(&format!("{{{}}}", backend("v1"))) + &backends()));
    let status = status_of(&mesh, "own");
    assert_eq!(
        (
            &*status.revision.resource_version,
            status.revision.generation
        ),
        ("7", Some(3))
    );
    let Conditions::Parents(parents) = status.conditions else {
        panic!("a route has parents");
    };
    let want = serde_json::json!({"group": "", "kind": "Service", "name": "web", "namespace": "default", "port": 80});
    assert_eq!(parents[0].parent, want);
}

#[test]
fn a_new_revision_alone_is_a_new_status_but_no_new_snapshot() {
    let yaml = |version| gateway(&of_api("own", version), &format!("{{{}}}", backend("v1")));
    let mut mesh = Mesh::with_statuses(&(yaml(7) + &backends()));
    let generation = mesh.index.generation();
    mesh.apply(&yaml(8));
    assert_eq!(mesh.index.generation(), generation);
    assert_eq!(&*status_of(&mesh, "own").revision.resource_version, "8");
}

#[test]
fn nothing_is_made_for_objects_from_files_or_for_agents() {
    let own = gateway("name: own", &format!("{{{}}}", backend("v1")));
    let mesh = Mesh::with_statuses(&(own + &backends()));
    assert!(mesh.index.statuses().borrow().is_empty());
    let mesh = Mesh::new(&(route(&format!("{{{}}}", backend("v1"))) + &backends()));
    assert!(mesh.index.statuses().borrow().is_empty());
}

#[test]
fn parents_without_a_place_for_the_route_do_not_match() {
    for (parent, part) in [
        ("name: nobody", "there is no Service default/nobody"),
        ("name: web, port: 81", "no such TCP port"),
        ("name: db", "declares another protocol than HTTP"),
        ("name: blank", "is headless"),
    ] {
        let spec = format!(
            "parentRefs: [{{group: \"\", kind: Service, {parent}}}], rules: [{{{}}}]",
            backend("v1")
        );
        let others = service("db", "10.0.2.1").replace("name: http,", "name: tcp,")
            + &service("blank", "None");
        check(
            &(http_route(&of_api("own", 7), &spec) + &others),
            &["Accepted!NoMatchingParent", "ResolvedRefs=ResolvedRefs"],
            part,
        );
    }
}

#[test]
fn backends_that_do_not_exist_are_named() {
    for (backend, reason, part) in [
        (
            "{name: nobody, port: 80}",
            "BackendNotFound",
            "there is no Service default/nobody",
        ),
        (
            "{name: web-v1, port: 80}, {name: nobody, port: 80, weight: 0}",
            "BackendNotFound",
            "spec.rules[0].backendRefs[1]: there is no Service default/nobody",
        ),
        (
            "{name: web-v1, port: 81}",
            "BackendNotFound",
            "no TCP port 81",
        ),
        (
            "{kind: Bucket, group: x, name: b}",
            "InvalidKind",
            "Bucket is not a Service",
        ),
    ] {
        check(
            &route(&format!("{{backendRefs: [{backend}]}}")),
            &["Accepted=Accepted", &format!("ResolvedRefs!{reason}")],
            part,
        );
    }
}

#[test]
fn what_is_not_supported_is_not_accepted_or_partly() {
    let mirror = format!(
        "{{filters: [{{type: ExternalAuth, externalAuth: {{}}}}], {}}}",
        backend("v1")
    );
    check(
        &route(&mirror),
        &["Accepted!UnsupportedValue", "ResolvedRefs=ResolvedRefs"],
        "spec.rules[0].filters[0]: ExternalAuth is not supported: ",
    );
    check(
        &route(&format!("{mirror}, {{{}}}", backend("v1"))),
        &[GOOD[0], GOOD[1], "PartiallyInvalid=UnsupportedValue"],
        "Dropped Rule: HTTPRoute default/own spec.rules[0]",
    );
}

#[test]
fn a_rejected_change_falls_back_or_is_not_accepted() {
    let bad = route(&format!(
        "{{matches: [{{path: {{type: RegularExpression, value: \"(\"}}}}], {}}}",
        backend("v1")
    ));
    check(
        &bad,
        &["Accepted!UnsupportedValue"],
        "spec.rules[0].matches[0].path.value",
    );
    let good = route(&format!("{{{}}}", backend("v1")));
    let mut mesh = Mesh::with_statuses(&(good + &backends()));
    mesh.apply(&bad);
    let (words, messages) = said(&mesh, "own");
    assert_eq!(
        words,
        [GOOD[0], GOOD[1], "PartiallyInvalid=UnsupportedValue"]
    );
    assert!(
        messages.contains("Fall Back: spec.rules[0].matches[0].path.value"),
        "{messages}"
    );
}

#[test]
fn an_http_route_beside_a_grpc_route_is_in_conflict_at_that_port_alone() {
    let http = |parent: &str| {
        let spec = format!(
            "parentRefs: [{{group: \"\", kind: Service, name: web{parent}}}], rules: [{{{}}}]",
            backend("v1")
        );
        http_route(&of_api("own", 7), &spec)
    };
    let grpc = gateway("name: grpc", &format!("{{{}}}", backend("v2")))
        .replace("kind: HTTPRoute", "kind: GRPCRoute");
    check(
        &(http(", port: 80") + &grpc),
        &["Accepted!Conflicted", "ResolvedRefs=ResolvedRefs"],
        "GRPCRoute default/grpc decides",
    );
}

fn own(kind: &str, group: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: {group}\nkind: {kind}\nmetadata: {{{}}}\nspec: {{{spec}}}\n",
        of_api("own", 7)
    )
}

#[track_caller]
fn check_own(yaml: &str, want: &str, part: &str) {
    let mesh = Mesh::with_statuses(&(yaml.to_owned() + &canary("web")));
    let (words, messages) = said(&mesh, "own");
    assert_eq!(words, [want], "{messages}");
    assert!(messages.contains(part), "no {part:?} in {messages}");
}

#[test]
fn security_objects_are_told_their_problems() {
    check_own(
        &own(
            "PeerAuthentication",
            "security.istio.io/v1",
            "mtls: {mode: STRICT}",
        ),
        "mesh-agent.io/Accepted=Accepted",
        "honours",
    );
    check_own(
        &own(
            "RequestAuthentication",
            "security.istio.io/v1",
            "jwtRules: []",
        ),
        "mesh-agent.io/Accepted=Accepted",
        "none is protected by it",
    );
    check_own(
        &own("AuthorizationPolicy", "security.istio.io/v1", ""),
        "mesh-agent.io/Accepted=Accepted",
        "none is protected by it",
    );
    check_own(
        &own(
            "AuthorizationPolicy",
            "security.istio.io/v1",
            "action: DENY",
        ),
        "mesh-agent.io/Accepted!Invalid",
        "spec.rules: a DENY policy without rules means nothing; all that it selects is denied",
    );
    check_own(
        &own(
            "AuthorizationPolicy",
            "security.istio.io/v1",
            "action: CUSTOM, provider: {name: x}, rules: [{}]",
        ),
        "mesh-agent.io/Accepted!ReferenceNotFound",
        "no provider \"x\" can be asked by the extensionProviders of the mesh: the policy denies",
    );
}

#[test]
fn routing_objects_are_told_their_problems() {
    check_own(
        &own(
            "VirtualService",
            "networking.istio.io/v1",
            "hosts: [nobody], http: [{route: [{destination: {host: nobody}}]}]",
        ),
        "mesh-agent.io/Accepted=Accepted",
        "no Service has the host",
    );
    check_own(
        &own(
            "DestinationRule",
            "networking.istio.io/v1",
            "host: web, subsets: [{name: v1}]",
        ),
        "mesh-agent.io/Accepted=Accepted",
        "",
    );
}
