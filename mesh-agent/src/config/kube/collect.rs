// SPDX-License-Identifier: Apache-2.0

//! Takes in the news of all kinds and publishes them as one.
//!
//! The one task that has the index. One object is taken in and out by `collect/object.rs`; what is
//! told of it all is in `collect/tell.rs`. A list is marked and swept: what was not in it is deleted at
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

use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{
    super::{
        frontier::Frontier,
        index::Index,
        object::{Kind, ObjectKey},
        problem::{Origin, Problem},
        read,
        source::{KindState, SourceState},
    },
    discover::DEFINITIONS,
    journal::{Journal, Replay},
    watcher::{Input, Message, News},
};

mod object;
mod tell;

/// Changes are published after so long without another one.
const QUIET: Duration = Duration::from_millis(5);

/// They are published after so long in any case.
const IMPATIENCE: Duration = Duration::from_millis(25);

/// How long the API server may take before what the disk has is used.
const DISK_AFTER: Duration = Duration::from_secs(3);

/// How often the state of the source is made anew while nothing happens to it.
const STATE: Duration = Duration::from_secs(1);

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
                answer = self.parts.index.next_answer() => {
                    self.parts.index.resolve(answer);
                    if self.published {
                        self.publish();
                    }
                }
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
