// SPDX-License-Identifier: Apache-2.0

//! A byte stream within a data thread: what goes in at one end comes out at the other.
//!
//! Knows nothing of what is sent. Invariant: the reader sees an orderly end only if the other end
//! shut its side down; an end that is dropped earlier looks like a reset.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::copy::Abort;

/// How much a reader that stopped may leave in the pipe, per direction.
const BUFFER_BYTES: usize = 64 * 1024;

/// One end of a pipe. Belongs to the thread that made it.
#[derive(Debug)]
pub struct PipeEnd {
    stream: DuplexStream,
    /// We have ended our side in order.
    ended: Rc<Cell<bool>>,
    /// The other end has.
    peer_ended: Rc<Cell<bool>>,
}

/// Both ends of a new pipe.
pub(crate) fn pipe() -> (PipeEnd, PipeEnd) {
    let (one, other) = tokio::io::duplex(BUFFER_BYTES);
    let flags = [Rc::<Cell<bool>>::default(), Rc::default()];
    let end = |stream, own: usize| PipeEnd {
        stream,
        ended: Rc::clone(&flags[own]),
        peer_ended: Rc::clone(&flags[1 - own]),
    };
    (end(one, 0), end(other, 1))
}

impl Abort for PipeEnd {
    fn abort(self) {
        // Dropped without an orderly end, it breaks the other one.
        drop(self);
    }
}

fn reset(error: io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl AsyncRead for PipeEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer)).map_err(reset)?;
        let at_end = buffer.filled().len() == before && buffer.remaining() > 0;
        if at_end && !self.peer_ended.get() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PipeEnd {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        Poll::Ready(written.map_err(reset))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended.set(true);
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn an_orderly_end_is_one_and_the_other_direction_goes_on() {
        let (mut one, mut other) = pipe();
        one.write_all(b"hello").await.unwrap();
        one.shutdown().await.unwrap();
        let mut text = String::new();
        other.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
        other.write_all(b"back").await.unwrap();
        other.shutdown().await.unwrap();
        text.clear();
        one.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "back");
    }

    #[tokio::test]
    async fn a_dropped_end_is_a_reset_behind_what_was_sent() {
        let (mut one, mut other) = pipe();
        one.write_all(b"hel").await.unwrap();
        one.abort();
        let mut bytes = Vec::new();
        let error = other.read_to_end(&mut bytes).await.unwrap_err();
        assert_eq!(
            (error.kind(), &*bytes),
            (io::ErrorKind::ConnectionReset, &b"hel"[..])
        );
        let error = other.write_all(b"x").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
