// SPDX-License-Identifier: Apache-2.0

//! Peers with a certificate that mean harm: each limit of the server's end holds.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::client::TlsStream;

use super::{
    super::super::tests::frames::{
        CONTINUATION, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, field, frame, hello, read_kind,
        write_on,
    },
    *,
};

const REFUSED_STREAM: u32 = 7;
const END_HEADERS: u8 = 4;

/// More than any limit allows.
const MUCH: usize = 8 << 20;

type Client = TlsStream<DuplexStream>;

/// The fields of a CONNECT to `authority`.
fn connect(authority: &str) -> Vec<u8> {
    [field(":method", "CONNECT"), field(":authority", authority)].concat()
}

async fn client(ends: &mut Ends) -> Client {
    let mut tls = ends.tls("client", Alpn::Hbone).await;
    tls.write_all(&hello()).await.unwrap();
    tls.flush().await.unwrap();
    tls
}

/// How the server's end of it ended.
async fn end(ends: Ends, client: Client) -> HboneError {
    drop(client);
    ends.served.await.unwrap().unwrap_err()
}

#[test]
fn continuations_without_end_end_the_tunnel() {
    run(async {
        for payload in [field("x", &"y".repeat(1000)), Vec::new()] {
            let mut ends = ends().await;
            let mut client = client(&mut ends).await;
            let begun = frame(HEADERS, 0, 1, &connect("10.0.0.1:80"));
            client.write_all(&begun).await.unwrap();
            let more = frame(CONTINUATION, 0, 1, &payload).repeat(10);
            let taken = write_on(&mut client, &more, MUCH).await;
            assert!(taken < MUCH, "{taken} bytes of one head were taken");
            let error = end(ends, client).await;
            assert!(matches!(error, HboneError::Protocol(_)), "{error:?}");
        }
    });
}

#[test]
fn a_head_that_does_not_end_ends_the_tunnel() {
    run(async {
        let mut ends = ends().await;
        let mut client = client(&mut ends).await;
        let begun = frame(HEADERS, 0, 1, &connect("10.0.0.1:80"));
        client.write_all(&begun).await.unwrap();
        client.flush().await.unwrap();
        // Pings cannot be answered within a head.
        read_kind(&mut client, PING).await.unwrap();
        let error = (&mut ends.served).await.unwrap().unwrap_err();
        assert!(matches!(error, HboneError::Silent), "{error:?}");
    });
}

#[test]
fn streams_opened_and_reset_in_a_loop_end_the_tunnel() {
    run(async {
        let mut ends = ends().await;
        let mut client = client(&mut ends).await;
        let flood: Vec<u8> = (0..10_000u32)
            .flat_map(|index| {
                let stream = 2 * index + 1;
                let open = frame(HEADERS, END_HEADERS, stream, &connect("10.0.0.1:80"));
                let reset = frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
                [open, reset].concat()
            })
            .collect();
        let taken = write_on(&mut client, &flood, 1).await;
        assert_eq!(taken, 0, "it ended somewhere in there");
        let error = end(ends, client).await;
        assert!(matches!(error, HboneError::Protocol(_)), "{error:?}");
    });
}

#[test]
fn no_more_streams_are_begun_than_may_be_under_way() {
    run(async {
        let mut ends = ends().await;
        let mut client = client(&mut ends).await;
        let most = HboneLimits::default().max_streams;
        let flood: Vec<u8> = (0..most + 20)
            .flat_map(|index| {
                let fields = connect("10.0.0.1:80");
                frame(HEADERS, END_HEADERS, 2 * index + 1, &fields)
            })
            .collect();
        client.write_all(&flood).await.unwrap();
        client.flush().await.unwrap();
        for _ in 0..20 {
            let reset = read_kind(&mut client, RST_STREAM).await.unwrap();
            assert_eq!(reset.code(), REFUSED_STREAM);
        }
    });
}

#[test]
fn a_huge_authority_leads_nowhere() {
    run(async {
        let mut ends = ends().await;
        let mut client = client(&mut ends).await;
        // As long as a head may be in one frame: it is no address.
        let long = frame(HEADERS, END_HEADERS, 1, &connect(&"1".repeat(16_000)));
        client.write_all(&long).await.unwrap();
        let answer = read_kind(&mut client, HEADERS).await.unwrap();
        // `:status: 400` of the static table.
        assert_eq!((answer.stream, answer.payload[0]), (1, 0x8c));
        // Longer than all fields together may be.
        let longer = connect(&"1".repeat(100_000));
        let (first, rest) = longer.split_at(60_000);
        let head = [
            frame(HEADERS, 0, 3, first),
            frame(CONTINUATION, END_HEADERS, 3, rest),
        ];
        client.write_all(&head.concat()).await.unwrap_or_default();
        client.flush().await.unwrap_or_default();
        let answered = loop {
            let Some(frame) = super::super::super::tests::frames::read(&mut client).await else {
                break None;
            };
            if frame.stream == 3 || frame.kind == GOAWAY {
                break Some(frame);
            }
        };
        let accepted = answered.is_some_and(|it| it.kind == HEADERS && it.payload[0] == 0x88);
        assert!(!accepted, "it was taken for an address");
    });
}

#[test]
fn who_reads_no_answers_to_pings_and_settings_is_given_up() {
    run(async {
        for frame in [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[])] {
            let mut ends = ends().await;
            let mut client = client(&mut ends).await;
            let taken = write_on(&mut client, &frame.repeat(100), MUCH).await;
            assert!(taken < MUCH, "{taken} bytes were taken");
            // Nor are our pings answered.
            let error = (&mut ends.served).await.unwrap().unwrap_err();
            assert!(matches!(error, HboneError::Silent), "{error:?}");
        }
    });
}

#[test]
fn a_handshake_that_comes_byte_by_byte_is_given_up() {
    run(async {
        let mut ends = ends().await;
        let begin = Instant::now();
        let slow = async {
            // The begin of a record that would hold a ClientHello.
            for byte in [0x16, 3, 1, 2, 0, 1]
                .into_iter()
                .chain(std::iter::repeat(0))
            {
                if ends.client.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        slow.await;
        let error = ends.served.await.unwrap().unwrap_err();
        let timed_out = matches!(error, HboneError::HandshakeTimeout(_));
        assert!(timed_out, "{error:?}");
        assert!(begin.elapsed() <= Duration::from_secs(12));
    });
}

#[test]
fn a_chain_of_certificates_that_is_too_long_is_not_read_to_its_end() {
    run(async {
        let mut ends = ends().await;
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec!["a".to_owned()]).unwrap();
        let own = parameters.self_signed(&key).unwrap();
        let chain = vec![own.der().clone(); 1000];
        let bytes: usize = chain.iter().map(|one| one.len()).sum();
        assert!(bytes > 128 * 1024, "{bytes}");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(ends.identities.roots());
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_client_auth_cert(chain, key.into())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (idle, _) = tokio::io::duplex(1);
        let io = std::mem::replace(&mut ends.client, idle);
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        // TLS 1.3: the client is through before the server has looked at it.
        if let Ok(mut tls) = connector.connect(name, io).await {
            tls.read(&mut [0]).await.unwrap_err();
        }
        let error = ends.served.await.unwrap().unwrap_err();
        assert!(matches!(error, HboneError::Tls(_)), "{}", chain_of(&error));
        let told = chain_of(&error);
        assert!(told.contains("HandshakePayloadTooLarge"), "{told}");
    });
}

fn chain_of(error: &HboneError) -> String {
    chain(error)
}

/// Believes every server.
#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
