// SPDX-License-Identifier: Apache-2.0

//! Starts identities with the certificate authority that the settings ask for.
//!
//! Knows nothing of certificates. Invariant: roots that once were read stay trusted until others
//! are read; a source of roots that cannot be read takes nothing away.

use std::{fs, path::Path, time::Duration};

use anyhow::Context;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use crate::{
    config,
    identity::{
        CertificateAuthority, Identities, Keep, RemoteAuthority, RemoteSettings, parse_roots,
    },
    settings::RunSettings,
    tasks::Tasks,
};

/// Where `mesh-agent control` publishes what is to be trusted.
const ROOTS_CONFIG_MAP: &str = "mesh-agent-ca-roots";
const ROOTS_KEY: &str = "root-cert.pem";

/// How often files are looked at: mounted ConfigMaps change by symbolic links.
const LOOK_AT_FILE: Duration = Duration::from_secs(5);

/// Identities, and the authority behind them if it is not this agent.
pub(super) struct Started {
    pub(super) identities: Identities,
    pub(super) remote: Option<RemoteAuthority>,
}

/// Starts it.
///
/// # Errors
/// The authority's directory, or the one for kept certificates, cannot be used; the file of roots
/// cannot be read; there is no way to the Kubernetes API.
pub(super) async fn start(settings: &RunSettings, tasks: &Tasks) -> anyhow::Result<Started> {
    let flags = &settings.authority;
    if let Some(address) = &flags.ca_address {
        return remote(settings, address, tasks).await;
    }
    let authority = match &flags.ca_dir {
        Some(dir) => CertificateAuthority::open(dir, &flags.trust_domain)
            .with_context(|| format!("certificate authority in {}", dir.display()))?,
        None => {
            CertificateAuthority::in_memory(&flags.trust_domain).context("certificate authority")?
        }
    };
    Ok(Started {
        identities: Identities::new(authority, flags.cert_ttl, tasks.clone()),
        remote: None,
    })
}

async fn remote(settings: &RunSettings, address: &str, tasks: &Tasks) -> anyhow::Result<Started> {
    let flags = &settings.authority;
    let (roots_from, roots) = match &flags.ca_roots {
        Some(path) => {
            let text = fs::read_to_string(path)
                .with_context(|| format!("--ca-roots {}", path.display()))?;
            parse_roots(&text).with_context(|| format!("--ca-roots {}", path.display()))?;
            (path.display().to_string(), watch_file(path, text, tasks))
        }
        None => {
            let client = config::client(settings.source.kubeconfig.as_deref())
                .await
                .context("roots from the Kubernetes API (or --ca-roots FILE)")?;
            let namespace = &flags.ca_namespace;
            let roots = config::watch_text(client, namespace, ROOTS_CONFIG_MAP, ROOTS_KEY, tasks);
            let from = format!("ConfigMap {namespace}/{ROOTS_CONFIG_MAP}");
            (from, roots)
        }
    };
    let authority = RemoteAuthority::new(
        RemoteSettings {
            address: address.to_owned(),
            token: flags.ca_token.clone(),
            cluster_id: flags.cluster_id.clone(),
            trust_domain: flags.trust_domain.clone(),
            roots_from: roots_from.clone(),
        },
        tasks.clone(),
    );
    let keep = match &settings.source.state_dir {
        Some(dir) => {
            let dir = dir.join(&settings.node).join("certificates");
            Some(Keep::open(&dir).with_context(|| format!("--state-dir {}", dir.display()))?)
        }
        None => None,
    };
    let identities = Identities::with_keep(authority.clone(), flags.cert_ttl, tasks.clone(), keep);
    // Roots that survived a restart are good enough to ask for better ones.
    authority.set_roots(identities.roots());
    follow_roots(
        roots,
        roots_from,
        authority.clone(),
        identities.clone(),
        tasks,
    );
    Ok(Started {
        identities,
        remote: Some(authority),
    })
}

/// Trusts every text of roots as it comes.
fn follow_roots(
    mut roots: watch::Receiver<Option<String>>,
    from: String,
    authority: RemoteAuthority,
    identities: Identities,
    tasks: &Tasks,
) {
    tasks.spawn("follow roots", async move {
        loop {
            let text = roots.borrow_and_update().clone();
            match text.as_deref().map(parse_roots) {
                Some(Ok(found)) => {
                    authority.set_roots(found.clone());
                    identities.trust(found);
                }
                Some(Err(error)) => {
                    tracing::warn!(from, %error, "the roots cannot be used, those before stay");
                }
                None => {}
            }
            // The sender ends with the drain.
            if roots.changed().await.is_err() {
                return;
            }
        }
    });
}

/// Reads the file again and again.
pub(super) fn watch_file(
    path: &Path,
    text: String,
    tasks: &Tasks,
) -> watch::Receiver<Option<String>> {
    let (sender, receiver) = watch::channel(Some(text));
    let (path, drain) = (path.to_owned(), tasks.drain());
    tasks.spawn("watch file", async move {
        let mut tick = interval(LOOK_AT_FILE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_readable = true;
        loop {
            // Cancel-safe: both only wait.
            tokio::select! {
                _ = tick.tick() => {}
                () = drain.requested() => return,
            }
            let read = fs::read_to_string(&path);
            if let Err(error) = &read
                && is_readable
            {
                tracing::warn!(path = %path.display(), %error, "a file cannot be read, what was in it before stays");
            }
            is_readable = read.is_ok();
            if let Ok(text) = read {
                sender.send_if_modified(|known| {
                    let changed = known.as_deref() != Some(text.as_str());
                    *known = Some(text);
                    changed
                });
            }
        }
    });
    receiver
}
