// SPDX-License-Identifier: Apache-2.0

//! What there is for all workloads of a node, and for each.

use std::{num::NonZeroUsize, time::Duration};

use clap::Args;

use super::value;

/// Flags about budgets.
#[derive(Clone, Copy, Debug, Args)]
pub struct BudgetSettings {
    /// Connections that all workloads of the node may have at once [default: what half of the descriptors,
    /// and memory at 64 KiB each, allow].
    #[arg(long, value_name = "N")]
    pub max_connections: Option<NonZeroUsize>,

    /// Connections that one workload may have at once, in each direction [default: twice what it
    /// leaves to others].
    #[arg(long, value_name = "N")]
    pub max_workload_connections: Option<NonZeroUsize>,

    /// TLS handshakes of tunnels that may be under way at once [default: 512].
    #[arg(long, value_name = "N")]
    pub max_handshakes: Option<NonZeroUsize>,

    /// Requests of HTTP that may be under way at once, over all workloads of the node [default: what a
    /// quarter of the memory allows at 512 KiB each, 1024 to 65536].
    #[arg(long, value_name = "N")]
    pub max_requests: Option<NonZeroUsize>,

    /// Bytes that may wait for readers that stop, over all workloads of the node, beyond what each connection and
    /// request may hold [default: an eighth of the memory, at least 32 MiB].
    #[arg(long, value_name = "BYTES")]
    pub max_waiting_bytes: Option<NonZeroUsize>,

    /// How long the head of a request may take from its first byte to its last; a client that is silent
    /// between requests is not limited by it.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = value::duration)]
    pub request_head_timeout: Duration,
}
