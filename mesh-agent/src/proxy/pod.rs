// SPDX-License-Identifier: Apache-2.0

//! A captured pod, as the data threads share it.
//!
//! Knows nothing of its connections but their number. Invariant: [`Pod::live`] counts each
//! connection once, on whichever thread it is served.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    budgets::{Budgets, PodBudgets},
    refused::LastRefused,
    usage::Usages,
};
use crate::{
    datapath::{Accepts, Netns, PodSockets},
    model::Workload,
};

/// A pod whose traffic is taken.
#[derive(Debug)]
pub(crate) struct Pod {
    /// The workload as it was when it was captured.
    pub(crate) workload: Arc<Workload>,
    /// Where its sockets are.
    pub(crate) netns: Netns,
    /// The addresses that its interface had then: its status may not have said them yet.
    pub(crate) addresses: Vec<IpAddr>,
    /// What it has under way, where that is limited.
    pub(crate) usages: Usages,
    /// What it may hold, and holds.
    pub(crate) budgets: PodBudgets,
    /// Where is told what its listeners took.
    pub(crate) accepts: Arc<Accepts>,
    /// Who was not let in.
    pub(crate) last_refused: LastRefused,
    live: AtomicUsize,
    plaintext: AtomicUsize,
}

/// A connection that came in plaintext, as long as this lives.
#[derive(Debug)]
pub(crate) struct Plaintext(Arc<Pod>);

impl Pod {
    /// A pod without connections.
    pub(crate) fn new(sockets: &PodSockets, budgets: &Budgets) -> Self {
        Self {
            budgets: budgets.open(&sockets.workload),
            workload: Arc::clone(&sockets.workload),
            netns: sockets.netns.clone(),
            addresses: sockets.addresses.clone(),
            accepts: Arc::clone(&sockets.accepts),
            usages: Usages::default(),
            last_refused: LastRefused::default(),
            live: AtomicUsize::new(0),
            plaintext: AtomicUsize::new(0),
        }
    }

    /// Connections under way.
    pub(crate) fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// One more connection.
    pub(crate) fn begin(&self) {
        self.live.fetch_add(1, Ordering::Relaxed);
    }

    /// One connection less.
    pub(crate) fn end(&self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }
    /// Counts one that came in plaintext.
    pub(crate) fn begin_plaintext(self: &Arc<Self>) -> Plaintext {
        self.plaintext.fetch_add(1, Ordering::Relaxed);
        Plaintext(Arc::clone(self))
    }

    /// Those under way that came in plaintext.
    pub(crate) fn plaintext(&self) -> usize {
        self.plaintext.load(Ordering::Relaxed)
    }
}

impl Drop for Plaintext {
    fn drop(&mut self) {
        self.0.plaintext.fetch_sub(1, Ordering::Relaxed);
    }
}
