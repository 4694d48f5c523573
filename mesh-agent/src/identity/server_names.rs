// SPDX-License-Identifier: Apache-2.0

//! Who a server that is no peer of the mesh must be: its names, and who has signed them.
//!
//! Chains, signatures and revocation are webpki's; what it does not know are URIs. Knows nothing
//! of where roots come from. Invariant: a name counts only in a certificate whose chain holds.
//! Reference: RFC 9525 (names in services), RFC 5280 section 6.3 (revocation).

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        VerifierBuilderError, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// A name that a certificate may be for.
#[derive(Clone, Debug)]
pub(super) enum Name {
    /// A host name or an address.
    Server(ServerName<'static>),
    /// A URI, letter by letter.
    Uri(Arc<str>),
}

/// A server whose certificate is for one of these names.
#[derive(Debug)]
pub(super) struct OneOf {
    inner: Arc<WebPkiServerVerifier>,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    names: Vec<Name>,
}

impl OneOf {
    /// Any of `names`, signed by one of `roots`, and not among what is revoked. With lists of what is
    /// revoked there must be one for each authority of the chain.
    pub(super) fn new(
        provider: &Arc<CryptoProvider>,
        roots: Arc<RootCertStore>,
        revoked: Vec<CertificateRevocationListDer<'static>>,
        names: Vec<Name>,
    ) -> Result<Self, VerifierBuilderError> {
        let inner =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider));
        Ok(Self {
            inner: inner.with_crls(revoked).build()?,
            roots,
            provider: Arc::clone(provider),
            names,
        })
    }

    /// Whether the certificate is for `uri`, and `checked`, which compared another name, found
    /// nothing else wrong.
    fn has_uri(
        &self,
        uri: &str,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        checked: Result<ServerCertVerified, Error>,
    ) -> Result<ServerCertVerified, Error> {
        match checked {
            Ok(_)
            | Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => {}
            Err(other) => return Err(other),
        }
        // Once more on its own: that names are compared last is nothing webpki promises.
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(leaf)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        let unreadable = || Error::InvalidCertificate(CertificateError::BadEncoding);
        let certificate = X509Certificate::from_der(leaf).ok();
        let (_, certificate) = certificate.ok_or_else(unreadable)?;
        let names = certificate.subject_alternative_name().ok();
        let names = names.ok_or_else(unreadable)?;
        let names = names.map_or(&[][..], |names| &names.value.general_names);
        let is_it =
            |name: &GeneralName<'_>| matches!(name, GeneralName::URI(found) if *found == uri);
        match names.iter().any(is_it) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(Error::InvalidCertificate(CertificateError::NotValidForName)),
        }
    }
}

impl ServerCertVerifier for OneOf {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        asked: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verify = |name: &ServerName<'_>| {
            let inner = &self.inner;
            inner.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
        };
        let nobody = Error::InvalidCertificate(CertificateError::NotValidForName);
        let mut last = Err(nobody);
        for name in &self.names {
            last = match name {
                Name::Server(name) => verify(name),
                Name::Uri(uri) => self.has_uri(uri, end_entity, intermediates, now, verify(asked)),
            };
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
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Any server that has the key of its own certificate: `insecureSkipVerify`.
#[derive(Debug)]
pub(super) struct Anybody(pub(super) Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _asked: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.0.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
