// SPDX-License-Identifier: Apache-2.0

//! The server's own certificate: signed by the same issuer, in memory, renewed at half its life
//! and whenever another issuer signs.
//!
//! Invariant: once there is one there always is one.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};

use super::keeper::Current;
use crate::{grpc::Acceptor, tasks::Tasks};

/// How long it is valid.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Keeps it as a task of `tasks`.
pub(super) fn keep(
    names: Vec<String>,
    mut current: watch::Receiver<Option<Arc<Current>>>,
    tasks: &Tasks,
) -> watch::Receiver<Option<Acceptor>> {
    let (tls, receiver) = watch::channel(None);
    let drain = tasks.drain();
    tasks.spawn("serving certificate", async move {
        loop {
            let now = current.borrow_and_update().clone();
            if let Some(now) = now {
                match now.signer.server(&names, LIFETIME) {
                    Ok(acceptor) => {
                        tls.send_replace(Some(acceptor));
                    }
                    Err(error) => {
                        tracing::warn!(
                            error = crate::telemetry::chain(&error),
                            "no serving certificate"
                        );
                    }
                }
            }
            // Cancel-safe: all only wait.
            tokio::select! {
                () = sleep(LIFETIME / 2) => {}
                changed = current.changed() => if changed.is_err() { return },
                () = drain.requested() => return,
            }
        }
    });
    receiver
}
