// SPDX-License-Identifier: Apache-2.0

//! What was typed: commands, flags and the few environment variables, checked but not interpreted.
//!
//! The only reader of the command line and the environment. Knows nothing of the rest of the
//! system. Invariant: settings that exist are in range; an error names the flag.

mod authority;
mod budgets;
mod control;
mod dump;
mod plugin;
mod pods;
mod source;
mod stopping;
pub mod value;

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    thread,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

pub use self::{
    authority::AuthoritySettings,
    budgets::BudgetSettings,
    control::ControlSettings,
    dump::{DumpFormat, DumpSettings},
    plugin::PluginSettings,
    pods::PodSettings,
    source::SourceSettings,
    stopping::{CleanupSettings, OnStop, StoppingSettings},
};

/// Captures, authenticates, routes and counts the TCP traffic of this node's enrolled pods.
#[derive(Debug, Parser)]
#[command(name = "mesh-agent", version, about, disable_help_subcommand = true)]
pub struct Settings {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent of one node, in the foreground, until SIGTERM or SIGINT.
    Run(Box<RunSettings>),
    /// Run what a cluster needs once, in the foreground, until SIGTERM or SIGINT: the certificate
    /// authority, and what nodes have applied.
    Control(Box<ControlSettings>),
    /// Remove everything that agents left behind on this node, where none runs any more.
    Cleanup(CleanupSettings),
    /// Check a directory of manifests, or what the Kubernetes API has; exit 1 if there are errors.
    Analyze(AnalyzeSettings),
    /// Show capture, certificates and configuration of the running agent.
    Status(ClientSettings),
    /// Show which pods have the latest configuration.
    #[command(visible_alias = "ps")]
    ProxyStatus(ClientSettings),
    /// Show what one pod's traffic is configured to do.
    #[command(visible_alias = "pc")]
    ProxyConfig(ProxyConfigSettings),
    /// Show the configuration that the agent works with.
    Config {
        /// What about it.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Tell who would fail if a root certificate were not trusted any more: workloads of this node, and peers of their
    /// live sessions; exit 1 if anybody would. Changes nothing.
    Rehearse(RehearseSettings),
    /// Show or change the log level of the running agent.
    Log(LogSettings),
    /// Show the metrics of the running agent.
    Metrics(ClientSettings),
    /// Tell whether the running agent has everything in place; exit 1 if it has not.
    Ready(ReadySettings),
    /// Verify that each pod of this node is captured as it should be, and show by what; exit 1 if one is
    /// not.
    Verify(ClientSettings),
    /// Ask agents in a cluster, through kubectl: what `kubectl mesh-agent` calls.
    #[command(hide = true)]
    Kubectl(PluginSettings),
    /// Print the CustomResourceDefinitions that the mesh brings along.
    #[command(hide = true)]
    Crds,
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print all of it.
    Dump(DumpSettings),
}

/// Flags of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunSettings {
    /// Name of this node, as in the pods' `spec.nodeName`.
    #[arg(long, env = "MESH_AGENT_NODE", value_name = "NAME", value_parser = value::node_name)]
    pub node: String,

    /// Where configuration comes from.
    #[command(flatten)]
    pub source: SourceSettings,

    /// Who signs certificates.
    #[command(flatten)]
    pub authority: AuthoritySettings,

    /// Directory with the client certificates that DestinationRules name by files: those of a
    /// namespace's rules in its subdirectory NAMESPACE, for pods of that namespace [default: none].
    #[arg(long, value_name = "DIR")]
    pub client_certificates: Option<PathBuf>,

    /// Number of data threads, 1 to 256 [default: the number of cores, at most 4].
    #[arg(long, value_name = "N", value_parser = value::threads)]
    pub threads: Option<NonZeroUsize>,

    /// What workloads may hold.
    #[command(flatten)]
    pub budgets: BudgetSettings,

    /// What tunnels between agents speak; HBONE is always spoken with peers that know nothing else.
    #[arg(long, env = "MESH_AGENT_TUNNEL", value_name = "KIND", value_enum, default_value_t = Tunnel::Mux)]
    pub tunnel: Tunnel,

    /// What becomes of connections of enrolled pods to what neither a Service, nor a pod, nor a
    /// ServiceEntry has.
    #[arg(long, env = "MESH_AGENT_OUTBOUND_POLICY", value_name = "POLICY", value_enum, default_value_t = Outbound::AllowAny)]
    pub outbound_policy: Outbound,

    /// What requests of HTTP are given that they did not bring; what they brought is kept.
    #[arg(long, env = "MESH_AGENT_REQUEST_HEADERS", value_name = "KIND", value_enum, default_value_t = AddedHeaders::Trace)]
    pub request_headers: AddedHeaders,

    /// How much of the spelling of a request's path is undone before it is routed and sent on; Istio's
    /// meshConfig.pathNormalization.
    #[arg(long, env = "MESH_AGENT_PATH_NORMALIZATION", value_name = "KIND", value_enum, default_value_t = Normalization::Base)]
    pub path_normalization: Normalization,

    /// A network from which keys of JSON web tokens (`jwksUri`) may be fetched although it is the node's own, its
    /// link's or a metadata service's; may be given several times. All other networks need not be allowed.
    #[arg(long, value_name = "NETWORK")]
    pub jwks_allow: Vec<IpNet>,

    /// What serves HTTP/1.1: a way back, should the fast path not do.
    #[arg(long, env = "MESH_AGENT_HTTP1", value_name = "ENGINE", value_enum, default_value_t = Http1::Fast, hide = true)]
    pub http1: Http1,

    /// Where the admin socket is made [default: /run/mesh-agent/NODE.sock].
    #[arg(long, value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,

    /// Loopback address for Prometheus' scrapes of /metrics, and for /ready.
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = METRICS_ADDRESS, value_parser = value::loopback)]
    pub metrics_address: SocketAddr,

    /// Loopback address where `istioctl ztunnel-config` finds /config_dump [default: none].
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = value::loopback)]
    pub ztunnel_dump_address: Option<SocketAddr>,

    /// Directory on a bpf file system that keeps kernel programs over a restart
    /// [default: /sys/fs/bpf/mesh-agent/NODE].
    #[arg(long, value_name = "DIR")]
    pub pin_dir: Option<PathBuf>,

    /// Directory of the cgroup2 hierarchy that the pods' processes are in [default: found in
    /// /proc/mounts].
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,

    /// How pods are found.
    #[command(flatten)]
    pub pods: PodSettings,

    /// What happens to PERMISSIVE pods' traffic while no agent runs; STRICT stays closed.
    #[arg(long, value_name = "CHOICE", value_enum, default_value_t = OnAgentDeath::Closed)]
    pub on_agent_death: OnAgentDeath,

    /// Form of the access log on standard output: one line per connection and per request.
    #[arg(long, value_name = "FORM", value_enum, default_value_t = AccessLog::Text)]
    pub access_log: AccessLog,

    /// What is logged to standard error: error, warn, info, debug, trace or off, also by module
    /// ("info,mesh_agent::proxy=debug"). Can be changed later with `mesh-agent log`.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,

    /// Form of the log on standard error.
    #[arg(long, value_name = "FORM", value_enum, default_value_t = LogForm::Text)]
    pub log_format: LogForm,

    /// How long connections may take to end when the agent stops or a successor takes over, hours
    /// if need be (units: ms, s, m, h, d).
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = value::duration)]
    pub drain_deadline: Duration,

    /// What a stop leaves behind.
    #[command(flatten)]
    pub stopping: StoppingSettings,
}

/// What tunnels between agents speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tunnel {
    /// Our own multiplexed protocol, and HBONE with whoever does not know it.
    Mux,
    /// HBONE: HTTP/2 CONNECT.
    Hbone,
}

/// What becomes of connections to what nobody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Outbound {
    /// They go on as they would without the mesh.
    AllowAny,
    /// They are refused: 502 for HTTP, a reset for everything else.
    RegistryOnly,
}

/// What requests are given that they did not bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AddedHeaders {
    /// Nothing.
    None,
    /// An x-request-id.
    Id,
    /// That, and a traceparent.
    Trace,
    /// That, and those of Envoy: x-envoy-attempt-count, x-envoy-expected-rq-timeout-ms, x-envoy-original-path,
    /// x-forwarded-proto, and x-envoy-upstream-service-time in answers.
    Envoy,
}

/// How much of the spelling of a path is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Normalization {
    /// Nothing.
    None,
    /// Dot segments are resolved, backslashes turned, and what needs no percent encoding is decoded.
    Base,
    /// That, and several slashes are one.
    MergeSlashes,
    /// That, after encoded slashes and backslashes were decoded.
    DecodeAndMergeSlashes,
}

/// What serves HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Http1 {
    /// Plain requests by hand, the rest by hyper.
    Fast,
    /// hyper alone.
    Hyper,
}

/// What happens to captured traffic while no agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnAgentDeath {
    /// It is refused until an agent is back.
    Closed,
    /// It passes in plaintext, around the mesh.
    Open,
}

/// Form of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccessLog {
    /// Envoy's default layout for requests, key=value for connections.
    Text,
    /// One JSON object per line.
    Json,
    /// No access log.
    Off,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogForm {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Flags of every command that asks a running agent.
#[derive(Clone, Debug, Args)]
pub struct ClientSettings {
    /// The agent's admin socket [default: the only one in /run/mesh-agent].
    #[arg(long, env = "MESH_AGENT_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Form of the output [default: table; json for `config dump`].
    #[arg(short, long, value_name = "FORM", value_enum)]
    pub output: Option<Output>,
}

/// Form of a command's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns for people.
    Table,
    /// JSON, indented.
    Json,
    /// YAML.
    Yaml,
}

/// Flags of `analyze`.
#[derive(Clone, Debug, Args)]
pub struct AnalyzeSettings {
    /// Directory of manifests.
    #[arg(value_name = "DIR", required_unless_present_any = ["kube", "kubeconfig"])]
    pub dir: Option<PathBuf>,

    /// Analyze what the Kubernetes API has, reached as a pod does, by its service account.
    #[arg(long, conflicts_with_all = ["dir", "kubeconfig"])]
    pub kube: bool,

    /// Analyze what the Kubernetes API has, reached as this file says.
    #[arg(long, value_name = "FILE", conflicts_with = "dir")]
    pub kubeconfig: Option<PathBuf>,

    /// Domain of Services' host names.
    #[arg(long, value_name = "NAME", default_value = "cluster.local", value_parser = value::domain)]
    pub cluster_domain: String,

    /// Form of the output.
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Flags of `proxy-config`.
#[derive(Clone, Debug, Args)]
pub struct ProxyConfigSettings {
    /// What to show.
    #[arg(value_enum)]
    pub view: ProxyConfigView,

    /// The pod: NAME or NAME.NAMESPACE (namespace `default` if left out).
    #[arg(value_name = "POD[.NAMESPACE]")]
    pub pod: String,

    /// Only rows about this port.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,

    /// Whom to ask and how to print.
    #[command(flatten)]
    pub client: ClientSettings,
}

/// One of the four tables of a pod's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProxyConfigView {
    /// Addresses whose connections are captured, and what becomes of them.
    #[value(alias = "listener")]
    Listeners,
    /// Sets of endpoints that traffic can go to.
    #[value(alias = "cluster")]
    Clusters,
    /// Rules that choose a cluster per request.
    #[value(alias = "route")]
    Routes,
    /// Addresses behind the clusters.
    #[value(alias = "endpoint")]
    Endpoints,
}

/// Flags of `ready`.
#[derive(Clone, Debug, Args)]
pub struct ReadySettings {
    /// Only if the agent that answers is of the same container as this command: while an agent
    /// takes over from its predecessor, it is the predecessor who answers. For readiness probes.
    #[arg(long)]
    pub own: bool,

    /// Whom to ask and how to print.
    #[command(flatten)]
    pub client: ClientSettings,
}

/// Flags of `rehearse`.
#[derive(Clone, Debug, Args)]
pub struct RehearseSettings {
    /// SHA-256 fingerprint of the root, or its begin; with colons or without.
    #[arg(long, value_name = "FINGERPRINT")]
    pub drop_root: String,

    /// Whom to ask and how to print.
    #[command(flatten)]
    pub client: ClientSettings,
}

/// Flags of `log`.
#[derive(Clone, Debug, Args)]
pub struct LogSettings {
    /// The new level: error, warn, info, debug, trace or off, also by module; without it the
    /// present one is shown.
    #[arg(value_name = "LEVEL")]
    pub level: Option<String>,

    /// Whom to ask and how to print.
    #[command(flatten)]
    pub client: ClientSettings,
}

/// Istio's port for merged Prometheus metrics.
const METRICS_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15020);

/// Beyond this a node's proxy is not the bottleneck that threads could widen.
const DEFAULT_THREADS_MAX: usize = 4;

/// Where agents make their admin sockets and commands look for them.
pub const SOCKET_DIR: &str = "/run/mesh-agent";

impl Settings {
    /// Reads the command line; ends the program if it is wrong, or asks for help.
    pub fn read() -> Self {
        Self::parse_from(unmask(std::env::args_os().collect()))
    }
}

/// Makes what kubectl called into what was meant.
pub(crate) fn unmask(words: Vec<OsString>) -> Vec<OsString> {
    plugin::unmask(words)
}

impl RunSettings {
    /// The number of data threads.
    pub fn thread_count(&self) -> usize {
        self.threads.map_or_else(
            || {
                let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
                cores.min(DEFAULT_THREADS_MAX)
            },
            NonZeroUsize::get,
        )
    }

    /// Where the admin socket is made.
    pub fn admin_socket(&self) -> PathBuf {
        self.admin_socket
            .clone()
            .unwrap_or_else(|| PathBuf::from(SOCKET_DIR).join(format!("{}.sock", self.node)))
    }
}

#[cfg(test)]
mod tests;
