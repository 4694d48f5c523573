// SPDX-License-Identifier: Apache-2.0

//! What the collector tells others: snapshots, how far they reach, what is wrong, how the source
//! fares.
//!
//! Changes nothing of what was read. Invariant: the frontier is told after the snapshot that it
//! speaks of.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{
    super::{
        super::{
            problem::{Problem, Severity, code},
            source::{KindState, SourceKind, SourceState},
        },
        discover::DEFINITIONS,
        journal::Journal,
    },
    Collector,
};

/// How often the disk is told that what it has is true.
const ALIVE: Duration = Duration::from_secs(30);

impl Collector {
    pub(super) fn publish(&mut self) {
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
    pub(super) fn problems(&self) -> Vec<Problem> {
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

    pub(super) fn tell_state(&mut self) {
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
