// SPDX-License-Identifier: Apache-2.0

//! Starts the source of configuration that the settings ask for.
//!
//! Knows nothing of what a configuration says. Invariant: when this returns, a first snapshot is
//! published or on its way, and the rest of the agent cannot tell where it came from.

use std::sync::Arc;

use anyhow::Context;
use tokio::sync::watch;

use crate::{
    config::{
        self, Frontier, Index, IndexSettings, Report, SourceKind, SourceState, kube::KubeSettings,
    },
    model::{OutboundPolicy, Snapshot},
    settings::{Outbound, RunSettings},
    tasks::Tasks,
};

/// Where Istio keeps mesh-wide policies.
const ROOT_NAMESPACE: &str = "istio-system";

/// What a source publishes.
pub(super) struct Source {
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(super) report: watch::Receiver<Arc<Report>>,
    /// Whether it answers, and how old its word is.
    pub(super) state: watch::Receiver<Arc<SourceState>>,
    /// How much of what the API server has is in the snapshot; stays empty for a directory.
    pub(super) frontier: watch::Receiver<Frontier>,
}

/// Starts it.
///
/// # Errors
/// The directory cannot be read or watched; nothing says how to reach the Kubernetes API. That it
/// does not answer is no error.
pub(super) async fn start(settings: &RunSettings, tasks: &Tasks) -> anyhow::Result<Source> {
    let mut index = Index::new(index_settings(settings));
    config::resolve_names(&mut index, tasks);
    let (snapshot, report) = (index.subscribe(), index.report());
    let (state, frontier) = match &settings.source.config_dir {
        Some(dir) => {
            config::file::watch(dir, index, tasks)
                .with_context(|| format!("configuration from {}", dir.display()))?;
            let state = SourceState::new(SourceKind::Files);
            let state = watch::Sender::new(Arc::new(state)).subscribe();
            (state, watch::Sender::new(Frontier::default()).subscribe())
        }
        None => {
            let source = Box::pin(config::kube::follow(&kube_settings(settings), index, tasks))
                .await
                .context("configuration from the Kubernetes API")?;
            (source.state, source.frontier)
        }
    };
    Ok(Source {
        snapshot,
        report,
        state,
        frontier,
    })
}

fn index_settings(settings: &RunSettings) -> IndexSettings {
    IndexSettings {
        node: settings.node.clone(),
        trust_domain: settings.authority.trust_domain.clone(),
        trust_domain_aliases: settings.authority.trust_domain_aliases.clone(),
        cluster_domain: settings.source.cluster_domain.clone(),
        root_namespace: ROOT_NAMESPACE.to_owned(),
        outbound: match settings.outbound_policy {
            Outbound::AllowAny => OutboundPolicy::AllowAny,
            Outbound::RegistryOnly => OutboundPolicy::RegistryOnly,
        },
        statuses: false,
    }
}

fn kube_settings(settings: &RunSettings) -> KubeSettings {
    KubeSettings {
        node: settings.node.clone(),
        kubeconfig: settings.source.kubeconfig.clone(),
        state_dir: settings.source.state_dir.clone(),
    }
}
