// SPDX-License-Identifier: Apache-2.0

//! Endpoints that are told of their client: on each connection, before anything else, and never of
//! another client.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc::{self, UnboundedReceiver},
};

use super::mesh::{Mesh, cluster, connect, get, read_head, read_text};
use crate::model::{Cluster, Endpoint, Protocol, UpstreamUse, proxy_protocol::ProxyProtocol};

/// The endpoint, told of its clients like this.
fn told(address: SocketAddr, version: ProxyProtocol) -> Arc<Cluster> {
    let plain = cluster(&[address]);
    let endpoints = plain.endpoints.iter().map(|endpoint| Endpoint {
        proxy_protocol: Some(version),
        ..endpoint.clone()
    });
    let cluster = Cluster::new(
        plain.service.clone(),
        Arc::clone(&plain.hostname),
        plain.port,
        None,
        None,
        endpoints.collect(),
    );
    Arc::new(cluster.used(Some(Arc::new(UpstreamUse::default()))))
}

/// The line that a connection begins with.
async fn line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await.expect("a header"));
    }
    String::from_utf8(line).expect("text")
}

/// An application that reads a line of text from each connection, tells it, and then answers requests.
async fn app(mesh: &Mesh) -> (SocketAddr, UnboundedReceiver<String>) {
    let (told, hear) = mpsc::unbounded_channel();
    let serve = move |mut stream: TcpStream| {
        let told = told.clone();
        async move {
            told.send(line(&mut stream).await).ok();
            while read_head(&mut stream).await.is_some() {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                stream.write_all(answer).await.ok();
            }
        }
    };
    (mesh.app(serve).await, hear)
}

fn wanted(client: &TcpStream, to: SocketAddr) -> String {
    let from = client.local_addr().expect("connected");
    let (source, destination) = (from.ip(), to.ip());
    format!(
        "PROXY TCP4 {source} {destination} {} {}\r\n",
        from.port(),
        to.port()
    )
}

#[tokio::test]
async fn bytes_begin_with_the_client() {
    let mesh = Mesh::start();
    let address = mesh
        .app(|mut stream| async move {
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.ok();
        })
        .await;
    let cluster = told(address, ProxyProtocol::V1);
    let vip = mesh.service(1, Protocol::Tcp, cluster, vec![]).await;
    let mut client = connect(vip).await;
    client.write_all(b"hello").await.expect("room");
    let want = format!("{}hello", wanted(&client, vip));
    assert_eq!(read_text(&mut client, want.len()).await, want);

    let cluster = told(address, ProxyProtocol::V2);
    let vip = mesh.service(2, Protocol::Tcp, cluster, vec![]).await;
    let mut client = connect(vip).await;
    client.write_all(b"hello").await.expect("room");
    let local = client.local_addr().expect("connected");
    let mut want = ProxyProtocol::V2.header(local, vip);
    want.extend(b"hello");
    let mut heard = vec![0; want.len()];
    client.read_exact(&mut heard).await.expect("all of it");
    assert_eq!(heard, want);
}

#[tokio::test]
async fn requests_of_one_client_are_never_sent_as_anothers() {
    let mesh = Mesh::start();
    let (address, mut heard) = app(&mesh).await;
    let cluster = told(address, ProxyProtocol::V1);
    let vip = mesh.service(1, Protocol::Http, cluster, vec![]).await;
    let (mut one, mut two) = (connect(vip).await, connect(vip).await);
    for _ in 0..3 {
        assert_eq!(get(&mut one, "/").await.1, "ok");
        assert_eq!(get(&mut two, "/").await.1, "ok");
    }
    let mut all = [heard.recv().await, heard.recv().await].map(Option::unwrap);
    let mut want = [wanted(&one, vip), wanted(&two, vip)];
    all.sort();
    want.sort();
    assert_eq!(all, want);
    assert!(heard.is_empty(), "a connection for each client, no more");
}
