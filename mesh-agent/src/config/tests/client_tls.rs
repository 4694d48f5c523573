// SPDX-License-Identifier: Apache-2.0

//! `trafficPolicy.tls`: what is meant for which endpoints, and that nothing is left out in silence.

use std::sync::Arc;

use super::{
    fixture::{Mesh, client_in, pod},
    routes::{destination_rule, web},
};
use crate::model::{ClientTls, Credential, Origination, Roots};

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
        revoked: None,
        credential: None,
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
    assert!(mesh.service("default", "web").ports[0].is_plain(&client_in("default")));
    let mesh = with(false, "tls: {mode: SIMPLE}");
    assert!(!mesh.service("default", "web").ports[0].is_plain(&client_in("default")));
}

#[test]
fn mutual_shows_the_certificate_of_files_or_of_a_secret() {
    let files = Credential::Files {
        namespace: "default".into(),
        certificate: "/c/default/tls.crt".into(),
        key: "/c/default/tls.key".into(),
    };
    check(
        "tls: {mode: MUTUAL, clientCertificate: /c/default/tls.crt, privateKey: /c/default/tls.key, \
         caCertificates: /etc/ca.pem, caCrl: /etc/ca.crl, subjectAltNames: ['spiffe://a/b']}",
        Some(Origination {
            names: vec!["spiffe://a/b".into()],
            roots: Roots::File("/etc/ca.pem".into()),
            revoked: Some("/etc/ca.crl".into()),
            credential: Some(files),
            ..wanted(HOST)
        }),
    );
    for (mode, shown) in [("MUTUAL", true), ("SIMPLE", false)] {
        check(
            &format!("tls: {{mode: {mode}, credentialName: bank, sni: a.b}}"),
            Some(Origination {
                roots: Roots::Secret,
                credential: Some(Credential::Secret {
                    namespace: "default".into(),
                    name: "bank".into(),
                    shown,
                }),
                ..wanted("a.b")
            }),
        );
    }
}

#[test]
fn what_cannot_be_done_refuses_and_says_so() {
    for (tls, field, text) in [
        ("mode: MUTUAL", "tls.clientCertificate", "must be set"),
        (
            "mode: MUTUAL, clientCertificate: /a",
            "tls.privateKey",
            "must be set",
        ),
        (
            "mode: MUTUAL, clientCertificate: /a, privateKey: /b/../c",
            "tls.privateKey",
            "\"/b/../c\" is no absolute path",
        ),
        (
            "mode: MUTUAL, credentialName: bank, privateKey: /b",
            "tls.privateKey",
            "excludes credentialName",
        ),
        (
            "mode: MUTUAL, credentialName: '../configmaps/bank'",
            "tls.credentialName",
            "is no name of a Secret",
        ),
        (
            "mode: SIMPLE, credentialName: 'configmap://bank'",
            "tls.credentialName",
            "not supported: ",
        ),
        (
            "mode: SIMPLE, caCertificates: ca.pem",
            "tls.caCertificates",
            "\"ca.pem\" is no absolute path",
        ),
    ] {
        let mesh = with(true, &format!("tls: {{{tls}}}"));
        assert!(
            matches!(towards(&mesh).as_deref(), Some(ClientTls::Refused(_))),
            "{tls}"
        );
        let problems = mesh.problems();
        let said = |problem: &String| {
            [field, text, "is not connected to (UF)"]
                .iter()
                .all(|part| problem.contains(part))
        };
        assert!(problems.iter().any(said), "no {field} in {problems:#?}");
    }
    let mesh = with(true, "tls: {mode: SIMPLE, privateKey: /a}");
    let problems = mesh.problems().join("\n");
    assert!(
        problems.contains("SIMPLE shows no certificate"),
        "{problems}"
    );
}

#[test]
fn endpoints_of_a_headless_service_get_the_tls_of_its_rule() {
    let headless = "---\napiVersion: v1\nkind: Service\nmetadata: {name: db}\n\
                    spec: {clusterIP: None, selector: {app: db}, ports: [{port: 8080, name: http}]}\n"
        .to_owned()
        + &pod("db-0", "10.1.0.1", "app: db");
    let simple = destination_rule("name: db", "host: db, trafficPolicy: {tls: {mode: SIMPLE}}");
    let mesh = Mesh::new(&(headless.clone() + &simple));
    mesh.check_problems(&[]);
    let to = "10.1.0.1:8080".parse().unwrap();
    let original = |mesh: &Mesh| {
        let port = Arc::clone(&mesh.service("default", "db").ports[0]);
        port.cluster
            .original(to, || None)
            .expect("where it was opened to")
    };
    assert!(original(&mesh).tls.is_some());
    assert!(original(&Mesh::new(&headless)).tls.is_none());
}
