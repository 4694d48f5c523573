// SPDX-License-Identifier: Apache-2.0

//! What peers are verified against.
//!
//! Knows nothing of where roots come from. Invariant: a root counts once, however it came.

use std::sync::Arc;

use rustls::{RootCertStore, pki_types::CertificateDer};

/// What peers are verified against: given by hand, and by the authority.
#[derive(Clone)]
pub(super) struct Trust {
    pub(super) added: Vec<CertificateDer<'static>>,
    pub(super) issuers: Vec<CertificateDer<'static>>,
    pub(super) store: Arc<RootCertStore>,
}

impl Trust {
    pub(super) fn new(
        added: Vec<CertificateDer<'static>>,
        issuers: Vec<CertificateDer<'static>>,
    ) -> Self {
        let mut trust = Self {
            added,
            issuers,
            store: Arc::new(RootCertStore::empty()),
        };
        let mut store = RootCertStore::empty();
        let (_, unusable) = store.add_parsable_certificates(trust.roots());
        if unusable > 0 {
            tracing::warn!(unusable, "some root certificates cannot be read");
        }
        trust.store = Arc::new(store);
        trust
    }

    /// All of them, in order, each once: an authority's root usually is among those given by hand.
    pub(super) fn roots(&self) -> Vec<CertificateDer<'static>> {
        let mut roots: Vec<CertificateDer<'static>> = Vec::new();
        for root in self.added.iter().chain(&self.issuers) {
            if !roots.contains(root) {
                roots.push(root.clone());
            }
        }
        roots
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::CertificateAuthority;

    #[test]
    fn a_root_that_is_given_twice_counts_once() {
        let root = || {
            let authority = CertificateAuthority::in_memory("a.b").unwrap();
            authority.root().clone()
        };
        let (one, two) = (root(), root());
        let trust = Trust::new(vec![one.clone(), two.clone()], vec![one.clone()]);
        assert_eq!(trust.roots(), [one, two]);
        assert_eq!(trust.store.len(), 2);
    }
}
