// SPDX-License-Identifier: Apache-2.0

//! A TLS session of its own for a stream of the mux that turns out to carry much: a short header,
//! then nothing but bytes. The protocol and its reasons: ADR 14.
//!
//! `header` is what both ends tell each other first, `handshake` and `record` are TLS, `stream` is
//! the session as a byte stream, `moving` is a stream on its way from the mux to there, `asker`
//! begins that and `sessions` finds the stream at the other end. Knows nothing of pools or policy:
//! a stream that moves was let in before.
//!
//! Invariants: bytes keep their order and none is lost or sent twice by a move; an end is an
//! orderly one only after the other's close_notify. Reference: RFC 8446 sections 4.6, 5 and 6.1.

mod asker;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod handshake;
mod header;
mod moving;
mod record;
mod sessions;
mod stream;
#[cfg(test)]
mod tests;

pub use self::sessions::{BulkSessions, Portable};
pub(super) use self::{
    asker::{Asker, Means},
    header::{Name, name_of},
    moving::Moving,
    sessions::{Arrival, greet, hello},
    stream::BulkStream,
};
