// SPDX-License-Identifier: Apache-2.0

//! Whether the installation that this agent belongs to is going away, or leaves this node.
//!
//! Asked once, at a stop. The installation is its DaemonSet: gone, being deleted, or no longer
//! for this node. Whoever uninstalls usually takes our rights away in the same moment, so being
//! refused what was once allowed says the same.
//!
//! Invariant: no answer within [`PATIENCE`], or one that says nothing, is `None`.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Namespace, Node},
};
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// How long the API server may take: a stop must not wait for it.
const PATIENCE: Duration = Duration::from_secs(2);

const UNAUTHORIZED: u16 = 401;
const FORBIDDEN: u16 = 403;

/// The installation, as far as a stop needs to know it.
#[derive(Clone)]
pub struct Installation {
    client: Client,
    namespace: String,
    daemonset: String,
    node: String,
    /// It was seen once, so we had the right to.
    seen: Arc<AtomicBool>,
}

/// The API cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum InstallationError {
    /// The kubeconfig is wrong.
    #[error("--kubeconfig cannot be used")]
    Kubeconfig(#[source] kube::config::KubeconfigError),
    /// We are not in a pod with a service account.
    #[error("no service account and no --kubeconfig")]
    InCluster(#[source] kube::config::InClusterError),
    /// TLS or the address is wrong.
    #[error("the Kubernetes API cannot be spoken to")]
    Client(#[source] kube::Error),
}

impl Installation {
    /// Prepares to ask about `daemonset` in `namespace` and `node`; nothing is asked yet.
    ///
    /// # Errors
    /// See [`InstallationError`].
    pub async fn open(
        kubeconfig: Option<&Path>,
        namespace: &str,
        daemonset: &str,
        node: &str,
    ) -> Result<Self, InstallationError> {
        let config = match kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(InstallationError::Kubeconfig)?;
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                    .await
                    .map_err(InstallationError::Kubeconfig)?
            }
            None => Config::incluster().map_err(InstallationError::InCluster)?,
        };
        Ok(Self::new(
            Client::try_from(config).map_err(InstallationError::Client)?,
            namespace,
            daemonset,
            node,
        ))
    }

    fn new(client: Client, namespace: &str, daemonset: &str, node: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            daemonset: daemonset.to_owned(),
            node: node.to_owned(),
            seen: Arc::default(),
        }
    }

    /// Whether it is going away or leaving this node; `None` if that cannot be told.
    pub async fn is_leaving(&self) -> Option<bool> {
        // Cancel-safe: nothing but questions.
        match tokio::time::timeout(PATIENCE, self.look()).await {
            Ok(Ok(leaving)) => {
                self.seen.store(true, Ordering::Relaxed);
                Some(leaving)
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "asked about the installation");
                (is_refused(&error) && self.seen.load(Ordering::Relaxed)).then_some(true)
            }
            Err(_elapsed) => None,
        }
    }

    async fn look(&self) -> kube::Result<bool> {
        let daemonsets: Api<DaemonSet> = Api::namespaced(self.client.clone(), &self.namespace);
        let Some(daemonset) = daemonsets.get_opt(&self.daemonset).await? else {
            return Ok(true);
        };
        if daemonset.metadata.deletion_timestamp.is_some() {
            return Ok(true);
        }
        let nodes: Api<Node> = Api::all(self.client.clone());
        let Some(node) = nodes.get_opt(&self.node).await? else {
            return Ok(true);
        };
        if !is_for(&daemonset, &node) {
            return Ok(true);
        }
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = namespaces.get_opt(&self.namespace).await?;
        Ok(namespace.is_none_or(|it| it.metadata.deletion_timestamp.is_some()))
    }
}

/// Whether the DaemonSet's node selector still takes the node.
fn is_for(daemonset: &DaemonSet, node: &Node) -> bool {
    let none = BTreeMap::new();
    let pod = daemonset.spec.template.spec.as_ref();
    let wanted = pod
        .and_then(|it| it.node_selector.as_ref())
        .unwrap_or(&none);
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

fn is_refused(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => matches!(status.code, UNAUTHORIZED | FORBIDDEN),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_selector(selector: &[(&str, &str)], labels: &[(&str, &str)], want: bool) {
        let map = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            let owned = pairs.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            Some(owned.collect::<BTreeMap<_, _>>())
        };
        let mut daemonset = DaemonSet::default();
        let pod = daemonset.spec.template.spec.get_or_insert_default();
        pod.node_selector = map(selector);
        let mut node = Node::default();
        node.metadata.labels = map(labels);
        assert_eq!(
            is_for(&daemonset, &node),
            want,
            "{selector:?} on {labels:?}"
        );
    }

    #[test]
    fn a_node_that_the_selector_no_longer_takes_is_left() {
        check_selector(&[], &[], true);
        check_selector(&[("mesh", "on")], &[("mesh", "on"), ("a", "b")], true);
        check_selector(&[("mesh", "on")], &[("mesh", "off")], false);
        check_selector(&[("mesh", "on")], &[], false);
    }
}
