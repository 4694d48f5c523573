// SPDX-License-Identifier: Apache-2.0

//! AuthorizationPolicies in force: between pods of one node, so that the policies' part is all there
//! is. Each policy names who or what it denies; the application tells what it saw.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::mesh::{
    Mesh, cluster_of, connect, ending, get, read_answer, read_head, read_text, workload,
};
use crate::model::{
    InboundPolicy, Protocol, Workload,
    authorization::{
        Action, Attached, Authorization, Clause, Operation, PathPattern, Pattern, Policy, Rule,
        Source,
    },
};

const DENIED: &str = "HTTP/1.1 403 ";

/// A policy `default/<action>` of one rule.
fn policy(action: Action, rule: Rule) -> Policy {
    let name = format!("default/{}", action.as_str());
    Policy::new(&name, action, false, vec![rule])
}

/// A rule for clients of a namespace.
fn from(namespace: &str) -> Rule {
    Rule {
        sources: vec![Source {
            namespaces: Clause {
                any: vec![Pattern::new(namespace)],
                none: Vec::new(),
            },
            ..Source::default()
        }],
        ..Rule::default()
    }
}

/// A rule for a method and paths.
fn to(method: &str, path: &str) -> Rule {
    Rule {
        operations: vec![Operation {
            methods: Clause {
                any: vec![Pattern::new(method)],
                none: Vec::new(),
            },
            paths: Clause {
                any: vec![PathPattern::new(path).expect("no braces")],
                none: Vec::new(),
            },
            ..Operation::default()
        }],
        ..Rule::default()
    }
}

/// The pod at the address of `app`, guarded by `policies`.
fn server(app: SocketAddr, policies: Vec<Policy>) -> Arc<Workload> {
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
            ..InboundPolicy::default()
        },
        ..workload("server")
    })
}

/// A Service in front of `app`, whose pod is guarded by `policies`.
async fn guarded(
    mesh: &Mesh,
    app: SocketAddr,
    protocol: Protocol,
    policies: Vec<Policy>,
) -> SocketAddr {
    let server = server(app, policies);
    mesh.add(&server).await;
    mesh.capture(&server);
    let cluster = cluster_of(vec![(app, Some(server))]);
    mesh.service(1, protocol, cluster, vec![]).await
}

/// An application that echoes; counts connections.
async fn echo(mesh: &Mesh) -> (SocketAddr, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let app = mesh.app(move |mut stream: TcpStream| {
        counter.fetch_add(1, Ordering::Relaxed);
        async move {
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.ok();
        }
    });
    (app.await, seen)
}

/// An application that answers every request with its first line; counts requests.
async fn teller(mesh: &Mesh) -> (SocketAddr, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let app = mesh.app(move |mut stream: TcpStream| {
        let counter = Arc::clone(&counter);
        async move {
            while let Some(head) = read_head(&mut stream).await {
                counter.fetch_add(1, Ordering::Relaxed);
                let line = head.lines().next().unwrap_or_default();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-Case: Kept\r\n\r\n{line}",
                    line.len()
                );
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    });
    (app.await, seen)
}

async fn send(stream: &mut TcpStream, method: &str, path: &str) -> (String, String) {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: shop\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("room");
    read_answer(stream).await
}

#[tokio::test]
async fn who_is_denied_is_reset_before_the_application_sees_a_connection() {
    let mesh = Mesh::start();
    let (app, seen) = echo(&mesh).await;
    let deny = policy(Action::Deny, from("default"));
    let vip = guarded(&mesh, app, Protocol::Tcp, vec![deny]).await;
    let error = ending(vip).await;
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(seen.load(Ordering::Relaxed), 0);
    let closed = "istio_tcp_connections_closed_total";
    mesh.metric(&[closed, "reporter=\"destination\"", "\"DENY\"", "} 1"])
        .await;
    let counted = "mesh_agent_authorization_total";
    mesh.metric(&[counted, "policy=\"default/DENY\"", "\"denied\"", "} 1"])
        .await;
}

#[tokio::test]
async fn a_request_of_who_is_denied_is_answered_as_one() {
    let mesh = Mesh::start();
    let (app, seen) = teller(&mesh).await;
    let deny = policy(Action::Deny, from("default"));
    let vip = guarded(&mesh, app, Protocol::Http, vec![deny]).await;
    let mut client = connect(vip).await;
    let (head, body) = get(&mut client, "/").await;
    assert!(head.starts_with(DENIED), "{head}");
    assert_eq!(body, "RBAC: access denied");
    assert_eq!(seen.load(Ordering::Relaxed), 0);
    let source = [
        "istio_requests_total",
        "reporter=\"source\"",
        "\"403\"",
        "\"DENY\"",
    ];
    mesh.metric(&source).await;
}

#[tokio::test]
async fn who_no_policy_allows_is_denied() {
    let mesh = Mesh::start();
    let (app, seen) = echo(&mesh).await;
    let other = policy(Action::Allow, from("other"));
    let vip = guarded(&mesh, app, Protocol::Tcp, vec![other]).await;
    ending(vip).await;
    assert_eq!(seen.load(Ordering::Relaxed), 0);
    let server = server(app, vec![policy(Action::Allow, from("default"))]);
    mesh.replace(&server).await;
    let mut client = connect(vip).await;
    client.write_all(b"hello").await.expect("room");
    assert_eq!(read_text(&mut client, 5).await, "hello");
}

#[tokio::test]
async fn a_live_connection_is_cut_when_policy_changes() {
    let mesh = Mesh::start();
    let (app, _) = echo(&mesh).await;
    let vip = guarded(&mesh, app, Protocol::Tcp, vec![]).await;
    let mut client = connect(vip).await;
    client.write_all(b"hello").await.expect("room");
    assert_eq!(read_text(&mut client, 5).await, "hello");
    // A policy that leaves it alone.
    let other = server(app, vec![policy(Action::Deny, from("other"))]);
    mesh.replace(&other).await;
    client.write_all(b"again").await.expect("room");
    assert_eq!(read_text(&mut client, 5).await, "again");
    let deny = server(app, vec![policy(Action::Deny, from("default"))]);
    mesh.replace(&deny).await;
    let error = client.read_u8().await.expect_err("cut");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let counted = "mesh_agent_authorization_total";
    mesh.metric(&[counted, "policy=\"default/DENY\"", "\"revoked\"", "} 1"])
        .await;
}

#[tokio::test]
async fn each_request_of_a_connection_is_judged_on_its_own() {
    let mesh = Mesh::start();
    let (app, seen) = teller(&mesh).await;
    let allow = policy(Action::Allow, to("GET", "/public/*"));
    let vip = guarded(&mesh, app, Protocol::Http, vec![allow]).await;
    let mut client = connect(vip).await;
    let (head, body) = get(&mut client, "/public/a?b=c").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains("X-Case: Kept"), "{head}");
    assert_eq!(body, "GET /public/a?b=c HTTP/1.1");
    for (method, path) in [
        ("POST", "/public/a"),
        ("GET", "/private"),
        ("GET", "/public/../private"),
        ("GET", "/public/..%2fprivate"),
    ] {
        let (head, body) = send(&mut client, method, path).await;
        assert!(head.starts_with(DENIED), "{method} {path}: {head}");
        assert_eq!(body, "RBAC: access denied");
    }
    let (head, _) = get(&mut client, "/public/b").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(seen.load(Ordering::Relaxed), 2);
    let request = ["istio_requests_total", "reporter=\"destination\""];
    let principal = "source_principal=\"spiffe://cluster.local/ns/default/sa/client\"";
    let denied = ["response_code=\"403\"", "\"DENY\"", principal, "} 4"];
    mesh.metric(&[request, [denied[0], denied[1]], [denied[2], denied[3]]].concat())
        .await;
    let allowed = ["response_code=\"200\"", "mutual_tls", "} 2"];
    mesh.metric(&[&request[..], &allowed].concat()).await;
    let counted = "mesh_agent_authorization_total";
    mesh.metric(&[counted, "policy=\"none\"", "\"denied\"", "} 4"])
        .await;
}

#[tokio::test]
async fn the_next_request_is_judged_by_the_policy_of_its_moment() {
    let mesh = Mesh::start();
    let (app, _) = teller(&mesh).await;
    let allow = policy(Action::Allow, to("GET", "*"));
    let vip = guarded(&mesh, app, Protocol::Http, vec![allow]).await;
    let mut client = connect(vip).await;
    assert!(get(&mut client, "/").await.0.starts_with("HTTP/1.1 200 "));
    let posts = policy(Action::Allow, to("POST", "*"));
    mesh.replace(&server(app, vec![posts])).await;
    assert!(get(&mut client, "/").await.0.starts_with(DENIED));
    // Where no policy looks at requests any more, they pass.
    mesh.replace(&server(app, vec![])).await;
    assert!(get(&mut client, "/").await.0.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn what_is_not_http_is_denied_where_requests_decide() {
    let mesh = Mesh::start();
    let (app, seen) = echo(&mesh).await;
    for (number, rule) in [
        (Action::Allow, to("GET", "*")),
        (Action::Deny, to("POST", "*")),
    ]
    .into_iter()
    .enumerate()
    {
        let (action, rule) = rule;
        let policies = vec![policy(action, rule)];
        let vip = match number {
            0 => guarded(&mesh, app, Protocol::Tcp, policies).await,
            _ => {
                mesh.replace(&server(app, policies)).await;
                SocketAddr::from(([127, 0, 7, 1], mesh.port()))
            }
        };
        let mut client = connect(vip).await;
        client
            .write_all(b"\x16\x03\x01 no request\r\n")
            .await
            .expect("room");
        let error = client.read_u8().await.expect_err("denied");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    assert_eq!(seen.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn an_answer_under_way_is_cut_when_its_client_is_denied() {
    let mesh = Mesh::start();
    let app = mesh
        .app(|mut stream| async move {
            read_head(&mut stream).await.expect("a request");
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegin";
            stream.write_all(head.as_bytes()).await.expect("room");
            stream.read_u8().await.expect_err("cut");
        })
        .await;
    let allow = policy(Action::Allow, to("GET", "*"));
    let vip = guarded(&mesh, app, Protocol::Http, vec![allow.clone()]).await;
    let mut client = connect(vip).await;
    let request = "GET / HTTP/1.1\r\nHost: shop\r\n\r\n";
    client.write_all(request.as_bytes()).await.expect("room");
    read_head(&mut client).await.expect("an answer");
    assert_eq!(read_text(&mut client, 5).await, "begin");
    let deny = policy(Action::Deny, from("default"));
    mesh.replace(&server(app, vec![allow, deny])).await;
    client.read_u8().await.expect_err("the answer is cut");
    let request = [
        "istio_requests_total",
        "reporter=\"destination\"",
        "\"DENY\"",
        "} 1",
    ];
    mesh.metric(&request).await;
}

#[tokio::test]
async fn a_connection_that_switches_protocols_is_judged_as_a_request() {
    let mesh = Mesh::start();
    let app = mesh
        .app(|mut stream| async move {
            read_head(&mut stream).await.expect("a request");
            let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\n\
                          Connection: Upgrade\r\n\r\nhello";
            stream.write_all(answer.as_bytes()).await.expect("room");
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.ok();
        })
        .await;
    let allow = policy(Action::Allow, to("GET", "/chat"));
    let vip = guarded(&mesh, app, Protocol::Http, vec![allow]).await;
    let ask = |path: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
    };
    let mut client = connect(vip).await;
    client
        .write_all(ask("/other").as_bytes())
        .await
        .expect("room");
    assert!(read_answer(&mut client).await.0.starts_with(DENIED));
    let mut client = connect(vip).await;
    client
        .write_all(ask("/chat").as_bytes())
        .await
        .expect("room");
    let head = read_head(&mut client).await.expect("an answer");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    client.write_all(b" there").await.expect("room");
    assert_eq!(read_text(&mut client, 11).await, "hello there");
    client.shutdown().await.expect("connected");
    assert_eq!(client.read(&mut [0]).await.expect("an orderly end"), 0);
}

#[tokio::test]
async fn a_dry_run_is_counted_and_lets_pass() {
    let mesh = Mesh::start();
    let (app, _) = echo(&mesh).await;
    let rules = vec![from("default")];
    let dry = Policy::new("default/try", Action::Deny, true, rules);
    let vip = guarded(&mesh, app, Protocol::Tcp, vec![dry]).await;
    let mut client = connect(vip).await;
    client.write_all(b"hello").await.expect("room");
    assert_eq!(read_text(&mut client, 5).await, "hello");
    let counted = "mesh_agent_authorization_total";
    mesh.metric(&[counted, "policy=\"default/try\"", "\"would_deny\"", "} 1"])
        .await;
}
