// SPDX-License-Identifier: Apache-2.0

//! What the server's end of tunnels does with clients that are not ours, although it would rather
//! speak the mux.
//!
//! The client here is h2 itself over rustls, in memory, so that time can be paused.

use std::rc::Rc;

use h2::client::SendRequest;
use rustls::pki_types::ServerName;
use tokio::{io::DuplexStream, task::LocalSet, time::Instant};

use super::{
    super::tunnel_fixture::{DAY, DOMAIN, beside, chain, echo, identities, workload},
    *,
};
use crate::{identity::CertificateAuthority, tasks::Tasks};

mod floods;

/// A server, and the client's end of a connection to it.
struct Ends {
    client: DuplexStream,
    served: tokio::sync::oneshot::Receiver<Result<(), HboneError>>,
    identities: Identities,
    server: Arc<Workload>,
    tasks: Tasks,
}

async fn ends() -> Ends {
    let authority = CertificateAuthority::in_memory(DOMAIN).unwrap();
    let (client_pod, server) = (workload(DOMAIN, "client"), workload(DOMAIN, "server"));
    let identities = identities(&authority, DAY, &[&client_pod, &server]).await;
    let (client, io) = tokio::io::duplex(64 * 1024);
    let (sender, served) = tokio::sync::oneshot::channel();
    let (tasks, local, known) = (Tasks::new(), Arc::clone(&server), identities.clone());
    let around = Around {
        drain: tasks.drain(),
        sessions: BulkSessions::default(),
        handshake: None,
        bytes: None,
    };
    beside(async move {
        drop(sender.send(Box::pin(serve(io, &local, &known, Alpn::Mux, around, echo)).await));
    });
    Ends {
        client,
        served,
        identities,
        server,
        tasks,
    }
}

impl Portable for DuplexStream {
    fn into_std(self) -> std::io::Result<std::net::TcpStream> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn cutter(&self) -> std::io::Result<Option<crate::identity::Cutter>> {
        Ok(None)
    }
}

impl Ends {
    async fn tls(
        &mut self,
        source: &str,
        alpn: Alpn,
    ) -> tokio_rustls::client::TlsStream<DuplexStream> {
        let source = SpiffeId::new(DOMAIN, "default", source);
        let expected = [self.server.identity.clone()];
        let connector = self.identities.client(&source, &expected, alpn).unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let (client, _) = tokio::io::duplex(1);
        let io = std::mem::replace(&mut self.client, client);
        connector.connect(name, io).await.unwrap()
    }

    async fn requests(&mut self) -> SendRequest<Bytes> {
        let tls = self.tls("client", Alpn::Hbone).await;
        let (requests, connection) = h2::client::handshake(tls).await.unwrap();
        beside(async move { drop(connection.await) });
        requests
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, Box::pin(test));
}

#[test]
fn anything_but_connect_to_an_address_is_a_bad_request() {
    run(async {
        let mut ends = ends().await;
        let requests = ends.requests().await;
        for (method, uri, want) in [
            (Method::GET, "http://10.0.0.1:80/", 400),
            (Method::CONNECT, "reviews.default:80", 400),
            (Method::CONNECT, "10.0.0.1", 400),
            (Method::CONNECT, "10.0.0.1:80", 200),
            (Method::CONNECT, "[fd00::1]:80", 200),
        ] {
            let request = Request::builder().method(method).uri(uri).body(()).unwrap();
            let mut requests = requests.clone().ready().await.unwrap();
            let (response, _stream) = requests.send_request(request, false).unwrap();
            assert_eq!(response.await.unwrap().status(), want, "{uri}");
        }
    });
}

#[test]
fn a_client_that_never_speaks_is_given_up() {
    run(async {
        let ends = ends().await;
        let begin = Instant::now();
        let error = ends.served.await.unwrap().unwrap_err();
        assert!(
            matches!(error, HboneError::HandshakeTimeout(_)),
            "{error:?}"
        );
        assert_eq!(begin.elapsed().as_secs(), 10);
    });
}

#[test]
fn a_client_that_falls_silent_is_given_up() {
    run(async {
        let mut ends = ends().await;
        let tls = ends.tls("client", Alpn::Hbone).await;
        let (_requests, connection) = h2::client::handshake(tls).await.unwrap();
        // Never polled again: it neither reads nor answers.
        let _kept = Rc::new(connection);
        let begin = Instant::now();
        let error = ends.served.await.unwrap().unwrap_err();
        assert!(matches!(error, HboneError::Silent), "{error:?}");
        assert_eq!(begin.elapsed().as_secs(), 30);
    });
}

#[test]
fn a_client_of_the_mux_that_falls_silent_is_given_up() {
    run(async {
        let mut ends = ends().await;
        // Never read from again.
        let tls = ends.tls("client", Alpn::Mux).await;
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(Alpn::Mux.name()));
        let begin = Instant::now();
        let error = ends.served.await.unwrap().unwrap_err();
        assert!(matches!(error, HboneError::Silent), "{error:?}");
        assert_eq!(begin.elapsed().as_secs(), 30);
    });
}

#[test]
fn a_client_that_answers_pings_is_kept() {
    run(async {
        let mut ends = ends().await;
        let requests = ends.requests().await;
        let hour = tokio::time::timeout(Duration::from_secs(3600), &mut ends.served);
        assert!(hour.await.is_err(), "the server let go");
        drop(requests);
        let ended = ends.served.await.unwrap();
        assert!(!matches!(ended, Err(HboneError::Silent)), "{ended:?}");
    });
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    run(async {
        let mut ends = ends().await;
        let roots = ends.identities.roots();
        let mut store = rustls::RootCertStore::empty();
        store.add_parsable_certificates(roots);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(store)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let (client, _) = tokio::io::duplex(1);
        let io = std::mem::replace(&mut ends.client, client);
        // Its own checks fail, too: our certificates carry no server name.
        connector.connect(name, io).await.unwrap_err();
        let error = ends.served.await.unwrap().unwrap_err();
        assert!(matches!(error, HboneError::Tls(_)), "{}", chain(&error));
    });
}

#[test]
fn a_drain_ends_a_connection_once_its_streams_have_ended() {
    run(async {
        let mut ends = ends().await;
        let mut requests = ends.requests().await.ready().await.unwrap();
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri("10.0.0.1:80");
        let (response, mut send) = requests
            .send_request(request.body(()).unwrap(), false)
            .unwrap();
        let mut body = response.await.unwrap().into_body();
        ends.tasks.begin_drain();
        let early = tokio::time::timeout(Duration::from_secs(60), &mut ends.served);
        assert!(early.await.is_err(), "the stream was still open");
        send.send_data(Bytes::from_static(b"last words"), true)
            .unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), "last words");
        // The end may come with an empty chunk.
        while let Some(rest) = body.data().await {
            assert!(rest.unwrap().is_empty());
        }
        assert!(ends.served.await.unwrap().is_ok());
        drop(requests);
    });
}

#[test]
fn a_client_that_does_not_close_when_it_is_asked_to_is_closed() {
    run(async {
        let mut ends = ends().await;
        let tls = ends.tls("client", Alpn::Mux).await;
        let limits = MuxLimits {
            max_streams: 10,
            stream_window: 64 * 1024,
        };
        // It answers pings, and nothing tells it to end.
        let (_opener, mut driver) = mux::client(tls, limits);
        beside(async move { drop(poll_fn(|context| driver.poll(context)).await) });
        let began = Instant::now();
        ends.tasks.begin_leave();
        ends.served.await.unwrap().unwrap();
        let took = began.elapsed();
        assert!((20..=40).contains(&took.as_secs()), "{took:?}");
    });
}
