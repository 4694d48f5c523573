// SPDX-License-Identifier: Apache-2.0

//! The front end for a directory of manifests.
//!
//! A change is in force within 100 ms, as one snapshot: events are awaited until the tree is quiet
//! and no file is half written, then everything is read and published once. Directories are watched
//! one by one, never recursively: after each reading the watches are brought in line with what was
//! found, and as long as that adds one, the tree is read again, so that nothing slips in between.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};

use super::{
    index::Index,
    load::Loader,
    problem::{Origin, Problem, Severity, code},
};
use crate::tasks::Tasks;

/// How long the tree must be quiet before it is read.
const QUIET: Duration = Duration::from_millis(15);

/// A tree that is never quiet is read after this.
const IMPATIENCE: Duration = Duration::from_millis(60);

/// A file that somebody keeps open while writing is read half written after this.
const HALF_WRITTEN: Duration = Duration::from_millis(500);

/// The tree is read without any event after this: the kernel may lose events, and a root that was
/// removed and made again is not watched.
const SWEEP: Duration = Duration::from_secs(5);

/// The directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("configuration directory {path} cannot be read")]
    Read {
        /// The directory.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// It cannot be watched.
    #[error("configuration directory {path} cannot be watched")]
    Watch {
        /// The directory.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: notify::Error,
    },
}

impl FileError {
    /// The same as a problem in a report.
    pub fn problem(&self) -> Problem {
        let (Self::Read { path, .. } | Self::Watch { path, .. }) = self;
        let source = std::error::Error::source(self).map(ToString::to_string);
        Problem {
            severity: Severity::Error,
            code: code::UNREADABLE,
            object: None,
            origin: Origin {
                place: path.to_string_lossy().into(),
                line: None,
            },
            field: String::new(),
            text: format!("{self}: {}", source.unwrap_or_default()),
            fix: "name a readable directory".to_owned(),
        }
    }
}

/// Loads all manifests below `dir` into `index`, without publishing.
pub fn load_once(dir: &Path, index: &mut Index) -> Result<(), FileError> {
    match Loader::new(dir).load(index) {
        Ok(_) => Ok(()),
        Err(source) => Err(FileError::Read {
            path: dir.to_owned(),
            source,
        }),
    }
}

/// Loads and publishes all manifests below `dir`, and from then on every change, until drained.
///
/// Blocks for the first load. Must be called on a tokio runtime.
pub fn watch(dir: &Path, index: Index, tasks: &Tasks) -> Result<(), FileError> {
    let (sender, events) = mpsc::unbounded_channel();
    let watcher = notify::recommended_watcher(move |event| {
        // Nobody listens any more once the task has ended.
        drop(sender.send(event));
    })
    .map_err(|source| FileError::Watch {
        path: dir.to_owned(),
        source,
    })?;
    let mut follower = Follower {
        loader: Loader::new(dir),
        index,
        watcher,
        watched: BTreeMap::new(),
        root: dir.to_owned(),
    };
    follower.read()?;
    follower.index.publish();
    let drain = tasks.drain();
    tasks.spawn("config-files", async move {
        // Cancel-safe: the follower is between two turns whenever it waits, and ends here anyway.
        tokio::select! {
            () = follower.follow(events) => {}
            () = drain.requested() => {}
        }
    });
    Ok(())
}

/// Follows the changes of a directory.
struct Follower {
    loader: Loader,
    index: Index,
    watcher: RecommendedWatcher,
    /// Directories by path, with the identity that is watched.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    root: PathBuf,
}

impl Follower {
    async fn follow(&mut self, mut events: mpsc::UnboundedReceiver<notify::Result<Event>>) {
        loop {
            settle(&mut events, &mut self.index).await;
            if let Err(error) = self.read() {
                tracing::warn!(error = %error, "configuration directory is gone: the last state stays in force");
                self.index.set_front_end_problems(vec![error.problem()]);
            }
            let before = self.index.generation();
            self.index.publish();
            if self.index.generation() != before {
                tracing::info!(
                    generation = self.index.generation(),
                    "configuration changed"
                );
            }
        }
    }

    /// Reads until everything that was found is watched.
    fn read(&mut self) -> Result<(), FileError> {
        loop {
            let tree = self
                .loader
                .load(&mut self.index)
                .map_err(|source| FileError::Read {
                    path: self.root.clone(),
                    source,
                })?;
            if !self.watch(&tree.directories)? {
                return Ok(());
            }
        }
    }

    /// Brings the watches in line with `directories`; whether any was added.
    fn watch(&mut self, directories: &BTreeMap<PathBuf, (u64, u64)>) -> Result<bool, FileError> {
        let Self {
            watcher, watched, ..
        } = self;
        watched.retain(|path, identity| {
            let stays = directories.get(path) == Some(identity);
            if !stays {
                // It may be gone already, and the watch with it.
                drop(watcher.unwatch(path));
            }
            stays
        });
        let mut added = false;
        for (path, identity) in directories {
            if watched.contains_key(path) {
                continue;
            }
            match watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    watched.insert(path.clone(), *identity);
                    added = true;
                }
                // It vanished since it was read: the next event or sweep will show.
                Err(_) if !path.exists() => {}
                Err(source) => {
                    return Err(FileError::Watch {
                        path: path.clone(),
                        source,
                    });
                }
            }
        }
        Ok(added)
    }
}

/// Waits for a change and for the end of it, or until a name resolves to something new.
async fn settle(events: &mut mpsc::UnboundedReceiver<notify::Result<Event>>, index: &mut Index) {
    let mut half_written = HashSet::new();
    let sweep = Instant::now() + SWEEP;
    loop {
        // Cancel-safe: receiving from a channel loses nothing.
        let event = tokio::select! {
            event = events.recv() => event,
            answer = index.next_answer() => {
                index.resolve(answer);
                return;
            }
            () = sleep_until(sweep) => return,
        };
        match event {
            Some(event) => {
                if note(event, &mut half_written) {
                    break;
                }
            }
            // The watcher is gone: only sweeps are left.
            None => return sleep_until(sweep).await,
        }
    }
    let start = Instant::now();
    loop {
        let patience = if half_written.is_empty() {
            IMPATIENCE
        } else {
            HALF_WRITTEN
        };
        let left = patience.saturating_sub(start.elapsed());
        let wait = if half_written.is_empty() {
            QUIET.min(left)
        } else {
            left
        };
        match timeout(wait, events.recv()).await {
            Ok(Some(event)) => {
                note(event, &mut half_written);
            }
            Ok(None) | Err(_) => return,
        }
    }
}

/// Keeps account of files that are being written; whether the event is about a change.
fn note(event: notify::Result<Event>, half_written: &mut HashSet<PathBuf>) -> bool {
    let Ok(event) = event else {
        // Events were lost.
        return true;
    };
    match event.kind {
        EventKind::Modify(ModifyKind::Data(_)) => {
            half_written.extend(event.paths);
            true
        }
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
            half_written.retain(|path| !event.paths.contains(path));
            true
        }
        EventKind::Access(_) => false,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
            half_written.retain(|path| !event.paths.contains(path));
            true
        }
        _ => true,
    }
}
