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
    usage::Usages,
};
use crate::{datapath::Netns, model::Workload};

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
    live: AtomicUsize,
}

impl Pod {
    /// A pod without connections.
    pub(crate) fn new(
        workload: Arc<Workload>,
        netns: Netns,
        addresses: Vec<IpAddr>,
        budgets: &Budgets,
    ) -> Self {
        Self {
            budgets: budgets.open(&workload),
            workload,
            netns,
            addresses,
            usages: Usages::default(),
            live: AtomicUsize::new(0),
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
}
