// SPDX-License-Identifier: Apache-2.0

//! The tunnel between agents: many byte streams in one TLS session, in small frames, with no
//! more per stream than it takes. The wire format and its reasons: ADR 11.
//!
//! `frame` is the codec, `session` the state machine without I/O, `link` runs one over a byte
//! stream, `stream` is what the proxy gets. Knows nothing of pools, identities or endpoints.
//!
//! Invariant: the client opens streams, the server never does; nothing is sent twice.

mod decode;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod link;
mod number;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod pieces;
mod queue;
mod receive;
mod send;
mod session;
mod state;
mod stream;
#[cfg(test)]
mod tests;
mod window;

pub use self::session::MuxError;
pub(super) use self::{
    frame::Open,
    link::{Attacher, Driver, Incoming, Opener, Pings, client, server},
    session::Unopened,
    stream::MuxStream,
};

/// How much at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct MuxLimits {
    /// Streams that the peer may have open.
    pub(super) max_streams: usize,
    /// Bytes that the peer may have under way on a stream, if there are not many streams.
    pub(super) stream_window: u32,
}
