// SPDX-License-Identifier: Apache-2.0

//! A client of the Kubernetes API, as a pod has it or as a kubeconfig file says.
//!
//! Knows nothing of what is asked.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// A connection that is not there after this is given up.
const CONNECT: Duration = Duration::from_secs(5);

/// A connection on which nothing comes for so long is dead: watches bring a bookmark every minute.
const SILENCE: Duration = Duration::from_secs(180);

/// There is no way to the Kubernetes API.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not in a pod, and no file was named.
    #[error("not in a pod of a cluster: name the cluster with --kubeconfig FILE")]
    NotInCluster(#[source] Box<kube::config::InClusterError>),
    /// The file cannot be used.
    #[error("--kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// What is configured makes no client.
    #[error("setting up the client of the Kubernetes API")]
    Client(#[source] Box<kube::Error>),
}

/// Makes one; the API server need not answer yet.
///
/// # Errors
/// If nothing says where the API is, or how to talk to it.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    let mut config = match kubeconfig {
        Some(path) => from_file(path)
            .await
            .map_err(|source| ClientError::Kubeconfig {
                path: path.to_owned(),
                source: Box::new(source),
            })?,
        None => {
            Config::incluster().map_err(|source| ClientError::NotInCluster(Box::new(source)))?
        }
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    Client::try_from(config).map_err(|source| ClientError::Client(Box::new(source)))
}

async fn from_file(path: &Path) -> Result<Config, kube::config::KubeconfigError> {
    let file = Kubeconfig::read_from(path)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await
}
