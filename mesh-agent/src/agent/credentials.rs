// SPDX-License-Identifier: Apache-2.0

//! Where the certificates come from that DestinationRules name: the operator's directory, and Secrets
//! of the cluster whose configuration this is.
//!
//! Knows nothing of what is in them. Invariant: a Secret is read when a pod of its own namespace needs
//! it, never before.

use std::sync::Arc;

use anyhow::Context;

use crate::{
    config::{self, ReadSecretError, SecretReader},
    identity::{CredentialSources, Identities, Reading, Sealed, SecretError, Secrets},
    settings::RunSettings,
};

/// Tells the identities.
///
/// # Errors
/// There is no way to the Kubernetes API where configuration comes from there.
pub(super) async fn start(settings: &RunSettings, identities: &Identities) -> anyhow::Result<()> {
    let source = &settings.source;
    let secrets: Option<Arc<dyn Secrets>> = match source.config_dir {
        Some(_) => None,
        None => {
            let client = config::client(source.kubeconfig.as_deref());
            let client = client.await.context("Secrets that rules name")?;
            Some(Arc::new(Cluster(SecretReader::new(client))))
        }
    };
    identities.set_credential_sources(CredentialSources {
        files: settings.client_certificates.clone(),
        secrets,
    });
    Ok(())
}

struct Cluster(SecretReader);

impl Secrets for Cluster {
    fn read<'a>(&'a self, namespace: &'a str, name: &'a str) -> Reading<'a> {
        Box::pin(async move {
            let fields = self.0.read(namespace, name).await;
            let fields = fields.map_err(|error| match error {
                ReadSecretError::Absent => SecretError::Absent,
                ReadSecretError::Forbidden => SecretError::Forbidden,
                ReadSecretError::Unanswered(why) => SecretError::Unanswered(why),
            })?;
            let fields = fields.into_iter();
            Ok(fields
                .map(|(key, value)| (key, Sealed::new(value)))
                .collect())
        })
    }
}
