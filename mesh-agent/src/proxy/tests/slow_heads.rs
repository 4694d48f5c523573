// SPDX-License-Identifier: Apache-2.0

//! Clients that begin a head and do not end it: they are ended, and nobody else is.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    frames::{CONTINUATION, HEADERS, SETTINGS, frame, get as fields, hello, read, read_kind},
    mesh::{Mesh, cluster, connect, get, read_answer, read_head},
};
use crate::{model::Protocol, proxy::Http1Engine};

/// What a head may take here: nothing that is waited for depends on how short it is.
const HURRY: Duration = Duration::from_millis(50);

/// Answers every request of a connection once it is whole.
async fn answering(mut stream: TcpStream) {
    while let Some(head) = read_head(&mut stream).await {
        if head.contains("Content-Length: 2") && stream.read_exact(&mut [0; 2]).await.is_err() {
            return;
        }
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

/// A mesh in a hurry and the VIP of a service.
async fn hurried(engine: Http1Engine, protocol: Protocol) -> (Mesh, std::net::SocketAddr) {
    let mesh = Mesh::start_hurried(engine, HURRY);
    let app = mesh.app(answering).await;
    let vip = mesh.service(1, protocol, cluster(&[app]), vec![]).await;
    (mesh, vip)
}

/// Whether the next that a client gets is the end of its patience, and nothing after.
async fn is_too_late(client: &mut TcpStream) {
    let (head, text) = read_answer(client).await;
    assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
    assert!(head.contains("connection: close\r\n"), "{head}");
    assert_eq!(text, "request header timeout");
    assert_eq!(client.read(&mut [0; 1]).await.expect("in order"), 0);
}

#[tokio::test]
async fn a_head_that_does_not_end_is_answered_408() {
    for engine in [Http1Engine::Fast, Http1Engine::Hyper] {
        for protocol in [Protocol::Http, Protocol::Sniff] {
            let (_mesh, vip) = hurried(engine, protocol).await;
            for begun in ["GET / HTTP/1.1\r\nHost: shop\r\n", "GET /"] {
                let mut client = connect(vip).await;
                client.write_all(begun.as_bytes()).await.expect("room");
                is_too_late(&mut client).await;
            }
        }
    }
}

#[tokio::test]
async fn what_may_be_the_begin_of_any_http_is_not_waited_for_for_ever() {
    let (_mesh, vip) = hurried(Http1Engine::Fast, Protocol::Http).await;
    // The last is no plain HTTP, whichever it becomes.
    for begun in ["G", "PRI * HTTP/2.0\r\n", "\r\nGET / HT"] {
        let mut client = connect(vip).await;
        client.write_all(begun.as_bytes()).await.expect("room");
        is_too_late(&mut client).await;
    }
}

#[tokio::test]
async fn bytes_that_drip_give_a_head_no_more_time() {
    for engine in [Http1Engine::Fast, Http1Engine::Hyper] {
        let (_mesh, vip) = hurried(engine, Protocol::Http).await;
        let mut client = connect(vip).await;
        client
            .write_all(b"GET / HTTP/1.1\r\nX: ")
            .await
            .expect("room");
        let (mut read, mut write) = client.split();
        let dripping = async {
            while write.write_all(b"y").await.is_ok() {
                tokio::time::sleep(HURRY / 10).await;
            }
            std::future::pending::<()>().await;
        };
        let mut said = Vec::new();
        // Cancel-safe: the test is over then.
        tokio::select! {
            ended = read.read_to_end(&mut said) => drop(ended),
            () = dripping => unreachable!("it never ends"),
        }
        assert!(said.starts_with(b"HTTP/1.1 408 "), "{said:?}");
    }
}

#[tokio::test]
async fn silence_between_requests_and_slow_bodies_are_none_of_its_business() {
    for engine in [Http1Engine::Fast, Http1Engine::Hyper] {
        let (_mesh, vip) = hurried(engine, Protocol::Http).await;
        let (mut silent, mut slow) = (connect(vip).await, connect(vip).await);
        assert_eq!(get(&mut silent, "/").await.1, "ok");
        let begun = b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\n\r\na";
        slow.write_all(begun).await.expect("room");
        // Others are ended meanwhile, several times.
        for _ in 0..3 {
            let mut late = connect(vip).await;
            late.write_all(b"GET / HTTP/1.1\r\n").await.expect("room");
            is_too_late(&mut late).await;
        }
        // Line ends that nobody needs begin no request.
        silent.write_all(b"\r\n").await.expect("room");
        assert_eq!(get(&mut silent, "/").await.1, "ok");
        slow.write_all(b"b").await.expect("room");
        assert_eq!(read_answer(&mut slow).await.1, "ok");
    }
}

#[tokio::test]
async fn the_head_of_a_later_request_has_its_time_too() {
    for engine in [Http1Engine::Fast, Http1Engine::Hyper] {
        let (_mesh, vip) = hurried(engine, Protocol::Http).await;
        let mut client = connect(vip).await;
        for _ in 0..3 {
            assert_eq!(get(&mut client, "/").await.1, "ok");
        }
        client
            .write_all(b"GET /next HTTP/1.1\r\n")
            .await
            .expect("room");
        is_too_late(&mut client).await;
    }
}

/// A client of HTTP/2 that has one answer. The application knows no HTTP/2, so it is the proxy's own.
async fn served(vip: std::net::SocketAddr) -> TcpStream {
    let mut client = connect(vip).await;
    client.write_all(&hello()).await.expect("room");
    let request = frame(HEADERS, 5, 1, &fields());
    client.write_all(&request).await.expect("room");
    let answer = read_kind(&mut client, HEADERS).await.expect("an answer");
    assert_eq!(answer.stream, 1);
    client
}

#[tokio::test]
async fn a_head_of_http2_that_does_not_end_ends_its_connection() {
    let (_mesh, vip) = hurried(Http1Engine::Fast, Protocol::Http).await;
    let head = frame(HEADERS, 1, 3, &fields());
    let more = frame(CONTINUATION, 0, 3, &[]);
    let begun = [
        head.clone(),
        [&head[..], &more, &more[..5]].concat(),
        head[..4].to_vec(),
        frame(SETTINGS, 0, 0, &[0; 6])[..12].to_vec(),
    ];
    let mut silent = served(vip).await;
    for begun in begun {
        let mut client = served(vip).await;
        client.write_all(&begun).await.expect("room");
        while read(&mut client).await.is_some() {}
    }
    let request = frame(HEADERS, 5, 3, &fields());
    silent.write_all(&request).await.expect("room");
    let answer = read_kind(&mut silent, HEADERS).await.expect("an answer");
    assert_eq!(answer.stream, 3);
}
