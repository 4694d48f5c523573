// SPDX-License-Identifier: Apache-2.0

//! TLS that a rule asks for towards an application: spoken, checked, and never left out.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use super::mesh::{Mesh, cluster, connect, ending, get, read_text};
use crate::model::{ClientTls, Cluster, Endpoint, Origination, Protocol, Roots, UpstreamUse};

const NAME: &str = "bank.example.com";

/// A certificate authority in a file, and the TLS of a server that it has signed for [`NAME`].
struct Bank {
    roots: PathBuf,
    acceptor: TlsAcceptor,
}

impl Bank {
    fn new(test: &str) -> Self {
        let authority = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&authority).expect("a root");
        let issuer = Issuer::new(params, authority);
        let key = KeyPair::generate().expect("a key");
        let leaf = CertificateParams::new(vec![NAME.to_owned()]).expect("a name");
        let leaf = leaf.signed_by(&key, &issuer).expect("a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .expect("a pair");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let file = format!("mesh-agent-origination-{test}-{}.pem", std::process::id());
        let roots = std::env::temp_dir().join(file);
        fs::write(&roots, root.pem()).expect("a file");
        Self {
            roots,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        }
    }

    /// What a rule says that wants this authority.
    fn wanted(&self) -> Origination {
        Origination {
            server_name: Some(NAME.into()),
            names: Vec::new(),
            roots: Roots::File(self.roots.to_str().expect("UTF-8").into()),
            revoked: None,
            credential: None,
            skip_verify: false,
        }
    }

    /// A server of TLS; requests get `ok`, other bytes come back. Counts what it has agreed with.
    async fn server(&self, mesh: &Mesh) -> (SocketAddr, Arc<AtomicUsize>) {
        let acceptor = self.acceptor.clone();
        let agreed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&agreed);
        let serve = move |stream| {
            let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
            async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                count.fetch_add(1, Ordering::Relaxed);
                let mut bytes = vec![0; 1 << 14];
                while let Ok(read @ 1..) = stream.read(&mut bytes).await {
                    let answer: &[u8] = match bytes.starts_with(b"GET") {
                        true => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                        false => &bytes[..read],
                    };
                    stream.write_all(answer).await.expect("room");
                    stream.flush().await.expect("room");
                }
            }
        };
        (mesh.app(serve).await, agreed)
    }
}

impl Drop for Bank {
    fn drop(&mut self) {
        fs::remove_file(&self.roots).ok();
    }
}

/// The endpoint as a cluster, with this TLS towards it.
pub(super) fn secured(address: SocketAddr, tls: ClientTls) -> Arc<Cluster> {
    let plain = cluster(&[address]);
    let endpoints = plain.endpoints.iter().map(|endpoint| Endpoint {
        tls: Some(Arc::new(tls.clone())),
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

#[tokio::test]
async fn bytes_and_requests_are_sent_in_the_tls_that_the_rule_asks_for() {
    let mesh = Mesh::start();
    let bank = Bank::new("spoken");
    let (address, agreed) = bank.server(&mesh).await;
    let other_name = Origination {
        server_name: Some("elsewhere.example.com".into()),
        names: vec!["x.example.com".into(), NAME.into()],
        ..bank.wanted()
    };
    let anybody = Origination {
        server_name: Some("elsewhere.example.com".into()),
        roots: Roots::System,
        skip_verify: true,
        ..bank.wanted()
    };
    let all = [bank.wanted(), other_name, anybody];
    for (number, wanted) in (1..).zip(all) {
        let cluster = || secured(address, ClientTls::Originate(wanted.clone()));
        let vip = mesh.service(number, Protocol::Tcp, cluster(), vec![]).await;
        let mut client = connect(vip).await;
        let said = vec![7; 1 << 20];
        let (mut read, mut write) = client.split();
        let mut heard = vec![0; said.len()];
        let (sent, got) = tokio::join!(write.write_all(&said), read.read_exact(&mut heard));
        sent.expect("room");
        got.expect("all of it");
        assert_eq!(heard, said);
        let number = number + 10;
        let vip = mesh
            .service(number, Protocol::Http, cluster(), vec![])
            .await;
        let before = agreed.load(Ordering::Relaxed);
        let mut client = connect(vip).await;
        for _ in 0..3 {
            assert_eq!(get(&mut client, "/").await.1, "ok");
        }
        assert_eq!(agreed.load(Ordering::Relaxed) - before, 1, "one connection");
    }
}

#[tokio::test]
async fn a_server_that_is_not_who_it_must_be_gets_no_byte() {
    let mesh = Mesh::start();
    let (bank, stranger) = (Bank::new("wrong"), Bank::new("stranger"));
    let (address, agreed) = bank.server(&mesh).await;
    let named = |name: &str| Origination {
        server_name: Some(name.into()),
        ..bank.wanted()
    };
    let missing = Roots::File("/nonexistent/roots.pem".into());
    let all = [
        ClientTls::Originate(named("other.example.com")),
        ClientTls::Originate(named("no name")),
        ClientTls::Originate(Origination {
            names: vec!["a.b".into()],
            ..bank.wanted()
        }),
        ClientTls::Originate(stranger.wanted()),
        ClientTls::Originate(Origination {
            roots: missing,
            ..bank.wanted()
        }),
        ClientTls::Refused("for the test".into()),
        ClientTls::Mesh,
    ];
    let count = all.len();
    for (number, tls) in (1..).zip(all) {
        let cluster = || secured(address, tls.clone());
        let vip = mesh.service(number, Protocol::Tcp, cluster(), vec![]).await;
        assert_eq!(
            ending(vip).await.kind(),
            std::io::ErrorKind::ConnectionReset
        );
        let number = number + 10;
        let vip = mesh
            .service(number, Protocol::Http, cluster(), vec![])
            .await;
        let (head, body) = get(&mut connect(vip).await, "/").await;
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
        assert!(body.contains("TLS: "), "{body}");
    }
    let failed = format!(" {count}");
    let closed = "istio_tcp_connections_closed_total";
    mesh.metric(&[closed, "response_flags=\"UF\"", &failed])
        .await;
    assert_eq!(agreed.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_server_without_tls_sees_nothing_of_what_is_said() {
    let mesh = Mesh::start();
    let bank = Bank::new("plain");
    let (told, mut hear) = tokio::sync::mpsc::unbounded_channel();
    let address = mesh
        .app(move |mut stream| {
            let told = told.clone();
            async move {
                let mut bytes = vec![0; 1 << 12];
                let count = stream.read(&mut bytes).await.unwrap_or(0);
                bytes.truncate(count);
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok();
                told.send(bytes).ok();
            }
        })
        .await;
    let cluster = secured(address, ClientTls::Originate(bank.wanted()));
    let vip = mesh.service(1, Protocol::Http, cluster, vec![]).await;
    let (head, _) = get(&mut connect(vip).await, "/secret").await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    let seen = hear.recv().await.expect("a connection");
    assert_eq!(seen.first(), Some(&22), "a ClientHello, nothing else");
    assert!(!seen.windows(6).any(|part| part == b"secret"));
}

#[tokio::test]
async fn connections_with_and_without_tls_are_not_mixed_up() {
    let mesh = Mesh::start();
    let bank = Bank::new("mixed");
    let (address, agreed) = bank.server(&mesh).await;
    let with = secured(address, ClientTls::Originate(bank.wanted()));
    let with = mesh.service(1, Protocol::Http, with, vec![]).await;
    let without = mesh
        .service(2, Protocol::Http, cluster(&[address]), vec![])
        .await;
    for _ in 0..3 {
        assert_eq!(get(&mut connect(with).await, "/").await.1, "ok");
        // The server hears a request where it waits for TLS.
        let mut client = connect(without).await;
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .expect("room");
        assert_eq!(read_text(&mut client, 11).await, "HTTP/1.1 50");
    }
    assert!(agreed.load(Ordering::Relaxed) >= 1);
}
