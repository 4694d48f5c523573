// SPDX-License-Identifier: Apache-2.0

//! The body of an answer: a text, or pieces of text composed while they are sent.
//!
//! Knows nothing of what it carries. Invariant: of pieces, only one is in memory at a time.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

/// What is sent after the head.
pub(super) struct Body {
    /// Known if the text is composed already.
    length: Option<u64>,
    pieces: Box<dyn Iterator<Item = String> + Send>,
}

impl Body {
    /// All of it at once.
    pub(super) fn whole(text: String) -> Self {
        Self {
            length: u64::try_from(text.len()).ok(),
            pieces: Box::new(std::iter::once(text)),
        }
    }

    /// One piece after the other, as the client takes them.
    pub(super) fn pieces(pieces: impl Iterator<Item = String> + Send + 'static) -> Self {
        Self {
            length: None,
            pieces: Box::new(pieces),
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.next();
        Poll::Ready(piece.map(|text| Ok(Frame::data(Bytes::from(text)))))
    }

    fn size_hint(&self) -> SizeHint {
        self.length
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}
