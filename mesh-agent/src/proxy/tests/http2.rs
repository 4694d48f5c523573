// SPDX-License-Identifier: Apache-2.0

//! Requests over HTTP/2 with prior knowledge, gRPC among them.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::SendRequest,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc;

use super::mesh::{Mesh, cluster, connect, nobody, rule, to};
use crate::model::Protocol;

type AnyBody = http_body_util::combinators::BoxBody<Bytes, hyper::Error>;

/// An application that sends every body back, then the trailer `x-sum`; counts connections.
async fn echo(mesh: &Mesh, opened: Arc<AtomicUsize>) -> SocketAddr {
    mesh.app(move |stream| {
        opened.fetch_add(1, Ordering::Relaxed);
        async move {
            let service = service_fn(|request: Request<Incoming>| async move {
                assert_eq!(request.version(), Version::HTTP_2);
                let body = request.into_body().with_trailers(async {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("x-sum", "1".parse().expect("a value"));
                    Some(Ok(trailers))
                });
                Ok::<_, Infallible>(Response::new(body))
            });
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        }
    })
    .await
}

async fn open(mesh: &Mesh, vip: SocketAddr) -> SendRequest<AnyBody> {
    let stream = connect(vip).await;
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("http/2");
    mesh.tasks.spawn("client", async move {
        connection.await.ok();
    });
    sender
}

fn post(text: &'static str) -> Request<AnyBody> {
    let body = Full::new(Bytes::from_static(text.as_bytes()));
    Request::post("http://shop/path")
        .body(body.map_err(|never| match never {}).boxed())
        .expect("a request")
}

#[tokio::test]
async fn grpc_that_policy_denies_gets_its_status_in_grpcs_form() {
    use crate::model::{
        InboundPolicy, Workload,
        authorization::{
            Action, Attached, Authorization, Clause, Operation, PathPattern, Policy, Rule,
        },
    };
    let mesh = Mesh::start();
    let app = echo(&mesh, Arc::default()).await;
    let operation = Operation {
        paths: Clause {
            any: vec![PathPattern::new("/shop.Cart/Get").expect("no braces")],
            none: Vec::new(),
        },
        ..Operation::default()
    };
    let rule = Rule {
        operations: vec![operation],
        ..Rule::default()
    };
    let policy = Policy::new("default/get", Action::Allow, false, vec![rule]);
    let attached = Attached {
        policy: Arc::new(policy),
        ports: None,
        provider: None,
    };
    let server = Arc::new(Workload {
        addresses: vec![app.ip()],
        enrolled: true,
        inbound: InboundPolicy {
            authorization: Arc::new(Authorization::new(vec![attached])),
            ..InboundPolicy::default()
        },
        ..super::mesh::workload("server")
    });
    mesh.add(&server).await;
    mesh.capture(&server);
    let cluster = super::mesh::cluster_of(vec![(app, Some(server))]);
    let vip = mesh.service(1, Protocol::Grpc, cluster, vec![]).await;
    let mut sender = open(&mesh, vip).await;
    for (path, status) in [("Get", None), ("Put", Some("7"))] {
        let mut request = post("hello");
        *request.uri_mut() = format!("http://shop/shop.Cart/{path}")
            .parse()
            .expect("a URI");
        let grpc = "application/grpc".parse().expect("a value");
        request.headers_mut().insert("content-type", grpc);
        let response = sender.send_request(request).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        let said = response.headers().get("grpc-status");
        assert_eq!(said.map(|it| it.to_str().expect("text")), status, "{path}");
        let body = response.into_body().collect().await.expect("a body");
        assert_eq!(body.trailers().is_some(), status.is_none(), "{path}");
    }
    let request = [
        "istio_requests_total",
        "reporter=\"destination\"",
        "grpc_response_status=\"7\"",
    ];
    mesh.metric(&request).await;
}

/// A request whose body is what is fed.
fn streaming() -> (mpsc::UnboundedSender<Bytes>, Request<AnyBody>) {
    let (feed, fed) = mpsc::unbounded_channel::<Bytes>();
    let frames = futures_util::stream::unfold(fed, |mut fed| async {
        let bytes = fed.recv().await?;
        Some((Ok(Frame::data(bytes)), fed))
    });
    let request = Request::post("http://shop/stream")
        .body(BodyExt::boxed(StreamBody::new(frames)))
        .expect("a request");
    (feed, request)
}

#[tokio::test]
async fn requests_share_one_connection_to_the_endpoint_and_trailers_pass() {
    let mesh = Mesh::start();
    let opened = Arc::new(AtomicUsize::new(0));
    let app = echo(&mesh, Arc::clone(&opened)).await;
    // Declared, and found out.
    for (number, protocol) in [
        (1, Protocol::Http2),
        (2, Protocol::Http),
        (3, Protocol::Sniff),
    ] {
        let vip = mesh
            .service(number, protocol, cluster(&[app]), vec![])
            .await;
        opened.store(0, Ordering::Relaxed);
        let sender = open(&mesh, vip).await;
        let asking: Vec<_> = (0..50)
            .map(|_| {
                let mut sender = sender.clone();
                async move {
                    let response = sender.send_request(post("hello")).await.expect("an answer");
                    assert_eq!(response.status(), StatusCode::OK);
                    response.into_body().collect().await.expect("a body")
                }
            })
            .collect();
        for answer in futures_util::future::join_all(asking).await {
            assert_eq!(answer.trailers().expect("trailers")["x-sum"], "1");
            assert_eq!(answer.to_bytes(), "hello");
        }
        // Where nothing is declared, one more was opened before the client spoke.
        let extra = usize::from(protocol == Protocol::Sniff);
        assert!(opened.load(Ordering::Relaxed) <= 1 + extra, "{protocol:?}");
    }
}

#[tokio::test]
async fn ninety_to_ten_is_exact_over_one_connection() {
    let mesh = Mesh::start();
    let counts = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
    let mut apps = Vec::new();
    for count in &counts {
        let count = Arc::clone(count);
        let app = mesh.app(move |stream| {
            let count = Arc::clone(&count);
            async move {
                let service = service_fn(move |_| {
                    count.fetch_add(1, Ordering::Relaxed);
                    async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::new()))) }
                });
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .ok();
            }
        });
        apps.push(app.await);
    }
    let split = vec![(90, to(cluster(&[apps[0]]))), (10, to(cluster(&[apps[1]])))];
    let vip = mesh
        .service(1, Protocol::Grpc, cluster(&[]), vec![rule(split, None)])
        .await;
    let sender = open(&mesh, vip).await;
    let asking = (0..1000).map(|_| {
        let mut sender = sender.clone();
        async move { sender.send_request(post("")).await.expect("an answer") }
    });
    futures_util::future::join_all(asking).await;
    assert_eq!(
        counts.map(|count| count.load(Ordering::Relaxed)),
        [900, 100]
    );
}

#[tokio::test]
async fn both_directions_of_a_stream_flow_at_once() {
    let mesh = Mesh::start();
    let app = echo(&mesh, Arc::default()).await;
    let vip = mesh
        .service(1, Protocol::Grpc, cluster(&[app]), vec![])
        .await;
    let mut sender = open(&mesh, vip).await;
    let (feed, request) = streaming();
    let mut body = sender
        .send_request(request)
        .await
        .expect("an answer")
        .into_body();
    for text in ["one", "two", "three"] {
        feed.send(text.into()).expect("the request lives");
        let frame = body.frame().await.expect("a frame").expect("no error");
        assert_eq!(frame.into_data().expect("data"), text);
    }
    drop(feed);
    let frame = body.frame().await.expect("a frame").expect("no error");
    assert!(frame.is_trailers());
}

#[tokio::test]
async fn grpc_is_refused_in_its_own_form() {
    let mesh = Mesh::start();
    for (number, endpoints, message) in
        [(1, vec![], "no healthy upstream"), (2, vec![nobody()], "")]
    {
        let vip = mesh
            .service(number, Protocol::Grpc, cluster(&endpoints), vec![])
            .await;
        let mut sender = open(&mesh, vip).await;
        let mut request = post("hello");
        let kind = "application/grpc+proto".parse().expect("a value");
        request.headers_mut().insert("content-type", kind);
        let response = sender.send_request(request).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "14");
        let told = response.headers()["grpc-message"].to_str().expect("ASCII");
        assert!(told.contains(message), "{told}");
    }
    mesh.metric(&[
        "istio_requests_total",
        "grpc_response_status=\"14\"",
        "response_flags=\"UH\"",
    ])
    .await;
}

#[tokio::test]
async fn an_http_1_client_reaches_an_http_2_port() {
    let mesh = Mesh::start();
    let app = echo(&mesh, Arc::default()).await;
    let vip = mesh
        .service(1, Protocol::Http2, cluster(&[app]), vec![])
        .await;
    let (head, _) = super::mesh::get(&mut connect(vip).await, "/").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

#[tokio::test]
async fn a_stream_that_the_endpoint_resets_is_reset_for_the_client() {
    let mesh = Mesh::start();
    let app = mesh
        .app(|stream| async move {
            let service = service_fn(|request: Request<Incoming>| async {
                let failing = futures_util::stream::once(async {
                    request.into_body().collect().await.expect("a body");
                    Err::<Frame<Bytes>, _>(std::io::Error::other("for the test"))
                });
                Ok::<_, Infallible>(Response::new(StreamBody::new(failing)))
            });
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        })
        .await;
    let vip = mesh
        .service(1, Protocol::Http2, cluster(&[app]), vec![])
        .await;
    let mut sender = open(&mesh, vip).await;
    let (feed, request) = streaming();
    let response = sender.send_request(request).await.expect("a head");
    drop(feed);
    response.into_body().collect().await.expect_err("a reset");
    mesh.metric(&["istio_requests_total", "response_flags=\"UC\""])
        .await;
}
