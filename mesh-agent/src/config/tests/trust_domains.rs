// SPDX-License-Identifier: Apache-2.0

//! Other names of the own trust domain, as Istio's mesh-wide configuration says them.

use super::fixture::{Mesh, pod};
use crate::{
    config::{Kind, ObjectKey},
    model::{SpiffeId, Verdict, authorization::Caller},
};

const NAMESPACE: &str = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {istio-injection: enabled}}\n";

fn config(aliases: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    trustDomain: ignored\n    trustDomainAliases: {aliases}\n"
    )
}

/// The pod `web`, which a principal may talk to.
fn web(principal: &str) -> String {
    let policy = format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: web}}\nspec: {{rules: [{{from: [{{source: {{principals: ['{principal}']}}}}]}}]}}\n"
    );
    NAMESPACE.to_owned() + &policy + &pod("web", "10.1.0.1", "app: web")
}

#[track_caller]
fn check(mesh: &Mesh, domain: &str, want: bool) {
    let identity = SpiffeId::new(domain, "default", "client");
    let caller = Caller {
        identity: Some(&identity),
        address: Some([10, 9, 0, 1].into()),
        to: ([10, 1, 0, 1], 8080).into(),
    };
    let web = mesh.workload("web");
    let verdict = web.inbound.authorization.connection(&caller);
    assert_eq!(verdict == Verdict::Allowed, want, "{domain}: {verdict:?}");
}

fn aliases(mesh: &Mesh) -> Vec<String> {
    let snapshot = mesh.snapshot();
    let aliases = snapshot.trust_domain_aliases.iter();
    aliases.map(ToString::to_string).collect()
}

#[test]
fn principals_match_by_all_names_as_soon_as_the_configuration_says_them() {
    let mut mesh = Mesh::new(&web("old.example/ns/default/sa/client"));
    check(&mesh, "cluster.local", false);
    check(&mesh, "old.example", true);
    mesh.apply(&config("[old.example, cluster.local, older.example]"));
    mesh.check_problems(&[]);
    assert_eq!(aliases(&mesh), ["old.example", "older.example"]);
    for domain in ["cluster.local", "old.example", "older.example"] {
        check(&mesh, domain, true);
    }
    check(&mesh, "other.example", false);
    mesh.apply(&web("cluster.local/ns/default/sa/client"));
    check(&mesh, "older.example", true);
    mesh.delete(&ObjectKey {
        kind: Kind::ConfigMap,
        namespace: "istio-system".to_owned(),
        name: "istio".to_owned(),
    });
    assert_eq!(aliases(&mesh), [""; 0]);
    check(&mesh, "cluster.local", true);
    check(&mesh, "older.example", false);
}

#[test]
fn an_alias_that_is_no_trust_domain_is_none_and_the_others_count() {
    let mesh = Mesh::new(&config("['spiffe://a', 'b*', good, '']"));
    mesh.check_problems(&[
        "data.mesh.trustDomainAliases[0]: \"spiffe://a\" is no trust domain",
        "data.mesh.trustDomainAliases[1]: \"b*\" is no trust domain",
        "data.mesh.trustDomainAliases[3]: \"\" is no trust domain",
    ]);
    assert_eq!(aliases(&mesh), ["good"]);
}

#[test]
fn a_text_that_cannot_be_read_takes_no_alias_away() {
    let mut mesh = Mesh::new(&config("[old.example]"));
    mesh.apply(&config("{"));
    assert_eq!(aliases(&mesh), ["old.example"]);
}
