// SPDX-License-Identifier: Apache-2.0

//! What a stop without a successor leaves behind: nothing, or the node for the next agent.
//!
//! Knows nothing of how it is removed. Invariant: without an answer about the installation
//! nothing is removed, so that a STRICT pod is never opened because an API server was away.

use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};

use crate::{
    config::{ClientError, installation::Installation},
    datapath::Stop,
    settings::{OnStop, RunSettings},
    tasks::Tasks,
};

/// How often it is tried to see the installation once.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// What to do at a stop.
pub(super) enum Policy {
    /// Always the same.
    Fixed(Stop),
    /// What the installation's state says.
    Ask(Installation),
}

/// The policy that the settings ask for.
pub(super) async fn policy(settings: &RunSettings, tasks: &Tasks) -> Policy {
    let from_files = settings.source.config_dir.is_some();
    let default = if from_files {
        OnStop::Remove
    } else {
        OnStop::Auto
    };
    match settings.stopping.on_stop.unwrap_or(default) {
        OnStop::Remove => Policy::Fixed(Stop::Remove),
        OnStop::Leave => Policy::Fixed(Stop::Leave),
        // There is no installation to ask about.
        OnStop::Auto if from_files => Policy::Fixed(Stop::Remove),
        OnStop::Auto => match open(settings).await {
            Ok(installation) => {
                watch(installation.clone(), tasks);
                Policy::Ask(installation)
            }
            Err(error) => {
                warn!(%error, "cannot ask about the installation: a stop leaves the pods captured");
                Policy::Fixed(Stop::Leave)
            }
        },
    }
}

async fn open(settings: &RunSettings) -> Result<Installation, ClientError> {
    let stopping = &settings.stopping;
    Installation::open(
        settings.source.kubeconfig.as_deref(),
        &stopping.namespace,
        &stopping.daemonset,
        &settings.node,
    )
    .await
}

/// Sees the installation once: what is forbidden later was taken away with it.
fn watch(installation: Installation, tasks: &Tasks) {
    let drain = tasks.drain();
    tasks.spawn("installation", async move {
        let look = async {
            while installation.is_leaving().await.is_none() {
                sleep(LOOK_INTERVAL).await;
            }
        };
        // Cancel-safe: looking changes nothing that could be half done.
        tokio::select! {
            () = look => {}
            () = drain.leaving() => {}
        }
    });
}

impl Policy {
    /// What to do now.
    pub(super) async fn decide(&self) -> Stop {
        match self {
            Self::Fixed(how) => *how,
            Self::Ask(installation) => match installation.is_leaving().await {
                Some(true) => {
                    info!("the installation is going away: everything is removed");
                    Stop::Remove
                }
                Some(false) => Stop::Leave,
                None => {
                    warn!(
                        "the Kubernetes API does not say whether the installation is going away: \
                         the pods stay captured; `mesh-agent cleanup` removes what is left"
                    );
                    Stop::Leave
                }
            },
        }
    }
}
