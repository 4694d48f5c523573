// SPDX-License-Identifier: Apache-2.0

//! Takes in the news of all kinds and publishes them as one.
//!
//! The one task that has the index. A list is marked and swept: what was not in it is deleted at
//! its end, and nothing before. The first snapshot is published once every kind that is there was
//! read in full, or, if that takes too long, with what the disk has; from then on changes are
//! published when nothing came for a moment.
//!
//! Invariants: an object that is rejected keeps its last good state, in the index and on disk; what
//! changes no fact is neither published nor written.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::Value;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{
    super::{
        frontier::Frontier,
        index::Index,
        object::{Kind, ObjectKey},
        problem::{Origin, Problem, Severity, code},
        read,
        source::{KindState, SourceKind, SourceState},
    },
    discover::DEFINITIONS,
    journal::{Journal, Replay},
    parse::Item,
    prune,
    watcher::{Input, Message, News},
};

/// Changes are published after so long without another one.
const QUIET: Duration = Duration::from_millis(5);

/// They are published after so long in any case.
const IMPATIENCE: Duration = Duration::from_millis(25);

/// How long the API server may take before what the disk has is used.
const DISK_AFTER: Duration = Duration::from_secs(3);

/// How often the state of the source is made anew while nothing happens to it.
const STATE: Duration = Duration::from_secs(1);

/// How often the disk is told that what it has is true.
const ALIVE: Duration = Duration::from_secs(30);

/// Where objects come from.
const PLACE: &str = "the Kubernetes API";

/// What the collector works with.
pub(super) struct Parts {
    pub(super) index: Index,
    pub(super) node: String,
    pub(super) journal: Option<Journal>,
    pub(super) replay: Replay,
    pub(super) absent: Arc<Notify>,
    pub(super) frontier: watch::Sender<Frontier>,
    pub(super) state: watch::Sender<Arc<SourceState>>,
}

/// Takes in news.
pub(super) struct Collector {
    parts: Parts,
    origin: Origin,
    reads: BTreeMap<Kind, Read>,
    /// The server has said which kinds there are.
    discovered: bool,
    /// Why it could not.
    undiscovered: Option<String>,
    /// What is wrong with objects that are not of the form of their kind.
    broken: BTreeMap<ObjectKey, Vec<Problem>>,
    /// A first snapshot is out.
    published: bool,
    /// When the configuration from disk was true, until the server has been read in full.
    disk_as_of: Option<SystemTime>,
    /// The front end's problems have changed.
    words: bool,
    state_at: Instant,
    alive_at: Instant,
    synced: bool,
    since: SystemTime,
    last_event: Option<SystemTime>,
}

/// What is known of reading one kind.
#[derive(Debug, Default)]
struct Read {
    run: u64,
    /// What the list that is being read has so far.
    seen: Option<HashSet<(String, String)>>,
    /// Up to which version everything is in the index.
    version: Option<u64>,
    state: KindState,
}

impl Collector {
    /// Takes in what the disk has, without publishing it.
    pub(super) fn new(mut parts: Parts) -> Self {
        let replay = std::mem::take(&mut parts.replay);
        let now = Instant::now();
        let mut collector = Self {
            parts,
            origin: Origin {
                place: PLACE.into(),
                line: None,
            },
            reads: BTreeMap::new(),
            discovered: false,
            undiscovered: None,
            broken: BTreeMap::new(),
            published: false,
            disk_as_of: replay.as_of.filter(|_| !replay.objects.is_empty()),
            words: true,
            state_at: now,
            alive_at: now,
            synced: false,
            since: SystemTime::now(),
            last_event: None,
        };
        for (key, value) in replay.objects {
            let object = read::from_server(key.kind, &key, value);
            if let Ok(object) = object {
                collector
                    .parts
                    .index
                    .apply(object, collector.origin.clone());
            }
        }
        collector
    }

    /// Goes on until nobody sends. Cancel-safe: what is in the index stays.
    pub(super) async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        let disk = Instant::now() + DISK_AFTER;
        let mut tick = Instant::now() + STATE;
        loop {
            let waits_for_disk = !self.published && self.disk_as_of.is_some();
            // Cancel-safe: receiving from a channel loses nothing.
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => {
                        self.take(input);
                        self.settle(&mut inputs).await;
                    }
                    None => return,
                },
                () = sleep_until(disk), if waits_for_disk => {
                    self.publish();
                }
                () = sleep_until(tick) => {
                    tick = Instant::now() + STATE;
                    self.tell_state();
                }
            }
        }
    }

    /// Takes in what else comes, and publishes.
    async fn settle(&mut self, inputs: &mut mpsc::Receiver<Input>) {
        let start = Instant::now();
        while self.is_changed() {
            let wait = QUIET.min(IMPATIENCE.saturating_sub(start.elapsed()));
            // Cancel-safe: receiving from a channel loses nothing.
            match timeout(wait, inputs.recv()).await {
                Ok(Some(input)) => self.take(input),
                Ok(None) | Err(_) => break,
            }
        }
        if self.published || self.is_complete() {
            self.publish();
        } else if std::mem::take(&mut self.words) {
            let problems = self.problems();
            self.parts.index.set_front_end_problems(problems);
            self.parts.index.publish_report();
        }
        if self.state_at.elapsed() >= STATE {
            self.tell_state();
        }
    }

    fn is_changed(&self) -> bool {
        self.words || self.parts.index.is_changed()
    }

    /// Everything that the server has was read once.
    fn is_complete(&self) -> bool {
        let counts = |(kind, _): &(&Kind, &Read)| !is_inert(**kind);
        let mut reads = self.reads.iter().filter(counts);
        self.discovered && reads.all(|(_, read)| read.state.listed)
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Kinds(runs) => self.kinds(&runs),
            Input::Undiscovered(error) => {
                tracing::warn!(error, "cannot find out which kinds the API server has");
                self.words |= self.undiscovered.as_ref() != Some(&error);
                self.undiscovered = Some(error);
            }
            Input::News(Message { kind, run, news }) => {
                if kind == DEFINITIONS {
                    self.reads
                        .entry(DEFINITIONS)
                        .or_insert_with(|| Read::new(kind, run));
                }
                if self.reads.get(&kind).is_some_and(|read| read.run == run) {
                    self.news(kind, news);
                }
            }
        }
    }

    /// Kinds came or went.
    fn kinds(&mut self, runs: &BTreeMap<Kind, u64>) {
        self.discovered = true;
        self.words |= self.undiscovered.take().is_some();
        for (kind, run) in runs {
            match self.reads.get_mut(kind) {
                Some(read) if read.run == *run => {}
                // It is read in another version: the list will tell what is there.
                Some(read) => {
                    read.run = *run;
                    read.seen = None;
                    read.version = None;
                }
                None => drop(self.reads.insert(*kind, Read::new(*kind, *run))),
            }
        }
        self.reads
            .retain(|kind, _| *kind == DEFINITIONS || runs.contains_key(kind));
        let known: BTreeSet<Kind> = super::kinds::wanted().map(|wanted| wanted.kind).collect();
        for kind in known.into_iter().filter(|kind| !runs.contains_key(kind)) {
            let gone: Vec<ObjectKey> = self.parts.index.keys(kind);
            if !gone.is_empty() {
                tracing::info!(
                    kind = kind.as_str(),
                    objects = gone.len(),
                    "the API server does not have this kind any more"
                );
            }
            for key in gone {
                self.delete(&key);
            }
            let before = self.broken.len();
            self.broken.retain(|key, _| key.kind != kind);
            self.words |= self.broken.len() != before;
        }
        self.judge();
    }

    fn news(&mut self, kind: Kind, news: News) {
        match &news {
            News::Failed { .. } | News::Ended => {}
            _ => self.last_event = Some(SystemTime::now()),
        }
        match news {
            News::Begin => self.read(kind, |read| read.seen = Some(HashSet::new())),
            News::Part(items) => {
                let mut kept = Vec::with_capacity(items.len());
                for item in items {
                    let name = (item.key.namespace.clone(), item.key.name.clone());
                    if self.apply(item) {
                        kept.push(name);
                    }
                }
                self.read(kind, |read| {
                    read.seen
                        .iter_mut()
                        .for_each(|seen| seen.extend(std::mem::take(&mut kept)))
                });
            }
            News::End(version) => self.sweep(kind, &version),
            News::Applied(item) => {
                let version = item.version.clone();
                let key = item.key.clone();
                if !self.apply(item) {
                    self.delete(&key);
                }
                self.advance(kind, &version);
            }
            News::Deleted(item) => {
                self.delete(&item.key);
                self.advance(kind, &item.version);
            }
            News::Following => {
                let was_wrong = self
                    .reads
                    .get(&kind)
                    .is_some_and(|read| read.state.error.is_some());
                self.words |= was_wrong;
                if was_wrong {
                    tracing::info!(kind = kind.as_str(), "following the API server again");
                }
                self.read(kind, |read| {
                    read.state.watching = true;
                    read.state.error = None;
                });
                self.judge();
            }
            News::Bookmark(version) => self.advance(kind, &version),
            News::Ended => self.read(kind, |read| read.state.restarts += 1),
            News::Failed { error, absent } => self.failed(kind, error, absent),
        }
    }

    fn read(&mut self, kind: Kind, change: impl FnOnce(&mut Read)) {
        if let Some(read) = self.reads.get_mut(&kind) {
            change(read);
        }
    }

    fn advance(&mut self, kind: Kind, version: &str) {
        let version = version.parse().ok();
        self.read(kind, |read| read.version = version.max(read.version));
    }

    fn failed(&mut self, kind: Kind, error: String, absent: bool) {
        if absent {
            self.parts.absent.notify_one();
        }
        let Some(read) = self.reads.get_mut(&kind) else {
            return;
        };
        read.seen = None;
        read.state.watching = false;
        read.state.restarts += 1;
        read.state.errors += 1;
        if read.state.error.as_ref() != Some(&error) {
            tracing::warn!(
                kind = kind.as_str(),
                error,
                "cannot read the API server: the last state stays in force"
            );
            read.state.error = Some(error);
            self.words = true;
        }
        self.judge();
    }

    /// Takes in an object; whether it counts.
    fn apply(&mut self, item: Item) -> bool {
        let Item {
            key,
            mut value,
            version,
        } = item;
        if key.kind == Kind::Pod && !is_of_use(&mut value, &self.parts.node) {
            return false;
        }
        let text = self.parts.journal.is_some().then(|| value.clone());
        match read::from_server(key.kind, &key, value) {
            Ok(object) => {
                self.words |= self.broken.remove(&key).is_some();
                let is_new = self.parts.index.apply(object, self.origin.clone());
                if let (Some(journal), Some(text), true) = (&self.parts.journal, text, is_new) {
                    journal.put(&key, &text);
                }
            }
            Err(faults) => {
                let origin = Origin {
                    place: format!("{PLACE}, resourceVersion {version}").into(),
                    line: None,
                };
                let problem = |fault: read::Fault| fault.problem(&key, origin.clone(), "");
                let problems: Vec<Problem> = faults.into_iter().map(problem).collect();
                self.words |= self.broken.get(&key) != Some(&problems);
                self.broken.insert(key, problems);
            }
        }
        true
    }

    fn delete(&mut self, key: &ObjectKey) {
        self.words |= self.broken.remove(key).is_some();
        if self.parts.index.delete(key)
            && let Some(journal) = &self.parts.journal
        {
            journal.delete(key);
        }
    }

    /// A list is complete: deletes what was not in it.
    fn sweep(&mut self, kind: Kind, version: &str) {
        let Some(read) = self.reads.get_mut(&kind) else {
            return;
        };
        let Some(seen) = read.seen.take() else {
            return;
        };
        read.state.lists += 1;
        read.state.listed = true;
        // A server that was restored from a backup goes back.
        read.version = version.parse().ok();
        let broken = self.broken.keys().filter(|key| key.kind == kind).cloned();
        let mut known: BTreeSet<ObjectKey> = broken.collect();
        known.extend(self.parts.index.keys(kind));
        for key in known {
            if !seen.contains(&(key.namespace.clone(), key.name.clone())) {
                self.delete(&key);
            }
        }
        if self.is_complete() && self.disk_as_of.take().is_some() {
            self.words = true;
        }
    }

    /// Finds out whether everything is followed.
    fn judge(&mut self) {
        let complete = self.is_complete();
        let synced = complete && self.reads.values().all(|read| read.state.watching);
        if synced != self.synced {
            self.synced = synced;
            self.since = SystemTime::now();
            if synced {
                tracing::info!("in step with the API server");
            }
            self.tell_state();
        }
    }

    fn publish(&mut self) {
        let first = !std::mem::replace(&mut self.published, true);
        if self.words || first {
            let problems = self.problems();
            self.parts.index.set_front_end_problems(problems);
        }
        if self.is_changed() {
            self.words = false;
            let before = self.parts.index.generation();
            self.parts.index.publish();
            let generation = self.parts.index.generation();
            if first && let Some(as_of) = self.disk_as_of {
                let age = SystemTime::now().duration_since(as_of).unwrap_or_default();
                tracing::warn!(
                    generation,
                    age_seconds = age.as_secs(),
                    "the API server does not answer: configuration is from disk"
                );
            } else if generation != before {
                tracing::info!(generation, "configuration changed");
            }
        }
        if first {
            self.tell_state();
        }
        self.tell_frontier();
    }

    fn tell_frontier(&self) {
        let versions = self.reads.iter().filter(|(kind, _)| **kind != DEFINITIONS);
        let versions: BTreeMap<&'static str, u64> = versions
            .filter_map(|(kind, read)| Some((kind.as_str(), read.version?)))
            .collect();
        let generation = self.parts.index.generation();
        self.parts.frontier.send_if_modified(|frontier| {
            let changed = frontier.generation != generation || frontier.versions != versions;
            frontier.generation = generation;
            frontier.versions = versions;
            changed
        });
    }

    /// What is wrong, but not with an object in the index.
    fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.broken.values().flatten().cloned().collect();
        let unread = |what: String, fix: &str| Problem {
            severity: Severity::Error,
            code: code::UNREADABLE,
            object: None,
            origin: self.origin.clone(),
            field: String::new(),
            text: format!("{what}; what was read before stays in force"),
            fix: fix.to_owned(),
        };
        for (kind, read) in &self.reads {
            if let Some(error) = &read.state.error {
                let what = format!("{} cannot be read: {error}", kind.as_str());
                let fix = "see that the API server runs and lets the agent list and watch them";
                problems.push(unread(what, fix));
            }
        }
        if let Some(error) = &self.undiscovered {
            let what = format!("the server does not say which kinds it has: {error}");
            problems.push(unread(
                what,
                "see that the API server runs and can be reached",
            ));
        }
        if let Some(as_of) = self.disk_as_of {
            let age = SystemTime::now().duration_since(as_of).unwrap_or_default();
            let what = format!(
                "configuration is from disk: it was true {} s before the agent used it",
                age.as_secs()
            );
            problems.push(unread(
                what,
                "see that the API server runs and can be reached",
            ));
        }
        problems
    }

    fn tell_state(&mut self) {
        self.state_at = Instant::now();
        if let Some(journal) = &self.parts.journal
            && self.synced
            && self.alive_at.elapsed() >= ALIVE
        {
            self.alive_at = Instant::now();
            journal.alive();
        }
        let kinds = self.reads.iter().map(|(kind, read)| KindState {
            objects: self.parts.index.count(*kind),
            ..read.state.clone()
        });
        let journal = self.parts.journal.as_ref();
        let state = SourceState {
            kind: SourceKind::Kubernetes,
            synced: self.synced,
            since: self.since,
            disk_as_of: self.disk_as_of.filter(|_| self.published),
            last_event: self.last_event,
            disk_errors: journal.map_or(0, Journal::errors),
            kinds: kinds.collect(),
        };
        self.parts.state.send_if_modified(|last| {
            let changed = **last != state;
            if changed {
                *last = Arc::new(state);
            }
            changed
        });
    }
}

impl Read {
    fn new(kind: Kind, run: u64) -> Self {
        Self {
            run,
            state: KindState {
                kind: kind.as_str(),
                // Of definitions only the names are wanted.
                listed: kind == DEFINITIONS,
                ..KindState::default()
            },
            ..Self::default()
        }
    }
}

fn is_inert(kind: Kind) -> bool {
    matches!(kind, Kind::Unenforced(_) | Kind::Unsupported(_))
}

/// Whether a pod can matter on this node: a pod of another node does once it has an address of its
/// own. Prunes what is left.
fn is_of_use(pod: &mut Value, node: &str) -> bool {
    let text = |value: &Value, path: &str| {
        let text = value.pointer(path).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    if matches!(text(pod, "/status/phase").as_str(), "Succeeded" | "Failed") {
        return false;
    }
    if text(pod, "/spec/nodeName") == node {
        return true;
    }
    let host_network = pod.pointer("/spec/hostNetwork") == Some(&Value::Bool(true));
    let has_address = !text(pod, "/status/podIP").is_empty();
    if host_network || !has_address {
        return false;
    }
    prune::remote_pod(pod);
    true
}
