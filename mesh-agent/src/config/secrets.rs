// SPDX-License-Identifier: Apache-2.0

//! One Secret, read when somebody asks for it.
//!
//! None is listed or watched: the agent's service account needs `get` of those that rules name, and
//! nothing else. Knows nothing of what is in them. Invariant: nothing of a Secret is logged, nor part of
//! an error.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use crate::telemetry::chain;

/// A Secret was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadSecretError {
    /// There is none of that name.
    #[error("there is no such Secret")]
    Absent,
    /// It may not be read.
    #[error("it may not be read")]
    Forbidden,
    /// The API server did not answer as it should.
    #[error("no answer: {0}")]
    Unanswered(String),
}

/// Reads Secrets of one cluster.
pub struct SecretReader(Client);

impl SecretReader {
    /// Of the cluster that `client` reaches.
    pub fn new(client: Client) -> Self {
        Self(client)
    }

    /// The fields of the Secret `name` in `namespace`.
    ///
    /// # Errors
    /// There is none, it may not be read, or the API server does not answer.
    pub async fn read(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<BTreeMap<String, Vec<u8>>, ReadSecretError> {
        let api: Api<Secret> = Api::namespaced(self.0.clone(), namespace);
        let secret = match api.get_opt(name).await {
            Ok(Some(secret)) => secret,
            Ok(None) => return Err(ReadSecretError::Absent),
            Err(kube::Error::Api(status)) if status.code == 403 => {
                return Err(ReadSecretError::Forbidden);
            }
            Err(kube::Error::Api(status)) => {
                let text = format!("{}: {}", status.code, status.reason);
                return Err(ReadSecretError::Unanswered(text));
            }
            // What does not deserialize would be quoted.
            Err(kube::Error::SerdeError(_)) => {
                return Err(ReadSecretError::Unanswered("it is not understood".into()));
            }
            Err(other) => return Err(ReadSecretError::Unanswered(chain(&other))),
        };
        let fields = secret.data.unwrap_or_default().into_iter();
        Ok(fields.map(|(key, value)| (key, value.0)).collect())
    }
}
