// SPDX-License-Identifier: Apache-2.0

//! Who a peer is: reads and checks the certificates that peers present.
//!
//! Both verifiers leave the chain and its signatures to webpki, and add what it does not know:
//! exactly one URI name, which is a workload identity; on the client's side one of the expected
//! ones, on the server's side one of the own trust domain; and that it is not revoked. Knows nothing of keys or issuing.
//!
//! Invariant: nothing here panics, whatever bytes a peer sends; every refusal is a [`PeerError`]
//! that names what was expected and what was presented.
//! Reference: SPIFFE X509-SVID 2 and 5, RFC 5280 section 6.

use std::{fmt, io, sync::Arc, time::SystemTime};

use rustls::{
    CertificateError, CommonState, DigitallySignedStruct, DistinguishedName, OtherError,
    RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::model::{
    SpiffeId, TrustDomains,
    revoked::{LeafFacts, Revoked, Serial},
    spiffe::NotSpiffe,
};

/// Why a peer is not who it must be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PeerError {
    /// The handshake ended without a certificate of the peer.
    #[error("the peer presented no certificate")]
    Missing,
    /// The bytes are no certificate, or its names cannot be read.
    #[error("the peer's certificate cannot be read: {0}")]
    Malformed(String),
    /// X509-SVID demands exactly one URI name.
    #[error("the peer's certificate has {found} URI names, expected exactly one")]
    NotOneUri {
        /// How many there are.
        found: usize,
    },
    /// The URI name is no workload identity.
    #[error("the peer's certificate names no workload")]
    NotSpiffe(#[from] NotSpiffe),
    /// The certificate is past its end, or its begin has not come yet.
    #[error("the certificate of {presented} is valid from {not_before} to {not_after}, not now")]
    NotValidNow {
        /// Whom it names.
        presented: SpiffeId,
        /// Begin of validity, as the certificate has it.
        not_before: String,
        /// End of validity, as the certificate has it.
        not_after: String,
    },
    /// No chain of valid signatures leads to one of our roots.
    #[error("the certificate of {presented} is not signed by a trusted root")]
    Untrusted {
        /// Whom it claims to name.
        presented: SpiffeId,
        /// What webpki found.
        #[source]
        source: rustls::Error,
    },
    /// A workload of the mesh, but not the one that was asked for.
    #[error("expected {}, the peer presented {presented}", OneOf(expected))]
    Unexpected {
        /// Any of these would have been right.
        expected: Arc<[SpiffeId]>,
        /// Whom the certificate names.
        presented: SpiffeId,
    },
    /// The certificate is on the list of those that are no longer good.
    #[error("the certificate of {presented} with serial number {serial} is revoked")]
    Revoked {
        /// Whom it names.
        presented: SpiffeId,
        /// Its serial number.
        serial: Serial,
    },
    /// A workload of another trust domain.
    #[error("expected an identity of trust domain {expected}, the peer presented {presented}")]
    ForeignTrustDomain {
        /// The own trust domain.
        expected: String,
        /// Whom the certificate names.
        presented: SpiffeId,
    },
}

struct OneOf<'a>(&'a [SpiffeId]);

impl fmt::Display for OneOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("no identity at all"),
            [one] => one.fmt(f),
            [first, rest @ ..] => {
                write!(f, "one of {first}")?;
                rest.iter().try_for_each(|other| write!(f, ", {other}"))
            }
        }
    }
}

/// The certificate that the peer of an established session showed, if it is still valid.
///
/// # Errors
/// If there is none, or it names no workload or is not valid now.
pub(super) fn peer(connection: &CommonState) -> Result<LeafFacts, PeerError> {
    let leaf = connection
        .peer_certificates()
        .and_then(<[_]>::first)
        .ok_or(PeerError::Missing)?;
    presented(leaf, UnixTime::now())
}

/// Whether a certificate is still good by the list.
pub(super) fn check_revoked(leaf: &LeafFacts, list: &Revoked) -> Result<(), PeerError> {
    if list.has(leaf) {
        return Err(PeerError::Revoked {
            presented: leaf.identity.clone(),
            serial: leaf.serial.clone(),
        });
    }
    Ok(())
}

/// The refusal that ended a handshake, if one of the verifiers here did it.
pub fn refusal(error: &io::Error) -> Option<PeerError> {
    let tls = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    match tls {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            inner.downcast_ref::<PeerError>().cloned()
        }
        rustls::Error::NoCertificatesPresented => Some(PeerError::Missing),
        _ => None,
    }
}

/// The workload a certificate names, unverified.
pub(super) fn identity_of(certificate: &[u8]) -> Result<SpiffeId, PeerError> {
    uri_name(&parse(certificate)?)
}

fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, PeerError> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        Ok((rest, _)) => Err(PeerError::Malformed(format!(
            "{} bytes after its end",
            rest.len()
        ))),
        Err(error) => Err(PeerError::Malformed(error.to_string())),
    }
}

fn uri_name(certificate: &X509Certificate<'_>) -> Result<SpiffeId, PeerError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| PeerError::Malformed(error.to_string()))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    match uris.as_slice() {
        [uri] => Ok(SpiffeId::parse(uri)?),
        _ => Err(PeerError::NotOneUri { found: uris.len() }),
    }
}

fn check_validity(
    certificate: &X509Certificate<'_>,
    presented: &SpiffeId,
    now: UnixTime,
) -> Result<(), PeerError> {
    let validity = certificate.validity();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if validity.not_before.timestamp() <= now && now <= validity.not_after.timestamp() {
        return Ok(());
    }
    Err(PeerError::NotValidNow {
        presented: presented.clone(),
        not_before: validity.not_before.to_string(),
        not_after: validity.not_after.to_string(),
    })
}

/// Begin and end of validity of a certificate.
pub(super) fn validity_of(certificate: &[u8]) -> Result<(SystemTime, SystemTime), PeerError> {
    let parsed = parse(certificate)?;
    let validity = parsed.validity();
    Ok((
        validity.not_before.to_datetime().into(),
        validity.not_after.to_datetime().into(),
    ))
}

/// Everything but the chain: readable, one workload's name, valid now.
fn presented(leaf: &CertificateDer<'_>, now: UnixTime) -> Result<LeafFacts, PeerError> {
    let parsed = parse(leaf)?;
    let facts = facts(&parsed)?;
    check_validity(&parsed, &facts.identity, now)?;
    Ok(facts)
}

/// What a list of revoked certificates is asked about, unverified.
pub(super) fn facts_of(certificate: &[u8]) -> Result<LeafFacts, PeerError> {
    facts(&parse(certificate)?)
}

fn facts(certificate: &X509Certificate<'_>) -> Result<LeafFacts, PeerError> {
    Ok(LeafFacts {
        identity: uri_name(certificate)?,
        serial: Serial::new(certificate.raw_serial()),
        not_before: certificate.validity().not_before.timestamp(),
    })
}

fn untrusted(presented: &SpiffeId) -> impl FnOnce(rustls::Error) -> PeerError {
    let presented = presented.clone();
    move |source| PeerError::Untrusted { presented, source }
}

impl From<PeerError> for rustls::Error {
    fn from(error: PeerError) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
    }
}

/// What both verifiers ask besides chains.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    /// The own trust domain, by all its names.
    pub(super) domains: TrustDomains,
    /// What is no longer good.
    pub(super) revoked: watch::Receiver<Arc<Revoked>>,
}

/// Accepts servers whose chain leads to a root and that are one of the expected workloads, by any name of
/// the own trust domain.
#[derive(Debug)]
pub(super) struct ExpectedServer {
    roots: Arc<RootCertStore>,
    expected: Arc<[SpiffeId]>,
    terms: Terms,
    algorithms: WebPkiSupportedAlgorithms,
    signatures: Arc<WebPkiServerVerifier>,
}

/// Accepts clients whose chain leads to a root and that belong to the own trust domain, by any of its names.
#[derive(Debug)]
pub(super) struct DomainClient {
    terms: Terms,
    chains: Arc<dyn ClientCertVerifier>,
}

impl ExpectedServer {
    /// Fails if there is no root at all.
    pub(super) fn new(
        provider: &Arc<CryptoProvider>,
        roots: Arc<RootCertStore>,
        expected: Arc<[SpiffeId]>,
        terms: Terms,
    ) -> Result<Self, rustls::Error> {
        let signatures =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider))
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(Self {
            roots,
            expected,
            terms,
            algorithms: provider.signature_verification_algorithms,
            signatures,
        })
    }

    /// Whether a peer that shows this chain is let through.
    pub(super) fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), PeerError> {
        let facts = presented(leaf, now)?;
        let identity = facts.identity.clone();
        let parsed = ParsedCertificate::try_from(leaf).map_err(untrusted(&identity))?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )
        .map_err(untrusted(&identity))?;
        check_revoked(&facts, &self.terms.revoked.borrow())?;
        let mut expected = self.expected.iter();
        if expected.any(|one| self.terms.domains.are_same(one, &identity)) {
            return Ok(());
        }
        Err(PeerError::Unexpected {
            expected: Arc::clone(&self.expected),
            presented: identity,
        })
    }
}

impl ServerCertVerifier for ExpectedServer {
    /// The server's name plays no part: workloads have identities, not names.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signatures.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signatures.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_verify_schemes()
    }
}

impl DomainClient {
    /// Fails if there is no root at all.
    pub(super) fn new(
        provider: &Arc<CryptoProvider>,
        roots: Arc<RootCertStore>,
        terms: Terms,
    ) -> Result<Self, rustls::Error> {
        let chains = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider))
            .clear_root_hint_subjects()
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(Self { terms, chains })
    }

    /// Whether a peer that shows this chain is let through.
    pub(super) fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), PeerError> {
        let facts = presented(leaf, now)?;
        let identity = facts.identity.clone();
        self.chains
            .verify_client_cert(leaf, intermediates, now)
            .map_err(untrusted(&identity))?;
        check_revoked(&facts, &self.terms.revoked.borrow())?;
        if self.terms.domains.has(identity.trust_domain()) {
            return Ok(());
        }
        Err(PeerError::ForeignTrustDomain {
            expected: self.terms.domains.own().to_owned(),
            presented: identity,
        })
    }
}

impl ClientCertVerifier for DomainClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}
