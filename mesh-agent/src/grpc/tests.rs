// SPDX-License-Identifier: Apache-2.0

//! Client and server against each other, over TLS on loopback.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::HeaderMap;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer,
};
use tokio::{
    io::{AsyncReadExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
};
use tokio_rustls::TlsAcceptor;

use super::{
    messages::{
        CreateCertificateRequest, CreateCertificateResponse, ReportRequest, ReportResponse,
    },
    *,
};
use crate::tasks::Tasks;

const ECHO: &str = "/test.Echo/Say";
const SLOW: &str = "/test.Echo/Slow";
const NEVER: &str = "/test.Echo/Never";
const PATIENCE: Duration = Duration::from_secs(10);

fn tls() -> (TlsAcceptor, TlsSource) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["ca.test".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec()];
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    let client = Arc::new(client);
    (
        TlsAcceptor::from(Arc::new(server)),
        Arc::new(move || Ok(Arc::clone(&client))),
    )
}

type Tls = watch::Sender<Option<TlsAcceptor>>;

struct Pair {
    client: Client,
    source: TlsSource,
    tasks: Tasks,
    server: Tasks,
    tls: Tls,
    acceptor: TlsAcceptor,
}

/// Answers on `listener` until the tasks that are returned are drained.
fn serve_on(listener: TcpListener, acceptor: TlsAcceptor) -> (Tasks, Tls) {
    let router = Router::default()
        .unary(
            ECHO,
            |call: Call, request: CreateCertificateRequest| async move {
                let token = call.metadata.get("authorization");
                let token = token.and_then(|text| text.to_str().ok()).unwrap_or("none");
                if request.csr == "refuse" {
                    return Err(Status::new(Code::Unauthenticated, "who? \u{fc}\n"));
                }
                Ok(CreateCertificateResponse {
                    cert_chain: vec![request.csr, token.to_owned()],
                })
            },
        )
        .unary(SLOW, |_: Call, _: ReportRequest| async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok(ReportResponse {})
        });
    let limits = Limits {
        connections: 4,
        calls: 8,
        message_max_bytes: 64 * 1024,
        call_deadline: Duration::from_secs(30),
    };
    let tasks = Tasks::new();
    let (sender, tls) = watch::channel(Some(acceptor));
    tasks.spawn(
        "server",
        serve(listener, tls, router, limits, tasks.clone()),
    );
    (tasks, sender)
}

async fn pair() -> Pair {
    let (acceptor, source) = tls();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (server, tls) = serve_on(listener, acceptor.clone());
    let tasks = Tasks::new();
    let endpoint = Endpoint {
        address,
        server_name: "ca.test".to_owned(),
    };
    Pair {
        client: Client::new(endpoint, Arc::clone(&source), tasks.clone()),
        source,
        tasks,
        server,
        tls,
        acceptor,
    }
}

fn request(csr: &str) -> CreateCertificateRequest {
    CreateCertificateRequest::impersonating(csr.to_owned(), 60, "spiffe://a/ns/b/sa/c")
}

async fn echo(client: &Client, csr: &str) -> Result<CreateCertificateResponse, Status> {
    let mut metadata = HeaderMap::new();
    metadata.insert("authorization", "Bearer t".parse().unwrap());
    client.unary(ECHO, metadata, &request(csr), PATIENCE).await
}

#[tokio::test]
async fn a_call_brings_message_and_metadata_and_takes_the_answer() {
    let pair = pair().await;
    let answer = echo(&pair.client, "hello").await.unwrap();
    assert_eq!(answer.cert_chain, ["hello", "Bearer t"]);
    // More than HTTP/2's first window, in both directions.
    let long = "x".repeat(60_000);
    let answer = echo(&pair.client, &long).await.unwrap();
    assert_eq!(answer.cert_chain[0], long);
}

#[tokio::test]
async fn a_refusal_keeps_its_code_and_its_sentence() {
    let pair = pair().await;
    let refusal = echo(&pair.client, "refuse").await.unwrap_err();
    assert_eq!(refusal, Status::new(Code::Unauthenticated, "who? \u{fc}\n"));
}

#[tokio::test]
async fn a_message_that_is_too_long_is_refused() {
    let pair = pair().await;
    let refusal = echo(&pair.client, &"x".repeat(100_000)).await.unwrap_err();
    assert_eq!(refusal.code, Code::ResourceExhausted, "{refusal}");
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented() {
    let pair = pair().await;
    let answer: Result<ReportResponse, _> = pair
        .client
        .unary(NEVER, HeaderMap::new(), &request("a"), PATIENCE)
        .await;
    assert_eq!(answer.unwrap_err().code, Code::Unimplemented);
}

#[tokio::test]
async fn a_deadline_ends_the_call() {
    let pair = pair().await;
    let answer: Result<ReportResponse, _> = pair
        .client
        .unary(
            SLOW,
            HeaderMap::new(),
            &ReportRequest::default(),
            Duration::from_millis(300),
        )
        .await;
    assert_eq!(answer.unwrap_err().code, Code::DeadlineExceeded);
}

#[tokio::test]
async fn many_calls_share_one_connection() {
    let pair = pair().await;
    let calls = (0..20).map(|_| echo(&pair.client, "a"));
    for answer in futures_util::future::join_all(calls).await {
        answer.unwrap();
    }
    let live = pair.tasks.live();
    let connections = live.iter().find(|(name, _)| *name == "grpc connection");
    assert_eq!(connections, Some(&("grpc connection", 1)));
}

#[tokio::test]
async fn nobody_there_is_unavailable_and_the_address_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let endpoint = Endpoint {
        address: address.clone(),
        server_name: "ca.test".to_owned(),
    };
    let client = Client::new(endpoint, tls().1, Tasks::new());
    for _ in 0..2 {
        let refusal = echo(&client, "a").await.unwrap_err();
        assert_eq!(refusal.code, Code::Unavailable);
        assert!(refusal.message.contains(&address), "{refusal}");
    }
}

#[tokio::test]
async fn a_server_with_another_name_is_not_trusted() {
    let pair = pair().await;
    let endpoint = Endpoint {
        address: pair.client.endpoint().address.clone(),
        server_name: "other.test".to_owned(),
    };
    let client = Client::new(endpoint, tls().1, Tasks::new());
    assert_eq!(
        echo(&client, "a").await.unwrap_err().code,
        Code::Unavailable
    );
}

#[tokio::test]
async fn the_next_client_sees_the_new_certificate() {
    let pair = pair().await;
    echo(&pair.client, "a").await.unwrap();
    let (acceptor, source) = tls();
    pair.tls.send_replace(Some(acceptor));
    let endpoint = pair.client.endpoint().clone();
    let client = Client::new(endpoint, source, Tasks::new());
    echo(&client, "b").await.unwrap();
    // What is connected already stays so.
    echo(&pair.client, "c").await.unwrap();
}

#[tokio::test]
async fn a_connection_that_ended_is_opened_again() {
    let pair = pair().await;
    echo(&pair.client, "a").await.unwrap();
    pair.client.reconnect();
    echo(&pair.client, "b").await.unwrap();
}

/// A client whose connections pass through our hands until [`Relayed::keep`].
struct Relayed {
    client: Client,
    kept: Arc<Notify>,
    /// Bytes of the client that went no further.
    bytes: Arc<AtomicUsize>,
}

impl Relayed {
    #[expect(
        clippy::disallowed_methods,
        reason = "nothing is captured in a unit test"
    )]
    async fn new(pair: &Pair) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint {
            address: listener.local_addr().unwrap().to_string(),
            server_name: "ca.test".to_owned(),
        };
        let relayed = Self {
            client: Client::new(endpoint, Arc::clone(&pair.source), pair.tasks.clone()),
            kept: Arc::default(),
            bytes: Arc::default(),
        };
        let (kept, bytes) = (Arc::clone(&relayed.kept), Arc::clone(&relayed.bytes));
        let (server, tasks) = (pair.client.endpoint().address.clone(), pair.tasks.clone());
        pair.tasks.spawn("relay", async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let mut far = TcpStream::connect(&server).await.unwrap();
                let (kept, bytes) = (Arc::clone(&kept), Arc::clone(&bytes));
                tasks.spawn("relayed", async move {
                    let both = Box::pin(copy_bidirectional(&mut near, &mut far));
                    tokio::select! {
                        _ = both => return,
                        () = kept.notified() => {}
                    }
                    let mut buffer = [0; 1024];
                    while let Ok(count @ 1..) = near.read(&mut buffer).await {
                        bytes.fetch_add(count, Ordering::Relaxed);
                    }
                });
            }
        });
        relayed
    }

    /// Hands nothing on any more of what is connected now, and closes nothing.
    fn keep(&self) {
        self.kept.notify_waiters();
    }
}

/// As when a node is gone.
#[tokio::test]
async fn a_connection_on_which_nobody_answers_is_replaced() {
    let pair = pair().await;
    let relayed = Relayed::new(&pair).await;
    echo(&relayed.client, "a").await.unwrap();
    relayed.keep();
    let soon = Duration::from_millis(300);
    let lost: Result<CreateCertificateResponse, _> = relayed
        .client
        .unary(ECHO, HeaderMap::new(), &request("b"), soon)
        .await;
    assert_eq!(lost.unwrap_err().code, Code::DeadlineExceeded);
    echo(&relayed.client, "c").await.unwrap();
}

/// Servers of gRPC in Go hang up on who pings while nothing is under way.
#[tokio::test]
async fn a_connection_without_calls_sends_nothing() {
    let pair = pair().await;
    let relayed = Relayed::new(&pair).await;
    echo(&relayed.client, "a").await.unwrap();
    relayed.keep();
    tokio::time::pause();
    // What the call left to say.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let said = relayed.bytes.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(relayed.bytes.load(Ordering::Relaxed), said);
}

#[tokio::test]
async fn a_server_that_stops_answers_what_it_has_and_its_successor_the_rest() {
    let pair = pair().await;
    echo(&pair.client, "a").await.unwrap();
    pair.server.begin_drain();
    assert_eq!(pair.server.drained(PATIENCE).await, []);
    let refusal = echo(&pair.client, "b").await.unwrap_err();
    assert_eq!(refusal.code, Code::Unavailable, "{refusal}");
    let listener = TcpListener::bind(&pair.client.endpoint().address).await;
    let (successor, _tls) = serve_on(listener.unwrap(), pair.acceptor.clone());
    let answer = async {
        while echo(&pair.client, "c").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, answer).await.unwrap();
    successor.begin_drain();
}

/// A raw HTTP/2 request with a content type of its own.
#[tokio::test]
#[expect(
    clippy::disallowed_methods,
    reason = "nothing is captured in a unit test"
)]
async fn what_is_no_grpc_gets_a_plain_http_status() {
    use bytes::Bytes;
    use http_body_util::Full;
    use hyper_util::rt::TokioIo;

    let pair = pair().await;
    let address = &pair.client.endpoint().address;
    let stream = TcpStream::connect(address).await.unwrap();
    let config = (pair.source)().unwrap();
    let name = rustls::pki_types::ServerName::try_from("ca.test").unwrap();
    let stream = tokio_rustls::TlsConnector::from(config)
        .connect(name, stream)
        .await
        .unwrap();
    let builder = hyper::client::conn::http2::Builder::new(Executor(pair.tasks.clone()));
    let shaken = Box::pin(builder.handshake(TokioIo::new(stream))).await;
    let (mut sender, connection) = shaken.unwrap();
    pair.tasks.spawn("raw", async {
        drop(connection.await);
    });
    for (method, content_type, want) in [
        ("POST", "application/json", 415),
        ("POST", "application/grpcx", 415),
        ("GET", "application/grpc", 405),
        ("POST", "application/grpc+proto", 200),
    ] {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("https://{address}{ECHO}"))
            .header("content-type", content_type)
            .body(Full::new(Bytes::new()))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), want, "{method} {content_type}");
    }
}
