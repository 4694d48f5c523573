// SPDX-License-Identifier: Apache-2.0

//! The hot pieces of the data path, each as something that can be done again and again: not part of what the agent
//! offers.
//!
//! `benches/pieces.rs` measures them. Each does once what the data path does for one request, one record or one
//! buffer, and gives a number that depends on all of it, so that no compiler leaves it out.

use crate::{identity, proxy};

/// Does a piece once.
pub type Piece = Box<dyn FnMut() -> usize>;

/// A piece, ready to be done.
pub type Prepare = fn() -> Piece;

/// All pieces by name.
pub const PIECES: &[(&str, Prepare)] = &[
    ("http1/read a request's head", proxy::pieces::read_head),
    ("http1/write a request's head", proxy::pieces::write_head),
    ("http1/write it, edited", proxy::pieces::edit_head),
    ("http1/write a bare head", proxy::pieces::bare_head),
    (
        "http1/write it, with an id and a trace",
        proxy::pieces::mark_head,
    ),
    ("mux/frame 1 KiB", proxy::pieces::frame),
    ("mux/unframe 64 KiB of 1 KiB", proxy::pieces::unframe),
    ("copy/1 MiB", proxy::pieces::copy),
    ("records/seal 1 KiB", || identity::pieces::seal(1024)),
    ("records/seal 16 KiB", || identity::pieces::seal(16 * 1024)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_pieces_can_be_done_again_and_again() {
        for (name, prepare) in PIECES {
            let mut piece = prepare();
            let first = piece();
            assert_eq!((piece(), piece()), (first, first), "{name}");
            assert!(first > 0, "{name}");
        }
    }
}
