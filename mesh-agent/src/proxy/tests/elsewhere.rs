// SPDX-License-Identifier: Apache-2.0

//! Connections to addresses that nobody has: told by what the client says, or refused.

use std::{io::ErrorKind, net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::mesh::{Mesh, cluster, connect, port, read_answer, workload};
use crate::model::{
    Cluster, NamedPort, OutboundPolicy, Protocol, Scope, Service, ServiceName, Told, Visibility,
};

/// A proxy of a pod that may reach what is known and nothing else, and an address of nobody.
async fn closed() -> (Mesh, SocketAddr) {
    let mesh = Mesh::start();
    let mut client = workload("client");
    client.scope = Arc::new(Scope {
        policy: OutboundPolicy::RegistryOnly,
        ..Scope::default()
    });
    mesh.replace(&Arc::new(client)).await;
    let nobody = SocketAddr::from(([127, 0, 7, 99], mesh.port()));
    (mesh, nobody)
}

/// A host that is told by what clients say.
async fn named(mesh: &Mesh, host: &str, told: Told, cluster: Arc<Cluster>) {
    let protocol = match told {
        Told::Host => Protocol::Http,
        Told::ServerName => Protocol::Tls,
        Told::Ranges(_) | Told::Port => Protocol::Tcp,
    };
    let port = Arc::new(port(protocol, cluster));
    let service = Arc::new(Service {
        name: ServiceName::new("default", host),
        hostname: host.into(),
        vips: Vec::new(),
        ports: vec![Arc::clone(&port)],
        captured: true,
        visibility: Visibility::Everyone,
    });
    let named = NamedPort {
        service,
        v4: Arc::clone(&port),
        v6: port,
        told,
    };
    mesh.name(named).await;
}

async fn ask(client: &mut TcpStream, host: &str) -> (String, String) {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    client.write_all(request.as_bytes()).await.expect("room");
    read_answer(client).await
}

#[tokio::test]
async fn requests_to_nobody_are_502_and_bytes_are_reset() {
    let (mesh, nobody) = closed().await;
    let mut client = connect(nobody).await;
    for _ in 0..2 {
        let (head, body) = ask(&mut client, "api.example.com").await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        assert_eq!(body, "");
    }
    mesh.metric(&["istio_requests_total", "response_code=\"502\""])
        .await;
    let mut client = connect(nobody).await;
    client.write_all(b"\0\x01 no protocol").await.expect("room");
    let ended = client.read_u8().await.expect_err("it is reset");
    assert_eq!(ended.kind(), ErrorKind::ConnectionReset);
    mesh.metric(&[
        "istio_tcp_connections_closed_total",
        "response_flags=\"UH\"",
    ])
    .await;
}

#[tokio::test]
async fn each_request_of_a_connection_says_whose_it_is() {
    let (mesh, nobody) = closed().await;
    let (api, all) = (mesh.http_app("api").await, mesh.http_app("all").await);
    named(&mesh, "api.example.com", Told::Host, cluster(&[api])).await;
    named(&mesh, "*.example.com", Told::Host, cluster(&[all])).await;
    let mut client = connect(nobody).await;
    for (host, status, body) in [
        ("api.example.com", "200", "api"),
        ("other.example.com:80", "200", "all"),
        ("example.org", "502", ""),
        ("API.example.com", "200", "api"),
    ] {
        let answer = ask(&mut client, host).await;
        assert!(
            answer.0.starts_with(&format!("HTTP/1.1 {status} ")),
            "{host}: {}",
            answer.0
        );
        assert_eq!(answer.1, body, "{host}");
    }
}

/// A ClientHello that asks for `name`, and nothing else.
fn hello(name: &str) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).expect("short").to_be_bytes();
    let mut names = vec![0];
    names.extend(length(name.len()));
    names.extend(name.as_bytes());
    let mut extension = vec![0, 0];
    extension.extend(length(names.len() + 2));
    extension.extend(length(names.len()));
    extension.extend(names);
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(length(extension.len()));
    body.extend(extension);
    let mut message = vec![1, 0];
    message.extend(length(body.len()));
    message.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend(length(message.len()));
    record.extend(message);
    record
}

#[tokio::test]
async fn a_tls_handshake_says_whose_the_connection_is() {
    let (mesh, nobody) = closed().await;
    let wanted = hello("api.example.com");
    let length = wanted.len();
    let app = mesh
        .app(move |mut stream| async move {
            let mut said = vec![0; length];
            stream.read_exact(&mut said).await.expect("all of it comes");
            stream.write_all(&said).await.expect("room");
        })
        .await;
    named(&mesh, "api.example.com", Told::ServerName, cluster(&[app])).await;
    let mut client = connect(nobody).await;
    let (first, rest) = wanted.split_at(20);
    client.write_all(first).await.expect("room");
    client.write_all(rest).await.expect("room");
    let mut back = vec![0; length];
    client.read_exact(&mut back).await.expect("it is answered");
    assert_eq!(back, wanted);
    let mut client = connect(nobody).await;
    let other = hello("example.org");
    client.write_all(&other).await.expect("room");
    client.read_u8().await.expect_err("it is reset");
}
