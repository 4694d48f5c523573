// SPDX-License-Identifier: Apache-2.0

//! CUSTOM policies: what a provider is asked, and what becomes of its answer and of its silence.

mod bodies;
mod compared;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::mesh::{Mesh, cluster, cluster_of, connect, read_answer, read_head, workload};
use crate::model::{
    InboundPolicy, Protocol, ServiceName, Workload,
    authorization::{
        Action, Attached, Authorization, Clause, Operation, PathPattern, Pattern, Policy, Rule,
    },
    provider::{Check, HttpCheck, Provider},
};

fn provider() -> Provider {
    let named = |name: &str| vec![Pattern::new(name)];
    Provider {
        name: "authz".into(),
        service: ServiceName::new("default", "authz"),
        port: 80,
        timeout: Duration::from_secs(10),
        fail_open: false,
        status_on_error: StatusCode::FORBIDDEN,
        check: Check::Http(HttpCheck {
            path_prefix: "/check".to_owned(),
            include: named("x-ext"),
            add: Vec::new(),
            upstream_on_allow: named("x-user"),
            downstream_on_allow: named("x-seen"),
            downstream_on_deny: named("x-why"),
        }),
        body: None,
    }
}

/// The pod at the address of `app`: of what begins with `/guarded` `provider` is asked.
fn server(app: SocketAddr, provider: Option<Provider>) -> Arc<Workload> {
    let rule = Rule {
        operations: vec![Operation {
            paths: Clause {
                any: vec![PathPattern::new("/guarded*").expect("no braces")],
                none: Vec::new(),
            },
            ..Operation::default()
        }],
        ..Rule::default()
    };
    let policy = Policy::new("default/custom", Action::Custom, false, vec![rule]);
    let attached = Attached {
        policy: Arc::new(policy.asking(Some("authz".into()))),
        ports: None,
        provider: provider.map(Arc::new),
    };
    Arc::new(Workload {
        addresses: vec![app.ip()],
        enrolled: true,
        inbound: InboundPolicy {
            authorization: Arc::new(Authorization::new(vec![attached])),
            ..InboundPolicy::default()
        },
        ..workload("server")
    })
}

/// Answers every request with what `answer` says of its head; counts requests.
async fn app(
    mesh: &Mesh,
    answer: impl Fn(&str) -> String + Clone + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let app = mesh.app(move |mut stream: TcpStream| {
        let (counter, answer) = (Arc::clone(&counter), answer.clone());
        async move {
            while let Some(head) = read_head(&mut stream).await {
                counter.fetch_add(1, Ordering::Relaxed);
                if stream.write_all(answer(&head).as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    });
    (app.await, seen)
}

fn ok(headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
}

/// Allows who says `x-ext: good`, and is silent to `x-ext: slow`.
fn judge(head: &str) -> String {
    let lower = head.to_ascii_lowercase();
    if lower.contains("x-ext: slow") {
        return String::new();
    }
    if lower.contains("x-ext: broken") {
        return "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n".to_owned();
    }
    if lower.contains("x-ext: good") && lower.starts_with("get /check/guarded?a=b ") {
        return ok("x-user: anna\r\nx-seen: yes\r\nx-inner: no\r\n", "");
    }
    "HTTP/1.1 401 Who\r\ncontent-length: 3\r\nx-why: you\r\nx-inner: no\r\n\r\nwho".to_owned()
}

async fn ask(stream: &mut TcpStream, path: &str, headers: &str) -> (String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: shop\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.expect("room");
    read_answer(stream).await
}

struct Lab {
    mesh: Mesh,
    app: SocketAddr,
    seen: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
    vip: SocketAddr,
}

async fn lab(provider: Option<Provider>) -> Lab {
    let mesh = Mesh::start();
    let (app_address, seen) = app(&mesh, |head| ok("", head)).await;
    let (authz, asked) = app(&mesh, judge).await;
    mesh.service_named(2, "authz", Protocol::Http, cluster(&[authz]))
        .await;
    let server = server(app_address, provider);
    mesh.add(&server).await;
    mesh.capture(&server);
    let cluster = cluster_of(vec![(app_address, Some(server))]);
    let vip = mesh.service(1, Protocol::Http, cluster, vec![]).await;
    Lab {
        mesh,
        app: app_address,
        seen,
        asked,
        vip,
    }
}

#[tokio::test]
async fn a_provider_decides_about_what_its_policy_matches() {
    let lab = lab(Some(provider())).await;
    let mut client = connect(lab.vip).await;
    let (head, _) = ask(&mut client, "/free", "").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(lab.asked.load(Ordering::Relaxed), 0);
    let good = "x-ext: good\r\nx-user: root\r\n";
    let (head, body) = ask(&mut client, "/guarded?a=b", good).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.to_ascii_lowercase().contains("x-seen: yes"), "{head}");
    let body = body.to_ascii_lowercase();
    assert!(
        body.contains("x-user: anna") && !body.contains("root"),
        "{body}"
    );
    assert!(!body.contains("x-inner"), "{body}");
    let (head, body) = ask(&mut client, "/guarded?a=b", "x-ext: bad\r\n").await;
    assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
    assert!(head.to_ascii_lowercase().contains("x-why: you"), "{head}");
    assert!(!head.to_ascii_lowercase().contains("x-inner"), "{head}");
    assert_eq!(body, "who");
    assert_eq!(lab.asked.load(Ordering::Relaxed), 2);
    assert_eq!(lab.seen.load(Ordering::Relaxed), 2);
    let denied = ["istio_requests_total", "\"destination\"", "\"401\"", "UAEX"];
    lab.mesh.metric(&denied).await;
}

#[tokio::test]
async fn without_an_answer_a_request_does_not_pass() {
    let unavailable = Provider {
        status_on_error: StatusCode::SERVICE_UNAVAILABLE,
        timeout: Duration::from_millis(50),
        ..provider()
    };
    let lab = lab(Some(unavailable)).await;
    for headers in ["x-ext: slow\r\n", "x-ext: broken\r\n"] {
        let mut client = connect(lab.vip).await;
        let (head, body) = ask(&mut client, "/guarded", headers).await;
        assert!(head.starts_with("HTTP/1.1 503 "), "{headers}: {head}");
        assert_eq!(body, "");
    }
    let nowhere = Provider {
        service: ServiceName::new("default", "nobody"),
        ..provider()
    };
    lab.mesh.replace(&server(lab.app, Some(nowhere))).await;
    let mut client = connect(lab.vip).await;
    let (head, _) = ask(&mut client, "/guarded", "").await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert_eq!(lab.seen.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn who_fails_open_lets_pass_what_nobody_answers_for() {
    let open = Provider {
        fail_open: true,
        ..provider()
    };
    let lab = lab(Some(open)).await;
    let mut client = connect(lab.vip).await;
    let (head, _) = ask(&mut client, "/guarded", "x-ext: broken\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let (head, _) = ask(&mut client, "/guarded", "x-ext: bad\r\n").await;
    assert!(head.starts_with("HTTP/1.1 401 "), "a no is a no: {head}");
}

#[tokio::test]
async fn a_policy_without_its_provider_denies_and_bytes_are_denied_anyway() {
    let lab = lab(None).await;
    let mut client = connect(lab.vip).await;
    let (head, body) = ask(&mut client, "/guarded", "x-ext: good\r\n").await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert_eq!(body, "RBAC: access denied");
    lab.mesh.replace(&server(lab.app, Some(provider()))).await;
    let bytes = cluster_of(vec![(lab.app, Some(server(lab.app, Some(provider()))))]);
    let vip = lab.mesh.service(3, Protocol::Tcp, bytes, vec![]).await;
    let mut client = connect(vip).await;
    client.write_all(b"\x16\x03\x01 bytes").await.expect("room");
    client.read_u8().await.expect_err("reset");
    assert_eq!(lab.seen.load(Ordering::Relaxed), 0);
}
