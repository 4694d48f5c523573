// SPDX-License-Identifier: Apache-2.0

//! A root and its successor: when a new root is made, when it begins to sign, when the old one is
//! forgotten.
//!
//! A new root is published before anything is signed with it, and the old one stays published
//! until the last certificate of it must have expired: at every moment each node trusts whatever
//! any node presents. A pure state machine: no clock, no I/O; the state is what is kept in the
//! Secret, so that the next leader goes on. Invariant: one rotation at a time.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::identity::{RootPem, SignError, SignerPem, certificate_facts};

/// The root's key in the Secret.
pub(super) const ROOT_KEY: &str = "root-key.pem";
/// The root's certificate in the Secret, and all that are trusted in the ConfigMap.
pub(super) const ROOT_CERT: &str = "root-cert.pem";
const NEXT_KEY: &str = "next-key.pem";
const NEXT_CERT: &str = "next-cert.pem";
const ROTATION: &str = "rotation.json";

/// What the Secret may hold; what is not in a new state is removed.
pub(super) const KEYS: [&str; 5] = [ROOT_KEY, ROOT_CERT, NEXT_KEY, NEXT_CERT, ROTATION];

/// A new root is published for at least this long, reports or not.
const PUBLISHED_MIN: Duration = Duration::from_secs(30);

/// Nodes that do not report the new root hold up a rotation for this long.
const PUBLISHED_MAX: Duration = Duration::from_secs(3600);

/// Added to the longest life of a certificate, for clocks and for replicas that learn late.
const RETIRED_MARGIN: Duration = Duration::from_secs(600);

/// The roots of an installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Roots {
    /// It signs.
    pub(super) root: RootPem,
    /// It is trusted and will sign.
    pub(super) next: Option<RootPem>,
    progress: Progress,
}

/// The part of the state that is no key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Progress {
    /// Since when the next root is published, in seconds since 1970.
    next_since: Option<u64>,
    /// What no longer signs and is still trusted.
    retired: Vec<Retired>,
    /// The last value of the annotation that asks for a rotation, which was answered.
    answered: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Retired {
    certificate: String,
    /// Until when, in seconds since 1970.
    until: u64,
}

/// What a step depends on.
#[derive(Clone, Copy)]
pub(super) struct Now<'a> {
    /// Seconds since 1970.
    pub(super) time: u64,
    /// The annotation that asks for a rotation.
    pub(super) asked: Option<&'a str>,
    /// Whether every node that runs an agent reported to trust the certificate with a fingerprint.
    pub(super) trusted_by_all: &'a dyn Fn(&str) -> bool,
    /// The longest life of a workload's certificate.
    pub(super) cert_ttl_max: Duration,
}

/// The Secret does not hold what it must.
#[derive(Debug, thiserror::Error)]
pub(super) enum RootsError {
    #[error("key {0:?} is missing")]
    Missing(&'static str),
    #[error("key {0:?} is no text")]
    NotText(&'static str),
    #[error("key \"rotation.json\"")]
    Progress(#[source] serde_json::Error),
}

impl Roots {
    /// A first root.
    pub(super) fn first(root: RootPem) -> Self {
        Self {
            root,
            next: None,
            progress: Progress::default(),
        }
    }

    /// Reads what a Secret holds.
    pub(super) fn read(data: &BTreeMap<String, Vec<u8>>) -> Result<Self, RootsError> {
        let text = |key: &'static str| match data.get(key) {
            Some(bytes) => match String::from_utf8(bytes.clone()) {
                Ok(text) => Ok(Some(text)),
                Err(_not_text) => Err(RootsError::NotText(key)),
            },
            None => Ok(None),
        };
        let needed = |key| text(key)?.ok_or(RootsError::Missing(key));
        let root = RootPem {
            key: needed(ROOT_KEY)?,
            certificate: needed(ROOT_CERT)?,
        };
        let next = match (text(NEXT_KEY)?, text(NEXT_CERT)?) {
            (Some(key), Some(certificate)) => Some(RootPem { key, certificate }),
            (None, None) => None,
            (None, Some(_)) => return Err(RootsError::Missing(NEXT_KEY)),
            (Some(_), None) => return Err(RootsError::Missing(NEXT_CERT)),
        };
        let progress = match text(ROTATION)? {
            Some(text) => serde_json::from_str(&text).map_err(RootsError::Progress)?,
            None => Progress::default(),
        };
        Ok(Self {
            root,
            next,
            progress,
        })
    }

    /// As a Secret holds it.
    pub(super) fn write(&self) -> BTreeMap<String, String> {
        let mut data = BTreeMap::from([
            (ROOT_KEY.to_owned(), self.root.key.clone()),
            (ROOT_CERT.to_owned(), self.root.certificate.clone()),
        ]);
        if let Some(next) = &self.next {
            data.insert(NEXT_KEY.to_owned(), next.key.clone());
            data.insert(NEXT_CERT.to_owned(), next.certificate.clone());
        }
        let progress = serde_json::to_string(&self.progress).expect("numbers and texts are JSON");
        data.insert(ROTATION.to_owned(), progress);
        data
    }

    /// What signs, and all that is trusted.
    pub(super) fn signer(&self) -> SignerPem {
        let mut roots = self.root.certificate.clone();
        if let Some(next) = &self.next {
            roots.push_str(&next.certificate);
        }
        for retired in &self.progress.retired {
            roots.push_str(&retired.certificate);
        }
        SignerPem {
            key: self.root.key.clone(),
            certificate: self.root.certificate.clone(),
            chain: String::new(),
            roots,
        }
    }

    /// In which part of a rotation this is.
    pub(super) fn phase(&self) -> &'static str {
        match (&self.next, self.progress.retired.is_empty()) {
            (Some(_), _) => "publishing the next root",
            (None, false) => "the old root is still trusted",
            (None, true) => "none",
        }
    }

    /// The state after this moment, with what happened, if anything did. `make` makes a root.
    pub(super) fn step(
        &self,
        now: Now<'_>,
        make: impl FnOnce() -> Result<RootPem, SignError>,
    ) -> Result<Option<(Self, &'static str)>, SignError> {
        if let Some(next) = &self.next {
            return Ok(self
                .switch(now, next)?
                .map(|roots| (roots, "a new root signs")));
        }
        let is_over = |retired: &Retired| retired.until <= now.time;
        if self.progress.retired.iter().any(is_over) {
            let mut roots = self.clone();
            roots.progress.retired.retain(|retired| !is_over(retired));
            return Ok(Some((roots, "an old root is no longer trusted")));
        }
        let asked = now.asked.filter(|asked| !asked.is_empty());
        let is_asked = asked.is_some() && asked != self.progress.answered.as_deref();
        if !is_asked && !self.is_old(now)? {
            return Ok(None);
        }
        let mut roots = self.clone();
        roots.next = Some(make()?);
        roots.progress.next_since = Some(now.time);
        roots.progress.answered = asked.map(str::to_owned);
        Ok(Some((
            roots,
            "a new root is published, it does not sign yet",
        )))
    }

    /// Lets the next root sign, if it may.
    fn switch(&self, now: Now<'_>, next: &RootPem) -> Result<Option<Self>, SignError> {
        let since = self.progress.next_since.unwrap_or(now.time);
        let published = Duration::from_secs(now.time.saturating_sub(since));
        let (fingerprint, _, _) = certificate_facts(&next.certificate)?;
        let ready = published >= PUBLISHED_MIN && (now.trusted_by_all)(&fingerprint);
        if !ready && published < PUBLISHED_MAX {
            return Ok(None);
        }
        if !ready {
            tracing::warn!("not every node reported to trust the new root, it signs all the same");
        }
        let mut roots = self.clone();
        roots.root = next.clone();
        roots.next = None;
        roots.progress.next_since = None;
        let life = now.cert_ttl_max + RETIRED_MARGIN;
        roots.progress.retired.push(Retired {
            certificate: self.root.certificate.clone(),
            until: now.time.saturating_add(life.as_secs()),
        });
        Ok(Some(roots))
    }

    /// Whether four fifths of the root's life have passed.
    fn is_old(&self, now: Now<'_>) -> Result<bool, SignError> {
        let (_, begin, end) = certificate_facts(&self.root.certificate)?;
        let life = end.duration_since(begin).unwrap_or_default();
        let old = begin + life.mul_f64(0.8);
        let time = std::time::UNIX_EPOCH + Duration::from_secs(now.time);
        Ok(time >= old)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn make() -> Result<RootPem, SignError> {
        RootPem::generate("a.b", 100 * DAY)
    }

    fn today() -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.unwrap().as_secs()
    }

    fn at(time: u64, asked: Option<&str>, all: bool) -> (u64, Option<&str>, bool) {
        (time, asked, all)
    }

    #[track_caller]
    fn step(roots: &Roots, (time, asked, all): (u64, Option<&str>, bool)) -> Option<Roots> {
        let now = Now {
            time,
            asked,
            trusted_by_all: &|_| all,
            cert_ttl_max: DAY,
        };
        roots.step(now, make).unwrap().map(|(roots, _)| roots)
    }

    #[test]
    fn nothing_happens_without_a_reason() {
        let roots = Roots::first(make().unwrap());
        assert_eq!(step(&roots, at(today(), None, true)), None);
        assert_eq!(step(&roots, at(today(), Some(""), true)), None);
        assert_eq!(roots.phase(), "none");
    }

    #[test]
    fn a_rotation_publishes_then_signs_then_forgets() {
        let first = Roots::first(make().unwrap());
        let begin = today();
        let published = step(&first, at(begin, Some("1"), false)).unwrap();
        let next = published.next.clone().unwrap();
        assert_eq!(published.root, first.root, "the old one signs");
        assert!(published.signer().roots.contains(&next.certificate));

        // Too early, and not yet trusted by all.
        assert_eq!(step(&published, at(begin + 10, Some("1"), true)), None);
        assert_eq!(step(&published, at(begin + 60, Some("1"), false)), None);

        let switched = step(&published, at(begin + 60, Some("1"), true)).unwrap();
        assert_eq!(switched.root, next);
        let trusted = switched.signer().roots;
        assert!(trusted.contains(&first.root.certificate) && trusted.contains(&next.certificate));

        // The annotation is answered; the old one stays as long as its certificates may.
        let day = DAY.as_secs();
        assert_eq!(step(&switched, at(begin + day, Some("1"), true)), None);
        let done = step(&switched, at(begin + day + 3600, Some("1"), true)).unwrap();
        assert_eq!(done.signer().roots, next.certificate);
        assert_eq!(step(&done, at(begin + day + 3601, Some("1"), true)), None);
        assert!(step(&done, at(begin + day + 3601, Some("2"), true)).is_some());
    }

    #[test]
    fn a_node_that_never_reports_does_not_stop_a_rotation() {
        let first = Roots::first(make().unwrap());
        let published = step(&first, at(today(), Some("1"), false)).unwrap();
        assert!(step(&published, at(today() + 3601, Some("1"), false)).is_some());
    }

    #[test]
    fn an_old_root_is_replaced_in_time() {
        let roots = Roots::first(make().unwrap());
        let day = DAY.as_secs();
        assert_eq!(step(&roots, at(today() + 79 * day, None, true)), None);
        assert!(step(&roots, at(today() + 81 * day, None, true)).is_some());
    }

    #[test]
    fn the_state_survives_in_the_secret() {
        let first = Roots::first(make().unwrap());
        let published = step(&first, at(today(), Some("1"), false)).unwrap();
        for roots in [first, published] {
            let data = roots.write().into_iter();
            let data = data.map(|(key, text)| (key, text.into_bytes())).collect();
            assert_eq!(Roots::read(&data).unwrap(), roots);
        }
        assert!(matches!(
            Roots::read(&BTreeMap::new()),
            Err(RootsError::Missing(ROOT_KEY))
        ));
    }
}
