// SPDX-License-Identifier: Apache-2.0

//! Starts the source of configuration that the settings ask for.
//!
//! Knows nothing of what a configuration says. Invariant: when this returns, a first snapshot is
//! published or on its way, and the rest of the agent cannot tell where it came from.

use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::sync::watch;

use crate::{
    config::{self, Index, IndexSettings, Report},
    model::Snapshot,
    settings::RunSettings,
    tasks::Tasks,
};

/// Where Istio keeps mesh-wide policies.
const ROOT_NAMESPACE: &str = "istio-system";

/// What a source publishes.
pub(super) struct Source {
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(super) report: watch::Receiver<Arc<Report>>,
}

/// Starts it.
///
/// # Errors
/// The directory cannot be read or watched; the Kubernetes API is not configured.
pub(super) async fn start(settings: &RunSettings, tasks: &Tasks) -> anyhow::Result<Source> {
    let index = Index::new(index_settings(settings));
    let (snapshot, report) = (index.subscribe(), index.report());
    match &settings.source.config_dir {
        Some(dir) => config::file::watch(dir, index, tasks)
            .with_context(|| format!("configuration from {}", dir.display()))?,
        None => bail!("--config-dir is missing"),
    }
    Ok(Source { snapshot, report })
}

fn index_settings(settings: &RunSettings) -> IndexSettings {
    IndexSettings {
        node: settings.node.clone(),
        trust_domain: settings.authority.trust_domain.clone(),
        cluster_domain: settings.source.cluster_domain.clone(),
        root_namespace: ROOT_NAMESPACE.to_owned(),
        statuses: false,
    }
}
