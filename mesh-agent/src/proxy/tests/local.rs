// SPDX-License-Identifier: Apache-2.0

//! Between pods of one node: no tunnel, and the same records.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::mesh::{Mesh, cluster_of, connect, get, read_text, workload};
use crate::model::{Protocol, Workload};

/// An enrolled pod at the address of `app`. It has no certificate, so no tunnel leads there.
async fn server(mesh: &Mesh, app: SocketAddr) -> Arc<Workload> {
    let server = Arc::new(Workload {
        addresses: vec![app.ip()],
        enrolled: true,
        ..workload("server")
    });
    mesh.add(&server).await;
    server
}

async fn echo(mut stream: TcpStream) {
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await.ok();
    stream.shutdown().await.ok();
}

#[tokio::test]
async fn requests_to_a_pod_of_this_node_need_no_tunnel() {
    let mesh = Mesh::start();
    let app = mesh.http_app("here").await;
    let server = server(&mesh, app).await;
    mesh.capture(&server);
    let cluster = cluster_of(vec![(app, Some(server))]);
    let vip = mesh.service(1, Protocol::Http, cluster, vec![]).await;
    let mut client = connect(vip).await;
    for _ in 0..3 {
        let (head, body) = get(&mut client, "/").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(body, "here");
    }
    let request = [
        "istio_requests_total",
        "connection_security_policy=\"mutual_tls\"",
        "response_code=\"200\"",
    ];
    mesh.metric(&request).await;
    let opened = [
        "istio_tcp_connections_opened_total",
        "reporter=\"destination\"",
        "source_principal=\"spiffe://cluster.local/ns/default/sa/client\"",
        "destination_principal=\"spiffe://cluster.local/ns/default/sa/server\"",
        "} 1",
    ];
    mesh.metric(&opened).await;
}

#[tokio::test]
async fn bytes_to_a_pod_of_this_node_are_counted_for_both() {
    let mesh = Mesh::start();
    let app = mesh.app(echo).await;
    let server = server(&mesh, app).await;
    mesh.capture(&server);
    let cluster = cluster_of(vec![(app, Some(server))]);
    let vip = mesh.service(1, Protocol::Tcp, cluster, vec![]).await;
    let mut client = connect(vip).await;
    client.write_all(b"hello").await.expect("room");
    client.shutdown().await.expect("connected");
    assert_eq!(read_text(&mut client, 5).await, "hello");
    client.read_u8().await.expect_err("an orderly end");
    for reporter in ["reporter=\"source\"", "reporter=\"destination\""] {
        for name in [
            "istio_tcp_received_bytes_total",
            "istio_tcp_sent_bytes_total",
        ] {
            mesh.metric(&[name, reporter, "} 5"]).await;
        }
        let closed = [
            "istio_tcp_connections_closed_total",
            reporter,
            "response_flags=\"-\"",
        ];
        mesh.metric(&closed).await;
    }
}

#[tokio::test]
async fn a_pod_that_was_released_is_not_reached_around_its_tunnel() {
    let mesh = Mesh::start();
    let app = mesh.http_app("here").await;
    let server = server(&mesh, app).await;
    mesh.capture(&server);
    mesh.proxy.release(&server.uid);
    let cluster = cluster_of(vec![(app, Some(server))]);
    let vip = mesh.service(1, Protocol::Http, cluster, vec![]).await;
    let mut client = connect(vip).await;
    let (head, _) = get(&mut client, "/").await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
}

#[tokio::test]
async fn an_address_that_is_not_the_pods_is_not_reached_through_it() {
    let mesh = Mesh::start();
    let app = mesh.http_app("elsewhere").await;
    let server = server(&mesh, SocketAddr::from(([127, 0, 9, 9], 1))).await;
    mesh.capture(&server);
    let cluster = cluster_of(vec![(app, Some(server))]);
    let vip = mesh.service(1, Protocol::Http, cluster, vec![]).await;
    let mut client = connect(vip).await;
    let (head, _) = get(&mut client, "/").await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
}
