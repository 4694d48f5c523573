// SPDX-License-Identifier: Apache-2.0

//! Between enrolled workloads: both ends of the tunnel are this proxy's.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    sync::Arc,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::mesh::{Mesh, cluster_of, connect, get, read_text, workload};
use crate::{
    datapath::{Netns, PodSockets},
    model::{Endpoint, InboundPolicy, MtlsMode, Protocol, Workload},
    proxy::{HBONE_PORT, Http1Engine, RequestHeaders},
};

const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 8, 1);

/// Answers requests that have an id, speaks first at none, echoes everything else, and resets on `X`.
async fn app(mut stream: TcpStream) {
    let mut bytes = [0; 1 << 14];
    while let Ok(count) = stream.read(&mut bytes).await {
        let said = &bytes[..count];
        if said.is_empty() {
            return;
        }
        if said.starts_with(b"X") {
            return crate::datapath::reset(stream);
        }
        let ids = String::from_utf8_lossy(said)
            .matches("x-request-id: ")
            .count();
        let answer: &[u8] = if said.starts_with(b"GET") && ids == 1 {
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        } else {
            said
        };
        stream.write_all(answer).await.expect("room");
    }
}

/// A strict, enrolled server pod; gives where it takes plaintext and where its application is.
async fn server(mesh: &Mesh) -> (Arc<Workload>, SocketAddr, SocketAddr) {
    let server = Arc::new(Workload {
        addresses: vec![SERVER.into()],
        enrolled: true,
        inbound: InboundPolicy {
            default: MtlsMode::Strict,
            ..InboundPolicy::default()
        },
        ..workload("server")
    });
    mesh.add(&server).await;
    mesh.identify(&[&server, &workload("client")]).await;
    let bind = |port| StdListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a port");
    let plain = bind(0);
    let plain_at = SocketAddr::from((SERVER, plain.local_addr().expect("bound").port()));
    mesh.proxy.capture(PodSockets {
        workload: Arc::clone(&server),
        netns: Netns::current().expect("our namespace"),
        addresses: Vec::new(),
        outbound: Vec::new(),
        inbound: vec![bind(HBONE_PORT), plain],
        accepts: Arc::default(),
    });
    let app = mesh.app_at(SERVER, app).await;
    (server, plain_at, app)
}

// One test, because there is one port 15008.
#[tokio::test]
async fn enrolled_workloads_talk_through_tunnels_and_plaintext_is_refused() {
    let mesh = Mesh::start_adding(Http1Engine::default(), RequestHeaders::default());
    let (server, plain, app) = server(&mesh).await;
    let cluster = || cluster_of(vec![(app, Some(Arc::clone(&server)))]);

    let http = mesh.service(1, Protocol::Http, cluster(), vec![]).await;
    let mut client = connect(http).await;
    for _ in 0..3 {
        let (head, body) = get(&mut client, "/").await;
        assert!(head.starts_with("HTTP/1.1 200 ") && body == "ok", "{head}");
    }
    let principal = "destination_principal=\"spiffe://cluster.local/ns/default/sa/server\"";
    mesh.metric(&["istio_requests_total", "mutual_tls", principal, " 3"])
        .await;

    let tcp = mesh.service(2, Protocol::Tcp, cluster(), vec![]).await;
    let mut client = connect(tcp).await;
    client.write_all(b"hello").await.expect("room");
    assert_eq!(read_text(&mut client, 5).await, "hello");
    client.shutdown().await.expect("connected");
    assert_eq!(client.read(&mut [0]).await.expect("an orderly end"), 0);
    let source = "source_principal=\"spiffe://cluster.local/ns/default/sa/client\"";
    let closed = "istio_tcp_connections_closed_total";
    mesh.metric(&[
        closed,
        "reporter=\"destination\"",
        source,
        "mutual_tls",
        "\"-\"",
    ])
    .await;

    let mut client = connect(tcp).await;
    client.write_all(b"X").await.expect("room");
    let error = client.read_u8().await.expect_err("the server reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);

    let refused = async {
        let mut client = TcpSocket::new_v4()?.connect(plain).await?;
        client.read_u8().await
    };
    let error = refused.await.expect_err("plaintext to a strict port");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    mesh.metric(&[closed, "reporter=\"destination\"", "\"DENY\""])
        .await;

    nothing_listens(&mesh, server).await;
}

/// The answer of the other end's 503 is that of a connect failure.
async fn nothing_listens(mesh: &Mesh, server: Arc<Workload>) {
    let nobody = SocketAddr::from((SERVER, 1));
    let cluster = cluster_of(vec![(nobody, Some(server))]);
    let endpoint: &Endpoint = &cluster.endpoints[0];
    let load = Arc::clone(&endpoint.load);
    let vip = mesh.service(3, Protocol::Http, cluster, vec![]).await;
    let mut client = connect(vip).await;
    let (head, _) = get(&mut client, "/").await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    mesh.metric(&["istio_requests_total", "\"UF\""]).await;
    assert_eq!(load.current(), 0);
}
