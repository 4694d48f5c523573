// SPDX-License-Identifier: Apache-2.0

//! Makes identities, kernel and proxy follow the configuration, in this order.
//!
//! Owns the kernel side and the proxy between start and stop. Knows nothing of where a snapshot
//! comes from. Invariant: one step at a time, so the kernel never sees two snapshots at
//! once.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    task::{block_in_place, yield_now},
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

use super::report::AppliedState;
use crate::{
    config::Frontier,
    datapath::{Change, Datapath, EarlyGate, Stop},
    identity::Identities,
    model::Snapshot,
    proxy::Proxy,
    tasks::Tasks,
    telemetry::Telemetry,
};

/// How often what pods may have removed is put back.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(2);

/// The parts that follow the configuration.
pub(super) struct Sync {
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(super) identities: Identities,
    pub(super) datapath: Arc<Mutex<Datapath>>,
    pub(super) proxy: Arc<Proxy>,
    pub(super) telemetry: Telemetry,
    /// How much of the API server's objects each snapshot holds.
    pub(super) frontier: watch::Receiver<Frontier>,
    pub(super) applied: watch::Sender<AppliedState>,
}

/// Tells the gate which pods to wait for, however long captures take. Ends with the drain.
pub(super) fn hold_early(
    gate: EarlyGate,
    mut snapshot: watch::Receiver<Arc<Snapshot>>,
    tasks: &Tasks,
) {
    let drain = tasks.drain();
    tasks.spawn("hold-early", async move {
        loop {
            // Cancel-safe: both only wait.
            tokio::select! {
                changed = snapshot.changed() => if changed.is_err() { return },
                () = drain.requested() => return,
            }
            let current = Arc::clone(&snapshot.borrow_and_update());
            block_in_place(|| gate.follow(&current));
        }
    });
}

impl Sync {
    /// Applies every snapshot as it comes. Ends only with an error. Cancel-safe: what a step began
    /// is completed or made good by [`Sync::stop`].
    pub(super) async fn follow(&mut self) -> anyhow::Result<()> {
        let sandboxes = self.datapath().sandbox_events();
        let mut tick = interval(RECONCILE_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.snapshot.mark_changed();
        let mut may_capture = false;
        loop {
            // Cancel-safe: all arms only wait; what they wait for stays noted. In this order: a
            // newer snapshot says of further pods that they are to be held, which cannot wait.
            tokio::select! {
                biased;
                changed = self.snapshot.changed() => {
                    anyhow::ensure!(changed.is_ok(), "the source of the configuration ended");
                    let snapshot = Arc::clone(&self.snapshot.borrow_and_update());
                    self.apply(&snapshot);
                }
                // A pod's first container may start within milliseconds of its sandbox.
                () = sandboxes.changed() => self.follow_sandboxes(),
                _ = tick.tick() => self.reconcile(),
                () = yield_now(), if may_capture => {}
            }
            // After each of them, so that none of them can keep pods waiting.
            may_capture = self.capture_next();
            if !may_capture {
                self.note_applied();
            }
        }
    }

    /// Leaves the kernel side to a successor; configuration and identities are followed further.
    pub(super) fn hand_over(&self) {
        block_in_place(|| self.datapath().hand_over());
    }

    /// Takes no new connections, lets live ones end for `deadline`, and ends the kernel side.
    pub(super) async fn stop(&self, how: Stop, deadline: Duration) {
        if how == Stop::Remove {
            self.identities.keep_nothing();
            // Nothing is enrolled in an empty snapshot: the kernel lets new connections pass.
            self.carry_out(block_in_place(|| {
                let mut datapath = self.datapath();
                datapath.hold_nothing();
                datapath.apply(&Snapshot::default())
            }));
        }
        let left = self.proxy.drain(deadline).await;
        if left > 0 {
            warn!(
                connections = left,
                "the drain deadline has passed, they are reset"
            );
        }
        block_in_place(|| self.datapath().stop(how));
    }

    /// Certificates are asked for first and not waited for: a pod must be captured before its first
    /// container starts, and whoever needs a certificate that is not issued yet waits for it.
    fn apply(&self, snapshot: &Arc<Snapshot>) {
        let aliases = &snapshot.trust_domain_aliases;
        self.identities.accept_domains(aliases);
        let enrolled = snapshot.local_enrolled();
        self.identities
            .want(enrolled.map(|workload| workload.identity.clone()));
        self.carry_out(block_in_place(|| self.datapath().apply(snapshot)));
        self.telemetry.forget_gone(snapshot, Instant::now());
    }

    /// Captures a pod; whether there may be another one to capture.
    fn capture_next(&self) -> bool {
        let Some(changes) = block_in_place(|| self.datapath().capture_next()) else {
            return false;
        };
        self.carry_out(changes);
        true
    }

    fn follow_sandboxes(&self) {
        self.carry_out(block_in_place(|| self.datapath().follow_sandboxes()));
    }

    fn reconcile(&self) {
        self.carry_out(block_in_place(|| self.datapath().reconcile()));
        self.telemetry
            .forget_gone(&self.snapshot.borrow(), Instant::now());
    }

    /// What control is told; a snapshot counts once the kernel has it.
    fn note_applied(&self) {
        let observed = {
            let datapath = self.datapath();
            if datapath.is_handed_over() {
                // What the kernel has is no longer ours to tell.
                return;
            }
            datapath.applied()
        };
        let frontier = self.frontier.borrow().clone();
        self.applied.send_if_modified(|known| {
            let mut now = AppliedState {
                generation: observed.generation,
                captured_pods: observed.captured,
                failed_pods: observed.failed,
                frontier: known.frontier.clone(),
            };
            // The frontier of a snapshot that the kernel does not have yet says nothing.
            if frontier.generation <= observed.generation {
                let versions = frontier.versions.into_iter();
                now.frontier = versions.map(|(kind, at)| (kind.to_owned(), at)).collect();
            }
            let changed = *known != now;
            *known = now;
            changed
        });
    }

    fn carry_out(&self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Captured(sockets) => {
                    info!(pod = sockets.workload.dotted_name(), "captured");
                    self.proxy.capture(sockets);
                }
                Change::Released(uid) => {
                    info!(%uid, "released");
                    self.proxy.release(&uid);
                }
            }
        }
    }

    fn datapath(&self) -> MutexGuard<'_, Datapath> {
        self.datapath.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
