// SPDX-License-Identifier: Apache-2.0

//! Rules for bytes: one draw for each connection, TLS by the name that is asked for, bytes as they were.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::mesh::{Mesh, cluster, connect, ending, get, opaque_rule};
use crate::{
    model::{NamePattern, OpaqueBackend, OpaqueMatch, OpaqueRule, Protocol},
    proxy::hello::sample,
};

/// An application that says its name, then gives back what it hears.
async fn named(mesh: &Mesh, name: u8) -> SocketAddr {
    mesh.app(move |mut stream| async move {
        stream.write_u8(name).await.expect("room");
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.ok();
    })
    .await
}

fn to(address: SocketAddr) -> OpaqueBackend {
    OpaqueBackend::Cluster(cluster(&[address]))
}

fn asking(name: &str, address: SocketAddr) -> OpaqueRule {
    let condition = OpaqueMatch {
        names: Some(vec![NamePattern::new(name)]),
        ..OpaqueMatch::default()
    };
    opaque_rule(vec![condition], vec![(1, to(address))])
}

/// Sends `said` and hears who answers; that it comes back unchanged is checked here.
async fn converse(stream: &mut TcpStream, said: &[u8]) -> u8 {
    stream.write_all(said).await.expect("the proxy reads");
    let name = stream.read_u8().await.expect("a server");
    let mut heard = vec![0; said.len()];
    stream.read_exact(&mut heard).await.expect("all of it");
    assert_eq!(heard, said);
    name
}

#[tokio::test]
async fn connections_are_split_by_weight_each_as_a_whole() {
    let mesh = Mesh::start();
    let (one, two) = (named(&mesh, 1).await, named(&mesh, 2).await);
    for (number, protocol) in [(1, Protocol::Tcp), (2, Protocol::Sniff), (3, Protocol::Tls)] {
        let rule = opaque_rule(vec![], vec![(3, to(one)), (1, to(two))]);
        let own = cluster(&[]);
        let vip = mesh.opaque_service(number, protocol, own, vec![rule]).await;
        let mut counts = [0; 3];
        for _ in 0..20 {
            let mut client = connect(vip).await;
            // The server speaks first: nobody waits for the client.
            let name = client.read_u8().await.expect("a server");
            counts[usize::from(name)] += 1;
        }
        assert_eq!(counts, [0, 15, 5], "{protocol:?}");
    }
}

#[tokio::test]
async fn tls_goes_by_its_name_wherever_the_hello_is_cut_and_arrives_unchanged() {
    let mesh = Mesh::start();
    let (one, two) = (named(&mesh, 1).await, named(&mesh, 2).await);
    let rules = || vec![asking("a.example.com", one), asking("*.example.com", two)];
    for (number, protocol) in [(1, Protocol::Tls), (2, Protocol::Sniff), (3, Protocol::Tcp)] {
        let own = cluster(&[]);
        let vip = mesh.opaque_service(number, protocol, own, rules()).await;
        for (name, padding, want) in [("a.example.com", 0, 1), ("B.Example.com", 9_000, 2)] {
            let hello = sample(Some(name), padding);
            let mut client = connect(vip).await;
            assert_eq!(converse(&mut client, &hello).await, want);
            for cut in [1, 5, 30, hello.len() - 1] {
                let mut client = connect(vip).await;
                client.set_nodelay(true).expect("a socket");
                client.write_all(&hello[..cut]).await.expect("room");
                tokio::time::sleep(Duration::from_millis(5)).await;
                client.write_all(&hello[cut..]).await.expect("room");
                assert_eq!(client.read_u8().await.expect("a server"), want);
                let mut heard = vec![0; hello.len()];
                client.read_exact(&mut heard).await.expect("all of it");
                assert_eq!(heard, hello, "cut at {cut}");
            }
        }
    }
}

/// Sends `said` and expects that the connection is reset.
async fn refused(vip: SocketAddr, said: &[u8]) {
    let mut client = connect(vip).await;
    // What is refused early may not even be read to its end.
    client.write_all(said).await.ok();
    let error = client.read_u8().await.expect_err("no byte comes");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_no_rule_matches_is_reset_and_says_why() {
    let mesh = Mesh::start();
    let one = named(&mesh, 1).await;
    let rules = vec![asking("a.example.com", one)];
    let own = cluster(&[one]);
    let vip = mesh.opaque_service(1, Protocol::Tls, own, rules).await;
    refused(vip, &sample(Some("b.example.com"), 0)).await;
    refused(vip, &sample(None, 0)).await;
    refused(vip, b"EHLO a.example.com\r\n").await;
    mesh.metric(&[
        "istio_tcp_connections_closed_total",
        "response_flags=\"NR\"",
        " 3",
    ])
    .await;
    refused(vip, &sample(Some("a.example.com"), 16_305)).await;
    refused(vip, &sample(Some("not a name"), 0)).await;
    mesh.metric(&[
        "istio_tcp_connections_closed_total",
        "response_flags=\"DPE\"",
        " 2",
    ])
    .await;
    let mut client = connect(vip).await;
    client.write_all(&[22, 3]).await.expect("room");
    client.shutdown().await.expect("connected");
    mesh.metric(&[
        "istio_tcp_connections_closed_total",
        "response_flags=\"DC\"",
        " 1",
    ])
    .await;
}

#[tokio::test]
async fn a_rule_without_a_backend_resets() {
    let mesh = Mesh::start();
    let rule = opaque_rule(vec![], vec![]);
    let own = cluster(&[named(&mesh, 1).await]);
    let vip = mesh.opaque_service(1, Protocol::Tcp, own, vec![rule]).await;
    assert_eq!(
        ending(vip).await.kind(),
        std::io::ErrorKind::ConnectionReset
    );
    mesh.metric(&[
        "istio_tcp_connections_closed_total",
        "response_flags=\"NC\"",
        " 1",
    ])
    .await;
}

#[tokio::test]
async fn requests_are_still_requests_where_no_protocol_is_declared() {
    let mesh = Mesh::start();
    let own = cluster(&[mesh.http_app("of the service").await]);
    let (one, two) = (named(&mesh, 1).await, named(&mesh, 2).await);
    let rules = vec![
        asking("a.example.com", one),
        opaque_rule(vec![], vec![(1, to(two))]),
    ];
    let vip = mesh.opaque_service(1, Protocol::Sniff, own, rules).await;
    let mut client = connect(vip).await;
    assert_eq!(get(&mut client, "/").await.1, "of the service");
    let mut client = connect(vip).await;
    assert_eq!(converse(&mut client, b"EHLO\r\n").await, 2);
    let mut client = connect(vip).await;
    assert_eq!(
        converse(&mut client, &sample(Some("a.example.com"), 0)).await,
        1
    );
    // TLS that no name is for goes by the rule for everything.
    let mut client = connect(vip).await;
    assert_eq!(converse(&mut client, &sample(Some("b"), 0)).await, 2);
}
