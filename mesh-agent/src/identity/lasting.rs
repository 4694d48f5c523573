// SPDX-License-Identifier: Apache-2.0

//! What of the identities lasts over a restart of the agent: when it is used, kept and deleted.
//!
//! The files are [`super::keep`]'s. Invariant: what cannot be kept is used all the same; a file
//! that is no good is never the reason that an identity has no certificate.

use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use super::{
    Core, Identities,
    issue::{Fresh, Issued},
    keep::Keep,
};
use crate::model::SpiffeId;

/// A certificate that survived a restart is deleted if nobody wants it for this long.
const UNWANTED_FOR: Duration = Duration::from_secs(600);

impl Identities {
    /// Deletes what is kept over a restart, and keeps nothing from now on: the node leaves the mesh.
    pub fn keep_nothing(&self) {
        let keep = &self.0.core.keep;
        let keep = keep.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(keep) = keep {
            keep.clear();
        }
    }
}

impl Core {
    /// Makes what was kept of `identity` the live one; returns how long it is valid.
    pub(super) fn restore(&self, identity: &SpiffeId) -> Option<Duration> {
        let issued = self.kept().remove(identity)?;
        let left = issued.not_after.duration_since(SystemTime::now()).ok()?;
        if self.sessions.is_revoked(&issued.facts) {
            tracing::warn!(%identity, serial = issued.serial, "the certificate kept over the restart is revoked");
            return None;
        }
        let serial = issued.serial.clone();
        match self.install(identity, issued) {
            Ok(()) => {
                tracing::info!(%identity, serial, "certificate kept over the restart");
                Some(left)
            }
            Err(error) => {
                tracing::warn!(%identity, %error, "a kept certificate is of no use");
                None
            }
        }
    }

    /// Whether the live certificate of `identity` is revoked.
    pub(super) fn is_revoked(&self, identity: &SpiffeId) -> bool {
        let table = self.table.borrow();
        let entry = table.entries.get(identity);
        let issued = entry
            .and_then(|entry| entry.live.as_ref())
            .map(|live| &live.issued);
        issued.is_some_and(|issued| self.sessions.is_revoked(&issued.facts))
    }

    /// Keeps a new certificate, if anything is kept at all.
    pub(super) async fn keep(&self, identity: &SpiffeId, fresh: Fresh) -> Issued {
        let Fresh { issued, pkcs8 } = fresh;
        if let Some(keep) = self.keeper() {
            let of = identity.clone();
            let key = Arc::clone(&issued.key);
            let store = move || keep.store(&of, &key.cert, &pkcs8);
            let stored = self.tasks.blocking("keep certificate", store).await;
            if let Some(Err(error)) = stored {
                tracing::warn!(%identity, %error, "the certificate cannot be kept over a restart");
            }
        }
        issued
    }

    /// Deletes what is kept of an identity that nobody wants any more.
    pub(super) fn unkeep(&self, identity: &SpiffeId) {
        self.kept().remove(identity);
        if let Some(keep) = self.keeper() {
            keep.remove(identity);
        }
    }

    /// Deletes what survived a restart and nobody wanted for a while.
    pub(super) fn sweep_kept(&self) {
        if self.started.elapsed() < UNWANTED_FOR {
            return;
        }
        let unwanted = std::mem::take(&mut *self.kept());
        for identity in unwanted.keys() {
            self.unkeep(identity);
        }
    }

    fn keeper(&self) -> Option<Keep> {
        let keep = self.keep.lock().unwrap_or_else(PoisonError::into_inner);
        keep.clone()
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<SpiffeId, Issued>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is one, and it is valid.
    pub(super) fn has_certificate(&self, identity: &SpiffeId) -> bool {
        self.table.borrow().live(identity).is_ok()
    }

    /// Keeps what is trusted now, in place of what was trusted before.
    pub(super) fn keep_roots(&self) {
        let Some(keep) = self.keeper() else {
            return;
        };
        let roots = self.table.borrow().trust.roots();
        if let Err(error) = keep.store_roots(&roots) {
            tracing::warn!(%error, "the roots cannot be kept over a restart");
        }
    }
}
