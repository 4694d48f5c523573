// SPDX-License-Identifier: Apache-2.0

//! One stream of HBONE as a byte stream: an HTTP/2 stream after its CONNECT.
//!
//! Knows nothing of pools, TLS or who the peers are. Rules of flow control: the peer gets room
//! back only for what the reader consumed; a write is taken only as far as there is room for it.
//!
//! Invariant: the reader sees an orderly end only if the peer sent END_STREAM, and the peer sees
//! one only if [`poll_shutdown`](AsyncWrite::poll_shutdown) was called: a stream that is dropped
//! earlier is reset. Every other end is [`io::ErrorKind::ConnectionReset`].
//! Reference: RFC 9113 sections 5.1, 5.2 and 8.5.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Room asked for at once, in bytes: what one write can become at most.
const MAX_WRITE: usize = 256 * 1024;

/// A byte stream through a tunnel. Belongs to the thread that made it.
pub(super) struct HboneStream {
    /// Nothing if the stream was gone before the first byte could be sent.
    send: Option<SendStream<Bytes>>,
    receive: RecvStream,
    /// Received, not yet read.
    chunk: Bytes,
    /// Bytes that the reader took in its last [`HboneStream::poll_data`], not yet given back.
    lent: usize,
    read_ended: bool,
    write_ended: bool,
}

impl HboneStream {
    /// A stream over both halves. `send` is missing if the stream was reset already.
    pub(super) fn new(send: Option<SendStream<Bytes>>, receive: RecvStream) -> Self {
        Self {
            send,
            receive,
            chunk: Bytes::new(),
            lent: 0,
            read_ended: false,
            write_ended: false,
        }
    }

    /// The next bytes, without copying; `None` at the orderly end.
    ///
    /// The peer may send as much again when this is called the next time, so ask again only when
    /// the last bytes are out of hand.
    ///
    /// # Errors
    /// [`io::ErrorKind::ConnectionReset`] if the stream ended in any other way.
    pub(super) fn poll_data(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Bytes>>> {
        if let Err(error) = self.give_back() {
            return Poll::Ready(Some(Err(error)));
        }
        if self.chunk.is_empty() && !ready!(self.poll_chunk(context))? {
            return Poll::Ready(None);
        }
        let chunk = std::mem::take(&mut self.chunk);
        self.lent = chunk.len();
        Poll::Ready(Some(Ok(chunk)))
    }

    /// Takes from the front of `bytes` as much as there is room for, without copying.
    ///
    /// # Errors
    /// [`io::ErrorKind::ConnectionReset`] if the peer reset the stream or the tunnel broke.
    pub(super) fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<io::Result<usize>> {
        let room = ready!(self.poll_room(context, bytes.len()))?;
        self.send_now(bytes.split_to(room))?;
        Poll::Ready(Ok(room))
    }

    /// Waits until there is something to read; false at the orderly end.
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.chunk.is_empty() {
            if self.read_ended {
                return Poll::Ready(Ok(false));
            }
            match ready!(self.receive.poll_data(context)) {
                Some(received) => self.chunk = received.map_err(broken)?,
                None => self.read_ended = true,
            }
        }
        Poll::Ready(Ok(true))
    }

    fn give_back(&mut self) -> io::Result<()> {
        let lent = std::mem::take(&mut self.lent);
        self.release(lent)
    }

    fn release(&mut self, count: usize) -> io::Result<()> {
        if count == 0 {
            return Ok(());
        }
        let flow = self.receive.flow_control();
        flow.release_capacity(count).map_err(broken)
    }

    /// Waits until at least a byte of `want` can be sent.
    fn poll_room(&mut self, context: &mut Context<'_>, want: usize) -> Poll<io::Result<usize>> {
        if self.write_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // An empty DATA frame would say nothing, and peers count them as abuse.
        if want == 0 {
            return Poll::Ready(Ok(0));
        }
        let want = want.min(MAX_WRITE);
        let send = self.send.as_mut().ok_or(io::ErrorKind::ConnectionReset)?;
        send.reserve_capacity(want);
        loop {
            let room = send.capacity();
            if room > 0 {
                return Poll::Ready(Ok(room.min(want)));
            }
            match ready!(send.poll_capacity(context)) {
                Some(granted) => drop(granted.map_err(broken)?),
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
    }

    fn send_now(&mut self, bytes: Bytes) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let send = self.send.as_mut().ok_or(io::ErrorKind::ConnectionReset)?;
        send.send_data(bytes, false).map_err(broken)
    }
}

/// However a stream breaks, for its user it was reset.
fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl AsyncRead for HboneStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.give_back()?;
        if buffer.remaining() == 0 || !ready!(self.poll_chunk(context))? {
            return Poll::Ready(Ok(()));
        }
        let count = self.chunk.len().min(buffer.remaining());
        buffer.put_slice(&self.chunk[..count]);
        self.chunk.advance(count);
        Poll::Ready(self.release(count))
    }
}

impl AsyncWrite for HboneStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let room = ready!(self.poll_room(context, bytes.len()))?;
        self.send_now(Bytes::copy_from_slice(&bytes[..room]))?;
        Poll::Ready(Ok(room))
    }

    /// The connection's own task sends what it has; there is nothing to push.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Sends END_STREAM after what was written. The other direction goes on.
    fn poll_shutdown(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.write_ended {
            return Poll::Ready(Ok(()));
        }
        let send = self.send.as_mut().ok_or(io::ErrorKind::ConnectionReset)?;
        send.send_data(Bytes::new(), true).map_err(broken)?;
        self.write_ended = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for HboneStream {
    fn drop(&mut self) {
        // What was written and ended in order still goes out; h2 resets the rest after it.
        if !self.write_ended
            && let Some(send) = &mut self.send
        {
            send.send_reset(Reason::CANCEL);
        }
    }
}

impl fmt::Debug for HboneStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HboneStream")
            .field("id", &self.receive.stream_id())
            .field("read_ended", &self.read_ended)
            .field("write_ended", &self.write_ended)
            .finish_non_exhaustive()
    }
}
