// SPDX-License-Identifier: Apache-2.0

//! Bad manifests: each is named with file, object, field and fix, and hides no other.

use super::fixture::{Mesh, pod, service};
use crate::config::{
    problem::Problem,
    read::{self, Entry, Format},
};

/// What is wrong with a text, one line each.
fn broken(text: &str, format: Format) -> Vec<String> {
    let entries = read::read("dir/x.yaml", text, format).into_iter();
    let problems = entries.flat_map(|entry| match entry {
        Entry::Good(..) => Vec::new(),
        Entry::Broken(_, problems) => problems,
        Entry::Foreign(problem) => vec![problem],
    });
    problems
        .map(|problem: Problem| problem.to_string())
        .collect()
}

#[track_caller]
fn check(text: &str, want: &str) {
    let said = broken(text, Format::Yaml);
    assert_eq!(said.len(), 1, "{said:#?}");
    assert!(
        said[0].contains(want),
        "{}\ndoes not contain {want}",
        said[0]
    );
}

#[test]
fn bad_manifests_name_file_object_field_and_fix() {
    let head = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: x, namespace: shop}\n";
    check(
        &format!("{head}spec: {{hosts: [web], htpp: []}}"),
        "Error [IST0106] (VirtualService shop/x dir/x.yaml:1) spec.htpp: unknown field; the last good state of the \
         object stays in force; fix: correct its spelling or indentation, or remove it",
    );
    check(
        &format!(
            "{head}spec: {{hosts: [web], http: [{{route: [{{destination: {{host: web}}, weight: many}}]}}]}}"
        ),
        "spec.http[0].route[0].weight: invalid type: string \"many\", expected u32",
    );
    check(
        &format!(
            "{head}spec: {{hosts: [web], http: [{{route: [{{destination: {{host: web}}, wieght: 1}}]}}]}}"
        ),
        "spec.http[0].route[0].wieght: unknown field",
    );
    check(
        &format!(
            "{head}spec: {{hosts: [web], http: [{{route: [{{destination: {{subset: v1}}}}]}}]}}"
        ),
        "spec.http[0].route[0].destination: missing field `host`",
    );
    check(
        &format!("{head}spec: {{hosts: web}}"),
        "spec.hosts: invalid type: string \"web\", expected a sequence",
    );
    check(
        "apiVersion: v1\nkind: Pod\nspec: {}",
        "metadata.name: must be set to text",
    );
    check("kind: Pod", "apiVersion and kind must be set to text");
    check("- a", "a manifest must be a mapping");
    check(
        "apiVersion: networking.istio.io/v7\nkind: VirtualService\nmetadata: {name: x}",
        "(VirtualService default/x dir/x.yaml:1) apiVersion: VirtualService has no version \"networking.istio.io/v7\"; fix: use one of v1, v1beta1, v1alpha3",
    );
    check(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: x}\nspec: {mtls: {mode: STRIKT}}",
        "spec.mtls.mode: unknown variant `STRIKT`, expected one of",
    );
    check(
        "apiVersion: v1\nkind: Service\nmetadata: {name: x, labels: {version: 1}}",
        "metadata.labels.version: invalid type: integer `1`, expected a string",
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {contaners: []}",
        "spec",
    );
}

#[test]
fn syntax_errors_have_the_line_of_the_file() {
    let text = format!(
        "# one\n{}---\nkind: [\n---\n{}",
        service("a", "10.0.0.1"),
        service("b", "10.0.0.2")
    );
    let entries = read::read("x.yaml", &text, Format::Yaml);
    let good = entries
        .iter()
        .filter(|entry| matches!(entry, Entry::Good(..)))
        .count();
    assert_eq!(good, 2, "one broken document hides no other");
    let said = broken(&text, Format::Yaml);
    assert_eq!(said.len(), 1);
    assert!(
        said[0].starts_with("Error [IST0106] (dir/x.yaml:9)"),
        "{}",
        said[0]
    );
    assert!(!said[0].contains("at line"), "{}", said[0]);
}

#[test]
fn the_seeds_as_they_were_pasted_without_indentation_are_refused() {
    let pasted = "apiVersion: networking.istio.io/v1alpha3\nkind: VirtualService\nmetadata:\nname: inventory-route\nspec:\nhosts:\n- inventory-service\nhttp:\n- route:\n- destination:\nhost: inventory-service\n";
    assert!(!broken(pasted, Format::Yaml).is_empty());
}

#[test]
fn lists_are_their_items() {
    let list = "apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: a}, spec: {}}
- {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {ports: [{port: x}]}}
";
    check(
        list,
        "(Service default/b dir/x.yaml:1) items[1].spec.ports[0].port: invalid type: string \"x\"",
    );
    let typed =
        "apiVersion: v1\nkind: ServiceList\nmetadata: {}\nitems: [{metadata: {name: a}, spec: {}}]";
    assert!(broken(typed, Format::Yaml).is_empty());
    assert_eq!(read::read("x", typed, Format::Yaml).len(), 1);
}

#[test]
fn json_is_read_too() {
    let json = "{\"apiVersion\": \"v1\", \"kind\": \"Service\", \"metadata\": {\"name\": \"a\"}}\n\n{\"apiVersion\": \"v1\", \"kind\": \"Service\", \"metadata\": {\"name\": 7}}\n{\"apiVersion\"";
    let said = broken(json, Format::Json);
    assert_eq!(said.len(), 2, "{said:#?}");
    assert!(
        said[0].contains("(dir/x.yaml:3) metadata.name"),
        "{}",
        said[0]
    );
    assert!(
        said[1].contains("(dir/x.yaml:4) EOF while parsing"),
        "{}",
        said[1]
    );
    assert_eq!(read::read("x", json, Format::Json).len(), 3);
}

#[test]
fn anchors_and_merge_keys_are_resolved() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a, labels: &l {x: y}}\nspec:\n  selector:\n    <<: *l\n    z: w\n";
    assert!(
        broken(text, Format::Yaml).is_empty(),
        "{:#?}",
        broken(text, Format::Yaml)
    );
}

#[test]
fn kinds_without_bearing_are_noted_and_policies_that_are_not_enforced_are_errors() {
    let deployment =
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {anything: 1}";
    check(
        deployment,
        "Info [MESH0004] (Deployment x dir/x.yaml:1) this kind has no bearing",
    );
    let inert = |api: &str, kind: &str| {
        format!("---\napiVersion: {api}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {{any: 1}}\n")
    };
    let text = inert("rbac.istio.io/v1alpha1", "ServiceRole")
        + &inert("networking.istio.io/v1", "EnvoyFilter")
        + &inert("gateway.networking.k8s.io/v1", "UDPRoute")
        + "---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: x}\n"
        + &pod("web", "10.1.0.1", "");
    let mesh = Mesh::new(&text);
    mesh.check_problems(&[
        "Error [MESH0003] (ServiceRole default/x test.yaml:2) not enforced yet: what it forbids is allowed",
        "Warning [MESH0003] (EnvoyFilter default/x test.yaml:7) not supported: ",
        "Warning [MESH0003] (UDPRoute default/x test.yaml:12) not supported: ",
    ]);
}

#[test]
fn an_empty_configuration_is_published_once() {
    let mut mesh = Mesh::new("");
    assert_eq!(mesh.snapshot().generation, 1);
    mesh.apply("");
    assert_eq!(mesh.snapshot().generation, 1);
}
