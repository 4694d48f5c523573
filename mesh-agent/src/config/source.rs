// SPDX-License-Identifier: Apache-2.0

//! What is known of the source of configuration: whether it answers, and how old its word is.
//!
//! Says nothing of what the configuration means.

use std::time::{Duration, SystemTime};

/// Where configuration comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A directory of manifests.
    Files,
    /// The Kubernetes API.
    Kubernetes,
}

impl SourceKind {
    /// For output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Kubernetes => "kubernetes",
        }
    }
}

/// The state of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceState {
    /// Which source it is.
    pub kind: SourceKind,
    /// Whether every change of it arrives now.
    pub synced: bool,
    /// Since when that is so.
    pub since: SystemTime,
    /// Of when the configuration is that was read from disk, as long as it is in force; nothing
    /// once the source itself has been read in full.
    pub disk_as_of: Option<SystemTime>,
    /// When it was last heard of.
    pub last_event: Option<SystemTime>,
    /// How often the last good configuration could not be written to disk.
    pub disk_errors: u64,
    /// What is read from it; empty for files.
    pub kinds: Vec<KindState>,
}

/// The state of what is read of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KindState {
    /// The kind.
    pub kind: &'static str,
    /// Whether it was read in full once.
    pub listed: bool,
    /// Whether changes of it arrive now.
    pub watching: bool,
    /// How many objects of it are in force.
    pub objects: usize,
    /// How often it was read in full.
    pub lists: u64,
    /// How often following it ended and began again, for whatever reason.
    pub restarts: u64,
    /// How often reading or following it went wrong.
    pub errors: u64,
    /// What is wrong now.
    pub error: Option<String>,
}

impl SourceState {
    /// Nothing was heard of the source yet.
    pub fn new(kind: SourceKind) -> Self {
        Self {
            kind,
            synced: kind == SourceKind::Files,
            since: SystemTime::now(),
            disk_as_of: None,
            last_event: None,
            disk_errors: 0,
            kinds: Vec::new(),
        }
    }

    /// How old the configuration is that is in force but was only read from disk.
    pub fn from_disk_age(&self, now: SystemTime) -> Option<Duration> {
        let as_of = self.disk_as_of?;
        Some(now.duration_since(as_of).unwrap_or_default())
    }
}
