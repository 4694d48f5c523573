// SPDX-License-Identifier: Apache-2.0

//! The tunnels of one data thread: which connection a stream goes to, and which is let go.
//!
//! A connection is shared only by streams with the same source pod, destination pod (UID and address) and
//! source certificate: neither an address that was reused nor a rotated certificate ever gets an old
//! tunnel. Knows nothing of how one is made.
//!
//! Invariant: at most one handshake per key is under way; who comes meanwhile waits for it.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
};

use tokio::sync::{Notify, oneshot};

use super::{
    tunnel::TunnelError,
    tunnel_link::{Link, Slot},
};
use crate::model::{SpiffeId, WorkloadUid};

/// What streams must have in common to share a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) from: WorkloadUid,
    pub(super) source: SpiffeId,
    pub(super) to: WorkloadUid,
    /// Where its HBONE port is.
    pub(super) address: SocketAddr,
    pub(super) generation: u64,
}

type Waiting = Vec<oneshot::Sender<Result<(), TunnelError>>>;

/// The connections of one thread.
#[derive(Default)]
pub(super) struct Pool {
    places: RefCell<HashMap<Key, Place>>,
    last_sequence: Cell<u64>,
    /// Told when a peer says that it leaves.
    going: Notify,
}

/// The connections for one key.
#[derive(Default)]
struct Place {
    links: Vec<Rc<Link>>,
    /// Who waits for the handshake that is under way, if one is.
    handshake: Option<Waiting>,
}

/// Where a stream may go.
pub(super) enum Choice {
    /// Here.
    Slot(Slot),
    /// A handshake is under way.
    Wait(oneshot::Receiver<Result<(), TunnelError>>),
    /// The caller must begin one.
    Begin(oneshot::Receiver<Result<(), TunnelError>>),
}

impl Key {
    /// The same pods, with a certificate that was replaced since.
    pub(super) fn is_older(&self, than: &Self) -> bool {
        self.generation < than.generation
            && self.from == than.from
            && self.to == than.to
            && self.address == than.address
    }
}

impl Pool {
    /// Where a stream for `key` may go: on a connection that is newer than the one that failed.
    pub(super) fn choose(&self, key: &Key, newer_than: u64) -> Choice {
        let mut places = self.places.borrow_mut();
        let place = places.entry(key.clone()).or_default();
        let slot = place
            .links
            .iter()
            .filter(|link| link.sequence() > newer_than)
            .find_map(Link::slot);
        if let Some(slot) = slot {
            return Choice::Slot(slot);
        }
        let (sender, receiver) = oneshot::channel();
        if let Some(waiting) = &mut place.handshake {
            waiting.push(sender);
            return Choice::Wait(receiver);
        }
        place.handshake = Some(vec![sender]);
        Choice::Begin(receiver)
    }

    /// Ends a handshake: keeps the link, or forgets the place; tells those who wait. False if the
    /// place was closed meanwhile: then nobody waits, and the link is not wanted.
    pub(super) fn settle(&self, key: &Key, outcome: Result<&Rc<Link>, TunnelError>) -> bool {
        let mut places = self.places.borrow_mut();
        let Some(place) = places.get_mut(key) else {
            return false;
        };
        let waiting = place.handshake.take().unwrap_or_default();
        match outcome {
            Ok(link) => {
                place.links.push(Rc::clone(link));
                // Who has gone meanwhile does not listen.
                waiting.into_iter().for_each(|one| drop(one.send(Ok(()))));
            }
            Err(error) => {
                if place.links.is_empty() {
                    places.remove(key);
                }
                for one in waiting {
                    drop(one.send(Err(error.clone())));
                }
            }
        }
        true
    }

    /// The connection of the same pod as `fresh` that was not used for the longest time, if it has more than `most`.
    pub(super) fn one_too_many(&self, fresh: &Rc<Link>, most: usize) -> Option<Rc<Link>> {
        let places = self.places.borrow();
        if places.len() <= most {
            return None;
        }
        let from = &fresh.key().from;
        let its = places.iter().filter(|(key, _)| key.from == *from);
        let links: Vec<&Rc<Link>> = its.flat_map(|(_, place)| &place.links).collect();
        if links.len() <= most {
            return None;
        }
        let others = links.iter().filter(|link| !Rc::ptr_eq(link, fresh));
        let idle = others.filter_map(|link| Some((link.idle_since()?, link)));
        let (_, oldest) = idle.min_by_key(|(since, _)| *since)?;
        Some(Rc::clone(oldest))
    }

    /// Lets go of all connections for such keys.
    pub(super) fn retire(&self, which: impl Fn(&Key) -> bool) {
        let gone: Vec<Place> = {
            let mut places = self.places.borrow_mut();
            let keys: Vec<Key> = places.keys().filter(|key| which(key)).cloned().collect();
            keys.iter().filter_map(|key| places.remove(key)).collect()
        };
        // Outside of the borrow: links come back here when they retire.
        for link in gone.iter().flat_map(|place| &place.links) {
            link.retire();
        }
    }

    /// A link takes no more streams.
    pub(super) fn forget(&self, link: &Link) {
        let mut places = self.places.borrow_mut();
        if let Some(place) = places.get_mut(link.key()) {
            place.links.retain(|other| !std::ptr::eq(&**other, link));
            if place.links.is_empty() && place.handshake.is_none() {
                places.remove(link.key());
            }
        }
    }

    /// A peer says that it leaves.
    pub(super) fn note_going(&self) {
        self.going.notify_one();
    }

    /// Resolves when a peer says that it leaves. Cancel-safe.
    pub(super) async fn going(&self) {
        self.going.notified().await;
    }

    /// How many connections are open for new streams.
    pub(super) fn connections(&self) -> usize {
        let places = self.places.borrow();
        places.values().map(|place| place.links.len()).sum()
    }

    /// The number of the next connection.
    pub(super) fn next_sequence(&self) -> u64 {
        let sequence = self.last_sequence.get() + 1;
        self.last_sequence.set(sequence);
        sequence
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.retire(|_any| true);
    }
}
