// SPDX-License-Identifier: Apache-2.0

//! Who asks something of a pod, by address, and how much each of them holds.
//!
//! An address may hold eight times what it leaves to all others: enough for a load balancer that is the only
//! client, and one that floods does not keep the rest away. It has proved nothing yet: who changes addresses is many.
//!
//! Knows nothing of what is held. Invariant: an address that holds nothing is forgotten.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::sync::Semaphore;

/// How many times what it leaves to others an address may hold.
const SHARE: usize = 8;

/// What any address may hold.
const LEAST: usize = 8;

/// How many of those that hold most are told.
const FOREMOST: usize = 3;

/// Below so many addresses nobody looks for those that are gone.
const MANY: usize = 64;

/// Those who hold something.
#[derive(Debug)]
pub(crate) struct Peers {
    known: Mutex<Known>,
    /// Handshakes that each may have under way.
    handshakes: usize,
}

#[derive(Debug, Default)]
struct Known {
    peers: HashMap<IpAddr, Arc<Peer>>,
    /// How many there were after the last look for those that are gone.
    last: usize,
}

/// One address.
#[derive(Debug)]
pub(crate) struct Peer {
    address: IpAddr,
    held: AtomicUsize,
    /// A permit for each handshake that may be under way.
    handshakes: Arc<Semaphore>,
}

/// Counts one that an address holds until it is dropped.
#[derive(Debug)]
pub(crate) struct Guest(Arc<Peer>);

impl Peers {
    /// Nobody yet; each may have so many handshakes under way.
    pub(super) fn new(handshakes: usize) -> Self {
        Self {
            known: Mutex::default(),
            handshakes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more for `address`, if enough is left to others; `left` is all that is.
    pub(crate) fn admit(&self, address: IpAddr, left: usize) -> Option<Guest> {
        let mut known = self.lock();
        if known.peers.len() >= MANY.max(2 * known.last) {
            known.peers.retain(|_, peer| Arc::strong_count(peer) > 1);
            known.last = known.peers.len();
        }
        let peer = known.peers.entry(address).or_insert_with(|| {
            Arc::new(Peer {
                address,
                held: AtomicUsize::new(0),
                handshakes: Arc::new(Semaphore::new(self.handshakes)),
            })
        });
        Guest::new(peer, left)
    }

    /// Who holds most, and how much.
    pub(super) fn foremost(&self) -> Vec<(IpAddr, usize)> {
        let known = self.lock();
        let peers = known.peers.iter();
        let mut all: Vec<_> = peers
            .map(|(address, peer)| (*address, peer.held.load(Relaxed)))
            .filter(|(_, held)| *held > 0)
            .collect();
        drop(known);
        all.sort_unstable_by_key(|(address, held)| (std::cmp::Reverse(*held), *address));
        all.truncate(FOREMOST);
        all
    }
}

impl Guest {
    fn new(peer: &Arc<Peer>, left: usize) -> Option<Self> {
        let before = peer.held.fetch_add(1, Relaxed);
        // Given back at once if it is one too many.
        let guest = Self(Arc::clone(peer));
        (before < SHARE.saturating_mul(left).max(LEAST)).then_some(guest)
    }

    /// One more for the same address.
    pub(crate) fn another(&self, left: usize) -> Option<Self> {
        Self::new(&self.0, left)
    }

    /// Its address.
    pub(crate) fn address(&self) -> IpAddr {
        self.0.address
    }

    /// What lets it begin a handshake.
    pub(crate) fn handshakes(&self) -> &Arc<Semaphore> {
        &self.0.handshakes
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 1, 1, last].into()
    }

    #[test]
    fn an_address_leaves_a_ninth_to_others() {
        let peers = Peers::new(1);
        let mut left = 100;
        let mut guests = Vec::new();
        while let Some(guest) = peers.admit(address(1), left) {
            guests.push(guest);
            left -= 1;
        }
        assert_eq!(guests.len(), 89);
        guests.extend(peers.admit(address(2), left));
        assert_eq!(peers.foremost(), [(address(1), 89), (address(2), 1)]);
        assert!(guests[0].another(left).is_none());
        assert!(guests[89].another(left).is_some());
        drop(guests);
        assert_eq!(peers.foremost(), []);
    }

    #[test]
    fn addresses_that_hold_nothing_are_forgotten() {
        let peers = Peers::new(1);
        let stays = peers.admit(address(255), 100);
        for last in 0..=254 {
            assert!(peers.admit(address(last), 100).is_some());
        }
        assert!(peers.lock().peers.len() <= MANY, "{peers:?}");
        drop(stays);
    }
}
