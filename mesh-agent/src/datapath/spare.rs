// SPDX-License-Identifier: Apache-2.0

//! Programs that are loaded before there is a pod for them.
//!
//! The kernel takes tens of milliseconds to verify a pod's programs, more on a busy node, and a
//! pod's first container may start sooner. A thread of its own keeps a few instances ready; what is
//! claimed is replaced. Knows nothing of pods. Invariant: a spare is pinned nowhere and attached to
//! nothing, so it is gone with the process.

use std::{
    io,
    path::Path,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use super::{
    load::{self, LoadError, PodInstance},
    pins::Pins,
    sync::chain,
};

/// How many are ready; one more is being loaded or waits for its place.
const SPARES: usize = 4;

/// How long to wait when the kernel refuses to load one.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// Instances that are ready. Ends its thread when dropped.
pub(super) struct Spares {
    ready: Receiver<PodInstance>,
}

impl Spares {
    /// Begins to load them.
    pub(super) fn start(pins: &Pins, debug_log: bool) -> io::Result<Self> {
        let (made, ready) = sync_channel(SPARES);
        let generation = pins.generation();
        thread::Builder::new()
            .name("spares".to_owned())
            .spawn(move || keep(&generation, debug_log, &made))?;
        Ok(Self { ready })
    }

    /// A spare, its maps pinned in `directory`. None if none is ready, or if an earlier agent
    /// pinned maps there: then those are to be used.
    pub(super) fn claim(&self, directory: &Path) -> Result<Option<PodInstance>, LoadError> {
        if directory.exists() {
            return Ok(None);
        }
        let Ok(spare) = self.ready.try_recv() else {
            return Ok(None);
        };
        spare.pin(directory)?;
        Ok(Some(spare))
    }
}

fn keep(generation: &Path, debug_log: bool, made: &SyncSender<PodInstance>) {
    loop {
        match load::load_spare(generation, debug_log) {
            Ok(spare) => {
                if made.send(spare).is_err() {
                    return;
                }
            }
            // A clean stop takes the node's maps away before it ends us.
            Err(_) if !generation.exists() => return,
            Err(error) => {
                tracing::warn!(error = chain(&error), "cannot load programs ahead of pods");
                thread::sleep(RETRY_INTERVAL);
            }
        }
    }
}
