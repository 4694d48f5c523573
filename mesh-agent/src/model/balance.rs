// SPDX-License-Identifier: Apache-2.0

//! Which backend is next, and which endpoint of it.
//!
//! Weights are honoured by smooth weighted round robin, unrolled once into a table: the only state
//! at run time is one shared position, so a ratio is exact across all threads of a node.
//! Invariant: over any window of one table length, backend `i` is drawn exactly `weight[i]` times
//! (weights reduced by their greatest common divisor).

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

/// Requests and connections under way at one endpoint, from this node. Outlives snapshots.
#[derive(Debug, Default)]
pub struct EndpointLoad(AtomicU32);

impl EndpointLoad {
    /// What is under way now.
    pub fn current(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// One more, until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> LoadGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        LoadGuard(Arc::clone(self))
    }
}

/// Holds one unit of load at an endpoint.
#[derive(Debug)]
pub struct LoadGuard(Arc<EndpointLoad>);

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The order in which weighted backends take requests.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Indices of backends in the order of smooth weighted round robin.
    table: Arc<[u16]>,
    /// The next position; kept when a new snapshot has the same weights at the same place.
    position: Arc<AtomicU64>,
}

impl Schedule {
    /// The next backend's index, or `None` if all weights are 0.
    pub fn next(&self) -> Option<usize> {
        if self.table.is_empty() {
            return None;
        }
        let position = self.position.fetch_add(1, Ordering::Relaxed);
        let length = u64::try_from(self.table.len()).expect("a table's length fits u64");
        let index = usize::try_from(position % length).expect("less than the table's length");
        Some(usize::from(self.table[index]))
    }
}
