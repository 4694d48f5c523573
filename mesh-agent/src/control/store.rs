// SPDX-License-Identifier: Apache-2.0

//! Where roots are kept: the installation's Secret, one that someone plugged in, and the
//! ConfigMap with what is to be trusted.
//!
//! Knows nothing of rotation. Invariants: a Secret that exists is never overwritten but on the
//! version that was read; keys are in no log and no error.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::rotation::{KEYS, ROOT_CERT, Roots, RootsError};
use crate::identity::SignerPem;

/// The installation's own root.
const OWN: &str = "mesh-agent-ca";

/// An issuer that someone plugged in; Istio's name and keys.
const PLUGGED: &str = "cacerts";

/// What is to be trusted.
const PUBLISHED: &str = "mesh-agent-ca-roots";

/// The annotation of the Secret that asks for a rotation.
const ROTATE: &str = "mesh-agent.io/rotate-root";

/// Roots cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("{action} {kind} {name}")]
    Api {
        action: &'static str,
        kind: &'static str,
        name: &'static str,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("Secret mesh-agent-ca: correct it, or delete it to begin with a new root")]
    Own(#[source] RootsError),
    #[error("Secret cacerts has no key {0:?}: add it, or delete the Secret to use an own root")]
    Plugged(&'static str),
}

/// What there is.
#[derive(Debug)]
pub(super) struct Found {
    /// Someone's own issuer.
    pub(super) plugged: Option<SignerPem>,
    /// The installation's root.
    pub(super) own: Option<Own>,
}

/// The installation's root and where it stands.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) roots: Roots,
    /// The annotation that asks for a rotation.
    pub(super) asked: Option<String>,
    pub(super) version: String,
}

/// Reads and keeps roots.
pub(super) struct Store {
    secrets: Api<Secret>,
    maps: Api<ConfigMap>,
}

impl Store {
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            maps: Api::namespaced(client, namespace),
        }
    }

    /// What is plugged in, and the installation's own.
    pub(super) async fn load(&self) -> Result<Found, StoreError> {
        let plugged = self.secrets.get_opt(PLUGGED).await;
        let plugged = plugged.map_err(failed("reading", "Secret", PLUGGED))?;
        let plugged = plugged.as_ref().map(plugged_in).transpose()?;
        let own = self.secrets.get_opt(OWN).await;
        let Some(secret) = own.map_err(failed("reading", "Secret", OWN))? else {
            return Ok(Found { plugged, own: None });
        };
        let data = secret.data.unwrap_or_default();
        let data = data
            .into_iter()
            .map(|(key, value)| (key, value.0))
            .collect();
        let asked = secret
            .metadata
            .annotations
            .unwrap_or_default()
            .remove(ROTATE);
        let own = Own {
            roots: Roots::read(&data).map_err(StoreError::Own)?,
            asked,
            version: secret.metadata.resource_version.unwrap_or_default(),
        };
        Ok(Found {
            plugged,
            own: Some(own),
        })
    }

    /// Keeps the first root, unless another replica was faster.
    pub(super) async fn create(&self, roots: &Roots) -> Result<(), StoreError> {
        let secret = Secret {
            metadata: named(OWN),
            string_data: Some(roots.write()),
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        };
        match self.secrets.create(&PostParams::default(), &secret).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            outcome => outcome.map(drop).map_err(failed("creating", "Secret", OWN)),
        }
    }

    /// Keeps `roots` in place of what was read as `version`.
    pub(super) async fn replace(&self, roots: &Roots, version: &str) -> Result<(), StoreError> {
        let written = roots.write();
        // A merge patch removes what is null.
        let absent: BTreeMap<&str, Value> = KEYS
            .into_iter()
            .filter(|key| !written.contains_key(*key))
            .map(|key| (key, Value::Null))
            .collect();
        let patch = json!({
            "metadata": { "resourceVersion": version },
            "data": absent,
            "stringData": written,
        });
        self.secrets
            .patch(OWN, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .map(drop)
            .map_err(failed("updating", "Secret", OWN))
    }

    /// Publishes what is to be trusted, if it is not published yet.
    pub(super) async fn publish(&self, roots: &str) -> Result<bool, StoreError> {
        let found = self.maps.get_opt(PUBLISHED).await;
        let found = found.map_err(failed("reading", "ConfigMap", PUBLISHED))?;
        let data = BTreeMap::from([(ROOT_CERT.to_owned(), roots.to_owned())]);
        let outcome = match found {
            Some(map)
                if map.data.as_ref().and_then(|data| data.get(ROOT_CERT))
                    == data.get(ROOT_CERT) =>
            {
                return Ok(false);
            }
            Some(_) => {
                let patch = json!({ "data": data });
                self.maps
                    .patch(PUBLISHED, &PatchParams::default(), &Patch::Merge(&patch))
                    .await
            }
            None => {
                let map = ConfigMap {
                    metadata: named(PUBLISHED),
                    data: Some(data),
                    ..ConfigMap::default()
                };
                self.maps.create(&PostParams::default(), &map).await
            }
        };
        outcome
            .map(|_| true)
            .map_err(failed("publishing", "ConfigMap", PUBLISHED))
    }
}

fn plugged_in(secret: &Secret) -> Result<SignerPem, StoreError> {
    let text = |key: &'static str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key))?;
        String::from_utf8(bytes.0.clone()).ok()
    };
    let needed = |key: &'static str| text(key).ok_or(StoreError::Plugged(key));
    Ok(SignerPem {
        key: needed("ca-key.pem")?,
        certificate: needed("ca-cert.pem")?,
        chain: text("cert-chain.pem").unwrap_or_default(),
        roots: needed("root-cert.pem")?,
    })
}

fn named(name: &str) -> ObjectMeta {
    let label = ("app.kubernetes.io/part-of", "mesh-agent");
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some(BTreeMap::from([(label.0.to_owned(), label.1.to_owned())])),
        ..ObjectMeta::default()
    }
}

fn failed(
    action: &'static str,
    kind: &'static str,
    name: &'static str,
) -> impl FnOnce(kube::Error) -> StoreError {
    move |source| StoreError::Api {
        action,
        kind,
        name,
        source: Box::new(source),
    }
}
