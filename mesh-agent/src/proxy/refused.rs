// SPDX-License-Identifier: Apache-2.0

//! Who was not let in to a pod, last: for people who look.
//!
//! Knows nothing of why. Invariant: to note it never waits; of two at the same moment one may be lost.

use std::{fmt, net::SocketAddr, sync::Mutex, time::SystemTime};

use crate::model::{SpiffeId, authorization::Denial};

/// Somebody who was not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedPeer {
    /// When.
    pub at: SystemTime,
    /// Where it is.
    pub address: SocketAddr,
    /// Whom it proved to be.
    pub identity: Option<SpiffeId>,
    /// The pod's port that it wanted to talk to.
    pub port: u16,
    /// Why.
    pub why: Refused,
}

/// Why somebody was not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It came in plaintext, and the port takes none.
    Plaintext,
    /// A policy denies it, or none allows it.
    Policy(Denial),
    /// It did not prove to be anybody of the mesh.
    Certificate(Box<str>),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plaintext => f.write_str("plaintext to a port that is STRICT"),
            Self::Policy(denial) => denial.fmt(f),
            Self::Certificate(why) => f.write_str(why),
        }
    }
}

/// The last one of a pod.
#[derive(Debug, Default)]
pub(crate) struct LastRefused(Mutex<Option<RefusedPeer>>);

impl LastRefused {
    /// Notes that somebody was not let in, just now.
    pub(crate) fn note(
        &self,
        address: SocketAddr,
        identity: Option<&SpiffeId>,
        port: u16,
        why: Refused,
    ) {
        if let Ok(mut last) = self.0.try_lock() {
            *last = Some(RefusedPeer {
                at: SystemTime::now(),
                address,
                identity: identity.cloned(),
                port,
                why,
            });
        }
    }

    /// The last one.
    pub(crate) fn get(&self) -> Option<RefusedPeer> {
        let last = self.0.lock();
        last.map_or_else(
            |poisoned| poisoned.into_inner().clone(),
            |last| last.clone(),
        )
    }
}
