// SPDX-License-Identifier: Apache-2.0

//! Issuing: a fresh key, a certificate for it, and the proof that the two are what was asked for.
//!
//! Knows nothing of when to issue: that is [`super::rotate`]. Invariant: a key is made here, for
//! one certificate, and never leaves the process; what an authority returns is checked before use.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{
    crypto::aws_lc_rs::sign::any_ecdsa_type,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{ca::CertificateAuthority, verify};
use crate::model::{SpiffeId, revoked::LeafFacts};

/// Why no certificate was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// No key could be made.
    #[error("making a key")]
    Key(#[source] rcgen::Error),
    /// The key cannot be used for TLS.
    #[error("using the new key")]
    UseKey(#[source] rustls::Error),
    /// The authority refused, or could not be reached.
    #[error("asking the certificate authority")]
    Authority(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The authority answered with something else than was asked for.
    #[error("the certificate authority answered wrongly: {0}")]
    WrongAnswer(String),
}

/// The certificates an authority answers with.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The leaf, then intermediates.
    pub certificates: Vec<CertificateDer<'static>>,
    /// What the authority wants to be trusted.
    pub roots: Vec<CertificateDer<'static>>,
}

/// What an authority does later than now.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Chain, IssueError>> + Send + 'a>>;

/// Who signs: the embedded authority, or one behind a network.
pub trait Authority: Send + Sync + 'static {
    /// The trust domain that it signs for.
    fn trust_domain(&self) -> &str;

    /// The roots to trust before anything was issued.
    fn roots(&self) -> Vec<CertificateDer<'static>>;

    /// Signs a certificate for `identity`, valid for about `ttl`. Only the public half of `key`
    /// may leave the process.
    fn issue<'a>(&'a self, identity: &'a SpiffeId, key: &'a KeyPair, ttl: Duration) -> Answer<'a>;
}

impl Authority for CertificateAuthority {
    fn trust_domain(&self) -> &str {
        Self::trust_domain(self)
    }

    fn roots(&self) -> Vec<CertificateDer<'static>> {
        vec![self.root().clone()]
    }

    fn issue<'a>(&'a self, identity: &'a SpiffeId, key: &'a KeyPair, ttl: Duration) -> Answer<'a> {
        Box::pin(async move {
            let leaf = self
                .sign(identity, key, ttl)
                .map_err(|error| IssueError::Authority(Box::new(error)))?;
            Ok(Chain {
                certificates: vec![leaf],
                roots: vec![self.root().clone()],
            })
        })
    }
}

/// A certificate with its key, ready to be used.
#[derive(Clone, Debug)]
pub(super) struct Issued {
    /// Key and chain, for TLS.
    pub(super) key: Arc<CertifiedKey>,
    /// The serial number, in hexadecimal digits.
    pub(super) serial: String,
    /// What a list of revoked certificates is asked about.
    pub(super) facts: LeafFacts,
    /// Begin of validity.
    pub(super) not_before: SystemTime,
    /// End of validity.
    pub(super) not_after: SystemTime,
    /// What the authority wants to be trusted.
    pub(super) roots: Vec<CertificateDer<'static>>,
}

/// A new certificate, with its key as it can be kept.
pub(super) struct Fresh {
    /// What is used.
    pub(super) issued: Issued,
    /// The private key.
    pub(super) pkcs8: Vec<u8>,
}

/// Makes a key and has it certified.
pub(super) async fn issue(
    authority: &dyn Authority,
    identity: &SpiffeId,
    ttl: Duration,
) -> Result<Fresh, IssueError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IssueError::Key)?;
    let chain = authority.issue(identity, &key, ttl).await?;
    let pkcs8 = key.serialized_der().to_vec();
    let der = PrivateKeyDer::Pkcs8(pkcs8.clone().into());
    let issued = Issued::new(identity, chain.certificates, chain.roots, &der)?;
    Ok(Fresh { issued, pkcs8 })
}

impl Issued {
    /// Joins a key with its chain, if they are `identity`'s, belong together and are still valid.
    pub(super) fn new(
        identity: &SpiffeId,
        chain: Vec<CertificateDer<'static>>,
        roots: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'static>,
    ) -> Result<Self, IssueError> {
        let wrong = IssueError::WrongAnswer;
        let signing = any_ecdsa_type(key).map_err(IssueError::UseKey)?;
        let certified = CertifiedKey::new(chain, signing);
        let leaf = certified
            .end_entity_cert()
            .map_err(|_empty| wrong("no certificate at all".to_owned()))?;
        let facts = verify::facts_of(leaf).map_err(|error| wrong(error.to_string()))?;
        if facts.identity != *identity {
            return Err(wrong(format!(
                "asked for {identity}, the certificate names {}",
                facts.identity
            )));
        }
        certified
            .keys_match()
            .map_err(|error| wrong(error.to_string()))?;
        let (not_before, not_after) =
            verify::validity_of(leaf).map_err(|error| wrong(error.to_string()))?;
        if not_after <= SystemTime::now() {
            return Err(wrong("the certificate is expired already".to_owned()));
        }
        Ok(Self {
            serial: serial_of(leaf),
            facts,
            not_before,
            not_after,
            roots,
            key: Arc::new(certified),
        })
    }
}

pub(super) fn serial_of(certificate: &CertificateDer<'_>) -> String {
    match X509Certificate::from_der(certificate) {
        Ok((_, parsed)) => parsed
            .raw_serial()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        Err(_unreadable) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity::sessions::Sessions,
        model::{
            authorization::Pattern,
            revoked::{IssuedBefore, Revoked, Serial},
        },
    };

    /// The certificate with nothing at all where its serial number is.
    fn without_serial(leaf: &[u8]) -> Vec<u8> {
        // SEQUENCE { SEQUENCE { [0] version, INTEGER serial ..., both with lengths of two bytes.
        let (outer, inner) = (&leaf[..4], &leaf[4..8]);
        assert_eq!(
            (&outer[..2], &inner[..2]),
            (&[0x30, 0x82][..], &[0x30, 0x82][..])
        );
        assert_eq!(&leaf[8..15], [0xa0, 3, 2, 1, 2, 2, 16]);
        let shorter = |header: &[u8]| {
            let length = u16::from_be_bytes([header[2], header[3]]) - 16;
            [&header[..2], &length.to_be_bytes()].concat()
        };
        let version = &leaf[8..14];
        [&shorter(outer), &shorter(inner), version, &[0], &leaf[31..]].concat()
    }

    #[tokio::test]
    async fn a_certificate_without_a_serial_number_is_still_revoked_by_its_name() {
        let id = SpiffeId::new("a.b", "ns", "web");
        let authority = CertificateAuthority::in_memory("a.b").unwrap();
        let day = Duration::from_secs(24 * 3600);
        let fresh = issue(&authority, &id, day).await.unwrap();
        let leaf = without_serial(&fresh.issued.key.cert[0]);
        let key = PrivateKeyDer::Pkcs8(fresh.pkcs8.into());
        let issued = Issued::new(&id, vec![leaf.into()], Vec::new(), &key).unwrap();
        assert_eq!(issued.serial, "");
        let sessions = Sessions::new();
        let by_name = |account: &str| {
            let identity = Pattern::new(&format!("a.b/ns/ns/sa/{account}"));
            let issued = IssuedBefore {
                identity,
                before: i64::MAX,
            };
            Revoked::new([Serial::new(&[1])], vec![issued])
        };
        for (account, want) in [("web", true), ("db", false)] {
            sessions.revoke(by_name(account));
            assert_eq!(sessions.is_revoked(&issued.facts), want, "{account}");
        }
    }
}
