// SPDX-License-Identifier: Apache-2.0

//! The pods of the cluster, as far as certificates need them: a pruned watch, and a question to
//! the API server for what has not come by watch yet.
//!
//! Invariant: a pod is only ever reported gone by the watch, so a fresh pod is not refused.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
};

use futures_util::StreamExt;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client, Resource,
    api::ListParams,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::Deserialize;
use tokio::sync::watch;

use super::authorize::{Account, PodFacts};
use crate::tasks::{Drain, Tasks};

/// Pods in one page of a list.
const PAGE: u32 = 500;

/// A pod without what certificates do not need.
#[derive(Clone, Debug, Deserialize)]
struct Slim {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: SlimSpec,
    #[serde(default)]
    status: SlimStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimSpec {
    #[serde(default)]
    service_account_name: Option<String>,
    #[serde(default)]
    node_name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct SlimStatus {
    #[serde(default)]
    phase: Option<String>,
}

impl Resource for Slim {
    type DynamicType = ();
    type Scope = <Pod as Resource>::Scope;

    fn kind(_: &()) -> Cow<'_, str> {
        Pod::kind(&())
    }

    fn group(_: &()) -> Cow<'_, str> {
        Pod::group(&())
    }

    fn version(_: &()) -> Cow<'_, str> {
        Pod::version(&())
    }

    fn plural(_: &()) -> Cow<'_, str> {
        Pod::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The pods. Clones share them.
#[derive(Clone)]
pub(super) struct Pods {
    client: Client,
    table: Arc<RwLock<Table>>,
    synced: watch::Receiver<bool>,
}

#[derive(Default)]
struct Table {
    pods: HashMap<String, PodFacts>,
    /// UIDs by node.
    nodes: HashMap<String, HashSet<String>>,
}

impl Pods {
    /// Follows the pods as a task of `tasks`.
    pub(super) fn watch(client: Client, tasks: &Tasks) -> Self {
        let table = Arc::new(RwLock::new(Table::default()));
        let (done, synced) = watch::channel(false);
        let follow = follow(client.clone(), Arc::clone(&table), done, tasks.drain());
        tasks.spawn("watch pods", follow);
        Self {
            client,
            table,
            synced,
        }
    }

    /// Whether all pods were listed once.
    pub(super) fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// The pod with this UID.
    pub(super) async fn find(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<Option<PodFacts>, kube::Error> {
        if let Some(pod) = self.read(|table| table.pods.get(uid).cloned()) {
            return Ok(Some(pod));
        }
        let api: Api<Slim> = Api::namespaced(self.client.clone(), namespace);
        let pod = api.get_opt(name).await?.and_then(facts);
        Ok(pod.filter(|pod| pod.uid == uid))
    }

    /// Whether a pod of this account runs, or is about to, on `node`.
    pub(super) async fn runs_on(&self, account: &Account, node: &str) -> Result<bool, kube::Error> {
        if self.read(|table| table.runs_on(account, node)) {
            return Ok(true);
        }
        let api: Api<Slim> = Api::namespaced(self.client.clone(), &account.namespace);
        let there = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let found = api.list(&there).await?;
        Ok(found
            .items
            .into_iter()
            .filter_map(facts)
            .any(|pod| !pod.finished && pod.account == *account))
    }

    /// The nodes on which a pod of one of these accounts runs.
    pub(super) fn nodes_of(&self, accounts: &[Account]) -> BTreeSet<String> {
        self.read(|table| {
            table
                .pods
                .values()
                .filter(|pod| !pod.finished && accounts.contains(&pod.account))
                .filter_map(|pod| pod.node.clone())
                .collect()
        })
    }

    /// Namespace and name of the pod of one of these accounts on each node; of several, one.
    pub(super) fn agents(&self, accounts: &[Account]) -> BTreeMap<String, (String, String)> {
        self.read(|table| {
            table
                .pods
                .values()
                .filter(|pod| !pod.finished && accounts.contains(&pod.account))
                .filter_map(|pod| {
                    let name = (pod.account.namespace.clone(), pod.name.clone());
                    Some((pod.node.clone()?, name))
                })
                .collect()
        })
    }

    fn read<T>(&self, look: impl FnOnce(&Table) -> T) -> T {
        look(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn follow(
    client: Client,
    table: Arc<RwLock<Table>>,
    synced: watch::Sender<bool>,
    drain: Drain,
) {
    let api: Api<Slim> = Api::all(client);
    let config = watcher::Config::default().page_size(PAGE).any_semantic();
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    let mut listed = Table::default();
    loop {
        // Cancel-safe: the stream keeps what it has not handed out.
        let event = tokio::select! {
            event = events.next() => event,
            () = drain.requested() => return,
        };
        let write = || table.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            Some(Ok(Event::Init)) => listed = Table::default(),
            Some(Ok(Event::InitApply(pod))) => listed.apply(pod),
            Some(Ok(Event::InitDone)) => {
                *write() = std::mem::take(&mut listed);
                synced.send_replace(true);
            }
            Some(Ok(Event::Apply(pod))) => write().apply(pod),
            Some(Ok(Event::Delete(pod))) => {
                if let Some(uid) = pod.metadata.uid {
                    write().remove(&uid);
                }
            }
            Some(Err(error)) => tracing::warn!(%error, "watching pods, will try again"),
            None => return,
        }
    }
}

impl Table {
    fn apply(&mut self, pod: Slim) {
        let Some(pod) = facts(pod) else {
            return;
        };
        self.remove(&pod.uid);
        if let Some(node) = &pod.node {
            let there = self.nodes.entry(node.clone()).or_default();
            there.insert(pod.uid.clone());
        }
        self.pods.insert(pod.uid.clone(), pod);
    }

    fn remove(&mut self, uid: &str) {
        let Some(node) = self.pods.remove(uid).and_then(|pod| pod.node) else {
            return;
        };
        if let Some(there) = self.nodes.get_mut(&node) {
            there.remove(uid);
            if there.is_empty() {
                self.nodes.remove(&node);
            }
        }
    }

    fn runs_on(&self, account: &Account, node: &str) -> bool {
        let there = self.nodes.get(node).into_iter().flatten();
        there
            .filter_map(|uid| self.pods.get(uid))
            .any(|pod| !pod.finished && pod.account == *account)
    }
}

fn facts(pod: Slim) -> Option<PodFacts> {
    let finished = matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let account = pod
        .spec
        .service_account_name
        .filter(|name| !name.is_empty());
    Some(PodFacts {
        uid: pod.metadata.uid?,
        name: pod.metadata.name?,
        account: Account {
            namespace: pod.metadata.namespace?,
            name: account.unwrap_or_else(|| "default".to_owned()),
        },
        node: pod.spec.node_name.filter(|name| !name.is_empty()),
        finished,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, account: &str, node: Option<&str>, phase: &str) -> Slim {
        serde_json::from_value(json!({
            "metadata": { "uid": uid, "name": uid, "namespace": "shop" },
            "spec": { "serviceAccountName": account, "nodeName": node, "containers": [] },
            "status": { "phase": phase },
        }))
        .unwrap()
    }

    fn account(name: &str) -> Account {
        Account {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        }
    }

    #[test]
    fn a_pod_counts_on_its_node_while_it_runs() {
        let mut table = Table::default();
        table.apply(pod("u", "web", None, "Pending"));
        assert!(!table.runs_on(&account("web"), "n1"));
        table.apply(pod("u", "web", Some("n1"), "Pending"));
        assert!(table.runs_on(&account("web"), "n1"));
        assert!(!table.runs_on(&account("web"), "n2"));
        assert!(!table.runs_on(&account("db"), "n1"));
        table.apply(pod("u", "web", Some("n1"), "Succeeded"));
        assert!(!table.runs_on(&account("web"), "n1"));
        table.remove("u");
        assert!(table.nodes.is_empty() && table.pods.is_empty());
    }
}
