// SPDX-License-Identifier: Apache-2.0

//! What the accept loops of a pod tell: how many connections they took, and that a listener is none any
//! more.
//!
//! Shared between the data threads, which write, and the datapath, which compares it with what the
//! kernel counts. Knows nothing of either. Invariant: numbers only grow; new listeners get a new value.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What was told of one generation of a pod's listeners.
#[derive(Debug, Default)]
pub struct Accepts {
    outbound: AtomicU64,
    inbound: AtomicU64,
    has_ended: AtomicBool,
}

/// Connections, by direction as seen from the pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Directions {
    /// What its applications opened.
    pub outbound: u64,
    /// What others opened to it.
    pub inbound: u64,
}

impl Accepts {
    /// A connection was taken that the pod's application opened.
    pub fn note_outbound(&self) {
        self.outbound.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was taken that somebody opened to the pod.
    pub fn note_inbound(&self) {
        self.inbound.fetch_add(1, Ordering::Relaxed);
    }

    /// One of the listeners takes nothing any more, and its owner did not close it.
    pub fn note_ended(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }

    /// What was taken.
    pub fn taken(&self) -> Directions {
        Directions {
            outbound: self.outbound.load(Ordering::Relaxed),
            inbound: self.inbound.load(Ordering::Relaxed),
        }
    }

    /// Whether a listener ended.
    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }
}

impl std::ops::Add for Directions {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            outbound: self.outbound + other.outbound,
            inbound: self.inbound + other.inbound,
        }
    }
}
