// SPDX-License-Identifier: Apache-2.0

//! Keeps the signer that all replicas use in step with what is kept, and moves rotation on.
//!
//! Every replica reads; only the leader writes. Invariant: what cannot be read changes nothing: the
//! last good signer goes on signing.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::{sync::watch, time::timeout};

use super::{
    lease::Leadership,
    nodes::Nodes,
    rotation::{Now, Roots},
    store::{Found, Own, Store, StoreError},
};
use crate::{
    identity::{RootPem, SignError, Signer},
    tasks::{Drain, Tasks},
};

/// How often what is kept is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Where the installation's root is, for people.
const OWN: &str = "Secret mesh-agent-ca";

/// How long the roots of another issuer are published before it signs: by then every agent has
/// read them, also from a mounted file.
const PUBLISHED: Duration = Duration::from_secs(120);

/// One look, with what follows from it.
const LOOK_DEADLINE: Duration = Duration::from_secs(30);

/// What signs now.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) signer: Signer,
    /// Where the issuer comes from, for people.
    pub(super) origin: &'static str,
    /// In which part of a rotation it is.
    pub(super) rotation: &'static str,
}

/// How roots are made and used.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) trust_domain: String,
    pub(super) root_ttl: Duration,
    pub(super) cert_ttl_max: Duration,
}

#[derive(Debug, thiserror::Error)]
enum KeeperError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the issuer cannot be used; if it is beyond repair, delete its Secret")]
    Sign(#[from] SignError),
}

struct Keeper {
    store: Store,
    terms: Terms,
    leadership: watch::Receiver<Leadership>,
    nodes: Nodes,
    current: watch::Sender<Option<Arc<Current>>>,
    coming: Coming,
}

/// The issuer that will sign once its roots were published for a while, and since when.
#[derive(Default)]
struct Coming(Option<(String, Instant)>);

/// Keeps it as a task of `tasks`; there is none until a root was read.
pub(super) fn keep(
    store: Store,
    terms: Terms,
    leadership: watch::Receiver<Leadership>,
    nodes: Nodes,
    tasks: &Tasks,
) -> watch::Receiver<Option<Arc<Current>>> {
    let (current, receiver) = watch::channel(None);
    let keeper = Keeper {
        store,
        terms,
        leadership,
        nodes,
        current,
        coming: Coming::default(),
    };
    tasks.spawn("keep roots", keeper.run(tasks.drain()));
    receiver
}

impl Keeper {
    async fn run(mut self, drain: Drain) {
        let mut problem = String::new();
        loop {
            let text = match timeout(LOOK_DEADLINE, self.look()).await {
                Ok(Ok(())) => String::new(),
                Ok(Err(error)) => crate::telemetry::chain(&error),
                Err(_elapsed) => "the API server does not answer".to_owned(),
            };
            // Said once, not every two seconds.
            if text != problem && !text.is_empty() {
                tracing::warn!(problem = text, "roots");
            }
            problem = text;
            // Cancel-safe: all only wait.
            tokio::select! {
                () = tokio::time::sleep(LOOK.mul_f64(0.9 + 0.2 * fastrand::f64())) => {}
                changed = self.leadership.changed() => if changed.is_err() { return },
                () = drain.requested() => return,
            }
        }
    }

    async fn look(&mut self) -> Result<(), KeeperError> {
        let leading = self.leadership.borrow_and_update().leading;
        let Found { plugged, own } = self.store.load().await?;
        match (plugged, own) {
            (Some(pem), own) => {
                let mut signer = Signer::from_pem(&pem)?;
                // What the installation's own root signed before goes on being good.
                if let Some(own) = own {
                    signer = signer.with_roots_of(&Signer::from_pem(&own.roots.signer())?);
                }
                self.adopt(signer, "Secret cacerts", "none");
            }
            (None, Some(own)) => {
                let signer = Signer::from_pem(&own.roots.signer())?;
                self.adopt(signer, OWN, own.roots.phase());
                if leading {
                    self.advance(&own).await?;
                }
            }
            (None, None) if leading => {
                let roots = Roots::first(self.new_root()?);
                self.store.create(&roots).await?;
                tracing::info!("made a root, kept in Secret mesh-agent-ca");
                // Read back at the next look: another replica may have been faster.
                self.leadership.mark_changed();
                return Ok(());
            }
            (None, None) => return Ok(()),
        }
        let roots = self
            .current
            .borrow()
            .as_ref()
            .map(|it| it.signer.roots_pem());
        if let Some(roots) = roots.filter(|_| leading)
            && self.store.publish(&roots).await?
        {
            tracing::info!("published the roots in ConfigMap mesh-agent-ca-roots");
        }
        Ok(())
    }

    /// The next step of a rotation, if it is time.
    async fn advance(&mut self, own: &Own) -> Result<(), KeeperError> {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let trusted_by_all = |fingerprint: &str| self.nodes.all_trust(fingerprint);
        let now = Now {
            time: since_1970.unwrap_or_default().as_secs(),
            asked: own.asked.as_deref(),
            trusted_by_all: &trusted_by_all,
            cert_ttl_max: self.terms.cert_ttl_max,
        };
        let Some((roots, happened)) = own.roots.step(now, || self.new_root())? else {
            return Ok(());
        };
        // Checked before it is kept.
        let signer = Signer::from_pem(&roots.signer())?;
        self.store.replace(&roots, &own.version).await?;
        tracing::info!(root = signer.fingerprint(), "root rotation: {happened}");
        self.adopt(signer, OWN, roots.phase());
        Ok(())
    }

    /// Lets `signer` sign; one whose roots nobody can know yet only after these were published
    /// for a while.
    fn adopt(&mut self, signer: Signer, origin: &'static str, rotation: &'static str) {
        let current = self.current.borrow().clone();
        if let Some(current) = current
            && self
                .coming
                .must_wait(&signer, &current.signer, Instant::now())
        {
            let both = current.signer.with_roots_of(&signer);
            self.publish(
                both,
                current.origin,
                "publishing the roots of another issuer",
            );
            return;
        }
        self.coming = Coming::default();
        self.publish(signer, origin, rotation);
    }

    fn publish(&self, signer: Signer, origin: &'static str, rotation: &'static str) {
        self.current.send_if_modified(|current| {
            let same = current.as_ref().is_some_and(|it| {
                it.signer.fingerprint() == signer.fingerprint()
                    && it.signer.roots_pem() == signer.roots_pem()
                    && (it.origin, it.rotation) == (origin, rotation)
            });
            if !same {
                tracing::info!(
                    issuer = signer.fingerprint(),
                    origin,
                    "certificates are signed by"
                );
                *current = Some(Arc::new(Current {
                    signer,
                    origin,
                    rotation,
                }));
            }
            !same
        });
    }

    fn new_root(&self) -> Result<RootPem, SignError> {
        RootPem::generate(&self.terms.trust_domain, self.terms.root_ttl)
    }
}

impl Coming {
    /// Whether `signer` may not sign yet in place of `current`.
    fn must_wait(&mut self, signer: &Signer, current: &Signer, now: Instant) -> bool {
        if signer.fingerprint() == current.fingerprint() {
            return false;
        }
        match &self.0 {
            Some((fingerprint, since)) if fingerprint == signer.fingerprint() => {
                now.duration_since(*since) < PUBLISHED
            }
            _ if signer.is_covered_by(current) => false,
            _ => {
                self.0 = Some((signer.fingerprint().to_owned(), now));
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::rotation::Roots;

    fn signer() -> Signer {
        let root = RootPem::generate("a.b", Duration::from_secs(3600)).unwrap();
        Signer::from_pem(&Roots::first(root).signer()).unwrap()
    }

    #[test]
    fn an_issuer_with_other_roots_waits_until_they_are_known() {
        let (old, new) = (signer(), signer());
        let (mut coming, begin) = (Coming::default(), Instant::now());
        assert!(coming.must_wait(&new, &old, begin));
        // Meanwhile the old one signs and both are published.
        let both = old.with_roots_of(&new);
        let later = begin + PUBLISHED - Duration::from_secs(1);
        assert!(coming.must_wait(&new, &both, later));
        assert!(!coming.must_wait(&new, &both, begin + PUBLISHED));
    }

    #[test]
    fn an_issuer_whose_roots_are_known_signs_at_once() {
        let (old, new) = (signer(), signer());
        let both = old.with_roots_of(&new);
        let mut coming = Coming::default();
        assert!(!coming.must_wait(&new, &both, Instant::now()));
        assert!(!coming.must_wait(&both, &old, Instant::now()), "the same");
    }
}
