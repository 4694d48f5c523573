// SPDX-License-Identifier: Apache-2.0

//! How TCP paces itself on every plane: by cubic, as on most systems.
//!
//! A network namespace may only choose what the system lets anybody choose. Cubic is let for the moment of the
//! choice, which namespaces keep. Knows nothing of planes. Invariant: what may be chosen afterwards is what could be before.

use std::fs;

use crate::netns::Netns;

/// What most systems have.
const WANTED: &str = "cubic";

/// What a namespace has.
const CHOSEN_FILE: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// What any namespace may choose; of the initial namespace, for all.
const ALLOWED_FILE: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

/// Lets namespaces choose [`WANTED`] until dropped, where that can be changed.
struct Allowed {
    before: Option<String>,
}

impl Allowed {
    fn more() -> Self {
        let before = fs::read_to_string(ALLOWED_FILE).ok();
        let before = before.filter(|names| names.split_whitespace().all(|name| name != WANTED));
        let before = before.filter(|names| {
            let more = format!("{} {WANTED}", names.trim());
            fs::write(ALLOWED_FILE, more).is_ok()
        });
        Self { before }
    }
}

impl Drop for Allowed {
    fn drop(&mut self) {
        if let Some(before) = &self.before
            && let Err(error) = fs::write(ALLOWED_FILE, before.trim())
        {
            eprintln!(
                "error: {ALLOWED_FILE}, to be {:?} again: {error}",
                before.trim()
            );
        }
    }
}

/// Chooses for all of `namespaces`. Where the system has no [`WANTED`], its own stays, for all alike.
pub(super) fn choose(namespaces: &[&Netns]) {
    let _allowed = Allowed::more();
    for netns in namespaces {
        netns.run(|| fs::write(CHOSEN_FILE, WANTED)).unwrap_or(());
    }
}

/// What a namespace has: to be asked in it.
pub(super) fn chosen() -> String {
    let read = fs::read_to_string(CHOSEN_FILE).unwrap_or_default();
    read.trim().to_owned()
}
