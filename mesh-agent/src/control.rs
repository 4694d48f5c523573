// SPDX-License-Identifier: Apache-2.0

//! What a cluster needs once: the certificate authority, and what the nodes have applied.
//!
//! The composition root of `mesh-agent control`. All replicas sign; one leads, and it alone writes.
//! Knows nothing of pods' traffic. Invariant: nodes need this to renew certificates and for
//! nothing else; what they have goes on working while no replica runs.

mod authorize;
mod book;
mod calls;
mod conditions;
mod definitions;
mod keeper;
mod lease;
mod merge;
mod nodes;
mod pace;
mod pods;
mod rotation;
mod serving;
mod status;
mod store;
mod syncz;
mod tokens;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use kube::Client;
use tokio::{
    net::TcpListener,
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::info;

pub use self::nodes::Applied;
use self::{
    authorize::{Account, Rules},
    calls::{Calls, Counts},
    conditions::Sources,
    keeper::Terms,
    lease::Leadership,
    nodes::Nodes,
    pods::Pods,
    status::Views,
    store::Store,
    syncz::Syncz,
    tokens::Tokens,
};
use crate::{
    config::{self, Index, IndexSettings, ObjectStatus, kube::KubeSettings},
    grpc::{self, Limits},
    settings::{ControlSettings, LogForm},
    tasks::Tasks,
    telemetry::log::{self, LogFormat},
};

/// Name of the Lease that leaders hold.
const LEASE: &str = "mesh-agent-control";

/// Requests wait for the API server most of the time.
const THREADS: usize = 2;

/// How long calls may take to end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// How long the last lines of the log may take to be written.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);

/// What a client of the authority costs at most.
const LIMITS: Limits = Limits {
    connections: 4096,
    calls: 256,
    message_max_bytes: 64 * 1024,
    call_deadline: Duration::from_secs(15),
};

/// Runs one replica until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting: no way to the API, an address that is taken.
pub fn run(settings: &ControlSettings) -> anyhow::Result<()> {
    let form = match settings.log_format {
        LogForm::Text => LogFormat::Text,
        LogForm::Json => LogFormat::Json,
    };
    let log = log::start(form, &settings.log_level)?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("threads")?;
    let ended = runtime.block_on(serve(settings));
    runtime.shutdown_timeout(FLUSH_DEADLINE);
    log.flush(FLUSH_DEADLINE);
    ended
}

async fn serve(settings: &ControlSettings) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let tasks = Tasks::new();
    Box::pin(start(settings, &tasks)).await?;
    // Cancel-safe: a signal that arrived stays noted until it is taken.
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    info!(signal = name, "stopping");
    tasks.begin_drain();
    let left = tasks.drained(DRAIN_DEADLINE).await;
    info!(?left, "stopped");
    Ok(())
}

/// Joins the parts.
async fn start(settings: &ControlSettings, tasks: &Tasks) -> anyhow::Result<()> {
    let client = config::client(settings.kubeconfig.as_deref()).await?;
    let grpc = listen(settings.listen).await.context("--listen")?;
    let plain = listen(settings.status_address)
        .await
        .context("--status-address")?;
    let namespace = &settings.namespace;
    let me = format!("{}_{}", settings.pod_name, settings.pod_ip);
    let accounts = settings.trusted_node_accounts.iter();
    let node_accounts: Vec<Account> = accounts
        .map(|(namespace, name)| Account {
            namespace: namespace.clone(),
            name: name.clone(),
        })
        .collect();

    let leadership = lease::elect(client.clone(), namespace, LEASE, me.clone(), tasks);
    definitions::keep(client.clone(), leadership.clone(), tasks);
    let pods = Pods::watch(client.clone(), tasks);
    let nodes = Nodes::new(pods.clone(), node_accounts.clone());
    let statuses = Box::pin(judge(settings, &client, &leadership, &nodes, tasks)).await?;
    let syncz = Syncz::new(&nodes, &pods, &node_accounts, statuses, settings);
    let terms = Terms {
        trust_domain: settings.trust_domain.clone(),
        root_ttl: settings.root_ttl,
        cert_ttl_max: settings.cert_ttl_max,
    };
    let store = Store::new(client.clone(), namespace);
    let current = keeper::keep(store, terms, leadership.clone(), nodes.clone(), tasks);
    let tls = serving::keep(names(settings), current.clone(), tasks);
    let counts = Arc::new(Counts::default());

    let calls = Calls {
        tokens: Tokens::new(client),
        pods: pods.clone(),
        rules: Rules {
            trust_domain: settings.trust_domain.clone(),
            node_accounts,
        },
        current: current.clone(),
        leadership: leadership.clone(),
        nodes: nodes.clone(),
        syncz: syncz.clone(),
        cert_ttl_max: settings.cert_ttl_max,
        counts: Arc::clone(&counts),
    };
    let serve = grpc::serve(grpc, tls, calls::router(calls), LIMITS, tasks.clone());
    tasks.spawn("grpc", serve);
    let views = Views {
        current,
        leadership,
        nodes,
        pods,
        syncz,
        counts,
        me,
    };
    tasks.spawn("status", status::serve(plain, views, tasks.clone()));
    info!(listen = %settings.listen, status = %settings.status_address, "started");
    Ok(())
}

/// Judges the configuration, and writes into objects what became of them; returns the judgements.
async fn judge(
    settings: &ControlSettings,
    client: &Client,
    leadership: &watch::Receiver<Leadership>,
    nodes: &Nodes,
    tasks: &Tasks,
) -> anyhow::Result<watch::Receiver<Arc<Vec<ObjectStatus>>>> {
    let index = Index::new(IndexSettings {
        trust_domain: settings.trust_domain.clone(),
        cluster_domain: settings.cluster_domain.clone(),
        statuses: true,
        ..IndexSettings::default()
    });
    let nodes = nodes.clone();
    let statuses = index.statuses();
    let sources = Sources {
        statuses: statuses.clone(),
        leadership: leadership.clone(),
        reports: nodes.changes(),
        applied: move |kind: &str, version| nodes.applied(kind, version),
    };
    // No node is this one: the pods of all are read as those of others.
    let source = KubeSettings {
        node: String::new(),
        kubeconfig: settings.kubeconfig.clone(),
        state_dir: None,
    };
    Box::pin(config::kube::follow(&source, index, tasks))
        .await
        .context("configuration from the Kubernetes API")?;
    conditions::keep(client.clone(), sources, tasks);
    Ok(statuses)
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listening at {address}"))
}

/// The names by which agents may call the Service.
fn names(settings: &ControlSettings) -> Vec<String> {
    let (service, namespace) = (&settings.service, &settings.namespace);
    let domain = &settings.cluster_domain;
    vec![
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}.svc.{domain}"),
        format!("{service}.{namespace}"),
    ]
}
