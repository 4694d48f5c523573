// SPDX-License-Identifier: Apache-2.0

//! The HTTP server of the test applications.
//!
//! Knows nothing of who asks but what the socket and the request say.

use std::{convert::Infallible, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Channel, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{rt::TokioIo, server::conn::auto};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{Identity, Seen, habit::Digest};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What all connections of a server share.
pub(super) struct Server {
    identity: Identity,
    seen: Arc<Seen>,
}

impl Server {
    pub(super) fn new(identity: Identity, seen: Arc<Seen>) -> Self {
        Self { identity, seen }
    }
}

#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        drop(tokio::task::spawn_local(task));
    }
}

/// Serves one connection, whatever of HTTP/1.1 and HTTP/2 it speaks.
pub(super) async fn serve(server: Rc<Server>, stream: TcpStream, peer: SocketAddr) {
    // A test that cares for latency must not measure Nagle's algorithm.
    drop(stream.set_nodelay(true));
    let service = service_fn(move |request| {
        let server = Rc::clone(&server);
        async move { Ok::<_, Infallible>(answer(&server, request, peer).await) }
    });
    let builder = auto::Builder::new(LocalExecutor);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    // What a client does to a connection is the test's to judge, at the client.
    drop(connection.await);
}

async fn answer(server: &Server, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
    server
        .seen
        .work
        .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = request.uri().path().to_owned();
    let number = |name: &str| query(&request, name);
    if request
        .headers()
        .get("upgrade")
        .is_some_and(|kind| kind == "echo")
    {
        return upgrade(request);
    }
    match path.as_str() {
        "/stream" => stream(number("chunks"), number("size")),
        "/trailers" => trailers(),
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(number("ms"))).await;
            echo(server, request, peer).await
        }
        "/close" => {
            let mut response = echo(server, request, peer).await;
            response
                .headers_mut()
                .insert("connection", HeaderValue::from_static("close"));
            response
        }
        _ => {
            let code = path
                .strip_prefix("/status/")
                .and_then(|code| code.parse::<u16>().ok());
            let mut response = echo(server, request, peer).await;
            if let Some(Ok(status)) = code.map(StatusCode::from_u16) {
                *response.status_mut() = status;
            }
            response
        }
    }
}

/// All there is to know about a request, as JSON.
async fn echo(server: &Server, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
    let (head, mut body) = request.into_parts();
    let mut digest = Digest::default();
    let mut whole = true;
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(bytes)) => digest.update(&bytes),
            Ok(Err(_trailers)) => {}
            Err(_) => whole = false,
        }
    }
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers: Vec<_> = head
        .headers
        .iter()
        .map(|(key, value)| [key.to_string(), text(value)])
        .collect();
    let authority = head.uri.authority().map(ToString::to_string);
    let report = json!({
        "pod": server.identity.pod,
        "version": server.identity.version,
        "peer": peer.to_string(),
        "protocol": format!("{:?}", head.version),
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map(ToString::to_string),
        "authority": authority,
        "headers": headers,
        "body_bytes": digest.bytes(),
        "body_hash": digest.hash().to_string(),
        "body_whole": whole,
    });
    let mut response = Response::new(full(report.to_string()));
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/json"));
    response
}

/// Accepts an upgrade and echoes bytes.
fn upgrade(request: Request<Incoming>) -> Response<Body> {
    drop(tokio::task::spawn_local(async move {
        let upgraded = hyper::upgrade::on(request)
            .await
            .expect("the server offered an upgrade");
        let mut io = TokioIo::new(upgraded);
        let mut piece = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = io.read(&mut piece).await {
            if io.write_all(&piece[..length]).await.is_err() {
                break;
            }
        }
        drop(io.shutdown().await);
    }));
    let mut response = Response::new(full(String::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response
        .headers_mut()
        .insert("connection", HeaderValue::from_static("upgrade"));
    response
        .headers_mut()
        .insert("upgrade", HeaderValue::from_static("echo"));
    response
}

/// A body of `chunks` frames of `size` bytes; a client that stops reading stops it.
fn stream(chunks: u64, size: u64) -> Response<Body> {
    let piece = Bytes::from(vec![b'x'; usize::try_from(size).expect("a test's size")]);
    let (mut sender, body) = Channel::new(2);
    drop(tokio::task::spawn_local(async move {
        for _ in 0..chunks {
            if sender.send(Frame::data(piece.clone())).await.is_err() {
                break;
            }
        }
    }));
    Response::new(body.boxed_unsync())
}

fn trailers() -> Response<Body> {
    let (mut sender, body) = Channel::new(2);
    let sum = HeaderMap::from_iter([(
        http::HeaderName::from_static("x-sum"),
        HeaderValue::from_static("5"),
    )]);
    for frame in [
        Frame::data(Bytes::from_static(b"hello")),
        Frame::trailers(sum),
    ] {
        assert!(sender.try_send(frame).is_ok(), "there is room for two");
    }
    let mut response = Response::new(body.boxed_unsync());
    response
        .headers_mut()
        .insert("trailer", HeaderValue::from_static("x-sum"));
    response
}

fn full(text: String) -> Body {
    http_body_util::Full::new(Bytes::from(text)).boxed_unsync()
}

fn query(request: &Request<Incoming>, name: &str) -> u64 {
    let pairs = request.uri().query().unwrap_or_default().split('&');
    let found = pairs
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name);
    found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}
