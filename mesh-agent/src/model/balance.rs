// SPDX-License-Identifier: Apache-2.0

//! Which backend is next, and which endpoint of it.
//!
//! Weights are honoured by smooth weighted round robin, unrolled once into a table: the only state
//! at run time is one shared position, so a ratio is exact across all threads of a node.
//! Invariant: over any window of one table length, backend `i` is drawn exactly `weight[i]` times
//! (weights reduced by their greatest common divisor).

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use super::{
    outlier::Health,
    service::{Cluster, Endpoint},
    warmup::Age,
};

/// Requests and connections under way at one endpoint, from this node, and what was seen of it.
/// Outlives snapshots.
#[derive(Debug, Default)]
pub struct EndpointLoad {
    under_way: AtomicU32,
    health: Health,
    age: Age,
}

impl EndpointLoad {
    /// What is under way now.
    pub fn current(&self) -> u32 {
        self.under_way.load(Ordering::Relaxed)
    }

    /// What was seen of it.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// How long it has been used.
    pub fn age(&self) -> &Age {
        &self.age
    }

    /// One more, until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> LoadGuard {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        LoadGuard(Arc::clone(self))
    }
}

/// Holds one unit of load at an endpoint.
#[derive(Debug)]
pub struct LoadGuard(Arc<EndpointLoad>);

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How far a schedule has been drawn. Clones share one cell, so that it outlives a snapshot.
#[derive(Clone, Debug, Default)]
pub struct Position(Arc<AtomicU64>);

impl Position {
    /// The next of `count` turns.
    pub fn next(&self, count: usize) -> usize {
        let count = u64::try_from(count.max(1)).expect("a length fits u64");
        let turn = self.0.fetch_add(1, Ordering::Relaxed) % count;
        usize::try_from(turn).expect("less than a length")
    }
}

/// The longest table of a [`Schedule`], in draws: weights are then exact to 0.01 %.
pub const MAX_TABLE: u32 = 10_000;

/// The order in which weighted backends take requests.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Indices of backends in the order of smooth weighted round robin.
    table: Arc<[u16]>,
    /// The next position; kept when a new snapshot has the same weights at the same place.
    position: Position,
}

impl Schedule {
    /// Unrolls `weights`, one per backend, from where `position` stands.
    ///
    /// Weights are divided by their greatest common divisor. If their sum still exceeds
    /// [`MAX_TABLE`], they are scaled to that sum: each is rounded down, but never to 0 unless it
    /// was 0, and what is left goes to the largest remainders (the first wins a tie).
    /// Backends after the 65,535th and those of weight 0 are never drawn.
    pub fn new(weights: &[u32], position: Position) -> Self {
        Self {
            table: table(weights).into(),
            position,
        }
    }

    /// The next backend's index, or `None` if all weights are 0.
    pub fn next(&self) -> Option<usize> {
        let length = u64::try_from(self.table.len()).expect("a table's length fits u64");
        match *self.table {
            [] => None,
            [only] => Some(usize::from(only)),
            _ => {
                let position = self.position.0.fetch_add(1, Ordering::Relaxed);
                let index =
                    usize::try_from(position % length).expect("less than the table's length");
                Some(usize::from(self.table[index]))
            }
        }
    }

    /// The cell that says how far this schedule has been drawn.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// How many draws it takes until each backend has had exactly its share; 0 if no weight is set.
    pub fn window(&self) -> usize {
        self.table.len()
    }
}

/// The order in which what weighs so much takes turns: one period of it.
pub(super) fn table(weights: &[u32]) -> Vec<u16> {
    unroll(&reduce(
        &weights[..weights.len().min(usize::from(u16::MAX))],
    ))
}

/// The smallest weights of the same ratio, with a sum of at most [`MAX_TABLE`].
fn reduce(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let reduced: Vec<u32> = weights.iter().map(|weight| weight / divisor).collect();
    let sum: u64 = reduced.iter().map(|weight| u64::from(*weight)).sum();
    if sum <= u64::from(MAX_TABLE) {
        return reduced;
    }
    let scaled = |weight: u32| u64::from(weight) * u64::from(MAX_TABLE);
    let mut shares: Vec<u32> = reduced
        .iter()
        .map(|weight| {
            let share = u32::try_from(scaled(*weight) / sum).expect("a share is at most the table");
            share.max(u32::from(*weight > 0))
        })
        .collect();
    let mut by_remainder: Vec<usize> = (0..reduced.len()).collect();
    by_remainder.sort_by_key(|index| std::cmp::Reverse(scaled(reduced[*index]) % sum));
    let missing = MAX_TABLE.saturating_sub(shares.iter().sum());
    for index in by_remainder.into_iter().take(missing as usize) {
        shares[index] += 1;
    }
    shares
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// One period of smooth weighted round robin: each draw raises every backend's credit by its
/// weight, takes the highest and lowers that by the sum.
fn unroll(weights: &[u32]) -> Vec<u16> {
    let sum: i64 = weights.iter().map(|weight| i64::from(*weight)).sum();
    let mut credits = vec![0_i64; weights.len()];
    (0..sum)
        .map(|_| {
            let mut best = 0;
            for (index, weight) in weights.iter().enumerate() {
                credits[index] += i64::from(*weight);
                if credits[index] > credits[best] {
                    best = index;
                }
            }
            credits[best] -= sum;
            u16::try_from(best).expect("the constructor cut the backends at u16")
        })
        .collect()
}

impl Cluster {
    /// The less loaded of two endpoints drawn at random, leaving out `avoid`.
    ///
    /// `random(n)` gives a number below `n`. `None` if no endpoint is left: whether to start over
    /// with those that were avoided is the caller's choice.
    pub fn pick(
        &self,
        mut random: impl FnMut(usize) -> usize,
        avoid: &[SocketAddr],
    ) -> Option<&Endpoint> {
        let allowed = |endpoint: &&Endpoint| !avoid.contains(&endpoint.address);
        let count = match avoid {
            [] => self.endpoints.len(),
            _ => self.endpoints.iter().filter(allowed).count(),
        };
        let nth = |index: usize| match avoid {
            [] => self.endpoints.get(index),
            _ => self.endpoints.iter().filter(allowed).nth(index),
        };
        if count < 2 {
            return nth(0);
        }
        let first = random(count);
        let second = random(count - 1);
        let second = if second >= first { second + 1 } else { second };
        let (first, second) = (nth(first)?, nth(second)?);
        Some(if second.load.current() < first.load.current() {
            second
        } else {
            first
        })
    }
}

#[cfg(test)]
mod tests;
