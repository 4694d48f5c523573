// SPDX-License-Identifier: Apache-2.0

//! From one agent of a node to the next: taking over, and letting go.
//!
//! The new agent takes the kernel side as soon as nobody holds it; if somebody does, it asks for it
//! once it has all that it takes to do the same. The old one
//! goes on serving until its successor has its own listeners everywhere; only then does it send
//! its peers there, and it ends when the last has gone. Knows nothing of what is handed over.
//! Decision: `docs/adr/0006-hand-over.md`.
//!
//! Invariant: until the kernel side is ours nothing on the node was changed.

use std::{collections::HashSet, path::Path, pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::Signals;
use crate::{
    admin::{self, HandOverError, Successor},
    datapath::{ABI_VERSION, Datapath, DatapathError, DatapathSettings},
    identity::Identities,
    model::{Snapshot, SpiffeId},
    proxy::Proxy,
};

/// How long a running agent may take to let go before we give up.
const PATIENCE: Duration = Duration::from_secs(10);

/// The same for one of a version that cannot hand over: it has to be stopped by somebody.
const PATIENCE_WITH_OLDER: Duration = Duration::from_secs(600);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Between two looks whether the successor is in place, which costs it a little.
const LOOK_READY: Duration = Duration::from_millis(100);

/// How often a wait is mentioned.
const REMIND: Duration = Duration::from_secs(30);

/// How long handshakes may take that were under way when the successor's listeners took over: a
/// lost packet or two included.
const QUIET: Duration = Duration::from_secs(3);

/// How long certificates are waited for before we ask for the node, once there is any.
const CERTIFICATES: Duration = Duration::from_secs(30);

/// Whom to ask for the kernel side, who we are, and what we need before we do.
pub(super) struct Claim {
    pub(super) datapath: DatapathSettings,
    pub(super) successor: Successor,
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(super) identities: Identities,
}

/// The state of asking.
struct Asking {
    begun: Instant,
    patience: Duration,
    answer: Option<Result<(), HandOverError>>,
}

impl Claim {
    /// Starts the kernel side, asking a running agent for it if there is one. `Ok(None)` if we are
    /// told to stop meanwhile.
    ///
    /// # Errors
    /// The inner one is the kernel side's. The outer: a running agent does not let go.
    pub(super) async fn take(
        &self,
        signals: &mut Signals,
    ) -> anyhow::Result<Option<Result<Datapath, DatapathError>>> {
        // Cancel-safe: as long as it waits nothing was changed.
        tokio::select! {
            taken = self.wait() => taken.map(Some),
            signal = signals.next() => {
                info!(signal, "stopped before the running agent has let go");
                Ok(None)
            }
        }
    }

    async fn wait(&self) -> anyhow::Result<Result<Datapath, DatapathError>> {
        let mut prepared = pin!(self.prepared());
        let mut asking: Option<Asking> = None;
        let mut reminded = Instant::now();
        loop {
            let path = match Datapath::start(&self.datapath) {
                Err(DatapathError::InUse { path }) => path,
                started => return Ok(started),
            };
            if reminded.elapsed() > REMIND {
                reminded = Instant::now();
                info!(path = %path.display(), "another agent of this node runs, still waiting");
            }
            match &mut asking {
                Some(asking) => asking.go_on(&self.successor, &path).await?,
                // Cancel-safe: what is waited for is kept, and the other only waits.
                None => tokio::select! {
                    () = &mut prepared => asking = Some(Asking::new()),
                    () = sleep(LOOK_READY) => {}
                },
            }
            sleep(LOOK).await;
        }
    }

    /// Resolves when we could do what the running agent does: with a configuration, and with an
    /// authority that signs. A node is not taken from an agent that works to have none.
    async fn prepared(&self) {
        let mut snapshot = self.snapshot.clone();
        let wanted: HashSet<SpiffeId> = match snapshot.wait_for(|it| it.generation > 0).await {
            Ok(snapshot) => snapshot
                .local_enrolled()
                .map(|workload| workload.identity.clone())
                .collect(),
            // The source has ended; whoever follows it will say so.
            Err(_ended) => return,
        };
        self.identities.want(wanted.iter().cloned());
        let all = async {
            for identity in &wanted {
                self.identities.ready(identity).await;
            }
        };
        // Cancel-safe: waiting takes nothing.
        if tokio::time::timeout(CERTIFICATES, all).await.is_ok() {
            return;
        }
        let any = || wanted.iter().any(|id| self.identities.generation(id) > 0);
        while !any() {
            sleep(LOOK_READY).await;
        }
        warn!("not every certificate is issued yet; the node is taken over without");
    }
}

impl Asking {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            patience: PATIENCE,
            answer: None,
        }
    }

    /// Asks, if that may still help.
    ///
    /// # Errors
    /// Whoever holds `path` does not let go.
    async fn go_on(&mut self, successor: &Successor, path: &Path) -> anyhow::Result<()> {
        // What was granted or cannot be granted need not be asked again.
        if !matches!(self.answer, Some(Ok(()) | Err(HandOverError::Unable))) {
            let asked = admin::ask_to_hand_over(&successor.socket, successor).await;
            match &asked {
                Ok(()) => info!("the running agent hands over"),
                Err(HandOverError::Unable) => {
                    warn!(
                        "the running agent is of a version that cannot hand over: waiting for it \
                         to be stopped"
                    );
                    self.patience = PATIENCE_WITH_OLDER;
                }
                Err(error) => tracing::debug!(%error, "asked for the node"),
            }
            self.answer = Some(asked);
        }
        if self.begun.elapsed() <= self.patience {
            return Ok(());
        }
        let why = match self.answer.take() {
            Some(Err(error)) => anyhow::Error::new(error),
            Some(Ok(())) | None => anyhow::anyhow!("it said that it would"),
        };
        Err(why.context(format!(
            "another agent of this node holds {} and has not let go within {} s; nothing was \
             changed",
            path.display(),
            self.begun.elapsed().as_secs()
        )))
    }
}

/// Who we are to a predecessor.
pub(super) fn successor(socket: &Path) -> Successor {
    Successor {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        abi: ABI_VERSION,
        socket: socket.to_owned(),
    }
}

/// Waits for a place that a predecessor is about to give up.
pub(super) async fn when_free<T, Attempt>(
    mut attempt: impl FnMut() -> Attempt,
) -> Result<T, admin::AdminError>
where
    Attempt: Future<Output = Result<T, admin::AdminError>>,
{
    let begun = Instant::now();
    loop {
        match attempt().await {
            Err(error) if error.is_taken() && begun.elapsed() < PATIENCE => sleep(LOOK).await,
            done => return done,
        }
    }
}

/// Resolves when no connection is left, but not at once: a successor may be on its way. Cancel-safe.
pub(super) async fn nothing_left(proxy: &Proxy) {
    sleep(QUIET).await;
    proxy.idle().await;
}

/// Serves on until the successor is in place, then lets peers go; returns when the last has gone.
/// Cancel-safe.
pub(super) async fn let_go(proxy: &Proxy, successor: &Successor) {
    let begun = Instant::now();
    let mut reminded = begun;
    while !admin::is_ready(&successor.socket).await {
        if reminded.elapsed() > REMIND {
            reminded = Instant::now();
            warn!("the successor is not in place yet; we go on serving");
        }
        sleep(LOOK_READY).await;
    }
    info!("the successor is in place; letting go");
    proxy.leave();
    // What was half open towards our listeners is accepted meanwhile.
    sleep(QUIET).await;
    let mut idle = pin!(proxy.idle());
    loop {
        // Cancel-safe: `idle` is kept, the other only waits.
        tokio::select! {
            () = &mut idle => return,
            () = sleep(REMIND) => info!(connections = proxy.live(), "not all have gone yet"),
        }
    }
}

/// Resolves at the second signal: the first asks for what is under way already.
pub(super) async fn insisted(signals: &mut Signals) -> &'static str {
    let signal = signals.next().await;
    info!(signal, "already on the way out; once more ends it at once");
    signals.next().await
}
