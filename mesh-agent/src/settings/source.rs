// SPDX-License-Identifier: Apache-2.0

//! Where configuration comes from: a directory of manifests, or the Kubernetes API.

use std::path::PathBuf;

use clap::Args;

use super::value;

/// Flags of the source of configuration.
#[derive(Clone, Debug, Args)]
pub struct SourceSettings {
    /// Directory of Kubernetes manifests (YAML, JSON; nested folders); reloaded when it changes.
    /// Without it configuration is read from the Kubernetes API.
    #[arg(long, value_name = "DIR")]
    pub config_dir: Option<PathBuf>,

    /// How to reach the Kubernetes API [default: as a pod does, by its service account].
    #[arg(long, value_name = "FILE", conflicts_with = "config_dir")]
    pub kubeconfig: Option<PathBuf>,

    /// Directory (0700) for what has to survive a restart without the Kubernetes API and without
    /// the certificate authority: the last good configuration, the list of what is revoked, and
    /// certificates with their keys. Without it nothing is kept.
    #[arg(long, value_name = "DIR", conflicts_with = "config_dir")]
    pub state_dir: Option<PathBuf>,

    /// Domain of Services' host names.
    #[arg(long, value_name = "NAME", default_value = "cluster.local", value_parser = value::domain)]
    pub cluster_domain: String,
}
