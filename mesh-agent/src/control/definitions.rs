// SPDX-License-Identifier: Apache-2.0

//! Installs the definitions of kinds that the cluster lacks, once per leadership.
//!
//! Knows nothing of what is defined. Invariant: definitions that are not ours stay as they are.

use std::{error::Error, time::Duration};

use kube::Client;
use tokio::{sync::watch, time::sleep};

use super::lease::Leadership;
use crate::{
    config::crds::{self, Installed},
    tasks::Tasks,
};

/// How long a failed try rests.
const RETRY: Duration = Duration::from_secs(15);

/// Installs them as a task of `tasks`, whenever this replica comes to lead.
pub(super) fn keep(client: Client, mut leadership: watch::Receiver<Leadership>, tasks: &Tasks) {
    let drain = tasks.drain();
    tasks.spawn("install definitions", async move {
        let work = async {
            while leadership.wait_for(|it| it.leading).await.is_ok() {
                if !install(&client).await {
                    sleep(RETRY).await;
                    continue;
                }
                if leadership.wait_for(|it| !it.leading).await.is_err() {
                    return;
                }
            }
        };
        // Cancel-safe: each definition is written by one request, and looked at anew by the next.
        tokio::select! {
            () = work => {}
            () = drain.requested() => {}
        }
    });
}

async fn install(client: &Client) -> bool {
    match crds::install(client).await {
        Ok(outcomes) => {
            for (name, outcome) in outcomes {
                match outcome {
                    Installed::Created => tracing::info!(name, "definition created"),
                    Installed::Updated => tracing::info!(name, "definition updated"),
                    Installed::Foreign => tracing::info!(name, "definition of others left alone"),
                    Installed::Present => {}
                }
            }
            true
        }
        Err(error) => {
            let cause = error.source().map(ToString::to_string);
            tracing::warn!(%error, cause, "definitions, will try again");
            false
        }
    }
}
