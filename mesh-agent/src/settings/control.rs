// SPDX-License-Identifier: Apache-2.0

//! Flags of `control`: what a cluster needs once.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::Args;

use super::{LogForm, value};

/// Flags of `control`.
#[derive(Clone, Debug, Args)]
pub struct ControlSettings {
    /// Where certificates are signed: gRPC over TLS, Istio's contract.
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = LISTEN)]
    pub listen: SocketAddr,

    /// Where /ready, /metrics and /status are answered, in plain HTTP and to anyone.
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = STATUS)]
    pub status_address: SocketAddr,

    /// Namespace of this installation, with the Secret, ConfigMap and Lease.
    #[arg(
        long,
        env = "MESH_AGENT_NAMESPACE",
        value_name = "NAME",
        default_value = "mesh-system",
        value_parser = value::node_name
    )]
    pub namespace: String,

    /// Name of this pod: how a replica is told from another.
    #[arg(long, env = "MESH_AGENT_POD_NAME", value_name = "NAME", value_parser = value::node_name)]
    pub pod_name: String,

    /// Address at which agents reach this replica.
    #[arg(long, env = "MESH_AGENT_POD_IP", value_name = "ADDRESS")]
    pub pod_ip: IpAddr,

    /// Name of the Service in front of all replicas; part of the names that they serve.
    #[arg(long, value_name = "NAME", default_value = "mesh-agent-ca", value_parser = value::node_name)]
    pub service: String,

    /// Domain of Services' host names.
    #[arg(long, value_name = "NAME", default_value = "cluster.local", value_parser = value::domain)]
    pub cluster_domain: String,

    /// Trust domain of workload identities.
    #[arg(long, value_name = "NAME", default_value = "cluster.local", value_parser = value::domain)]
    pub trust_domain: String,

    /// The longest that a workload certificate is valid (units: ms, s, m, h, d).
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = value::cert_ttl)]
    pub cert_ttl_max: Duration,

    /// How long a new root is valid; replaced after four fifths of it (units: ms, s, m, h, d).
    #[arg(long, value_name = "DURATION", default_value = "3650d", value_parser = value::cert_ttl)]
    pub root_ttl: Duration,

    /// Service accounts, NAMESPACE/NAME, that may ask for the identities of the pods on their
    /// node; may be given several times, or separated by commas.
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        default_value = "mesh-system/mesh-agent",
        value_delimiter = ',',
        value_parser = value::service_account
    )]
    pub trusted_node_accounts: Vec<(String, String)>,

    /// How to reach the Kubernetes API [default: as a pod does, by its service account].
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// What is logged to standard error: error, warn, info, debug, trace or off, also by module.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,

    /// Form of the log on standard error.
    #[arg(long, value_name = "FORM", value_enum, default_value_t = LogForm::Text)]
    pub log_format: LogForm,
}

/// Istio's port for certificates.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 15012);

/// Istio's port for its control plane's metrics.
const STATUS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 15014);
