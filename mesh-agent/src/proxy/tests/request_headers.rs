// SPDX-License-Identifier: Apache-2.0

//! What requests are given that they did not bring: ids, traces, and what Envoy says.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};
use http_body_util::Empty;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{io::AsyncWriteExt, sync::mpsc};

use super::mesh::{Mesh, cluster, connect, nobody, read_answer, read_head, rule, workload};
use crate::{
    model::{
        Backend, HeaderEdit, HeaderEdits, InboundPolicy, PathEdit, Protocol, UrlRewrite, Workload,
        authorization::{
            Action, Attached, Authorization, Clause, Operation, Pattern, Policy, Rule,
        },
    },
    proxy::{Http1Engine, RequestHeaders},
};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Heads of requests, one by one.
type Heads = mpsc::UnboundedReceiver<String>;

/// An application that tells the heads of its requests, and answers 200.
async fn told(mesh: &Mesh) -> (std::net::SocketAddr, Heads) {
    let (told, heads) = mpsc::unbounded_channel();
    let app = mesh
        .app(move |mut stream| {
            let told = told.clone();
            async move {
                while let Some(head) = read_head(&mut stream).await {
                    told.send(head).ok();
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    stream.write_all(answer).await.expect("room");
                }
            }
        })
        .await;
    (app, heads)
}

/// The values of a field in a head.
fn values(head: &str, name: &str) -> Vec<String> {
    let lines = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "));
    let lines = lines.filter(|(known, _)| known.eq_ignore_ascii_case(name));
    lines.map(|(_, value)| value.to_owned()).collect()
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.as_bytes()[14] == b'4' && text.matches('-').count() == 4
}

/// What becomes of a request with these lines, served by each engine, as its application sees it.
async fn passed(wanted: RequestHeaders, lines: &str, see: impl Fn(&str)) {
    for engine in [Http1Engine::Fast, Http1Engine::Hyper] {
        let mesh = Mesh::start_adding(engine, wanted);
        let (app, mut heads) = told(&mesh).await;
        let vip = mesh
            .service(1, Protocol::Http, cluster(&[app]), vec![])
            .await;
        let mut client = connect(vip).await;
        let request = format!("GET / HTTP/1.1\r\nHost: shop\r\n{lines}\r\n");
        client.write_all(request.as_bytes()).await.expect("room");
        let (answer, _) = read_answer(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        see(&heads.recv().await.expect("a request"));
    }
}

#[tokio::test]
async fn a_request_gets_an_id_and_a_trace_that_is_not_recorded() {
    passed(RequestHeaders::default(), "", |head| {
        let ids = values(head, "x-request-id");
        assert!(ids.len() == 1 && is_uuid(&ids[0]), "{head}");
        let parents = values(head, "traceparent");
        assert_eq!(parents.len(), 1, "{head}");
        assert!(
            parents[0].starts_with("00-") && parents[0].ends_with("-00"),
            "{head}"
        );
        assert!(!head.contains("x-envoy"), "{head}");
        assert!(!head.contains("x-forwarded"), "{head}");
    })
    .await;
}

#[tokio::test]
async fn what_a_client_brought_goes_on_as_it_was_in_its_case_and_place() {
    let lines =
        format!("X-Request-ID: mine\r\nTraceParent: {PARENT}\r\ntracestate: a=1\r\nx-last: 1\r\n");
    passed(RequestHeaders::default(), &lines, |head| {
        assert_eq!(
            *head,
            format!("GET / HTTP/1.1\r\nHost: shop\r\n{lines}\r\n")
        );
    })
    .await;
}

#[tokio::test]
async fn several_ids_go_on_as_they_came_and_an_empty_one_is_replaced() {
    passed(
        RequestHeaders::default(),
        "x-request-id: a\r\nx-request-id: b\r\n",
        |head| {
            assert_eq!(values(head, "x-request-id"), ["a", "b"]);
        },
    )
    .await;
    passed(RequestHeaders::default(), "X-Request-Id:\r\n", |head| {
        let ids = values(head, "x-request-id");
        assert!(ids.len() == 1 && is_uuid(&ids[0]), "{head}");
    })
    .await;
}

#[tokio::test]
async fn a_broken_trace_is_begun_anew_without_its_state_and_another_kind_of_trace_is_let_be() {
    let broken = format!("traceparent: {PARENT}\r\nTraceparent: {PARENT}\r\nTraceState: a=1\r\n");
    passed(RequestHeaders::default(), &broken, |head| {
        let parents = values(head, "traceparent");
        assert!(parents.len() == 1 && parents[0] != PARENT, "{head}");
        assert!(values(head, "tracestate").is_empty(), "{head}");
    })
    .await;
    passed(
        RequestHeaders::default(),
        "B3: 80f198ee56343ba8-05e3ac9a4f6e3b90-1\r\n",
        |head| {
            assert!(values(head, "traceparent").is_empty(), "{head}");
            assert!(
                head.contains("B3: 80f198ee56343ba8-05e3ac9a4f6e3b90-1\r\n"),
                "{head}"
            );
        },
    )
    .await;
}

#[tokio::test]
async fn no_connection_option_takes_an_id_away() {
    let lines = "Connection: x-request-id, traceparent\r\nx-request-id: mine\r\n";
    passed(RequestHeaders::default(), lines, |head| {
        assert_eq!(values(head, "x-request-id"), ["mine"], "{head}");
        assert_eq!(values(head, "traceparent").len(), 1, "{head}");
    })
    .await;
}

#[tokio::test]
async fn less_is_added_where_less_is_wanted() {
    passed(RequestHeaders::Id, "", |head| {
        assert_eq!(values(head, "x-request-id").len(), 1, "{head}");
        assert!(values(head, "traceparent").is_empty(), "{head}");
    })
    .await;
    passed(RequestHeaders::None, "", |head| {
        assert_eq!(head, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
    })
    .await;
}

#[tokio::test]
async fn what_a_route_sets_comes_after_what_is_added() {
    let set = HeaderEdit::Set(
        HeaderName::from_static("x-request-id"),
        "of the route".parse().expect("a value"),
    );
    for engine in [Http1Engine::Fast, Http1Engine::Hyper] {
        let mesh = Mesh::start_adding(engine, RequestHeaders::default());
        let (app, mut heads) = told(&mesh).await;
        let edits = HeaderEdits {
            request: vec![set.clone()],
            response: Vec::new(),
        };
        let backend = Backend::Cluster {
            cluster: cluster(&[app]),
            edits: Some(Arc::new(edits)),
            rewrite: None,
            treatment: None,
        };
        let rules = vec![rule(vec![(1, backend)], None)];
        let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
        let mut client = connect(vip).await;
        super::mesh::get(&mut client, "/").await;
        let head = heads.recv().await.expect("a request");
        assert_eq!(values(&head, "x-request-id"), ["of the route"]);
    }
}

/// The fields of one HTTP/2 request to a Service of `app`'s as `app` sees them, and those of its answer.
async fn http2(wanted: RequestHeaders, headers: &[(&str, &str)]) -> (HeaderMap, HeaderMap) {
    let mesh = Mesh::start_adding(Http1Engine::default(), wanted);
    let seen = Arc::<Mutex<HeaderMap>>::default();
    let told = Arc::clone(&seen);
    let app = mesh
        .app(move |stream| {
            let told = Arc::clone(&told);
            async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    *told.lock().expect("no panic") = request.headers().clone();
                    std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
                });
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .ok();
            }
        })
        .await;
    let vip = mesh
        .service(1, Protocol::Grpc, cluster(&[app]), vec![])
        .await;
    let stream = TokioIo::new(connect(vip).await);
    let opened = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await;
    let (mut sender, connection) = opened.expect("HTTP/2");
    mesh.tasks.spawn("client", async move {
        connection.await.ok();
    });
    let mut request = Request::post("http://shop/shop.Cart/Get");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    let seen = seen.lock().expect("no panic").clone();
    (seen, answer.headers().clone())
}

#[tokio::test]
async fn grpc_gets_an_id_and_a_trace_too_and_keeps_its_own() {
    let grpc = ("content-type", "application/grpc");
    let (seen, _) = http2(RequestHeaders::default(), &[grpc]).await;
    assert!(
        is_uuid(seen["x-request-id"].to_str().expect("text")),
        "{seen:?}"
    );
    assert_eq!(seen["traceparent"].len(), 55, "{seen:?}");
    let own = [grpc, ("x-request-id", "mine"), ("traceparent", PARENT)];
    let (seen, _) = http2(RequestHeaders::default(), &own).await;
    assert_eq!(seen["x-request-id"], "mine");
    assert_eq!(seen["traceparent"], PARENT);
    let (seen, answer) = http2(RequestHeaders::Envoy, &[grpc]).await;
    assert_eq!(seen["x-envoy-attempt-count"], "1");
    assert_eq!(seen["x-forwarded-proto"], "http");
    assert!(
        answer.contains_key("x-envoy-upstream-service-time"),
        "{answer:?}"
    );
}

/// A policy that looks at requests.
fn allowing_gets() -> Authorization {
    let operation = Operation {
        methods: Clause {
            any: vec![Pattern::new("GET")],
            none: Vec::new(),
        },
        ..Operation::default()
    };
    let rule = Rule {
        operations: vec![operation],
        ..Rule::default()
    };
    let policy = Policy::new("default/get", Action::Allow, false, vec![rule]);
    Authorization::new(vec![Attached {
        policy: Arc::new(policy),
        ports: None,
        provider: None,
    }])
}

#[tokio::test]
async fn at_the_pod_a_request_is_for_nothing_is_added() {
    let mesh = Mesh::start_adding(Http1Engine::default(), RequestHeaders::Envoy);
    let (app, mut heads) = told(&mesh).await;
    // Requests are parsed once more on this side.
    let server = Arc::new(Workload {
        addresses: vec![app.ip()],
        enrolled: true,
        inbound: InboundPolicy {
            authorization: Arc::new(allowing_gets()),
            ..InboundPolicy::default()
        },
        ..workload("server")
    });
    mesh.add(&server).await;
    mesh.capture(&server);
    let cluster = super::mesh::cluster_of(vec![(app, Some(server))]);
    let vip = mesh.service(1, Protocol::Http, cluster, vec![]).await;
    let mut client = connect(vip).await;
    super::mesh::get(&mut client, "/").await;
    let head = heads.recv().await.expect("a request");
    for name in [
        "x-request-id",
        "traceparent",
        "x-envoy-attempt-count",
        "x-forwarded-proto",
    ] {
        assert_eq!(values(&head, name).len(), 1, "{head}");
    }
}

#[tokio::test]
async fn what_envoy_says_is_said_where_it_is_asked_for() {
    for engine in [Http1Engine::Fast, Http1Engine::Hyper] {
        let mesh = Mesh::start_adding(engine, RequestHeaders::Envoy);
        let (app, mut heads) = told(&mesh).await;
        let rewrite = UrlRewrite {
            path: Some(PathEdit::Full("/new".to_owned())),
            ..UrlRewrite::default()
        };
        let backend = Backend::Cluster {
            cluster: cluster(&[app]),
            edits: None,
            rewrite: Some(Arc::new(rewrite)),
            treatment: None,
        };
        let rules = vec![rule(vec![(1, backend)], Some(Duration::from_millis(2_500)))];
        let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
        let mut client = connect(vip).await;
        let request = "GET /old?a=b HTTP/1.1\r\nHost: shop\r\nX-Envoy-Attempt-Count: 7\r\n\
                       x-envoy-attempt-count: 8\r\nX-Envoy-Expected-Rq-Timeout-Ms: 1\r\n\r\n";
        client.write_all(request.as_bytes()).await.expect("room");
        let (answer, _) = read_answer(&mut client).await;
        let head = heads.recv().await.expect("a request");
        for (name, value) in [
            ("x-envoy-attempt-count", "1"),
            ("x-envoy-expected-rq-timeout-ms", "2500"),
            ("x-envoy-original-path", "/old?a=b"),
            ("x-forwarded-proto", "http"),
        ] {
            assert_eq!(values(&head, name), [value], "{head}");
        }
        let took = values(&answer, "x-envoy-upstream-service-time");
        assert!(
            took.len() == 1 && took[0].parse::<u64>().is_ok(),
            "{answer}"
        );
        assert!(head.ends_with("\r\n\r\n"), "{head}");
    }
}

#[tokio::test]
async fn each_try_is_counted_and_its_body_goes_with_it() {
    for engine in [Http1Engine::Fast, Http1Engine::Hyper] {
        let mesh = Mesh::start_adding(engine, RequestHeaders::Envoy);
        let (app, mut heads) = told(&mesh).await;
        let (dead, gone) = (nobody(), nobody());
        let vip = mesh
            .service(1, Protocol::Http, cluster(&[dead, gone, app]), vec![])
            .await;
        let mut counts = std::collections::BTreeSet::new();
        // Which of the three is tried first is drawn.
        while counts.len() < 3 {
            let mut client = connect(vip).await;
            let request = "GET / HTTP/1.1\r\nHost: shop\r\nX-Forwarded-Proto: https\r\nConnection: close\r\n\r\n";
            client.write_all(request.as_bytes()).await.expect("room");
            let (answer, body) = read_answer(&mut client).await;
            assert!(
                answer.starts_with("HTTP/1.1 200") && body == "ok",
                "{answer}"
            );
            let head = heads.recv().await.expect("a request");
            assert_eq!(values(&head, "x-forwarded-proto"), ["https"], "{head}");
            let count = values(&head, "x-envoy-attempt-count");
            assert_eq!(count.len(), 1, "{head}");
            counts.insert(count[0].clone());
        }
        assert_eq!(counts.into_iter().collect::<Vec<_>>(), ["1", "2", "3"]);
    }
}
