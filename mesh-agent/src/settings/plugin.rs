// SPDX-License-Identifier: Apache-2.0

//! `kubectl mesh-agent`: the same program, called by kubectl under the name `kubectl-mesh_agent`.

use std::ffi::OsString;

use clap::Args;

/// What kubectl looks for in `PATH` when `kubectl mesh-agent` is typed.
const PLUGIN: &str = "kubectl-mesh_agent";

/// The command that it stands for.
const COMMAND: &str = "kubectl";

/// Flags of the plugin.
#[derive(Clone, Debug, Args)]
#[command(
    bin_name = "kubectl mesh-agent",
    override_usage = "kubectl mesh-agent [OPTIONS] COMMAND..."
)]
pub struct PluginSettings {
    /// Ask the agent of this node.
    #[arg(long, value_name = "NAME", conflicts_with = "pod")]
    pub node: Option<String>,

    /// Ask the agent of the node on which this pod runs. Without both the pod that COMMAND names
    /// counts, and if it names none every agent is asked.
    #[arg(long, value_name = "NAME")]
    pub pod: Option<String>,

    /// Namespace of the pod [default: as kubectl has it].
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,

    /// Namespace of the agents.
    #[arg(long, value_name = "NAME", default_value = "mesh-system")]
    pub mesh_namespace: String,

    /// Passed on to kubectl.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<String>,

    /// Passed on to kubectl.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,

    /// What to ask, as `mesh-agent` takes it on the node: status, proxy-status, proxy-config routes
    /// POD, log debug, ... with its own options behind it.
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub words: Vec<String>,
}

/// Makes what kubectl called into what was meant.
pub(super) fn unmask(mut words: Vec<OsString>) -> Vec<OsString> {
    let called = words.first().map(std::path::Path::new);
    let name = called.and_then(|path| path.file_name());
    if name.is_some_and(|name| name == PLUGIN) {
        words.insert(1, COMMAND.into());
    }
    words
}
