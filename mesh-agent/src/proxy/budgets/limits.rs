// SPDX-License-Identifier: Apache-2.0

//! How much a node has: what was set, or else what its descriptors and memory allow.
//!
//! Knows nothing of whose it is.

use std::fs;

/// Descriptors that are kept for everything but the proxy's connections.
const RESERVED_DESCRIPTORS: usize = 512;

/// What a node can always serve.
const LEAST_CONNECTIONS: usize = 64;

/// What a connection may take of the node's memory, the kernel's part included.
const CONNECTION_MEMORY: usize = 64 * 1024;

/// Handshakes at once: what some cores do in half a second.
const HANDSHAKES: usize = 512;

/// What a request may take of memory that waits for its reader: windows, and what is on its way out.
const REQUEST_MEMORY: usize = 512 * 1024;

/// Requests at once that a node can always serve, and those that no node needs more than.
const LEAST_REQUESTS: usize = 1024;
const MOST_REQUESTS: usize = 64 * 1024;

/// Bytes that may wait for readers: a part of the memory, and what a node needs to be of use.
const WAITING_PART: usize = 8;
const LEAST_BYTES: usize = 32 * 1024 * 1024;

/// What is a workload's own of each where there is enough.
pub(super) const OWN_CONNECTIONS: usize = 64;
pub(super) const OWN_HANDSHAKES: usize = 16;
pub(super) const OWN_REQUESTS: usize = 256;
pub(super) const OWN_BYTES: usize = 4 * 1024 * 1024;

/// How much there is for all workloads of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetLimits {
    /// Connections at once, each with a descriptor on either side.
    pub connections: usize,
    /// How many of them one side of one workload may have, whatever is left.
    pub workload_connections: usize,
    /// TLS handshakes of tunnels at once.
    pub handshakes: usize,
    /// Requests at once.
    pub requests: usize,
    /// Bytes that may wait for readers beyond what each connection and request may hold.
    pub bytes: usize,
}

impl BudgetLimits {
    /// Handshakes that one address may have under way at one pod; the rest of its wait.
    pub(super) fn peer_handshakes(&self) -> usize {
        (self.handshakes / 16).max(1)
    }
}

impl Default for BudgetLimits {
    fn default() -> Self {
        let descriptors = descriptors().saturating_sub(RESERVED_DESCRIPTORS) / 2;
        let connections = descriptors.min(memory() / CONNECTION_MEMORY);
        Self {
            connections: connections.max(LEAST_CONNECTIONS),
            workload_connections: usize::MAX,
            handshakes: HANDSHAKES,
            requests: (memory() / 4 / REQUEST_MEMORY).clamp(LEAST_REQUESTS, MOST_REQUESTS),
            bytes: (memory() / WAITING_PART).max(LEAST_BYTES),
        }
    }
}

/// How many descriptors the process may have.
fn descriptors() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|soft| soft.parse().ok())
        .unwrap_or(1024)
}

/// How much memory the process may have, in bytes: the node's, or that of its container.
fn memory() -> usize {
    let node = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let node = node
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kib| kib.parse::<usize>().ok())
        .map_or(usize::MAX, |kib| kib.saturating_mul(1024));
    let container = ["memory.max", "memory/memory.limit_in_bytes"]
        .iter()
        .filter_map(|file| fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok())
        .find_map(|bytes| bytes.trim().parse().ok());
    node.min(container.unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_descriptors_and_memory() {
        assert!(descriptors() >= 64, "{}", descriptors());
        assert!(memory() > 1 << 20, "{}", memory());
        let limits = BudgetLimits::default();
        assert!(limits.connections >= LEAST_CONNECTIONS);
        assert!(2 * limits.connections <= descriptors().max(2 * LEAST_CONNECTIONS));
    }
}
