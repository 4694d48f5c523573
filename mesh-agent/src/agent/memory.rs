// SPDX-License-Identifier: Apache-2.0

//! When memory goes back to the system that only single moments needed.
//!
//! The start, a change of configuration and an operator's question touch program pages that traffic never
//! does: a busy agent runs on one or two of its twenty megabytes. Knows nothing of how pages are given back.

use std::time::Duration;

use tokio::task::block_in_place;
use tracing::{debug, warn};

use crate::datapath;

/// The time to the second turn; it doubles from turn to turn.
const FIRST: Duration = Duration::from_secs(1);

/// The longest time between two turns: what is needed again costs a minor fault each, after every turn.
const LONGEST: Duration = Duration::from_mins(10);

/// Gives memory back, soon again as long as the agent is young, and then every few minutes. Never ends;
/// cancel-safe.
pub(super) async fn give_back_often() {
    let mut pause = FIRST;
    loop {
        match block_in_place(datapath::give_back) {
            Ok((before, after)) => debug!(before, after, "bytes of files mapped"),
            Err(error) => {
                warn!(%error, "the memory of the start stays in use");
                return std::future::pending().await;
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
    }
}
