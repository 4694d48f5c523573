// SPDX-License-Identifier: Apache-2.0

//! Who signs workload certificates: this agent, or an authority behind Istio's CA contract.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::value;

/// Flags of the certificate authority.
#[derive(Clone, Debug, Args)]
pub struct AuthoritySettings {
    /// Directory with the root key and certificate that the agents of one installation share;
    /// created if absent. Without it the root lives in memory, for this agent alone.
    #[arg(long, value_name = "DIR", conflicts_with = "ca_address")]
    pub ca_dir: Option<PathBuf>,

    /// HOST:PORT of a certificate authority that speaks Istio's contract: `mesh-agent control`,
    /// istiod, or cert-manager's istio-csr. Without it this agent signs for itself.
    #[arg(long, value_name = "HOST:PORT", value_parser = value::host_port)]
    pub ca_address: Option<String>,

    /// PEM file with the roots that the authority's own certificate and all peers are verified
    /// against; read again when it changes [default: the ConfigMap that `mesh-agent control`
    /// keeps].
    #[arg(long, value_name = "FILE", requires = "ca_address")]
    pub ca_roots: Option<PathBuf>,

    /// File with the token of the agent's own service account for the authority (audience
    /// `istio-ca`); read again for every request.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/run/secrets/tokens/istio-token",
        requires = "ca_address"
    )]
    pub ca_token: PathBuf,

    /// Namespace of the ConfigMap that `mesh-agent control` keeps.
    #[arg(
        long,
        env = "MESH_AGENT_NAMESPACE",
        value_name = "NAME",
        default_value = "mesh-system",
        value_parser = value::node_name
    )]
    pub ca_namespace: String,

    /// Name of this cluster, as the authority knows it.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "Kubernetes",
        requires = "ca_address"
    )]
    pub cluster_id: String,

    /// Trust domain of workload identities.
    #[arg(long, value_name = "NAME", default_value = "cluster.local", value_parser = value::domain)]
    pub trust_domain: String,

    /// Another name of the trust domain, whose workloads count as the own; may be given several times.
    /// Besides `trustDomainAliases` of Istio's mesh-wide configuration.
    #[arg(long = "trust-domain-alias", value_name = "NAME", value_parser = value::domain)]
    pub trust_domain_aliases: Vec<String>,

    /// File with a list of certificates that are no longer good (YAML: entries with `serial`, or with `identity` and
    /// `issuedBefore`); read again when it changes [default: `revoked.yaml` of the ConfigMap
    /// `mesh-agent-revoked`, where configuration comes from the Kubernetes API].
    #[arg(long, value_name = "FILE")]
    pub revoked: Option<PathBuf>,

    /// How long workload certificates are valid (units: ms, s, m, h, d); renewed at half of it.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = value::cert_ttl)]
    pub cert_ttl: Duration,
}
