// SPDX-License-Identifier: Apache-2.0

//! The TLS sessions with peers that are live, by the certificates that the peers showed.
//!
//! A session is looked up when it begins, resumed ones too, and again whenever the list of revoked
//! certificates changes: one whose peer's certificate is on it is cut at once, whatever is under way on
//! it. Knows nothing of what sessions carry.
//!
//! Invariants: a session that begins beside a change of the list is seen by one of the two; a session that
//! is cut has its socket shut down in both directions, which is no orderly end of TLS, so that nothing that
//! it carried looks whole.

use std::{
    collections::HashMap,
    fmt,
    net::{Shutdown, TcpStream as StdStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustls::{CommonState, pki_types::CertificateDer};
use tokio::sync::watch;

use super::{
    Identities, IdentityError,
    verify::{self, PeerError},
};
use crate::model::{
    SpiffeId,
    revoked::{LeafFacts, Revoked},
};

/// Who of a session's ends is the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It opened the session.
    Client,
    /// It was asked for one.
    Server,
}

impl Side {
    /// For output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// What ends a session from outside.
pub type Cutter = StdStream;

/// All live sessions of the node, and what is revoked.
#[derive(Debug)]
pub(super) struct Sessions {
    live: Mutex<Live>,
    revoked: watch::Sender<Arc<Revoked>>,
    /// Why the newest list is not in force.
    problem: Mutex<Option<String>>,
}

#[derive(Default, Debug)]
struct Live {
    last: u64,
    entries: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    local: SpiffeId,
    peer: SpiffeId,
    side: Side,
    leaf: LeafFacts,
    chain: Vec<CertificateDer<'static>>,
    cutter: Option<Cutter>,
}

/// A session's place among the live ones, until it is dropped: with the session.
pub struct Seat {
    sessions: Arc<Sessions>,
    number: u64,
    peer: SpiffeId,
}

/// What is revoked, for people to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedView {
    /// How many serial numbers.
    pub serials: usize,
    /// How many identities, or patterns of such.
    pub identities: usize,
    /// Why the newest list is not in force, and the one before it is.
    pub problem: Option<String>,
}

impl Seat {
    /// Whom the peer proved to be.
    pub fn peer(&self) -> &SpiffeId {
        &self.peer
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seat({})", self.peer)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let entry = self.sessions.lock().entries.remove(&self.number);
        // Closed outside of the lock.
        drop(entry);
    }
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self {
            live: Mutex::default(),
            revoked: watch::Sender::new(Arc::default()),
            problem: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is revoked, and its changes.
    pub(super) fn revoked(&self) -> watch::Receiver<Arc<Revoked>> {
        self.revoked.subscribe()
    }

    fn seat(self: &Arc<Self>, entry: Entry) -> Result<Seat, PeerError> {
        let peer = entry.peer.clone();
        let mut live = self.lock();
        // Under the lock: a list that comes from now on finds the entry.
        verify::check_revoked(&entry.leaf, &self.revoked.borrow())?;
        live.last += 1;
        let number = live.last;
        live.entries.insert(number, entry);
        drop(live);
        Ok(Seat {
            sessions: Arc::clone(self),
            number,
            peer,
        })
    }

    /// Brings a list into force; returns how many sessions that has cut.
    pub(super) fn revoke(&self, list: Revoked) -> usize {
        self.revoked.send_replace(Arc::new(list));
        self.cut()
    }

    /// Cuts every session whose peer's certificate is revoked; returns how many that were.
    fn cut(&self) -> usize {
        let list = Arc::clone(&self.revoked.borrow());
        let mut live = self.lock();
        let revoked = live.entries.values_mut();
        let mut cut = 0;
        for entry in revoked.filter(|entry| list.has(&entry.leaf)) {
            // Once is enough; the entry goes when its session has noticed.
            let Some(cutter) = entry.cutter.take() else {
                continue;
            };
            // A socket that is not connected any more is as good.
            cutter.shutdown(Shutdown::Both).ok();
            cut += 1;
            let (peer, side, serial) = (&entry.peer, entry.side.as_str(), &entry.leaf.serial);
            tracing::warn!(%peer, side, %serial, local = %entry.local, "the peer's certificate is revoked: session cut");
        }
        cut
    }

    /// The chains that the peers of live sessions showed, one for each session.
    pub(super) fn chains(&self) -> Vec<(SpiffeId, Side, Vec<CertificateDer<'static>>)> {
        let live = self.lock();
        let entries = live.entries.values();
        entries
            .map(|entry| (entry.peer.clone(), entry.side, entry.chain.clone()))
            .collect()
    }
}

impl Identities {
    /// Notes an established session of `local` with a peer; `cutter` is a second descriptor of its socket. The
    /// session counts as live as long as the seat does. A resumed session was verified when it was first
    /// opened; the validity of its peer's certificate is checked again here.
    ///
    /// # Errors
    /// [`IdentityError::Peer`] if there is no certificate, it names no workload, or is not valid now or revoked.
    pub fn seat(
        &self,
        session: &CommonState,
        local: &SpiffeId,
        side: Side,
        cutter: Option<Cutter>,
    ) -> Result<Seat, IdentityError> {
        let leaf = verify::peer(session)?;
        let chain = session.peer_certificates().unwrap_or_default();
        let entry = Entry {
            local: local.clone(),
            peer: leaf.identity.clone(),
            side,
            leaf,
            chain: chain.iter().map(|one| one.clone().into_owned()).collect(),
            cutter,
        };
        Ok(self.0.core.sessions.seat(entry)?)
    }

    /// Sets which certificates are no longer good: no session with a peer that shows one begins any more, and
    /// those that are live are cut. Own certificates among them are renewed at once.
    pub fn revoke(&self, list: Revoked) {
        let sessions = &self.0.core.sessions;
        *sessions.problem() = None;
        if **sessions.revoked.borrow() == list {
            return;
        }
        let (serials, identities) = list.len();
        let cut = sessions.revoke(list);
        tracing::info!(
            serials,
            identities,
            cut,
            "another list of revoked certificates is in force"
        );
    }

    /// Notes that the newest list cannot be used: the one before it stays in force.
    pub fn note_bad_list(&self, problem: String) {
        *self.0.core.sessions.problem() = Some(problem);
    }

    /// What is revoked.
    pub fn revoked(&self) -> RevokedView {
        let sessions = &self.0.core.sessions;
        let (serials, identities) = sessions.revoked.borrow().len();
        RevokedView {
            serials,
            identities,
            problem: sessions.problem().clone(),
        }
    }
}

impl Sessions {
    fn problem(&self) -> MutexGuard<'_, Option<String>> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a certificate of ours is revoked.
    pub(super) fn is_revoked(&self, leaf: &LeafFacts) -> bool {
        self.revoked.borrow().has(leaf)
    }
}
