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
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    load::{self, LoadError, PodInstance},
    pins::Pins,
};
use crate::telemetry::chain;

/// How many are ready; one more is being loaded or waits for its place.
const SPARES: usize = 4;

/// How long to wait when the kernel refuses to load one.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// Instances that are ready. Waits for its thread when dropped.
pub(super) struct Spares(Option<Keeper>);

/// The thread, and what it made.
struct Keeper {
    ready: Receiver<PodInstance>,
    wanted: Sender<()>,
    thread: JoinHandle<()>,
}

impl Spares {
    /// Begins to load them.
    pub(super) fn start(pins: &Pins, debug_log: bool) -> io::Result<Self> {
        let (made, ready) = sync_channel(SPARES);
        let (wanted, still_wanted) = channel();
        let generation = pins.generation();
        let thread = thread::Builder::new()
            .name("spares".to_owned())
            .spawn(move || keep(&generation, debug_log, &made, &still_wanted))?;
        Ok(Self(Some(Keeper {
            ready,
            wanted,
            thread,
        })))
    }

    /// Ends the thread, after the load that it may be at. Whoever loads pins node maps that it does
    /// not find, so this comes before the lock of the pins is given away: the next agent's loading
    /// fails when a pin appears between its look and its own pinning.
    pub(super) fn end(&mut self) {
        if let Some(keeper) = self.0.take() {
            drop((keeper.ready, keeper.wanted));
            drop(keeper.thread.join());
        }
    }

    /// A spare, its maps pinned in `directory`. None if none is ready, or if an earlier agent
    /// pinned maps there: then those are to be used.
    pub(super) fn claim(&self, directory: &Path) -> Result<Option<PodInstance>, LoadError> {
        if directory.exists() {
            return Ok(None);
        }
        let Some(spare) = self
            .0
            .as_ref()
            .and_then(|keeper| keeper.ready.try_recv().ok())
        else {
            return Ok(None);
        };
        spare.pin(directory)?;
        Ok(Some(spare))
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        self.end();
    }
}

fn keep(
    generation: &Path,
    debug_log: bool,
    made: &SyncSender<PodInstance>,
    still_wanted: &Receiver<()>,
) {
    loop {
        match load::load_spare(generation, debug_log) {
            Ok(spare) => {
                if made.send(spare).is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "cannot load programs ahead of pods");
                let wait = still_wanted.recv_timeout(RETRY_INTERVAL);
                if wait == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
            }
        }
    }
}
