// SPDX-License-Identifier: Apache-2.0

//! Bodies of HTTP/1 on their way: both directions at once, answers that come early or end with
//! their connection, connections that idle.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    mesh::{cluster, connect, get, read_answer, read_head, read_text},
    start,
};
use crate::model::Protocol;

const LARGE: usize = 4 * 1024 * 1024;

#[tokio::test]
async fn a_body_comes_back_while_it_is_still_being_sent() {
    let mesh = start();
    let app = mesh
        .app(|mut stream| async move {
            read_head(&mut stream).await.expect("a request");
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.expect("room");
            let (mut reader, mut writer) = stream.split();
            let mut left = (&mut reader).take(LARGE as u64);
            tokio::io::copy(&mut left, &mut writer)
                .await
                .expect("as much comes as goes");
            stream.read_u8().await.expect_err("nothing more is sent");
        })
        .await;
    let vip = mesh
        .service(1, Protocol::Http, cluster(&[app]), vec![])
        .await;
    let mut client = connect(vip).await;
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n");
    let sent: Vec<u8> = (0..LARGE)
        .map(|at| u8::try_from(at % 251).expect("small"))
        .collect();
    let mut got = Vec::new();
    {
        let (mut reader, mut writer) = client.split();
        let writing = async {
            writer.write_all(head.as_bytes()).await.expect("room");
            writer.write_all(&sent).await.expect("room");
        };
        let reading = async {
            let mut chunk = vec![0; 64 * 1024];
            while got.len() < LARGE {
                let count = reader.read(&mut chunk).await.expect("the answer");
                assert_ne!(count, 0, "the answer has not ended");
                got.extend_from_slice(&chunk[..count]);
                let head = got.windows(4).take(200).position(|end| end == b"\r\n\r\n");
                if let Some(head) = head.filter(|_| got.starts_with(b"HTTP/1.1 200 ")) {
                    got.drain(..head + 4);
                }
            }
        };
        tokio::join!(writing, reading);
    }
    assert!(got == sent, "the body is what was sent");
    mesh.metric(&["istio_request_bytes_sum", &LARGE.to_string()])
        .await;
    mesh.metric(&["istio_response_bytes_sum", &LARGE.to_string()])
        .await;
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_has_ended() {
    let mesh = start();
    let app = mesh
        .app(|mut stream| async move {
            read_head(&mut stream).await.expect("a request");
            let answer = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\
                          Connection: close\r\n\r\nbig";
            stream.write_all(answer.as_bytes()).await.expect("room");
            stream.shutdown().await.expect("connected");
            // Whatever still comes.
            drop(stream.read_to_end(&mut Vec::new()).await);
        })
        .await;
    let vip = mesh
        .service(1, Protocol::Http, cluster(&[app]), vec![])
        .await;
    let mut client = connect(vip).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nsome";
    client.write_all(head.as_bytes()).await.expect("room");
    let (head, body) = read_answer(&mut client).await;
    assert!(
        head.starts_with("HTTP/1.1 413 ") && body == "big",
        "{head}{body}"
    );
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_ends_for_the_client_too() {
    let mesh = start();
    let app = mesh
        .app(|mut stream| async move {
            read_head(&mut stream).await.expect("a request");
            stream
                .write_all(b"HTTP/1.1 200 OK\r\n\r\nall ")
                .await
                .expect("room");
            stream.write_all(b"of it").await.expect("room");
            stream.shutdown().await.expect("connected");
        })
        .await;
    let vip = mesh
        .service(1, Protocol::Http, cluster(&[app]), vec![])
        .await;
    let mut client = connect(vip).await;
    for _ in 0..2 {
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .expect("room");
        let head = read_head(&mut client).await.expect("an answer");
        let head = head.to_ascii_lowercase();
        assert!(
            head.contains("\r\ntransfer-encoding: chunked\r\n"),
            "{head}"
        );
        let mut body = String::new();
        loop {
            let mut size = String::new();
            while !size.ends_with("\r\n") {
                size.push_str(&read_text(&mut client, 1).await);
            }
            let size = usize::from_str_radix(size.trim(), 16).expect("a size");
            body.push_str(&read_text(&mut client, size).await);
            assert_eq!(read_text(&mut client, 2).await, "\r\n");
            if size == 0 {
                break;
            }
        }
        assert_eq!(body, "all of it");
    }
}

#[tokio::test]
async fn a_drain_ends_connections_that_idle() {
    let mesh = start();
    let app = mesh.http_app("ok").await;
    let vip = mesh
        .service(1, Protocol::Http, cluster(&[app]), vec![])
        .await;
    let mut client = connect(vip).await;
    get(&mut client, "/").await;
    let (left, ended) = tokio::join!(mesh.proxy.drain(Duration::from_secs(10)), async {
        let ended = client.read(&mut [0]).await;
        drop(client);
        ended
    });
    assert_eq!((left, ended.expect("an orderly end")), (0, 0));
}

#[tokio::test]
async fn an_agent_that_leaves_says_that_an_answer_was_the_last() {
    let mesh = start();
    let app = mesh.http_app("ok").await;
    let vip = mesh
        .service(1, Protocol::Http, cluster(&[app]), vec![])
        .await;
    let mut client = connect(vip).await;
    get(&mut client, "/").await;
    mesh.proxy.leave();
    let (head, body) = get(&mut client, "/").await;
    let head = head.to_ascii_lowercase();
    assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
    assert_eq!(body, "ok");
    assert_eq!(client.read(&mut [0]).await.expect("an orderly end"), 0);
}
