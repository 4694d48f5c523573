// SPDX-License-Identifier: Apache-2.0

//! What peers are verified against: roots, and the names of the own trust domain.
//!
//! Knows nothing of where either comes from, nor of how a peer is verified. Invariant: a root counts once, however it came.

use std::sync::Arc;

use rustls::{RootCertStore, pki_types::CertificateDer};

use super::{Core, Identities, chain_text};
use crate::model::TrustDomains;

/// What peers are verified against: given by hand, and by the authority.
#[derive(Clone)]
pub(super) struct Trust {
    pub(super) added: Vec<CertificateDer<'static>>,
    pub(super) issuers: Vec<CertificateDer<'static>>,
    pub(super) store: Arc<RootCertStore>,
    pub(super) domains: TrustDomains,
}

impl Trust {
    pub(super) fn new(
        added: Vec<CertificateDer<'static>>,
        issuers: Vec<CertificateDer<'static>>,
        domains: TrustDomains,
    ) -> Self {
        let mut trust = Self {
            added,
            issuers,
            store: Arc::new(RootCertStore::empty()),
            domains,
        };
        let mut store = RootCertStore::empty();
        let (_, unusable) = store.add_parsable_certificates(trust.roots());
        if unusable > 0 {
            tracing::warn!(unusable, "some root certificates cannot be read");
        }
        trust.store = Arc::new(store);
        trust
    }

    /// Whether it says the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.added == other.added && self.issuers == other.issuers && self.domains == other.domains
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

impl Identities {
    /// The roots that peers are verified against.
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.0.core.table.borrow().trust.roots()
    }

    /// Sets the roots to trust besides the authority's own; takes effect for new sessions.
    pub fn trust(&self, roots: Vec<CertificateDer<'static>>) {
        self.0.core.change_trust(|trust| trust.added = roots);
    }

    /// Sets the other names of the own trust domain; takes effect for new sessions.
    pub fn accept_domains(&self, aliases: &Arc<[Arc<str>]>) {
        if self.0.core.table.borrow().trust.domains.aliases() == aliases {
            return;
        }
        let domains = TrustDomains::new(self.trust_domain(), aliases.iter().map(Arc::clone));
        tracing::info!(?aliases, "trust domains that count as the own");
        self.0.core.change_trust(|trust| trust.domains = domains);
    }
}

impl Core {
    /// Changes it; what is live is made anew with them.
    pub(super) fn change_trust(&self, change: impl FnOnce(&mut Trust)) {
        let changed = self.table.send_if_modified(|table| {
            let mut trust = table.trust.clone();
            change(&mut trust);
            if trust.is_same(&table.trust) {
                return false;
            }
            table.trust = Trust::new(trust.added, trust.issuers, trust.domains);
            for (identity, entry) in &mut table.entries {
                let Some(old) = entry.live.take() else {
                    continue;
                };
                match self.live(identity, old.issued.clone(), &table.trust) {
                    Ok(live) => entry.live = Some(Arc::new(live)),
                    Err(error) => entry.error = Some(chain_text(&error)),
                }
            }
            true
        });
        if changed {
            self.keep_roots();
        }
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
        let trust = Trust::new(
            vec![one.clone(), two.clone()],
            vec![one.clone()],
            TrustDomains::new("a.b", []),
        );
        assert_eq!(trust.roots(), [one, two]);
        assert_eq!(trust.store.len(), 2);
    }
}
