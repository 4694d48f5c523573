// SPDX-License-Identifier: Apache-2.0

//! Identities and their certificates, for people to look at.
//!
//! Knows nothing of how they come about.

use std::time::SystemTime;

use crate::model::SpiffeId;

/// How an identity stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateState {
    /// Its first certificate is still to come.
    Waiting,
    /// Its certificate is valid and will be renewed in time.
    Live,
    /// Its certificate is valid; renewing it did not work so far.
    RenewalFailing,
    /// Its certificate ran out.
    Expired,
}

/// An identity and its certificate, for people to look at.
#[derive(Clone, Debug)]
pub struct CertificateView {
    /// Whose certificate.
    pub identity: SpiffeId,
    /// How it stands.
    pub state: CertificateState,
    /// The serial number in hexadecimal digits; empty while waiting.
    pub serial: String,
    /// Begin of validity.
    pub not_before: Option<SystemTime>,
    /// End of validity.
    pub not_after: Option<SystemTime>,
    /// See [`Identities::generation`](super::Identities::generation).
    pub generation: u64,
    /// Serial numbers of the roots that peers are verified against.
    pub roots: Vec<String>,
    /// Why the last attempt to issue did not work.
    pub error: Option<String>,
}
