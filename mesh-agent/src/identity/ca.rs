// SPDX-License-Identifier: Apache-2.0

//! The embedded certificate authority: a root key that signs workload certificates.
//!
//! Owns the root and the shape of a workload certificate. Knows nothing of who may ask: the agent
//! asks for the workloads of its own node only. Where the root is kept: [`super::custody`].
//!
//! Invariant: a workload certificate never outlives the root, and its only name is the identity.
//! Reference: SPIFFE X509-SVID section 2 to 4; validity and key usage as Istio issues them.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SanType, SerialNumber, string::Ia5String,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::custody;
use crate::model::SpiffeId;

/// How long a root is valid.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How far back validity begins, so that clocks may differ.
const CLOCK_SKEW: Duration = Duration::from_secs(120);

/// Signs certificates with a root that it holds in memory. Clones share the root.
#[derive(Clone)]
pub struct CertificateAuthority(Arc<Root>);

struct Root {
    trust_domain: String,
    certificate: CertificateDer<'static>,
    not_after: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

/// A root's key and certificate, as they are kept.
pub(super) struct RootMaterial {
    pub(super) key: KeyPair,
    pub(super) certificate: CertificateDer<'static>,
}

/// Why there is no certificate authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file operation did not succeed.
    #[error("{action} {}", path.display())]
    File {
        /// What was attempted, as a verb.
        action: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// Why it did not work.
        #[source]
        source: std::io::Error,
    },
    /// Others than the owner may read the key, or the owner is someone else.
    #[error("{}: {problem}; keys must be the agent's alone: {fix}", path.display())]
    Exposed {
        /// The directory or file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// The command that puts it right.
        fix: String,
    },
    /// The file holds no usable root.
    #[error("{}: {problem}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The root was made for another trust domain.
    #[error("{}: this root is for trust domain {found:?}, the agent runs for {wanted:?}", path.display())]
    OtherTrustDomain {
        /// The file.
        path: PathBuf,
        /// The root's.
        found: String,
        /// The agent's.
        wanted: String,
    },
    /// A key or certificate could not be made.
    #[error("signing a certificate")]
    Sign(#[from] rcgen::Error),
}

impl CertificateAuthority {
    /// Uses the root kept in `dir`, which agents may share; makes both if they are missing.
    ///
    /// Agents that start at once end up with one and the same root.
    ///
    /// # Errors
    /// If `dir` or the file in it can be read by others, holds no valid root for `trust_domain`,
    /// or cannot be read or made.
    pub fn open(dir: &Path, trust_domain: &str) -> Result<Self, AuthorityError> {
        let path = dir.join(custody::FILE);
        let material = custody::load_or_create(dir, || new_root(trust_domain))?;
        let unusable = |problem: String| AuthorityError::Unusable {
            path: path.clone(),
            problem,
        };
        let found = check_root(&material, SystemTime::now()).map_err(unusable)?;
        if found != trust_domain {
            return Err(AuthorityError::OtherTrustDomain {
                path,
                found,
                wanted: trust_domain.to_owned(),
            });
        }
        Self::from_material(material, trust_domain)
    }

    /// A root that lives as long as this value.
    ///
    /// # Errors
    /// If no key can be made.
    pub fn in_memory(trust_domain: &str) -> Result<Self, AuthorityError> {
        Self::from_material(new_root(trust_domain)?, trust_domain)
    }

    /// The trust domain that this authority issues for.
    pub fn trust_domain(&self) -> &str {
        &self.0.trust_domain
    }

    /// The root's certificate.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.0.certificate
    }

    /// Signs a certificate for `identity` and `key`, valid for `ttl` from now.
    pub(super) fn sign(
        &self,
        identity: &SpiffeId,
        key: &impl PublicKeyData,
        ttl: Duration,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let params = workload_params(identity, ttl, self.0.not_after)?;
        Ok(params.signed_by(key, &self.0.issuer)?.der().clone())
    }

    fn from_material(material: RootMaterial, trust_domain: &str) -> Result<Self, AuthorityError> {
        let not_after = super::verify::validity_of(&material.certificate)
            .map_or_else(|_unread| SystemTime::now() + ROOT_LIFETIME, |(_, end)| end);
        let issuer = Issuer::from_ca_cert_der(&material.certificate, material.key)?;
        Ok(Self(Arc::new(Root {
            trust_domain: trust_domain.to_owned(),
            certificate: material.certificate,
            not_after,
            issuer,
        })))
    }
}

impl fmt::Debug for CertificateAuthority {
    /// Never shows the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateAuthority({})", self.0.trust_domain)
    }
}

fn new_root(trust_domain: &str) -> Result<RootMaterial, AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let params = root_params(trust_domain, ROOT_LIFETIME);
    let certificate = params.self_signed(&key)?.der().clone();
    Ok(RootMaterial { key, certificate })
}

/// What a root says, valid for `lifetime` from now.
pub(super) fn root_params(trust_domain: &str, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(
        DnType::OrganizationName,
        DnValue::Utf8String(trust_domain.to_owned()),
    );
    let now = SystemTime::now();
    params.serial_number = Some(random_serial());
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = whole_second_after(now + lifetime);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// What a workload's certificate says, valid for `ttl` from now, not beyond `issuer_end`.
pub(super) fn workload_params(
    identity: &SpiffeId,
    ttl: Duration,
    issuer_end: SystemTime,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(identity.as_str())?)];
    validity(&mut params, ttl, issuer_end);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// A serial number of its own, and validity for `ttl` from now, not beyond `issuer_end`.
pub(super) fn validity(params: &mut CertificateParams, ttl: Duration, issuer_end: SystemTime) {
    let now = SystemTime::now();
    params.serial_number = Some(random_serial());
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = whole_second_after((now + ttl).min(issuer_end));
}

/// Checks that a root that was read can sign; returns the trust domain that it was made for.
fn check_root(material: &RootMaterial, now: SystemTime) -> Result<String, String> {
    let (_, parsed) = X509Certificate::from_der(&material.certificate)
        .map_err(|error| format!("its certificate cannot be read: {error}"))?;
    if !parsed.is_ca() {
        return Err("its certificate is not an authority's".to_owned());
    }
    if parsed.public_key().raw != material.key.subject_public_key_info() {
        return Err("its key does not belong to its certificate".to_owned());
    }
    let end: SystemTime = parsed.validity().not_after.to_datetime().into();
    if end <= now {
        return Err(format!(
            "its certificate expired at {}; move the file away to begin with a new root",
            parsed.validity().not_after
        ));
    }
    let organization = parsed.subject().iter_organization().next();
    match organization.map(|name| name.as_str()) {
        Some(Ok(name)) => Ok(name.to_owned()),
        _ => Err("its certificate names no trust domain (subject O=)".to_owned()),
    }
}

/// 127 random bits: positive, unpredictable, unique enough.
fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = std::array::from_fn(|_| fastrand::u8(..));
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        // Unique still, only not unpredictable: with signatures over SHA-256 that is good enough.
        tracing::warn!("the system's random generator does not answer");
    }
    bytes[0] &= 0x7f;
    bytes[0] |= 0x40;
    SerialNumber::from_slice(&bytes)
}

/// Certificates count whole seconds: rounded up, so that a life of two seconds is one.
fn whole_second_after(at: SystemTime) -> OffsetDateTime {
    let at = OffsetDateTime::from(at);
    match at.nanosecond() {
        0 => at,
        _ => at.replace_nanosecond(0).unwrap_or(at) + Duration::from_secs(1),
    }
}

#[cfg(test)]
mod tests;
