// SPDX-License-Identifier: Apache-2.0

//! Follows the list of revoked certificates: a file, or a ConfigMap of the cluster whose configuration
//! this is.
//!
//! Knows nothing of certificates. Invariant: a list that cannot be read, or is gone, takes nothing away:
//! the last good one stays in force, and that is said.

use std::{fs, sync::Arc};

use anyhow::Context;
use tokio::sync::watch;

use super::authority::watch_file;
use crate::{config, identity::Identities, settings::RunSettings, tasks::Tasks, telemetry::chain};

/// Where operators write what is no longer good.
const CONFIG_MAP: &str = "mesh-agent-revoked";
const KEY: &str = "revoked.yaml";

/// Begins to follow it.
///
/// # Errors
/// The file cannot be read, or is no list: nobody is to start without a list that was asked for. There is
/// no way to the Kubernetes API where configuration comes from there.
pub(super) async fn start(
    settings: &RunSettings,
    identities: &Identities,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    let (from, texts) = match (&settings.authority.revoked, &settings.source.config_dir) {
        (Some(path), _) => {
            let named = || format!("--revoked {}", path.display());
            let text = fs::read_to_string(path).with_context(named)?;
            config::parse_revoked(&text).with_context(named)?;
            (path.display().to_string(), watch_file(path, text, tasks))
        }
        (None, Some(_directory)) => return Ok(()),
        (None, None) => {
            let client = config::client(settings.source.kubeconfig.as_deref());
            let client = client.await.context("list of revoked certificates")?;
            let namespace = &settings.authority.ca_namespace;
            let texts = config::watch_text(client, namespace, CONFIG_MAP, KEY, tasks);
            (format!("ConfigMap {namespace}/{CONFIG_MAP}"), texts)
        }
    };
    follow(texts, from.into(), identities.clone(), tasks);
    Ok(())
}

fn follow(
    mut texts: watch::Receiver<Option<String>>,
    from: Arc<str>,
    identities: Identities,
    tasks: &Tasks,
) {
    tasks.spawn("follow revoked", async move {
        loop {
            let text = texts.borrow_and_update().clone();
            match text.as_deref().map(config::parse_revoked) {
                Some(Ok(list)) => identities.revoke(list),
                Some(Err(error)) => {
                    let error = chain(&error);
                    tracing::error!(%from, error, "the list of revoked certificates cannot be used, the last good one stays");
                    identities.note_bad_list(format!("{from}: {error}"));
                }
                None => {}
            }
            // The sender ends with the drain.
            if texts.changed().await.is_err() {
                return;
            }
        }
    });
}
