// SPDX-License-Identifier: Apache-2.0

//! What an agent leaves behind when it stops, and the command that removes it later.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::value;

/// Flags about stopping.
#[derive(Clone, Debug, Args)]
pub struct StoppingSettings {
    /// What happens to the pods of this node when the agent is stopped and no successor has taken
    /// over [default: remove with --config-dir, else auto].
    #[arg(long, value_name = "CHOICE", value_enum)]
    pub on_stop: Option<OnStop>,

    /// Namespace of the installation, where its DaemonSet is.
    #[arg(long, env = "MESH_AGENT_NAMESPACE", value_name = "NAME", default_value = "mesh-system", value_parser = value::domain)]
    pub namespace: String,

    /// The DaemonSet that runs this agent: `--on-stop auto` looks whether it is still there.
    #[arg(long, env = "MESH_AGENT_DAEMONSET", value_name = "NAME", default_value = "mesh-agent", value_parser = value::domain)]
    pub daemonset: String,
}

/// What a stop does to the pods of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnStop {
    /// They leave the mesh: kernel programs, rules and routes are removed.
    Remove,
    /// They stay as after a crash, for the next agent: see --on-agent-death.
    Leave,
    /// Remove if the installation or the node is going away, as the Kubernetes API says; leave
    /// otherwise, and when it does not answer.
    Auto,
}

/// Flags of `cleanup`.
#[derive(Clone, Debug, Args)]
pub struct CleanupSettings {
    /// Only what the agent of this node left [default: every node's on this machine].
    #[arg(long, env = "MESH_AGENT_NODE", value_name = "NAME", value_parser = value::node_name)]
    pub node: Option<String>,

    /// Directory on a bpf file system where it pinned its programs [default:
    /// /sys/fs/bpf/mesh-agent/NODE].
    #[arg(long, value_name = "DIR")]
    pub pin_dir: Option<PathBuf>,

    /// Its admin socket [default: /run/mesh-agent/NODE.sock].
    #[arg(long, value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,

    /// Also remove its state: last good configuration, certificates and keys.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}
