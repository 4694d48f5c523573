// SPDX-License-Identifier: Apache-2.0

//! TLS towards servers that are no peers of the mesh: whom they must be, and who says so.
//!
//! No identity of ours is shown. Knows nothing of connections. Roots are read from files, which
//! are looked at again from time to time. Invariant: without roots, or with a name that is none,
//! there is no configuration, so that nothing is sent.

use std::{
    collections::HashMap,
    fs, io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime, pem::PemObject},
};
use tokio_rustls::TlsConnector;

use crate::model::{Origination, Roots};

/// How long roots are used before their file is looked at again.
const FRESH: Duration = Duration::from_secs(60);

/// The largest file of roots that is read.
const ROOTS_MAX: u64 = 4 * 1024 * 1024;

/// Where systems keep whom they trust.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// Why there is no TLS towards a server.
#[derive(Debug, thiserror::Error)]
pub enum OriginationError {
    /// The name is no host name.
    #[error("{name:?} is no server name")]
    Name {
        /// What is written.
        name: Arc<str>,
        /// What is wrong.
        #[source]
        source: InvalidDnsNameError,
    },
    /// There are no roots.
    #[error("reading roots from {path}")]
    Roots {
        /// Which file.
        path: Arc<str>,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// The roots or the provider make no configuration.
    #[error("setting up TLS")]
    Configuration(#[source] rustls::Error),
}

/// Configurations that were made, and when.
#[derive(Default)]
pub(super) struct Originations(Mutex<Made>);

type Made = HashMap<(Origination, Option<&'static str>), (Arc<ClientConfig>, Instant)>;

impl Originations {
    /// TLS as it is `wanted`, offering one application protocol or none, and the name to ask for.
    pub(super) fn connector(
        &self,
        wanted: &Origination,
        alpn: Option<&'static str>,
    ) -> Result<(TlsConnector, ServerName<'static>), OriginationError> {
        let asked = wanted.server_name.clone().unwrap_or_default();
        let name = server_name(&asked)?;
        let key = (wanted.clone(), alpn);
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        made.retain(|_, (_, since)| since.elapsed() < FRESH);
        if let Some((config, _)) = made.get(&key) {
            return Ok((TlsConnector::from(Arc::clone(config)), name));
        }
        let config = Arc::new(configure(wanted, &name, alpn)?);
        made.insert(key, (Arc::clone(&config), Instant::now()));
        Ok((TlsConnector::from(config), name))
    }
}

fn server_name(text: &Arc<str>) -> Result<ServerName<'static>, OriginationError> {
    ServerName::try_from(text.to_string()).map_err(|source| OriginationError::Name {
        name: Arc::clone(text),
        source,
    })
}

fn configure(
    wanted: &Origination,
    asked: &ServerName<'static>,
    alpn: Option<&'static str>,
) -> Result<ClientConfig, OriginationError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = if wanted.skip_verify {
        Arc::new(Anybody(Arc::clone(&provider)))
    } else {
        let names: Result<Vec<_>, _> = wanted.names.iter().map(server_name).collect();
        let names = match names? {
            none if none.is_empty() => vec![asked.clone()],
            names => names,
        };
        let roots = Arc::new(roots(&wanted.roots)?);
        let inner = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider));
        let inner = inner.build().map_err(|error| {
            OriginationError::Configuration(rustls::Error::General(error.to_string()))
        })?;
        Arc::new(OneOf { inner, names })
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(OriginationError::Configuration)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}

fn roots(wanted: &Roots) -> Result<RootCertStore, OriginationError> {
    let path = match wanted {
        Roots::File(path) => Arc::clone(path),
        Roots::System => {
            let found = SYSTEM.iter().find(|path| Path::new(path).is_file());
            found.copied().unwrap_or(SYSTEM[0]).into()
        }
    };
    read_roots(Path::new(&*path)).map_err(|source| OriginationError::Roots { path, source })
}

fn read_roots(path: &Path) -> io::Result<RootCertStore> {
    let facts = fs::metadata(path)?;
    let wrong = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text);
    if !facts.is_file() || facts.len() > ROOTS_MAX {
        return Err(wrong("no file of certificates"));
    }
    let text = fs::read(path)?;
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok);
    // Systems have roots among theirs that nobody can read; one is enough here.
    let (added, _ignored) = roots.add_parsable_certificates(certificates);
    match added {
        0 => Err(wrong("no certificate is in it")),
        _ => Ok(roots),
    }
}

/// A server whose certificate is for one of these names.
#[derive(Debug)]
struct OneOf {
    inner: Arc<WebPkiServerVerifier>,
    names: Vec<ServerName<'static>>,
}

impl ServerCertVerifier for OneOf {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _asked: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verify = |name| {
            let inner = &self.inner;
            inner.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
        };
        let nobody = rustls::Error::InvalidCertificate(CertificateError::NotValidForName);
        let mut last = Err(nobody);
        for name in &self.names {
            last = verify(name);
            if last.is_ok() {
                break;
            }
        }
        last
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Any server that has the key of its own certificate: `insecureSkipVerify`.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _asked: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.0.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
