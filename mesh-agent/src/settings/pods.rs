// SPDX-License-Identifier: Apache-2.0

//! How this node's pods are found, and what becomes of connections older than their capture.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::value;

/// Flags about the pods of this node.
#[derive(Clone, Debug, Args)]
pub struct PodSettings {
    /// Where the node's cgroup file systems are mounted, by which pods' network namespaces are
    /// found; in a container, where they were mounted from the node.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/cgroup")]
    pub cgroup_root: PathBuf,

    /// How long connections that a pod had before it was captured may live on (units: ms, s, m, h,
    /// d) [default: for ever]. The annotation mesh-agent.io/close-existing-after of a pod wins, then
    /// that of its namespace.
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub close_existing_after: Option<Duration>,

    /// Carry traffic between pods of this node through mutual TLS, too. It costs a pass through TLS
    /// each way; without, it never leaves the node's memory, and identities and policy are the same.
    #[arg(long, env = "MESH_AGENT_ENCRYPT_ON_NODE")]
    pub encrypt_on_node: bool,
}
