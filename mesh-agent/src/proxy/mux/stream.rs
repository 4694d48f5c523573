// SPDX-License-Identifier: Apache-2.0

//! One stream of a mux as a byte stream.
//!
//! Knows nothing of sessions' insides, pools or peers. The peer gets room back only for what the
//! reader consumed.
//!
//! Invariant: the reader sees an orderly end only if the peer ended its direction, and the peer
//! sees one only if [`poll_shutdown`](AsyncWrite::poll_shutdown) was called: a stream that is
//! dropped earlier is reset. Every other end is [`io::ErrorKind::ConnectionReset`].

use std::{
    fmt, io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{super::bulk::BulkStream, link::Shared, session::MuxError};

/// A byte stream through a mux. Belongs to the thread that made it.
pub(in super::super) struct MuxStream {
    shared: Rc<Shared>,
    id: u32,
    /// Bytes that the reader took in its last [`MuxStream::poll_data`], not yet given back.
    lent: usize,
    write_ended: bool,
}

impl MuxStream {
    /// The stream `id`, which nobody else may hold.
    pub(super) fn new(shared: Rc<Shared>, id: u32) -> Self {
        Self {
            shared,
            id,
            lent: 0,
            write_ended: false,
        }
    }

    pub(super) fn parts(&self) -> (&Shared, u32) {
        (&self.shared, self.id)
    }

    /// The next bytes, without copying; `None` at the orderly end. The peer may send as much again
    /// when this is called the next time.
    pub(in super::super) fn poll_data(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Bytes>>> {
        let (id, lent) = (self.id, std::mem::take(&mut self.lent));
        let taken = self.shared.with(|session| {
            if lent > 0 {
                session.give_back(id, lent);
            }
            let is_end = ready!(session.poll_received(id, context))?.is_empty();
            Poll::Ready(Ok((!is_end).then(|| session.take_received(id))))
        });
        match ready!(taken).map_err(reset)? {
            Some(bytes) => {
                self.lent = bytes.len();
                Poll::Ready(Some(Ok(bytes)))
            }
            None => Poll::Ready(None),
        }
    }

    /// Takes from the front of `bytes` as much as there is room for, without copying much.
    pub(in super::super) fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<io::Result<usize>> {
        self.may_write()?;
        let id = self.id;
        let taken = self.shared.with(|session| {
            let room = ready!(session.poll_room(id, bytes.len(), context))?;
            if room > 0 {
                session.write(id, bytes.split_to(room));
            }
            Poll::Ready(Ok(room))
        });
        taken.map_err(reset)
    }

    /// The stream's number.
    pub(in super::super) fn id(&self) -> u32 {
        self.id
    }

    /// Whether the peer began a session to continue the stream in.
    pub(in super::super) fn has_successor(&self) -> bool {
        self.shared.has_successor(self.id)
    }

    /// The session that the peer began to continue the stream in.
    pub(in super::super) fn successor(&self) -> Option<Box<BulkStream>> {
        self.shared.successor(self.id)
    }

    /// The stream goes on elsewhere; the session is kept alive for it all the same.
    pub(in super::super) fn note_moved(&self) {
        self.shared.with(|session| session.note_moved(self.id));
    }

    /// Whether a stream that goes on elsewhere can: its peer must be alive.
    ///
    /// # Errors
    /// [`io::ErrorKind::ConnectionReset`] if it is not.
    pub(in super::super) fn check(&self) -> io::Result<()> {
        self.shared.check().map_err(reset)
    }

    /// Wakes the reader of a stream that goes on elsewhere when its peer turns out to be gone.
    pub(in super::super) fn wait(&self, context: &mut Context<'_>) {
        self.shared.with(|session| session.wait(self.id, context));
    }

    fn may_write(&self) -> io::Result<()> {
        if self.write_ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }
}

/// However a stream breaks, for its user it was reset.
fn reset(error: MuxError) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl AsyncRead for MuxStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (id, lent) = (self.id, std::mem::take(&mut self.lent));
        let read = self.shared.with(|session| {
            if lent > 0 {
                session.give_back(id, lent);
            }
            if buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let received = ready!(session.poll_received(id, context))?;
            let count = received.len().min(buffer.remaining());
            buffer.put_slice(&received[..count]);
            if count > 0 {
                session.skip_received(id, count);
                session.give_back(id, count);
            }
            Poll::Ready(Ok(()))
        });
        read.map_err(reset)
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.may_write()?;
        let id = self.id;
        let taken = self.shared.with(|session| {
            let room = ready!(session.poll_room(id, bytes.len(), context))?;
            if room > 0 {
                session.write_copy(id, &bytes[..room]);
            }
            Poll::Ready(Ok(room))
        });
        taken.map_err(reset)
    }

    /// The session's own task sends what it has; there is nothing to push.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ends our direction after what was written. The other goes on.
    fn poll_shutdown(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.write_ended {
            return Poll::Ready(Ok(()));
        }
        let id = self.id;
        let ended = self.shared.with(|session| session.shut_down(id));
        ended.map_err(reset)?;
        self.write_ended = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for MuxStream {
    fn drop(&mut self) {
        let id = self.id;
        drop(self.shared.successor(id));
        self.shared.with(|session| session.let_go(id));
    }
}

impl fmt::Debug for MuxStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MuxStream")
            .field("id", &self.id)
            .field("write_ended", &self.write_ended)
            .finish_non_exhaustive()
    }
}
