// SPDX-License-Identifier: Apache-2.0

//! `trafficPolicy.tls`: what is meant for which endpoints, and that nothing is left out in silence.

use std::sync::Arc;

use super::{
    fixture::Mesh,
    routes::{destination_rule, web},
};
use crate::model::{ClientTls, Origination, Roots};

/// The mesh of `web`, with a rule of this policy; its namespace in the mesh or not.
fn with(enrolled: bool, policy: &str) -> Mesh {
    let choice = if enrolled { "enabled" } else { "disabled" };
    let namespace = format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: default, labels: {{istio-injection: {choice}}}}}\n"
    );
    let rule = destination_rule(
        "name: tls",
        &format!("host: web.default.svc.cluster.local, trafficPolicy: {{{policy}}}"),
    );
    Mesh::new(
        &(namespace
            + &rule
            + &web().replace(
                "name: web}\nspec: {host: web",
                "name: other}\nspec: {host: other",
            )),
    )
}

/// What the endpoints of `web` have.
fn towards(mesh: &Mesh) -> Option<Arc<ClientTls>> {
    let port = &mesh.service("default", "web").ports[0];
    port.cluster.endpoints[0].tls.clone()
}

fn wanted(name: &str) -> Origination {
    Origination {
        server_name: Some(name.into()),
        names: Vec::new(),
        roots: Roots::System,
        skip_verify: false,
    }
}

const HOST: &str = "web.default.svc.cluster.local";

#[track_caller]
fn check(policy: &str, want: Option<Origination>) {
    for enrolled in [false, true] {
        let mesh = with(enrolled, policy);
        let want = want.clone().map(ClientTls::Originate);
        assert_eq!(towards(&mesh).as_deref(), want.as_ref(), "{policy}");
    }
}

#[test]
fn simple_is_tls_towards_the_application() {
    check("tls: {mode: SIMPLE}", Some(wanted(HOST)));
    check(
        "tls: {mode: SIMPLE, sni: a.b, subjectAltNames: [c.d], caCertificates: /etc/ca.pem, insecureSkipVerify: true}",
        Some(Origination {
            names: vec!["c.d".into()],
            roots: Roots::File("/etc/ca.pem".into()),
            skip_verify: true,
            ..wanted("a.b")
        }),
    );
    check(
        "tls: {mode: SIMPLE, caCertificates: system}",
        Some(wanted(HOST)),
    );
    check("tls: {mode: DISABLE}", None);
    check("tls: {}", None);
}

#[test]
fn a_port_has_its_own_tls_or_none() {
    let of_port = |mode: &str| {
        format!(
            "tls: {{mode: SIMPLE}}, portLevelSettings: [{{port: {{number: 80}}, tls: {{mode: {mode}}}}}]"
        )
    };
    check(&of_port("DISABLE"), None);
    check(&of_port("SIMPLE, sni: a.b"), Some(wanted("a.b")));
}

#[test]
fn istio_mutual_is_the_meshs_own_tls_or_nothing() {
    assert_eq!(towards(&with(true, "tls: {mode: ISTIO_MUTUAL}")), None);
    let outside = with(false, "tls: {mode: ISTIO_MUTUAL}");
    assert!(matches!(
        towards(&outside).as_deref(),
        Some(ClientTls::Refused(_))
    ));
    let service = outside.service("default", "web");
    assert!(service.captured, "or its clients would go on in plaintext");
}

#[test]
fn the_meshs_own_tls_costs_requests_nothing() {
    let mesh = with(true, "tls: {mode: ISTIO_MUTUAL}");
    assert!(mesh.service("default", "web").ports[0].is_plain("default"));
    let mesh = with(false, "tls: {mode: SIMPLE}");
    assert!(!mesh.service("default", "web").ports[0].is_plain("default"));
}

#[test]
fn what_cannot_be_done_refuses_and_says_so() {
    for (tls, field) in [
        (
            "mode: MUTUAL, clientCertificate: /a, privateKey: /b",
            "tls.mode",
        ),
        ("mode: SIMPLE, credentialName: bank", "tls.credentialName"),
        ("mode: SIMPLE, caCrl: /a", "tls.caCrl"),
        (
            "mode: SIMPLE, subjectAltNames: ['spiffe://a/b']",
            "tls.subjectAltNames",
        ),
    ] {
        let mesh = with(true, &format!("tls: {{{tls}}}"));
        assert!(
            matches!(towards(&mesh).as_deref(), Some(ClientTls::Refused(_))),
            "{tls}"
        );
        let problems = mesh.problems();
        let said =
            |text: &String| text.contains(field) && text.contains("is not connected to (UF)");
        assert!(problems.iter().any(said), "no {field} in {problems:#?}");
    }
    let mesh = with(true, "tls: {mode: SIMPLE, caCertificates: ca.pem}");
    let problems = mesh.problems().join("\n");
    assert!(
        problems.contains("\"ca.pem\" is no absolute path"),
        "{problems}"
    );
}

#[test]
fn tls_that_nobody_heeds_is_said() {
    let headless = "---\napiVersion: v1\nkind: Service\nmetadata: {name: db}\n\
                    spec: {clusterIP: None, ports: [{port: 80, name: http}]}\n";
    let simple = destination_rule("name: db", "host: db, trafficPolicy: {tls: {mode: SIMPLE}}");
    let mesh = Mesh::new(&(headless.to_owned() + &simple));
    mesh.check_problems(&[
        "Error [MESH0003] (DestinationRule default/db test.yaml:7) spec.trafficPolicy.tls: the Service is headless, \
         and connections to its pods' own addresses follow no rule: they go on as the client opens them",
    ]);
    let own = destination_rule(
        "name: db",
        "host: db, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}",
    );
    Mesh::new(&(headless.to_owned() + &own)).check_problems(&[]);
}
