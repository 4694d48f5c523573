// SPDX-License-Identifier: Apache-2.0

//! How much the peer may have under way on each stream of a session.
//!
//! Every stream has [`EARLY_WINDOW`]. What it has beyond is lent to it, by the session and by whose streams they
//! are, before the peer is told of it. Knows nothing of frames. Invariants: what a peer was told it
//! may send it may send; of a stream, what was received, what is owed and what the peer may still send make its window.

use super::{
    frame::{EARLY_WINDOW, MAX_WINDOW},
    session::{Control, Session},
};

/// What all windows of a session may have in common beyond the [`EARLY_WINDOW`] that every stream
/// has, in bytes: what streams whose readers stopped hold is bounded by it.
const SPARE_WINDOW: usize = 8 * 1024 * 1024;

impl Session {
    /// The window for a further stream.
    pub(super) fn window(&mut self) -> u32 {
        let full = self.limits.stream_window.clamp(EARLY_WINDOW, MAX_WINDOW);
        if self.lends(full - EARLY_WINDOW) {
            full
        } else {
            EARLY_WINDOW
        }
    }

    /// Whether a stream may have so much more window: it is lent then.
    fn lends(&mut self, more: u32) -> bool {
        let more = size(more);
        more <= SPARE_WINDOW.saturating_sub(self.loan.bytes()) && self.loan.more(more)
    }

    /// Fits the window of a stream that gives some back to what there is for it now: where others need
    /// what it was lent it gets less back, and where it had too little it gets more.
    fn fit(&mut self, id: u32) {
        let full = self.limits.stream_window.clamp(EARLY_WINDOW, MAX_WINDOW);
        let window = self.stream(id).window;
        if window > EARLY_WINDOW && self.loan.is_over() {
            let stream = self.stream(id);
            let less = (window - EARLY_WINDOW).min(stream.owed);
            stream.owed -= less;
            stream.window -= less;
            self.loan.less(size(less));
        } else if window < full && self.lends(full - window) {
            let stream = self.stream(id);
            stream.owed += full - window;
            stream.window = full;
        }
    }

    /// A stream with this window is forgotten.
    pub(super) fn give_window(&mut self, window: u32) {
        self.loan.less(size(window - EARLY_WINDOW));
    }

    /// The reader has done with `count` bytes: the peer may send as many again.
    pub(super) fn give_back(&mut self, id: u32, count: usize) {
        let stream = self.stream(id);
        stream.owed += u32::try_from(count).expect("no more than the window was received");
        if stream.peer_ended || stream.broken().is_some() || stream.credit_is_queued {
            return;
        }
        if stream.owed >= stream.window / 2 {
            self.fit(id);
            let stream = self.stream(id);
            if stream.owed > 0 {
                stream.credit_is_queued = true;
                self.control.push_back(Control::Credit(id));
            }
        }
    }
}

/// A part of a window as memory.
fn size(window: u32) -> usize {
    usize::try_from(window).expect("windows fit memory")
}
