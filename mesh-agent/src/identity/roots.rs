// SPDX-License-Identifier: Apache-2.0

//! Root certificates as text, and their fingerprints.
//!
//! Knows nothing of where the text comes from.

use std::{fmt::Write, time::SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Identities, issue, verify};

/// A text is no bundle of root certificates.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootsError {
    /// It is no PEM.
    #[error("it is not PEM: {0}")]
    NotPem(String),
    /// One of its certificates cannot be read.
    #[error("certificate {place} cannot be read: {problem}")]
    Unreadable {
        /// Which one, from 1.
        place: usize,
        /// What is wrong.
        problem: String,
    },
    /// There is none in it.
    #[error("it holds no CERTIFICATE")]
    Empty,
}

/// A root that peers are verified against, for people to look at.
#[derive(Clone, Debug)]
pub struct RootView {
    /// The serial number in hexadecimal digits.
    pub serial: String,
    /// Begin of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
}

impl RootView {
    /// Reads it; nothing for what is no certificate.
    pub(super) fn new(root: &CertificateDer<'static>) -> Option<Self> {
        let (not_before, not_after) = verify::validity_of(root).ok()?;
        Some(Self {
            serial: issue::serial_of(root),
            not_before,
            not_after,
        })
    }
}

impl Identities {
    /// The roots that peers are verified against, for people to look at.
    pub fn root_list(&self) -> Vec<RootView> {
        self.roots().iter().filter_map(RootView::new).collect()
    }
}

/// Reads a bundle of PEM certificates; each once, in order.
///
/// # Errors
/// If there is none, or one that cannot be read: trust is all of a bundle or nothing.
pub fn parse_roots(pem: &str) -> Result<Vec<CertificateDer<'static>>, RootsError> {
    let mut roots: Vec<CertificateDer<'static>> = Vec::new();
    for (index, section) in CertificateDer::pem_slice_iter(pem.as_bytes()).enumerate() {
        let root = section.map_err(|error| RootsError::NotPem(error.to_string()))?;
        if let Err(error) = X509Certificate::from_der(&root) {
            return Err(RootsError::Unreadable {
                place: index + 1,
                problem: error.to_string(),
            });
        }
        if !roots.contains(&root) {
            roots.push(root);
        }
    }
    if roots.is_empty() {
        return Err(RootsError::Empty);
    }
    Ok(roots)
}

/// SHA-256 of a certificate, in hexadecimal digits.
pub fn fingerprint(certificate: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in digest(&SHA256, certificate).as_ref() {
        write!(text, "{byte:02x}").expect("a string takes everything");
    }
    text
}

/// Certificates as PEM, one after the other.
pub(super) fn to_pem<'a>(
    certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>,
) -> String {
    certificates
        .into_iter()
        .map(|der| pem::encode(&pem::Pem::new("CERTIFICATE", der.as_ref())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::CertificateAuthority;

    #[test]
    fn a_bundle_may_hold_several_roots_and_each_counts_once() {
        let root = || {
            let authority = CertificateAuthority::in_memory("a.b").unwrap();
            authority.root().clone()
        };
        let (one, two) = (root(), root());
        let text = to_pem([&one, &two, &one]);
        assert_eq!(parse_roots(&text), Ok(vec![one, two]));
    }

    #[test]
    fn what_is_no_bundle_is_refused() {
        assert_eq!(parse_roots(""), Err(RootsError::Empty));
        let text = pem::encode(&pem::Pem::new("CERTIFICATE", b"no".as_slice()));
        let refusal = parse_roots(&text).unwrap_err();
        assert!(matches!(refusal, RootsError::Unreadable { place: 1, .. }));
        let cut = "-----BEGIN CERTIFICATE-----\nAAAA\n";
        assert!(parse_roots(cut).is_err());
    }
}
