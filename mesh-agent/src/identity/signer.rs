// SPDX-License-Identifier: Apache-2.0

//! Signs for others: what `mesh-agent control` does with a root, or with an intermediate that
//! someone plugged in.
//!
//! Knows nothing of who may ask for what: it is told the identity. Invariants: the only name in a
//! certificate is the identity it is told, never one of the request; nothing outlives its issuer.
//! Reference: [`super::ca`] for the shape of a workload certificate.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SubjectPublicKeyInfo,
};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::{self, sign::any_ecdsa_type},
    pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio_rustls::TlsAcceptor;
use x509_parser::{
    prelude::{FromDer, X509Certificate, X509CertificationRequest},
    public_key::PublicKey,
};

use super::{
    ca,
    roots::{self, RootsError},
};
use crate::model::SpiffeId;

/// A root, as text, to be kept by someone.
#[derive(Clone, PartialEq, Eq)]
pub struct RootPem {
    /// The private key, PKCS#8.
    pub key: String,
    /// The certificate.
    pub certificate: String,
}

/// What a signer is made of, as text.
#[derive(Clone, PartialEq, Eq)]
pub struct SignerPem {
    /// The issuer's private key.
    pub key: String,
    /// The issuer's certificate.
    pub certificate: String,
    /// From the issuer to the root, in this order, if the issuer is no root.
    pub chain: String,
    /// What peers are to trust.
    pub roots: String,
}

/// Why something is not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// A key or certificate is unusable.
    #[error("{what}: {problem}")]
    Material {
        /// Which one.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The request cannot be honoured.
    #[error("the signing request {0}")]
    Request(String),
    /// A certificate could not be made.
    #[error("signing")]
    Sign(#[from] rcgen::Error),
    /// TLS could not be made of it.
    #[error("setting up TLS")]
    Tls(#[from] rustls::Error),
}

/// Signs with one issuer. Clones share it.
#[derive(Clone)]
pub struct Signer {
    inner: Arc<Inner>,
    roots: Vec<CertificateDer<'static>>,
}

struct Inner {
    issuer: Issuer<'static, KeyPair>,
    not_before: SystemTime,
    not_after: SystemTime,
    fingerprint: String,
    intermediates: Vec<CertificateDer<'static>>,
}

/// The smallest RSA key that is signed.
const RSA_MIN_BITS: usize = 2048;

impl RootPem {
    /// A new root for `trust_domain`, valid for `lifetime` from now.
    ///
    /// # Errors
    /// No key can be made.
    pub fn generate(trust_domain: &str, lifetime: Duration) -> Result<Self, SignError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = ca::root_params(trust_domain, lifetime).self_signed(&key)?;
        Ok(Self {
            key: key.serialize_pem(),
            certificate: roots::to_pem([certificate.der()]),
        })
    }
}

impl fmt::Debug for RootPem {
    /// Never shows the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootPem")
    }
}

impl fmt::Debug for SignerPem {
    /// Never shows the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SignerPem")
    }
}

impl Signer {
    /// Reads and checks what a signer is made of.
    ///
    /// # Errors
    /// If key and certificate do not belong together, or are no valid authority's.
    pub fn from_pem(pem: &SignerPem) -> Result<Self, SignError> {
        let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes())
            .map_err(|error| material("the key", error))?;
        let key = KeyPair::try_from(&key).map_err(|error| material("the key", error))?;
        let of_bundle = |what| move |error: RootsError| -> SignError { material(what, error) };
        let certificate = roots::parse_roots(&pem.certificate)
            .map_err(of_bundle("the certificate"))?
            .swap_remove(0);
        let trusted = roots::parse_roots(&pem.roots).map_err(of_bundle("the roots"))?;
        let mut intermediates = match pem.chain.trim() {
            "" => Vec::new(),
            chain => roots::parse_roots(chain).map_err(of_bundle("the chain"))?,
        };
        intermediates.retain(|one| !trusted.contains(one));
        if !trusted.contains(&certificate) && intermediates.first() != Some(&certificate) {
            intermediates.retain(|one| *one != certificate);
            intermediates.insert(0, certificate.clone());
        }
        let (not_before, not_after) = check_issuer(&certificate, &key)?;
        let inner = Arc::new(Inner {
            fingerprint: roots::fingerprint(&certificate),
            issuer: Issuer::from_ca_cert_der(&certificate, key)?,
            not_before,
            not_after,
            intermediates,
        });
        Ok(Self {
            inner,
            roots: trusted,
        })
    }

    /// The same issuer; peers are to trust the roots of `other`, too.
    #[must_use]
    pub fn with_roots_of(&self, other: &Self) -> Self {
        let mut both = self.clone();
        for root in &other.roots {
            if !both.roots.contains(root) {
                both.roots.push(root.clone());
            }
        }
        both
    }

    /// Whether peers that trust the roots of `other` trust all roots of this one.
    pub fn is_covered_by(&self, other: &Self) -> bool {
        self.roots.iter().all(|root| other.roots.contains(root))
    }

    /// Signs `csr` for `identity`, valid for `ttl` from now, or as long as the issuer if that is
    /// shorter; returns the leaf, intermediates one by one, and all roots in one.
    ///
    /// # Errors
    /// If the request's signature or key is not good.
    pub fn issue(
        &self,
        identity: &SpiffeId,
        csr: &str,
        ttl: Duration,
    ) -> Result<Vec<String>, SignError> {
        let key = requested_key(csr)?;
        let params = ca::workload_params(identity, ttl, self.inner.not_after)?;
        let leaf = params.signed_by(&key, &self.inner.issuer)?;
        let mut texts = vec![roots::to_pem([leaf.der()])];
        texts.extend(
            self.inner
                .intermediates
                .iter()
                .map(|one| roots::to_pem([one])),
        );
        texts.push(self.roots_pem());
        Ok(texts)
    }

    /// TLS for a server with these DNS names, without clients' certificates; the key is new.
    ///
    /// # Errors
    /// No certificate can be made.
    pub fn server(&self, names: &[String], ttl: Duration) -> Result<TlsAcceptor, SignError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name = DistinguishedName::new();
        if let Some(first) = names.first() {
            let name = DnValue::Utf8String(first.chars().take(64).collect());
            params.distinguished_name.push(DnType::CommonName, name);
        }
        ca::validity(&mut params, ttl, self.inner.not_after);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&key, &self.inner.issuer)?.der().clone();
        let mut chain = vec![leaf];
        chain.extend(self.inner.intermediates.iter().cloned());
        let der = PrivateKeyDer::Pkcs8(key.serialized_der().to_vec().into());
        let certified = CertifiedKey::new(chain, any_ecdsa_type(&der)?);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// What peers are to trust, PEM.
    pub fn roots_pem(&self) -> String {
        roots::to_pem(&self.roots)
    }

    /// Fingerprints of what peers are to trust.
    pub fn root_fingerprints(&self) -> Vec<String> {
        self.roots
            .iter()
            .map(|one| roots::fingerprint(one))
            .collect()
    }

    /// The issuer's fingerprint.
    pub fn fingerprint(&self) -> &str {
        &self.inner.fingerprint
    }

    /// Begin and end of the issuer's validity.
    pub fn validity(&self) -> (SystemTime, SystemTime) {
        (self.inner.not_before, self.inner.not_after)
    }
}

impl fmt::Debug for Signer {
    /// Never shows the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.inner.fingerprint)
    }
}

/// Fingerprint, begin and end of validity of the first certificate in `pem`.
///
/// # Errors
/// If there is none, or it cannot be read.
pub fn certificate_facts(pem: &str) -> Result<(String, SystemTime, SystemTime), SignError> {
    let of_text = |problem: String| material("the certificate", problem);
    let certificate = roots::parse_roots(pem)
        .map_err(|error| of_text(error.to_string()))?
        .swap_remove(0);
    let (begin, end) =
        super::verify::validity_of(&certificate).map_err(|error| of_text(error.to_string()))?;
    Ok((roots::fingerprint(&certificate), begin, end))
}

fn material(what: &'static str, problem: impl fmt::Display) -> SignError {
    SignError::Material {
        what,
        problem: problem.to_string(),
    }
}

fn check_issuer(
    certificate: &CertificateDer<'_>,
    key: &KeyPair,
) -> Result<(SystemTime, SystemTime), SignError> {
    let wrong = |problem: &str| material("the certificate", problem);
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|error| wrong(&error.to_string()))?;
    if !parsed.is_ca() {
        return Err(wrong("it is not an authority's (basicConstraints CA:TRUE)"));
    }
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err(wrong("the key does not belong to it"));
    }
    let validity = parsed.validity();
    let end: SystemTime = validity.not_after.to_datetime().into();
    if end <= SystemTime::now() {
        return Err(wrong(&format!("it expired at {}", validity.not_after)));
    }
    Ok((validity.not_before.to_datetime().into(), end))
}

/// The key of a request that proves to hold it.
fn requested_key(pem: &str) -> Result<SubjectPublicKeyInfo, SignError> {
    let wrong = |problem: String| SignError::Request(problem);
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| wrong(format!("is no PEM CERTIFICATE REQUEST: {error}")))?;
    let (rest, csr) = X509CertificationRequest::from_der(&der)
        .map_err(|error| wrong(format!("cannot be read: {error}")))?;
    if !rest.is_empty() {
        return Err(wrong(format!("has {} bytes after its end", rest.len())));
    }
    csr.verify_signature()
        .map_err(|error| wrong(format!("is not signed by its own key: {error}")))?;
    let key = &csr.certification_request_info.subject_pki;
    if let Ok(PublicKey::RSA(rsa)) = key.parsed()
        && rsa.key_size() < RSA_MIN_BITS
    {
        return Err(wrong(format!(
            "has an RSA key of {} bits, at least {RSA_MIN_BITS} are needed",
            rsa.key_size()
        )));
    }
    SubjectPublicKeyInfo::from_der(key.raw).map_err(|error| {
        wrong(format!(
            "has a key that is not supported (ECDSA P-256, P-384, Ed25519, RSA are): {error}"
        ))
    })
}

#[cfg(test)]
mod tests;
