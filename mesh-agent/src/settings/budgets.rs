// SPDX-License-Identifier: Apache-2.0

//! What there is for all workloads of a node, and for each.

use std::num::NonZeroUsize;

use clap::Args;

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
}
