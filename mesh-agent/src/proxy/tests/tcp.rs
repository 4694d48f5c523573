// SPDX-License-Identifier: Apache-2.0

//! Bytes: half-close, reset, who speaks first, endpoints that fail, many at once.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

use super::mesh::{Mesh, cluster, connect, nobody, read_text};
use crate::model::Protocol;

/// Answers, once the client has ended, with what it said, and ends.
async fn answer_at_end(mut stream: TcpStream) {
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.expect("an orderly end");
    stream.write_all(&said).await.expect("the client reads");
}

async fn echo(mut stream: TcpStream) {
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await.ok();
}

#[tokio::test]
async fn a_half_close_reaches_the_other_side_and_the_answer_comes_back() {
    let mesh = Mesh::start();
    let app = mesh.app(answer_at_end).await;
    let vip = mesh
        .service(1, Protocol::Tcp, cluster(&[app]), vec![])
        .await;
    let mut client = connect(vip).await;
    client.write_all(&[7; 300_000]).await.expect("room");
    client.shutdown().await.expect("connected");
    let mut answer = Vec::new();
    client
        .read_to_end(&mut answer)
        .await
        .expect("an orderly end");
    assert_eq!(answer.len(), 300_000);
    drop(client);
    mesh.metric(&["istio_tcp_received_bytes_total", "300000"])
        .await;
}

#[tokio::test]
async fn a_reset_by_the_server_is_a_reset_for_the_client() {
    let mesh = Mesh::start();
    let app = mesh
        .app(|mut stream| async move {
            stream.write_all(b"part").await.expect("room");
            stream.read_u8().await.expect("the client has read it");
            crate::datapath::reset(stream);
        })
        .await;
    let vip = mesh
        .service(1, Protocol::Tcp, cluster(&[app]), vec![])
        .await;
    let mut client = connect(vip).await;
    assert_eq!(read_text(&mut client, 4).await, "part");
    client.write_u8(1).await.expect("room");
    let error = client.read_u8().await.expect_err("the server reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_reset_by_the_client_is_a_reset_for_the_server() {
    let mesh = Mesh::start();
    let (told, mut hear) = mpsc::unbounded_channel();
    let app = mesh
        .app(move |mut stream| {
            let told = told.clone();
            async move {
                stream.write_u8(1).await.expect("room");
                let ended = stream.read_u8().await.map_err(|error| error.kind());
                told.send(ended).expect("the test waits");
            }
        })
        .await;
    let vip = mesh
        .service(1, Protocol::Tcp, cluster(&[app]), vec![])
        .await;
    let mut client = connect(vip).await;
    client.read_u8().await.expect("the server speaks");
    crate::datapath::reset(client);
    assert_eq!(hear.recv().await, Some(Err(io::ErrorKind::ConnectionReset)));
    mesh.metric(&[
        "istio_tcp_connections_closed_total",
        "response_flags=\"DC\"",
    ])
    .await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_not_kept_waiting_where_no_protocol_is_declared() {
    let mesh = Mesh::start();
    let app = mesh
        .app(|mut stream| async move {
            stream.write_all(b"220 ready\r\n").await.expect("room");
            echo(stream).await;
        })
        .await;
    let vip = mesh
        .service(1, Protocol::Sniff, cluster(&[app]), vec![])
        .await;
    let mut client = connect(vip).await;
    assert_eq!(read_text(&mut client, 11).await, "220 ready\r\n");
    client.write_all(b"GET / HTTP/1.1\r\n").await.expect("room");
    assert_eq!(read_text(&mut client, 16).await, "GET / HTTP/1.1\r\n");
}

#[tokio::test]
async fn a_client_of_another_protocol_is_carried_as_bytes_where_none_is_declared() {
    let mesh = Mesh::start();
    let app = mesh.app(echo).await;
    let vip = mesh
        .service(1, Protocol::Sniff, cluster(&[app]), vec![])
        .await;
    let mut client = connect(vip).await;
    for part in ["*1\r\n", "$4\r\nPING\r\n"] {
        client.write_all(part.as_bytes()).await.expect("room");
        assert_eq!(read_text(&mut client, part.len()).await, part);
    }
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_passed_over() {
    let mesh = Mesh::start();
    let app = mesh.app(echo).await;
    let vip = mesh
        .service(
            1,
            Protocol::Tcp,
            cluster(&[nobody(), app, nobody()]),
            vec![],
        )
        .await;
    for _ in 0..10 {
        let mut client = connect(vip).await;
        client.write_all(b"hello").await.expect("room");
        assert_eq!(read_text(&mut client, 5).await, "hello");
    }
}

/// A reset may come before the client has seen that it was connected.
async fn read_or_connect(to: std::net::SocketAddr) -> io::Result<u8> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.connect(to).await?.read_u8().await
}

#[tokio::test]
async fn a_client_is_reset_when_nothing_can_be_reached() {
    let mesh = Mesh::start();
    for (number, endpoints, flag) in [(1, vec![nobody()], "UF"), (2, vec![], "UH")] {
        for protocol in [Protocol::Tcp, Protocol::Sniff] {
            let vip = mesh
                .service(number, protocol, cluster(&endpoints), vec![])
                .await;
            let error = read_or_connect(vip).await.expect_err("nothing is there");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        let flag = format!("response_flags=\"{flag}\"");
        mesh.metric(&["istio_tcp_connections_closed_total", &flag, " 2"])
            .await;
    }
}

#[tokio::test]
async fn a_reader_that_stops_holds_the_writer_back() {
    let mesh = Mesh::start();
    let app = mesh.app(|stream| async move {
        // Never reads, never ends.
        let _stream = stream;
        std::future::pending::<()>().await;
    });
    let app = app.await;
    let vip = mesh
        .service(1, Protocol::Tcp, cluster(&[app]), vec![])
        .await;
    let mut client = connect(vip).await;
    let block = vec![0; 1 << 20];
    let mut sent: usize = 0;
    // What fits into the sockets' buffers and one of ours, but not everything.
    while let Ok(written) =
        tokio::time::timeout(Duration::from_millis(300), client.write(&block)).await
    {
        sent += written.expect("the connection lives");
        assert!(sent < 64 << 20, "nothing holds the writer back");
    }
}

#[tokio::test]
async fn two_thousand_connections_live_at_once() {
    let mesh = Mesh::start();
    let app = mesh.app(echo).await;
    let vip = mesh
        .service(1, Protocol::Tcp, cluster(&[app]), vec![])
        .await;
    let mut clients = Vec::new();
    for _ in 0..2000 {
        let mut client = connect(vip).await;
        client.write_all(b"hello").await.expect("room");
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(read_text(client, 5).await, "hello");
    }
    let view = mesh.proxy.observe();
    assert_eq!(view.pods.values().sum::<usize>(), 2000);
    let counts = view.threads.iter().map(|thread| thread.connections);
    assert_eq!(counts.collect::<Vec<_>>(), [1000, 1000]);
    drop(clients);
    assert_eq!(mesh.proxy.drain(Duration::from_secs(20)).await, 0);
}
