// SPDX-License-Identifier: Apache-2.0

//! From one agent of a node to the next: taking over, and letting go.
//!
//! The new agent takes the kernel side as soon as nobody holds it, and asks who does. The old one
//! goes on serving until its successor has its own listeners everywhere; only then does it send
//! its peers there, and it ends when the last has gone. Knows nothing of what is handed over.
//! Decision: `docs/adr/0006-hand-over.md`.
//!
//! Invariant: until the kernel side is ours nothing on the node was changed.

use std::{path::Path, time::Duration};

use anyhow::Context;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::Signals;
use crate::{
    admin::{self, HandOverError, Successor},
    datapath::{ABI_VERSION, Datapath, DatapathError, DatapathSettings},
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

/// Whom to ask for the kernel side, and who we are.
pub(super) struct Claim {
    pub(super) datapath: DatapathSettings,
    pub(super) successor: Successor,
}

impl Claim {
    pub(super) fn new(datapath: DatapathSettings, socket: &Path) -> Self {
        Self {
            datapath,
            successor: Successor {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                abi: ABI_VERSION,
                socket: socket.to_owned(),
            },
        }
    }

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
        let begun = Instant::now();
        let mut patience = PATIENCE;
        let mut answer: Option<Result<(), HandOverError>> = None;
        let mut reminded = begun;
        loop {
            let path = match Datapath::start(&self.datapath) {
                Err(DatapathError::InUse { path }) => path,
                started => return Ok(started),
            };
            // What was granted or cannot be granted need not be asked again.
            if !matches!(answer, Some(Ok(()) | Err(HandOverError::Unable))) {
                let asked = admin::ask_to_hand_over(&self.successor.socket, &self.successor).await;
                match &asked {
                    Ok(()) => info!("the running agent hands over"),
                    Err(HandOverError::Unable) => {
                        warn!(
                            "the running agent is of a version that cannot hand over: waiting \
                             for it to be stopped"
                        );
                        patience = PATIENCE_WITH_OLDER;
                    }
                    Err(error) => tracing::debug!(%error, "asked for the node"),
                }
                answer = Some(asked);
            }
            if begun.elapsed() > patience {
                return match answer {
                    Some(Err(error)) => Err(anyhow::Error::new(error)),
                    Some(Ok(())) | None => Err(anyhow::anyhow!("it said that it would")),
                }
                .with_context(|| {
                    let seconds = begun.elapsed().as_secs();
                    let path = path.display();
                    format!(
                        "another agent of this node holds {path} and has not let go within \
                         {seconds} s; nothing was changed"
                    )
                });
            }
            if reminded.elapsed() > REMIND {
                reminded = Instant::now();
                info!(path = %path.display(), "still waiting for the running agent to end");
            }
            sleep(LOOK).await;
        }
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
    let mut idle = std::pin::pin!(proxy.idle());
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
