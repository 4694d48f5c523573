// SPDX-License-Identifier: Apache-2.0

//! How TCP paces itself, which is the same on every plane.
//!
//! A network namespace may only choose what the system lets anybody choose. What is wanted is let for the moment
//! of the choice, which namespaces keep. Knows nothing of planes. Invariant: what may be chosen afterwards is what
//! could be before.

use std::fs;

use crate::netns::Netns;

/// What most systems have.
pub(super) const USUAL: &str = "cubic";

/// What a namespace has.
const CHOSEN_FILE: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// What any namespace may choose; of the initial namespace, for all.
const ALLOWED_FILE: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

/// Lets namespaces choose something until dropped, where that can be changed.
struct Allowed {
    before: Option<String>,
}

impl Allowed {
    fn also(wanted: &str) -> Self {
        let before = fs::read_to_string(ALLOWED_FILE).ok();
        let before = before.filter(|names| names.split_whitespace().all(|name| name != wanted));
        let before = before.filter(|names| {
            let more = format!("{} {wanted}", names.trim());
            fs::write(ALLOWED_FILE, more).is_ok()
        });
        Self { before }
    }
}

impl Drop for Allowed {
    fn drop(&mut self) {
        let Some(before) = self.before.as_deref().map(str::trim) else {
            return;
        };
        if let Err(error) = fs::write(ALLOWED_FILE, before) {
            eprintln!("error: {ALLOWED_FILE}, to be {before:?} again: {error}");
        }
    }
}

/// Chooses `wanted` for all of `namespaces`. Where the system does not have it, its own stays, for all alike; the
/// report says what it is.
pub(super) fn choose(wanted: &str, namespaces: &[&Netns]) {
    let _allowed = Allowed::also(wanted);
    for netns in namespaces {
        netns.run(|| fs::write(CHOSEN_FILE, wanted)).unwrap_or(());
    }
}

/// What a namespace has: to be asked in it.
pub(super) fn chosen() -> String {
    let read = fs::read_to_string(CHOSEN_FILE).unwrap_or_default();
    read.trim().to_owned()
}
