// SPDX-License-Identifier: Apache-2.0

//! What is particular to HTTP/1: chunks, switching, interim answers, old clients, broken answers.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use super::{
    mesh::{cluster, connect, read_answer, read_head, read_text},
    start,
};
use crate::model::Protocol;

#[tokio::test]
async fn chunks_pass_as_they_come_both_ways_and_trailers_follow() {
    let mesh = start();
    let app = mesh
        .app(|mut stream| async move {
            read_head(&mut stream).await.expect("a request");
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n";
            stream.write_all(head.as_bytes()).await.expect("room");
            // Each chunk goes back before the next one comes.
            for _ in 0..3 {
                let chunk = read_text(&mut stream, 6).await;
                stream.write_all(chunk.as_bytes()).await.expect("room");
            }
            assert_eq!(read_text(&mut stream, 5).await, "0\r\n\r\n");
            stream
                .write_all(b"0\r\nX-Sum: 3\r\n\r\n")
                .await
                .expect("room");
        })
        .await;
    let vip = mesh
        .service(1, Protocol::Http, cluster(&[app]), vec![])
        .await;
    let mut client = connect(vip).await;
    let head =
        "POST / HTTP/1.1\r\nHost: shop\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.write_all(head.as_bytes()).await.expect("room");
    let head = read_head(&mut client).await.expect("the head comes first");
    assert!(head.contains("Transfer-Encoding: chunked"), "{head}");
    for letter in ["a", "b", "c"] {
        let chunk = format!("1\r\n{letter}\r\n");
        client.write_all(chunk.as_bytes()).await.expect("room");
        assert_eq!(read_text(&mut client, 6).await, chunk);
    }
    client.write_all(b"0\r\n\r\n").await.expect("room");
    let end = read_text(&mut client, 15).await;
    assert_eq!(end.to_ascii_lowercase(), "0\r\nx-sum: 3\r\n\r\n");
}

#[tokio::test]
async fn a_connection_that_switches_protocols_carries_bytes() {
    let mesh = start();
    let (told, mut hear) = mpsc::unbounded_channel();
    let app = mesh
        .app(move |mut stream| {
            let told = told.clone();
            async move {
                let head = read_head(&mut stream).await.expect("a request");
                told.send(head).expect("the test waits");
                let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                              Connection: Upgrade\r\n\r\nhello";
                stream.write_all(answer.as_bytes()).await.expect("room");
                let mut said = String::new();
                stream
                    .read_to_string(&mut said)
                    .await
                    .expect("an orderly end");
                stream.write_all(said.as_bytes()).await.expect("room");
            }
        })
        .await;
    let vip = mesh
        .service(1, Protocol::Http, cluster(&[app]), vec![])
        .await;
    let mut client = connect(vip).await;
    let request = "GET /chat HTTP/1.1\r\nHost: shop\r\nUpgrade: websocket\r\n\
                   Connection: keep-alive, Upgrade\r\n\r\n";
    client.write_all(request.as_bytes()).await.expect("room");
    let asked = hear.recv().await.expect("the application tells");
    assert!(asked.contains("Upgrade: websocket\r\n"), "{asked}");
    assert!(asked.contains("Connection: Upgrade\r\n"), "{asked}");
    let head = read_head(&mut client).await.expect("an answer");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("Upgrade: websocket\r\n"), "{head}");
    assert_eq!(read_text(&mut client, 5).await, "hello");
    client.write_all(b"and back").await.expect("room");
    client.shutdown().await.expect("connected");
    let mut said = String::new();
    client
        .read_to_string(&mut said)
        .await
        .expect("an orderly end");
    assert_eq!(said, "and back");
    mesh.metric(&["istio_requests_total", "response_code=\"101\""])
        .await;
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let mesh = start();
    let app = mesh.http_app("no").await;
    let vip = mesh
        .service(1, Protocol::Http, cluster(&[app]), vec![])
        .await;
    let mut client = connect(vip).await;
    for _ in 0..3 {
        let request = "GET /chat HTTP/1.1\r\nHost: shop\r\nUpgrade: websocket\r\n\
                       Connection: Upgrade\r\n\r\n";
        client.write_all(request.as_bytes()).await.expect("room");
        let (head, body) = read_answer(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 200 ") && body == "no", "{head}");
    }
}

#[tokio::test]
async fn a_client_that_expects_100_gets_the_endpoints_word() {
    let mesh = start();
    let app = mesh
        .app(|mut stream| async move {
            while let Some(head) = read_head(&mut stream).await {
                if head.starts_with("PUT /no") {
                    let answer = b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n";
                    stream.write_all(answer).await.expect("room");
                    return;
                }
                stream
                    .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
                    .await
                    .expect("room");
                let body = read_text(&mut stream, 4).await;
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.expect("room");
            }
        })
        .await;
    let vip = mesh
        .service(1, Protocol::Http, cluster(&[app]), vec![])
        .await;
    let request = |path| {
        format!(
            "PUT {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )
    };
    let mut client = connect(vip).await;
    client
        .write_all(request("/yes").as_bytes())
        .await
        .expect("room");
    let head = read_head(&mut client).await.expect("an interim answer");
    assert!(head.starts_with("HTTP/1.1 100 "), "{head}");
    client.write_all(b"body").await.expect("room");
    let (_, body) = read_answer(&mut client).await;
    assert_eq!(body, "body");
    client
        .write_all(request("/no").as_bytes())
        .await
        .expect("room");
    let head = read_head(&mut client).await.expect("an answer");
    assert!(head.starts_with("HTTP/1.1 417 "), "{head}");
}

#[tokio::test]
async fn an_http_1_0_client_is_served_until_the_end_of_its_connection() {
    let mesh = start();
    let app = mesh
        .app(|mut stream| async move {
            let head = read_head(&mut stream).await.expect("a request");
            assert!(!head.contains("chunked"), "{head}");
            let answer =
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
            stream.write_all(answer).await.expect("room");
        })
        .await;
    let vip = mesh
        .service(1, Protocol::Http, cluster(&[app]), vec![])
        .await;
    let mut client = connect(vip).await;
    client
        .write_all(b"GET / HTTP/1.0\r\n\r\n")
        .await
        .expect("room");
    let mut answer = String::new();
    client
        .read_to_string(&mut answer)
        .await
        .expect("an orderly end");
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
}

#[tokio::test]
async fn a_head_request_keeps_its_content_length_and_has_no_body() {
    let mesh = start();
    let app = mesh
        .app(|mut stream| async move {
            while let Some(head) = read_head(&mut stream).await {
                let answer = if head.starts_with("HEAD") {
                    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
                } else {
                    "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: a\r\n\r\n"
                };
                stream.write_all(answer.as_bytes()).await.expect("room");
            }
        })
        .await;
    let vip = mesh
        .service(1, Protocol::Http, cluster(&[app]), vec![])
        .await;
    let mut client = connect(vip).await;
    for method in ["HEAD", "GET", "HEAD"] {
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.write_all(request.as_bytes()).await.expect("room");
        let head = read_head(&mut client).await.expect("an answer");
        let length = head.contains("Content-Length: 5\r\n");
        // RFC 9110 leaves it open whether a 304 has one; hyper leaves it out.
        assert_eq!(length, method == "HEAD", "{head}");
    }
    mesh.metric(&["istio_requests_total", "response_code=\"200\"", " 2"])
        .await;
}

#[tokio::test]
async fn an_answer_cut_short_is_never_taken_for_whole() {
    let mesh = start();
    for (number, framing) in [
        (1, "Content-Length: 99\r\n"),
        (2, "Transfer-Encoding: chunked\r\n"),
    ] {
        let app = mesh
            .app(move |mut stream| async move {
                read_head(&mut stream).await.expect("a request");
                let answer = format!("HTTP/1.1 200 OK\r\n{framing}\r\n4\r\npart\r\n");
                stream.write_all(answer.as_bytes()).await.expect("room");
                stream.read_u8().await.expect("the client is done reading");
            })
            .await;
        let vip = mesh
            .service(number, Protocol::Http, cluster(&[app]), vec![])
            .await;
        // The client speaks HTTP/1.0: only a reset tells it that this was not all.
        let mut client = connect(vip).await;
        let request = "POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 1\r\n\r\n";
        client.write_all(request.as_bytes()).await.expect("room");
        let mut rest = Vec::new();
        let read = async {
            while !rest.ends_with(b"part") {
                rest.push(client.read_u8().await?);
            }
            client.write_all(b"x").await?;
            client.read_to_end(&mut rest).await
        };
        let error = read.await.expect_err("a reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    mesh.metric(&["istio_requests_total", "response_flags=\"UC\"", " 2"])
        .await;
}

#[tokio::test]
async fn a_client_that_ends_its_side_still_gets_its_answer_and_the_endpoint_sees_the_end() {
    let mesh = start();
    let app = mesh
        .app(|mut stream| async move {
            let head = read_head(&mut stream).await.expect("a request");
            let mut said = String::new();
            if head.starts_with("POST") {
                said = read_text(&mut stream, 4).await;
            }
            // The end comes behind the request, not instead of it.
            assert_eq!(stream.read(&mut [0]).await.expect("an orderly end"), 0);
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{said:4}");
            stream.write_all(answer.as_bytes()).await.expect("room");
        })
        .await;
    let vip = mesh
        .service(1, Protocol::Http, cluster(&[app]), vec![])
        .await;
    for (request, want) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "    "),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
            "body",
        ),
    ] {
        let mut client = connect(vip).await;
        client.write_all(request.as_bytes()).await.expect("room");
        client.shutdown().await.expect("connected");
        let (_, body) = read_answer(&mut client).await;
        assert_eq!(body, want);
        assert_eq!(client.read(&mut [0]).await.expect("an orderly end"), 0);
    }
}

#[tokio::test]
async fn a_request_cut_short_is_never_taken_for_whole() {
    let mesh = start();
    let (told, mut hear) = mpsc::unbounded_channel();
    let app = mesh
        .app(move |mut stream| {
            let told = told.clone();
            async move {
                read_head(&mut stream).await.expect("a request");
                let mut said = Vec::new();
                let ended = stream.read_to_end(&mut said).await;
                told.send(ended.map_err(|error| error.kind()))
                    .expect("the test waits");
            }
        })
        .await;
    let vip = mesh
        .service(1, Protocol::Http, cluster(&[app]), vec![])
        .await;
    let mut client = connect(vip).await;
    let request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n";
    client.write_all(request.as_bytes()).await.expect("room");
    drop(client);
    let ended = hear.recv().await.expect("the application tells");
    assert_eq!(ended, Err(std::io::ErrorKind::ConnectionReset));
}
