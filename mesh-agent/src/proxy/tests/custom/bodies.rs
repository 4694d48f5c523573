// SPDX-License-Identifier: Apache-2.0

//! Providers that see what a request carries: how much of it, and that all of it goes on as it came.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

use super::{
    super::mesh::{Mesh, cluster, cluster_of, connect, read_answer, read_head},
    provider, server,
};
use crate::{
    grpc::{
        self,
        ext_authz::{CheckRequest, CheckResponse, HttpRequest, RpcStatus},
    },
    model::{
        Protocol,
        provider::{Check, Provider, ShownBody},
    },
};

/// What came to an application: heads in lower case, bodies as they were framed.
pub(super) type Seen = Arc<Mutex<Vec<(String, String)>>>;

struct Lab {
    mesh: Mesh,
    /// What the application got.
    app: Seen,
    /// What the provider was shown over HTTP.
    shown: Seen,
    vip: SocketAddr,
}

/// Reads a request to its end, its framing included.
async fn read_request(stream: &mut TcpStream) -> Option<(String, String)> {
    let head = read_head(stream).await?.to_ascii_lowercase();
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
    let length = field("content-length: ").and_then(|length| length.parse().ok());
    if head.contains("expect: 100-continue") {
        let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
        stream.write_all(go_on).await.ok()?;
    }
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    if head.contains("transfer-encoding: chunked") {
        while !body.ends_with(b"\r\n\r\n") {
            body.push(stream.read_u8().await.ok()?);
        }
    }
    Some((head, String::from_utf8(body).expect("text")))
}

/// Keeps every request, and answers with what `status` says of its body.
pub(super) async fn keeping(mesh: &Mesh, status: fn(&str) -> &'static str) -> (SocketAddr, Seen) {
    let seen = Seen::default();
    let keeper = Arc::clone(&seen);
    let app = mesh.app(move |mut stream: TcpStream| {
        let seen = Arc::clone(&keeper);
        async move {
            while let Some((head, body)) = read_request(&mut stream).await {
                let slow = body.contains("slow") && head.starts_with("post /check");
                let answer = format!("HTTP/1.1 {}\r\ncontent-length: 2\r\n\r\nok", status(&body));
                seen.lock().expect("no panic").push((head, body));
                if slow {
                    // Longer than a client's end is kept from whom it would make give up.
                    tokio::time::sleep(Duration::from_millis(2500)).await;
                }
                stream.write_all(answer.as_bytes()).await.ok();
            }
        }
    });
    (app.await, seen)
}

pub(super) fn judge(body: &str) -> &'static str {
    match body.contains("evil") {
        true => "403 Forbidden",
        false => "200 OK",
    }
}

pub(super) fn seeing(most: usize, partial: bool) -> Provider {
    Provider {
        body: Some(ShownBody {
            most,
            partial,
            as_bytes: false,
        }),
        ..provider()
    }
}

/// A pod about whose requests `provider` is asked, which is at `authz`.
pub(super) async fn guard(
    mesh: &Mesh,
    provider: Provider,
    app: SocketAddr,
    authz: SocketAddr,
) -> SocketAddr {
    let protocol = match provider.check {
        Check::Http(_) => Protocol::Http,
        Check::Grpc => Protocol::Grpc,
    };
    mesh.service_named(2, "authz", protocol, cluster(&[authz]))
        .await;
    let server = server(app, Some(provider));
    mesh.add(&server).await;
    mesh.capture(&server);
    let cluster = cluster_of(vec![(app, Some(server))]);
    mesh.service(1, Protocol::Http, cluster, vec![]).await
}

async fn lab(provider: Provider) -> Lab {
    let mesh = Mesh::start();
    let (app_address, app) = keeping(&mesh, |_body| "200 OK").await;
    let (authz, shown) = keeping(&mesh, judge).await;
    let vip = guard(&mesh, provider, app_address, authz).await;
    Lab {
        mesh,
        app,
        shown,
        vip,
    }
}

pub(super) fn last(seen: &Seen) -> (String, String) {
    let seen = seen.lock().expect("no panic");
    seen.last().expect("there was one").clone()
}

pub(super) fn count(seen: &Seen) -> usize {
    seen.lock().expect("no panic").len()
}

/// Sends a request with these lines and this body as it is framed; gives the answer's status.
async fn post(client: &mut TcpStream, lines: &str, body: &str) -> String {
    let head = format!("POST /guarded HTTP/1.1\r\nHost: shop\r\n{lines}\r\n");
    client.write_all(head.as_bytes()).await.expect("room");
    client.write_all(body.as_bytes()).await.expect("room");
    let (head, _) = read_answer(client).await;
    head[9..12].to_owned()
}

pub(super) fn with_length(body: &str) -> String {
    format!("content-length: {}\r\n", body.len())
}

/// What is told of how much is shown.
pub(super) fn partial(head: &str) -> &str {
    let mut lines = head.lines();
    let told = lines.find_map(|line| line.strip_prefix("x-envoy-auth-partial-body: "));
    told.expect("it is told")
}

#[tokio::test]
async fn a_provider_decides_by_a_body_that_goes_on_as_it_came() {
    let lab = lab(seeing(300_000, false)).await;
    let mut client = connect(lab.vip).await;
    let long: String = (0..50_000)
        .map(|n| format!("{n:05} "))
        .take(49_000)
        .collect();
    for body in ["a", "", "some text", &long] {
        let forged = "x-envoy-auth-partial-body: forged\r\n";
        let lines = with_length(body) + forged;
        assert_eq!(post(&mut client, &lines, body).await, "200");
        let (head, got) = last(&lab.app);
        assert!(head.contains(&with_length(body)), "{head}");
        assert_eq!(got, body);
        let (head, shown) = last(&lab.shown);
        assert!(head.contains(&with_length(body)), "{head}");
        assert_eq!(shown, body);
        match body.is_empty() {
            true => assert!(!head.contains("partial"), "{head}"),
            false => assert_eq!(partial(&head), "false"),
        }
    }
    let before = count(&lab.app);
    let lines = with_length("an evil text");
    assert_eq!(post(&mut client, &lines, "an evil text").await, "403");
    assert_eq!(count(&lab.app), before);
}

#[tokio::test]
async fn chunks_and_trailers_go_on_as_such() {
    let lab = lab(seeing(100, false)).await;
    let mut client = connect(lab.vip).await;
    let chunked = "transfer-encoding: chunked\r\ntrailer: x-sum\r\n";
    let body = "4\r\none \r\n3\r\ntwo\r\n0\r\nx-sum: 7\r\n\r\n";
    assert_eq!(post(&mut client, chunked, body).await, "200");
    assert_eq!(last(&lab.shown).1, "one two");
    let (head, got) = last(&lab.app);
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    assert!(!head.contains("content-length"), "{head}");
    assert!(got.ends_with("0\r\nx-sum: 7\r\n\r\n"), "{got}");
    let chunked = "transfer-encoding: chunked\r\n";
    assert_eq!(post(&mut client, chunked, "0\r\n\r\n").await, "200");
    let (head, got) = last(&lab.app);
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    assert_eq!(got, "0\r\n\r\n");
}

#[tokio::test]
async fn who_must_see_all_sees_no_request_with_more() {
    let lab = lab(seeing(8, false)).await;
    let evil = "4\r\nevil\r\n9\r\n and more\r\n0\r\n\r\n";
    for (lines, body) in [
        (with_length("nine byte"), "nine byte"),
        ("transfer-encoding: chunked\r\n".to_owned(), evil),
    ] {
        let mut client = connect(lab.vip).await;
        assert_eq!(post(&mut client, &lines, body).await, "413");
    }
    assert_eq!((count(&lab.shown), count(&lab.app)), (0, 0));
    let refused = [
        "istio_requests_total",
        "\"destination\"",
        "\"413\"",
        "\"-\"",
    ];
    lab.mesh.metric(&refused).await;
    let mut client = connect(lab.vip).await;
    let lines = with_length("eight by");
    assert_eq!(post(&mut client, &lines, "eight by").await, "200");
}

#[tokio::test]
async fn who_may_see_a_part_sees_the_beginning() {
    let lab = lab(seeing(10, true)).await;
    let mut client = connect(lab.vip).await;
    let long = "0123456789".repeat(40_000);
    for (body, seen, told) in [
        (&*long, "0123456789", "true"),
        ("0123456789", "0123456789", "false"),
        ("short", "short", "false"),
    ] {
        let lines = with_length(body);
        assert_eq!(post(&mut client, &lines, body).await, "200");
        let (head, shown) = last(&lab.shown);
        assert_eq!((&*shown, partial(&head)), (seen, told));
        assert!(last(&lab.app).1 == body, "{} bytes", body.len());
    }
}

#[tokio::test]
async fn who_waits_to_be_told_to_send_its_body_is_told() {
    let lab = lab(seeing(100, false)).await;
    let mut client = connect(lab.vip).await;
    let head =
        "POST /guarded HTTP/1.1\r\nHost: shop\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n";
    client.write_all(head.as_bytes()).await.expect("room");
    let told = read_head(&mut client).await.expect("an answer");
    assert!(told.starts_with("HTTP/1.1 100 "), "{told}");
    assert_eq!(count(&lab.shown), 0);
    client.write_all(b"body").await.expect("room");
    let (head, _) = read_answer(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(last(&lab.shown).1, "body");
    let (head, got) = last(&lab.app);
    assert!(!head.contains("expect"), "{head}");
    assert_eq!(got, "body");
}

#[tokio::test]
async fn a_client_that_breaks_off_is_not_asked_about() {
    let lab = lab(seeing(100, true)).await;
    let mut client = connect(lab.vip).await;
    let head = "POST /guarded HTTP/1.1\r\nHost: shop\r\ncontent-length: 40\r\n\r\nhalf of it";
    client.write_all(head.as_bytes()).await.expect("room");
    drop(client);
    let gone = ["istio_requests_total", "\"destination\"", "\"DC\"", "\"0\""];
    lab.mesh.metric(&gone).await;
    assert_eq!((count(&lab.shown), count(&lab.app)), (0, 0));
}

#[tokio::test]
async fn a_client_that_has_said_all_and_ends_its_side_gets_its_answer() {
    let lab = lab(seeing(100, false)).await;
    let mut client = connect(lab.vip).await;
    let head = "POST /guarded HTTP/1.1\r\nHost: shop\r\ncontent-length: 4\r\n\r\nslow";
    client.write_all(head.as_bytes()).await.expect("room");
    client.shutdown().await.expect("our side ends");
    let (head, _) = read_answer(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(last(&lab.app).1, "slow");
}

/// A provider that speaks gRPC, says no to evil, and keeps what it is told.
async fn grpc_provider(mesh: &Mesh) -> (SocketAddr, Arc<Mutex<Vec<HttpRequest>>>) {
    let told: Arc<Mutex<Vec<HttpRequest>>> = Arc::default();
    let keeper = Arc::clone(&told);
    let app = mesh.app(move |stream| {
        let told = Arc::clone(&keeper);
        async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let told = Arc::clone(&told);
                async move { Ok::<_, Infallible>(answer(request, &told).await) }
            });
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        }
    });
    (app.await, told)
}

async fn answer(
    request: Request<Incoming>,
    told: &Mutex<Vec<HttpRequest>>,
) -> Response<impl hyper::body::Body<Data = Bytes, Error = Infallible> + use<>> {
    let message = request.into_body().collect().await.expect("a message");
    let message = message.to_bytes().slice(5..);
    let asked = CheckRequest::decode(message).expect("a check");
    let asked = asked.attributes.and_then(|it| it.request?.http);
    let asked = asked.expect("about a request");
    let evil = asked.body.contains("evil") || asked.raw_body.windows(4).any(|it| it == b"evil");
    told.lock().expect("no panic").push(asked);
    let answer = CheckResponse {
        status: Some(RpcStatus {
            code: if evil { 7 } else { 0 },
            message: String::new(),
        }),
        ..CheckResponse::default()
    };
    let body = Full::new(grpc::unary_body(&answer)).with_trailers(async {
        let status = http::HeaderName::from_static("grpc-status");
        Some(Ok(HeaderMap::from_iter([(
            status,
            "0".parse().expect("a value"),
        )])))
    });
    Response::new(body)
}

/// What a provider that speaks gRPC is told of a body.
async fn check_grpc(as_bytes: bool, body: &str, want: (&str, &str), status: &str) {
    let mesh = Mesh::start();
    let (app_address, app) = keeping(&mesh, |_body| "200 OK").await;
    let (authz, told) = grpc_provider(&mesh).await;
    let provider = Provider {
        check: Check::Grpc,
        body: Some(ShownBody {
            most: 20,
            partial: true,
            as_bytes,
        }),
        ..provider()
    };
    let vip = guard(&mesh, provider, app_address, authz).await;
    let mut client = connect(vip).await;
    let got = post(&mut client, &with_length(body), body).await;
    assert_eq!(got, status, "{body}");
    let told = told.lock().expect("no panic").pop().expect("it was asked");
    let raw = String::from_utf8(told.raw_body.to_vec()).expect("text");
    assert_eq!((&*told.body, &*raw), want);
    let partial = (body.len() > 20).to_string();
    assert_eq!(told.headers["x-envoy-auth-partial-body"], partial);
    match status {
        "200" => assert_eq!(last(&app).1, body),
        _ => assert_eq!(count(&app), 0),
    }
}

#[tokio::test]
async fn over_grpc_a_body_is_told_as_text_or_as_bytes() {
    check_grpc(false, "fine", ("fine", ""), "200").await;
    check_grpc(true, "fine", ("", "fine"), "200").await;
    check_grpc(false, "this is evil", ("this is evil", ""), "403").await;
    check_grpc(true, "this is evil", ("", "this is evil"), "403").await;
    let late = "twenty bytes of good, then evil";
    check_grpc(false, late, ("twenty bytes of good", ""), "200").await;
}

#[tokio::test]
async fn a_stream_that_does_not_end_goes_on_once_enough_was_shown() {
    let mesh = Mesh::start();
    let app = mesh.app(|stream| async move {
        let service = service_fn(|request: Request<Incoming>| async move {
            Ok::<_, Infallible>(Response::new(request.into_body()))
        });
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await
            .ok();
    });
    let app = app.await;
    let (authz, shown) = keeping(&mesh, judge).await;
    let vip = guard(&mesh, seeing(4, true), app, authz).await;
    let stream = TokioIo::new(connect(vip).await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
            .await
            .expect("http/2");
    mesh.tasks.spawn("client", async move {
        connection.await.ok();
    });
    let (says, mut said) = mpsc::channel::<&'static str>(4);
    let body = StreamBody::new(futures_util::stream::poll_fn(move |context| {
        let next = said.poll_recv(context);
        next.map(|text| text.map(|text| Ok::<_, Infallible>(Frame::data(Bytes::from(text)))))
    }));
    let request = Request::post("http://shop/guarded").body(body);
    says.send("ab").await.expect("room");
    says.send("cd").await.expect("room");
    let answer = sender.send_request(request.expect("a request")).await;
    let mut echo = answer.expect("an answer").into_body();
    assert_eq!(last(&shown).1, "abcd");
    assert_eq!(partial(&last(&shown).0), "true");
    let mut got = String::new();
    says.send("ef").await.expect("room");
    while got.len() < 6 {
        let frame = echo.frame().await.expect("more").expect("whole");
        got.push_str(std::str::from_utf8(frame.data_ref().expect("data")).expect("text"));
    }
    assert_eq!(got, "abcdef");
    drop(says);
    assert!(echo.frame().await.is_none_or(|end| end.is_ok()));
}
