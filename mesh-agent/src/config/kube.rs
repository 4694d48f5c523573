// SPDX-License-Identifier: Apache-2.0

//! The front end for the Kubernetes API.
//!
//! One watch per kind (`watcher.rs`), started and stopped as kinds come and go (`discover.rs`), feeds
//! one task that has the index (`collect.rs`). Objects are pruned while they are parsed
//! (`prune.rs`); nothing else of them is kept, but what is good is written to disk (`journal.rs`),
//! for a start without the API server.
//!
//! Nodes and ServiceAccounts are not watched: a pod names its node and its account, and nothing
//! else of them is of interest.
//! Invariant: the API server being away, slow or wrong never takes away what is in force.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, watch},
    time::timeout,
};

use super::{
    frontier::Frontier,
    index::{Index, IndexSettings},
    problem::Report,
    source::{SourceKind, SourceState},
};
use crate::tasks::Tasks;

mod collect;
mod discover;
mod journal;
mod kinds;
mod parse;
mod prune;
mod server;
mod watcher;

/// What is left of an object's JSON when it comes from an API server.
#[cfg(test)]
pub(super) fn masked(kind: super::Kind, text: &str) -> serde_json::Value {
    use serde::de::DeserializeSeed as _;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = prune::mask(kind).deserialize(&mut deserializer);
    value.expect("it is JSON")
}

pub use self::server::KubeError;
use self::{
    collect::{Collector, Parts},
    discover::Discoverer,
    journal::{Journal, Replay},
    server::Server,
};

/// News that may wait for the collector; a page counts as one.
const INPUTS: usize = 4;

/// How long `analyze` waits for the server.
const ANALYZE: Duration = Duration::from_secs(30);

/// How long it waits for its own tasks.
const DRAIN: Duration = Duration::from_secs(1);

/// What the front end is told.
#[derive(Clone, Debug)]
pub struct KubeSettings {
    /// The node whose pods are local.
    pub node: String,
    /// How to reach the API server; as a pod does if there is none.
    pub kubeconfig: Option<PathBuf>,
    /// Where the last good configuration is kept, if anywhere.
    pub state_dir: Option<PathBuf>,
}

/// What can be known of the front end.
#[derive(Clone, Debug)]
pub struct KubeSource {
    /// How much of what the server has is in the snapshot.
    pub frontier: watch::Receiver<Frontier>,
    /// How it fares.
    pub state: watch::Receiver<Arc<SourceState>>,
}

/// Reads the Kubernetes API into `index` and publishes it, until drained. Returns at once: the
/// server may be away.
///
/// # Errors
/// It is not told how to reach the server. A state directory that cannot be used is no error: it is
/// logged, and nothing is kept.
pub async fn follow(
    settings: &KubeSettings,
    index: Index,
    tasks: &Tasks,
) -> Result<KubeSource, KubeError> {
    let server = Server::new(settings.kubeconfig.as_deref()).await?;
    Ok(start(server, settings, index, tasks))
}

/// Reads all that the API server has, once, and says what is wrong with it.
///
/// # Errors
/// It is not told how to reach the server, or the server does not answer in full.
pub async fn analyze(
    kubeconfig: Option<&Path>,
    settings: IndexSettings,
) -> Result<Report, KubeError> {
    let server = Server::new(kubeconfig).await?;
    let index = Index::new(settings);
    let report = index.report();
    let tasks = Tasks::new();
    let settings = KubeSettings {
        node: String::new(),
        kubeconfig: None,
        state_dir: None,
    };
    let mut state = start(server, &settings, index, &tasks).state;
    // Cancel-safe: waiting changes nothing.
    let synced = timeout(ANALYZE, state.wait_for(|state| state.synced)).await;
    let outcome = match synced {
        Ok(Ok(_)) => Ok(Report::clone(&report.borrow())),
        _ => Err(KubeError::Unanswered {
            problems: report
                .borrow()
                .problems
                .iter()
                .map(ToString::to_string)
                .collect(),
        }),
    };
    tasks.begin_drain();
    drop(tasks.drained(DRAIN).await);
    outcome
}

fn start(server: Server, settings: &KubeSettings, index: Index, tasks: &Tasks) -> KubeSource {
    let (journal, replay) = match &settings.state_dir {
        Some(dir) => match open_journal(dir, &settings.node, tasks) {
            Ok((journal, replay)) => (Some(journal), replay),
            Err(error) => {
                tracing::error!(
                    dir = %dir.display(),
                    error = %error,
                    "the last good configuration cannot be kept: a restart without the API server will not work"
                );
                (None, Replay::default())
            }
        },
        None => (None, Replay::default()),
    };
    let frontier = watch::Sender::new(Frontier::default());
    let state = watch::Sender::new(Arc::new(SourceState::new(SourceKind::Kubernetes)));
    let source = KubeSource {
        frontier: frontier.subscribe(),
        state: state.subscribe(),
    };
    let absent = Arc::new(Notify::new());
    let (sender, inputs) = mpsc::channel(INPUTS);
    let collector = Collector::new(Parts {
        index,
        node: settings.node.clone(),
        journal,
        replay,
        absent: Arc::clone(&absent),
        frontier,
        state,
    });
    let discoverer = Discoverer {
        server,
        tasks: tasks.clone(),
        sender,
        absent,
        running: BTreeMap::new(),
        runs: 0,
    };
    let drain = tasks.drain();
    tasks.spawn("config-kube", async move {
        // Cancel-safe: see both; either ends the other.
        tokio::select! {
            () = collector.run(inputs) => {}
            () = discoverer.run() => {}
            () = drain.requested() => {}
        }
    });
    source
}

/// Whether an agent of `node` keeps its configuration in `state_dir` at present.
pub fn is_state_in_use(state_dir: &Path, node: &str) -> bool {
    journal::is_in_use(&state_dir.join(node))
}

fn open_journal(dir: &Path, node: &str, tasks: &Tasks) -> io::Result<(Journal, Replay)> {
    let (journal, replay, write) = Journal::open(dir, node)?;
    let writer = tasks.clone();
    tasks.spawn("config-journal", async move {
        if writer
            .blocking("config-journal-disk", write)
            .await
            .is_none()
        {
            tracing::error!("the writer of the last good configuration panicked");
        }
    });
    Ok((journal, replay))
}

#[cfg(test)]
mod deployment;
#[cfg(test)]
mod tests;
