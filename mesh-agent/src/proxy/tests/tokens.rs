// SPDX-License-Identifier: Apache-2.0

//! Tokens between pods of one node: what the client is answered, and what the application sees.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::header::AUTHORIZATION;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::mesh::{Mesh, cluster_of, connect, get, read_answer, read_head, read_text, workload};
use crate::{
    identity::token_samples::Issuer,
    model::{
        InboundPolicy, Protocol, Workload,
        authorization::{
            Action, Attached, Authorization, Clause, Condition, Pattern, Policy, Rule, Source,
        },
        token::{
            AttachedRules, Authentication, KeySet, KeySource, Location, Speech, Spoken, TokenPart,
            TokenRule,
        },
    },
};

fn rule(issuer: &Issuer) -> TokenRule {
    let keys = KeySet::parse(issuer.keys().as_bytes()).expect("a key set");
    TokenRule {
        issuer: "i".into(),
        audiences: Vec::new(),
        keys: KeySource::Inline(Arc::new(keys)),
        locations: vec![Location::Header(AUTHORIZATION, "Bearer ".to_owned())],
        payload_header: None,
        claim_headers: vec![("x-sub".parse().expect("a name"), "sub".to_owned())],
        keeps_token: false,
        space_delimited: Arc::default(),
    }
}

/// The pod at the address of `app` that knows tokens by `rules`.
fn server(
    app: SocketAddr,
    rules: Vec<TokenRule>,
    policies: Vec<Policy>,
    spoken: Spoken,
) -> Arc<Workload> {
    let rules = AttachedRules {
        name: "default/tokens".into(),
        rules: rules.into_iter().map(Arc::new).collect(),
        ports: None,
    };
    let attached = policies.into_iter().map(|policy| Attached {
        policy: Arc::new(policy),
        ports: None,
        provider: None,
    });
    Arc::new(Workload {
        addresses: vec![app.ip()],
        enrolled: true,
        inbound: InboundPolicy {
            authorization: Arc::new(Authorization::new(attached.collect())),
            authentication: Arc::new(Authentication::new(vec![rules])),
            spoken,
            ..InboundPolicy::default()
        },
        ..workload("server")
    })
}

async fn guarded(
    mesh: &Mesh,
    app: SocketAddr,
    protocol: Protocol,
    server: Arc<Workload>,
) -> SocketAddr {
    mesh.add(&server).await;
    mesh.capture(&server);
    let cluster = cluster_of(vec![(app, Some(server))]);
    mesh.service(1, protocol, cluster, vec![]).await
}

/// An application that answers every request with its head; counts requests.
async fn teller(mesh: &Mesh) -> (SocketAddr, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let app = mesh.app(move |mut stream: TcpStream| {
        let counter = Arc::clone(&counter);
        async move {
            while let Some(head) = read_head(&mut stream).await {
                counter.fetch_add(1, Ordering::Relaxed);
                let length = head.len();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{head}");
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    });
    (app.await, seen)
}

async fn ask(stream: &mut TcpStream, headers: &str) -> (String, String) {
    let request = format!("GET /a HTTP/1.1\r\nHost: shop\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.expect("room");
    read_answer(stream).await
}

fn claims(subject: &str) -> Value {
    json!({"iss": "i", "sub": subject, "groups": ["staff"]})
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

#[tokio::test]
async fn a_good_token_is_known_a_bad_one_is_answered_and_none_passes() {
    let mesh = Mesh::start();
    let (app, seen) = teller(&mesh).await;
    let issuer = Issuer::new("a");
    let server = server(app, vec![rule(&issuer)], vec![], Spoken::new());
    let vip = guarded(&mesh, app, Protocol::Http, server).await;
    let mut client = connect(vip).await;
    let (head, body) = ask(&mut client, &bearer(&issuer.token(&claims("anna")))).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let body = body.to_ascii_lowercase();
    assert!(body.contains("x-sub: anna\r\n"), "{body}");
    assert!(!body.contains("authorization"), "{body}");
    let (head, body) = ask(&mut client, "X-Sub: root\r\nx_sub: root\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(!body.contains("root"), "{body}");
    let late = json!({"iss": "i", "exp": 1});
    for (token, words) in [
        (issuer.token(&late), "Jwt is expired"),
        (
            Issuer::new("a").token(&claims("anna")),
            "Jwt verification fails",
        ),
        ("a.b".to_owned(), "Jwt is not in the form of"),
    ] {
        let (head, body) = ask(&mut client, &bearer(&token)).await;
        assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
        let challenge = "Bearer realm=\"http://shop/a\", error=\"invalid_token\"";
        assert!(head.contains(challenge), "{head}");
        assert!(body.starts_with(words), "{body}");
    }
    assert_eq!(seen.load(Ordering::Relaxed), 2);
    let refused = ["istio_requests_total", "\"destination\"", "\"401\"", "} 3"];
    mesh.metric(&refused).await;
}

#[tokio::test]
async fn policies_judge_what_tokens_say() {
    let mesh = Mesh::start();
    let (app, seen) = teller(&mesh).await;
    let issuer = Issuer::new("a");
    let pattern = |text: &str| Clause {
        any: vec![Pattern::new(text)],
        none: Vec::new(),
    };
    let staff = Rule {
        sources: vec![Source {
            request_principals: pattern("i/*"),
            ..Source::default()
        }],
        conditions: vec![Condition::Token(
            TokenPart::Claim(vec!["groups".to_owned()]),
            pattern("staff"),
        )],
        ..Rule::default()
    };
    let allow = Policy::new("default/staff", Action::Allow, false, vec![staff]);
    let server = server(app, vec![rule(&issuer)], vec![allow], Spoken::new());
    let vip = guarded(&mesh, app, Protocol::Http, server).await;
    let mut client = connect(vip).await;
    let guest = json!({"iss": "i", "sub": "guest"});
    for (headers, status) in [
        (bearer(&issuer.token(&claims("anna"))), 200),
        (bearer(&issuer.token(&guest)), 403),
        (String::new(), 403),
        (bearer("a.b.c"), 401),
    ] {
        let (head, _) = ask(&mut client, &headers).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    }
    assert_eq!(seen.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_is_no_request_passes_unless_the_port_speaks_http_or_headers_are_given() {
    let mesh = Mesh::start();
    let app = mesh
        .app(|mut stream: TcpStream| async move {
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.ok();
        })
        .await;
    let issuer = Issuer::new("a");
    let plain = || TokenRule {
        claim_headers: Vec::new(),
        ..rule(&issuer)
    };
    let http = Spoken::from([(app.port(), Speech::Http)]);
    let opaque = Spoken::from([(app.port(), Speech::Opaque)]);
    let first = server(app, vec![plain()], vec![], Spoken::new());
    let vip = guarded(&mesh, app, Protocol::Tcp, first).await;
    for (rules, spoken, passes) in [
        (plain(), Spoken::new(), true),
        (plain(), http, false),
        (rule(&issuer), Spoken::new(), false),
        (rule(&issuer), opaque, true),
    ] {
        mesh.replace(&server(app, vec![rules], vec![], spoken))
            .await;
        let mut client = connect(vip).await;
        client.write_all(b"\x16\x03\x01 bytes").await.expect("room");
        if passes {
            assert_eq!(read_text(&mut client, 9).await, "\u{16}\u{3}\u{1} bytes");
        } else {
            client.read_u8().await.expect_err("reset");
        }
    }
}

#[tokio::test]
async fn connections_of_before_the_rules_are_cut() {
    let mesh = Mesh::start();
    let (app, _) = teller(&mesh).await;
    let issuer = Issuer::new("a");
    let none = server(app, vec![], vec![], Spoken::new());
    let vip = guarded(&mesh, app, Protocol::Tcp, none).await;
    let mut client = connect(vip).await;
    assert!(get(&mut client, "/").await.0.starts_with("HTTP/1.1 200 "));
    let rules = server(app, vec![rule(&issuer)], vec![], Spoken::new());
    mesh.replace(&rules).await;
    client.read_u8().await.expect_err("cut");
    let mut client = connect(vip).await;
    let (head, _) = ask(&mut client, &bearer("x")).await;
    assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
}
