// SPDX-License-Identifier: Apache-2.0

//! What would fail if a root were not trusted any more: own certificates, and those that peers of live
//! sessions showed, checked by the verifiers of new sessions against the roots that would be left.
//!
//! Knows nothing of what other nodes hold: each agent is asked about its own. Invariant: nothing changes.

use std::{collections::HashMap, sync::Arc};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, UnixTime},
};

use super::{
    Core, Identities, chain_text, issue, roots,
    sessions::Side,
    trust::Trust,
    verify::{DomainClient, ExpectedServer, PeerError, Terms},
};
use crate::model::SpiffeId;

/// Nobody can say which root is meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RehearseError {
    /// None has such a fingerprint.
    #[error("no root has the fingerprint {asked:?}; there are {}", .known.join(", "))]
    Unknown {
        /// What was asked for.
        asked: String,
        /// All there are.
        known: Vec<String>,
    },
    /// Several begin so.
    #[error("several roots have fingerprints that begin with {asked:?}: {}", .known.join(", "))]
    Ambiguous {
        /// What was asked for.
        asked: String,
        /// Those.
        known: Vec<String>,
    },
}

/// Whose certificate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Holder {
    /// A workload of this node: its peers would refuse it.
    Own,
    /// A peer that opened sessions to workloads of this node.
    Client,
    /// A peer to which workloads of this node opened sessions.
    Server,
}

impl Holder {
    /// For output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// A certificate that would not be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// Whose it is.
    pub holder: Holder,
    /// Whom it names.
    pub identity: SpiffeId,
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
    /// Live sessions in which it was shown.
    pub sessions: usize,
    /// Why.
    pub error: String,
}

impl Failing {
    fn place(&self) -> (Holder, &SpiffeId, &str) {
        (self.holder, &self.identity, &self.serial)
    }
}

/// What would be.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    /// The root's fingerprint.
    pub root: String,
    /// How many roots would be left.
    pub left: usize,
    /// How many certificates were checked.
    pub checked: usize,
    /// Those that would fail, in order.
    pub failing: Vec<Failing>,
}

/// A chain, and in how many sessions it was shown.
type Shown = HashMap<(Holder, SpiffeId, Vec<CertificateDer<'static>>), usize>;

impl Identities {
    /// Says who would fail if the root whose fingerprint begins with `asked` were dropped now.
    ///
    /// # Errors
    /// No root is meant, or several.
    pub fn rehearse(&self, asked: &str) -> Result<Rehearsal, RehearseError> {
        let core = &self.0.core;
        let trust = core.table.borrow().trust.clone();
        let all = trust.roots();
        let root = chosen(&all, asked)?;
        let left = all
            .into_iter()
            .filter(|one| roots::fingerprint(one) != root);
        let rest = Trust::new(left.collect(), Vec::new(), trust.domains);
        let shown = core.shown();
        let checked = shown.len();
        let failing = shown
            .into_iter()
            .filter_map(|((holder, identity, chain), sessions)| {
                let error = core.check(holder, &identity, &chain, &rest)?;
                let serial = chain.first().map(issue::serial_of).unwrap_or_default();
                Some(Failing {
                    holder,
                    identity,
                    serial,
                    sessions,
                    error,
                })
            });
        let mut failing: Vec<Failing> = failing.collect();
        failing.sort_by(|one, other| one.place().cmp(&other.place()));
        Ok(Rehearsal {
            root,
            left: rest.roots().len(),
            checked,
            failing,
        })
    }

    /// Fingerprints of the roots that peers are verified against.
    pub fn root_fingerprints(&self) -> Vec<String> {
        self.roots()
            .iter()
            .map(|one| roots::fingerprint(one))
            .collect()
    }
}

fn chosen(all: &[CertificateDer<'static>], asked: &str) -> Result<String, RehearseError> {
    let wanted: String = asked.chars().filter(|letter| *letter != ':').collect();
    let wanted = wanted.to_ascii_lowercase();
    let known: Vec<String> = all.iter().map(|one| roots::fingerprint(one)).collect();
    let begin = |one: &&String| !wanted.is_empty() && one.starts_with(&wanted);
    let found: Vec<String> = known.iter().filter(begin).cloned().collect();
    let asked = asked.to_owned();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(RehearseError::Unknown { asked, known }),
        [..] => Err(RehearseError::Ambiguous {
            asked,
            known: found,
        }),
    }
}

impl Core {
    /// All certificates that are shown: own ones, and those of the peers of live sessions.
    fn shown(&self) -> Shown {
        let mut shown = Shown::new();
        for (identity, entry) in &self.table.borrow().entries {
            if let Some(live) = &entry.live {
                let key = (Holder::Own, identity.clone(), live.issued.key.cert.clone());
                shown.insert(key, 0);
            }
        }
        for (peer, side, chain) in self.sessions.chains() {
            let holder = match side {
                Side::Client => Holder::Client,
                Side::Server => Holder::Server,
            };
            *shown.entry((holder, peer, chain)).or_default() += 1;
        }
        shown
    }

    /// Why a chain would be refused.
    fn check(
        &self,
        holder: Holder,
        identity: &SpiffeId,
        chain: &[CertificateDer<'static>],
        trust: &Trust,
    ) -> Option<String> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Some(PeerError::Missing.to_string());
        };
        if trust.store.is_empty() {
            return Some("no root would be left".to_owned());
        }
        let terms = || Terms {
            domains: trust.domains.clone(),
            revoked: self.sessions.revoked(),
        };
        let store = || -> Arc<RootCertStore> { Arc::clone(&trust.store) };
        let now = UnixTime::now();
        let as_server = || {
            let expected = [identity.clone()].into();
            let verifier = ExpectedServer::new(&self.provider, store(), expected, terms());
            let verifier = verifier.map_err(|error| chain_text(&error))?;
            let checked = verifier.check(leaf, intermediates, now);
            checked.map_err(|error| chain_text(&error))
        };
        let as_client = || {
            let verifier = DomainClient::new(&self.provider, store(), terms());
            let verifier = verifier.map_err(|error| chain_text(&error))?;
            let checked = verifier.check(leaf, intermediates, now);
            checked.map_err(|error| chain_text(&error))
        };
        let checked: Result<(), String> = match holder {
            Holder::Own => as_server().and_then(|()| as_client()),
            Holder::Client => as_client(),
            Holder::Server => as_server(),
        };
        checked.err()
    }
}
