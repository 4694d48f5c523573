// SPDX-License-Identifier: Apache-2.0

//! What a client does, and how it reads what comes back.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

/// Connects as the captured pod's application does.
pub(in super::super) async fn connect(to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.connect(to).await.expect("the proxy accepts")
}

/// The error that ends a connection to `to` on which nothing is said; the reset may come before the
/// client knows that it is connected.
pub(in super::super) async fn ending(to: SocketAddr) -> std::io::Error {
    let socket = TcpSocket::new_v4().expect("a socket");
    match socket.connect(to).await {
        Ok(mut stream) => stream.read_u8().await.expect_err("no byte comes"),
        Err(error) => error,
    }
}

/// Reads until an empty line; `None` at the end of the stream.
pub(in super::super) async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_end) => return None,
        }
    }
    Some(String::from_utf8(head).expect("heads are ASCII here"))
}

/// Reads exactly `count` bytes as text.
pub(in super::super) async fn read_text(stream: &mut TcpStream, count: usize) -> String {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).await.expect("enough bytes");
    String::from_utf8(bytes).expect("text")
}

/// Reads a head and the body that its `content-length` announces.
pub(in super::super) async fn read_answer(stream: &mut TcpStream) -> (String, String) {
    let head = read_head(stream).await.expect("an answer");
    let length = head
        .to_ascii_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
        .unwrap_or(0);
    let body = read_text(stream, length).await;
    (head, body)
}

/// Sends a GET and reads the answer.
pub(in super::super) async fn get(stream: &mut TcpStream, path: &str) -> (String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("the proxy reads");
    read_answer(stream).await
}
