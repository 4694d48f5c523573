// SPDX-License-Identifier: Apache-2.0

//! What pods accept, by all kinds of policy.

use super::fixture::{Mesh, pod, pod_in, service};
use crate::model::MtlsMode::{Permissive, Strict};

/// A PeerAuthentication; `place` is metadata, `spec` is flow YAML.
fn peer(place: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{{place}}}\nspec: {{{spec}}}\n"
    )
}

fn legacy(kind: &str, place: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: authentication.istio.io/v1alpha1\nkind: {kind}\nmetadata: {{{place}}}\nspec: {{{spec}}}\n"
    )
}

fn web() -> String {
    service("web", "10.0.0.1") + &pod("web", "10.1.0.1", "app: web")
}

const MESH: &str = "name: default, namespace: istio-system";
const NAMESPACE: &str = "name: default";
const STRICT: &str = "mtls: {mode: STRICT}";
const PERMISSIVE: &str = "mtls: {mode: PERMISSIVE}";
const WORKLOAD: &str = "name: web";
const SELECT: &str = "selector: {matchLabels: {app: web}}";

#[track_caller]
fn check(policies: &[String], port: u16, want: crate::model::MtlsMode) {
    let mesh = Mesh::new(&(policies.concat() + &web()));
    assert_eq!(
        mesh.mode("web", port),
        want,
        "{}\n{:#?}",
        policies.concat(),
        mesh.problems()
    );
}

#[test]
fn without_a_policy_both_are_accepted() {
    check(&[], 8080, Permissive);
}

#[test]
fn the_narrower_peer_authentication_wins() {
    let mesh = || peer(MESH, STRICT);
    check(&[mesh()], 8080, Strict);
    check(&[mesh(), peer(NAMESPACE, PERMISSIVE)], 8080, Permissive);
    check(
        &[mesh(), peer(NAMESPACE, "mtls: {mode: UNSET}")],
        8080,
        Strict,
    );
    check(&[mesh(), peer(NAMESPACE, "mtls: {}")], 8080, Strict);
    check(&[mesh(), peer(NAMESPACE, "")], 8080, Strict);
    check(
        &[mesh(), peer(NAMESPACE, "mtls: {mode: DISABLE}")],
        8080,
        Permissive,
    );
    let workload = peer(WORKLOAD, &format!("{SELECT}, {PERMISSIVE}"));
    check(
        &[mesh(), peer(NAMESPACE, STRICT), workload],
        8080,
        Permissive,
    );
}

#[test]
fn a_port_of_the_workload_has_its_own_mode() {
    let ports = format!(
        "{SELECT}, {STRICT}, portLevelMtls: {{8080: {{mode: PERMISSIVE}}, 9: {{mode: UNSET}}}}"
    );
    check(&[peer(WORKLOAD, &ports)], 8080, Permissive);
    check(&[peer(WORKLOAD, &ports)], 9, Strict);
    check(&[peer(WORKLOAD, &ports)], 80, Strict);
    let quoted = format!("{SELECT}, portLevelMtls: {{\"8080\": {{mode: STRICT}}}}");
    check(&[peer(WORKLOAD, &quoted)], 8080, Strict);
    check(&[peer(WORKLOAD, &quoted)], 80, Permissive);
}

#[test]
fn a_selector_leaves_other_pods_alone() {
    let other = format!("selector: {{matchLabels: {{app: other}}}}, {STRICT}");
    check(&[peer(WORKLOAD, &other)], 8080, Permissive);
    let mesh = Mesh::new(&(peer(WORKLOAD, &other) + &web()));
    mesh.check_problems(&["Warning [IST0127] (PeerAuthentication default/web"]);
}

#[test]
fn a_selector_in_the_root_namespace_has_no_effect() {
    let root = peer(
        "name: web, namespace: istio-system",
        &format!("{SELECT}, {STRICT}"),
    );
    check(std::slice::from_ref(&root), 8080, Permissive);
    Mesh::new(&(root + &web()))
        .check_problems(&["spec.selector: an object with a selector has no effect"]);
}

#[test]
fn modes_of_ports_without_a_selector_are_refused() {
    let ports = "mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: PERMISSIVE}}";
    let mesh = Mesh::new(&(peer(NAMESPACE, ports) + &web()));
    assert_eq!(
        mesh.mode("web", 8080),
        Permissive,
        "the object was never good"
    );
    mesh.check_problems(&[
        "Error [IST0106] (PeerAuthentication default/default test.yaml:2) spec.portLevelMtls",
    ]);
}

#[test]
fn a_policy_that_becomes_broken_stays_as_it_was() {
    let mut mesh = Mesh::new(&(peer(NAMESPACE, STRICT) + &web()));
    let generation = mesh.index.generation();
    mesh.apply(&peer(
        NAMESPACE,
        "mtls: {mode: PERMISSIVE}, portLevelMtls: {80: {mode: STRICT}}",
    ));
    assert_eq!(mesh.mode("web", 8080), Strict);
    assert_eq!(
        mesh.index.generation(),
        generation,
        "nothing changed for readers"
    );
    mesh.check_problems(&["spec.portLevelMtls"]);
    mesh.apply(&peer(NAMESPACE, PERMISSIVE));
    assert_eq!(mesh.mode("web", 8080), Permissive);
    mesh.check_problems(&[]);
}

#[test]
fn the_oldest_of_two_wins_and_the_other_is_reported() {
    let at = |name: &str, time: &str| format!("name: {name}, creationTimestamp: \"{time}\"");
    let old = peer(&at("z", "2020-01-01T00:00:00Z"), STRICT);
    let new = peer(&at("a", "2021-01-01T00:00:00Z"), PERMISSIVE);
    check(&[new.clone(), old.clone()], 8080, Strict);
    Mesh::new(&(new + &old + &web())).check_problems(&[
        "(PeerAuthentication default/a test.yaml:2) PeerAuthentication default/z is older",
    ]);
}

#[test]
fn legacy_mtls_is_strict_however_it_is_written() {
    for peers in [
        "- mtls: {}",
        "- mtls:",
        "- mtls: null",
        // What `kubectl apply` makes of both.
        "- {}",
        "- mtls: {mode: STRICT}",
    ] {
        for kind in ["Policy", "MeshPolicy"] {
            let text = format!(
                "---\napiVersion: authentication.istio.io/v1alpha1\nkind: {kind}\nmetadata: {{name: default}}\nspec:\n  peers:\n  {peers}\n"
            );
            check(&[text], 8080, Strict);
        }
    }
}

#[test]
fn a_legacy_policy_without_peers_lets_plaintext_in() {
    let mesh = || legacy("MeshPolicy", NAMESPACE, "peers: [{mtls: {}}]");
    check(&[mesh(), legacy("Policy", NAMESPACE, "")], 8080, Permissive);
    check(
        &[
            mesh(),
            legacy("Policy", NAMESPACE, "peers: [{mtls: {mode: PERMISSIVE}}]"),
        ],
        8080,
        Permissive,
    );
    check(&[mesh()], 8080, Strict);
}

#[test]
fn a_legacy_target_is_a_service_and_its_ports() {
    let policy = |targets: &str| {
        legacy(
            "Policy",
            "name: web",
            &format!("peers: [{{mtls: {{}}}}], targets: [{targets}]"),
        )
    };
    check(&[policy("{name: web}")], 8080, Strict);
    check(&[policy("{name: web}")], 9, Strict);
    for port in ["{number: 80}", "{name: http}"] {
        check(
            &[policy(&format!("{{name: web, ports: [{port}]}}"))],
            8080,
            Strict,
        );
        check(
            &[policy(&format!("{{name: web, ports: [{port}]}}"))],
            80,
            Permissive,
        );
    }
    let mesh =
        Mesh::new(&(policy("{name: web, ports: [{number: 8080}]}, {name: nobody}") + &web()));
    mesh.check_problems(&[
        "spec.targets[0].ports[0]: the Service web has no such port",
        "spec.targets[1].name: there is no Service default/nobody",
    ]);
}

#[test]
fn peer_authentication_beats_legacy_policy_but_for_the_mesh() {
    let legacy_strict = || legacy("Policy", NAMESPACE, "peers: [{mtls: {}}]");
    check(&[legacy_strict(), peer(MESH, PERMISSIVE)], 8080, Strict);
    check(
        &[legacy_strict(), peer(NAMESPACE, PERMISSIVE)],
        8080,
        Permissive,
    );
    let targeted = legacy(
        "Policy",
        "name: web",
        "peers: [{mtls: {}}], targets: [{name: web, ports: [{number: 80}]}]",
    );
    check(&[targeted, peer(NAMESPACE, PERMISSIVE)], 8080, Permissive);
    let mesh_policy = legacy("MeshPolicy", NAMESPACE, "peers: [{mtls: {}}]");
    check(&[mesh_policy, peer(MESH, PERMISSIVE)], 8080, Permissive);
    let mesh = Mesh::new(&(legacy_strict() + &peer(NAMESPACE, PERMISSIVE) + &web()));
    mesh.check_problems(&[
        "(Policy default/default test.yaml:2) PeerAuthentication default/default wins",
    ]);
}

#[test]
fn legacy_objects_must_be_named_and_aimed_right() {
    for (text, field) in [
        (legacy("MeshPolicy", "name: x", ""), "metadata.name"),
        (
            legacy("Policy", "name: default", "targets: [{name: web}]"),
            "spec.targets",
        ),
        (legacy("Policy", "name: x", ""), "spec.targets"),
    ] {
        Mesh::new(&(text + &web())).check_problems(&[field]);
    }
}

#[test]
fn tokens_that_are_not_checked_are_an_error() {
    let origins = legacy(
        "Policy",
        NAMESPACE,
        "peers: [{mtls: {}}], origins: [{jwt: {issuer: x}}]",
    );
    Mesh::new(&(origins + &web()))
        .check_problems(&["Error [MESH0003] (Policy default/default test.yaml:2) spec.origins"]);
}

#[test]
fn a_policy_of_one_namespace_leaves_others_alone() {
    let elsewhere = pod_in("other", "other", "10.1.0.2", "app: web");
    let mesh = Mesh::new(&(peer(NAMESPACE, STRICT) + &web() + &elsewhere));
    assert_eq!(mesh.mode("other", 80), Permissive);
}
