// SPDX-License-Identifier: Apache-2.0

//! One stream of a tunnel as a byte stream, whatever the tunnel is: what both ends hand to the
//! proxy.
//!
//! Knows nothing of pools, TLS or who the peers are. Rules of flow control: the peer gets room
//! back only for what the reader consumed; a write is taken only as far as there is room for it.
//!
//! Invariant: the reader sees an orderly end only if the peer ended its direction in order, and
//! the peer sees one only if [`poll_shutdown`](AsyncWrite::poll_shutdown) was called: a stream that
//! is dropped earlier is reset. Every other end is [`io::ErrorKind::ConnectionReset`].

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    bulk::Moving,
    hbone_stream::HboneStream,
    tunnel_link::{Going, Slot},
};

/// A byte stream through a tunnel. Belongs to the thread that made it.
pub struct TunnelStream {
    bytes: Kind,
    baggage: Option<String>,
    /// The place on a pooled connection; released last.
    slot: Option<Slot>,
}

/// By which kind of tunnel.
#[derive(Debug)]
pub(super) enum Kind {
    Hbone(HboneStream),
    Mux(Box<Moving>),
}

impl TunnelStream {
    /// A stream of a peer that told `baggage`.
    pub(super) fn new(bytes: Kind, baggage: Option<String>, slot: Option<Slot>) -> Self {
        Self {
            bytes,
            baggage,
            slot,
        }
    }

    /// What the other end told about its workload.
    pub fn baggage(&self) -> Option<&str> {
        self.baggage.as_deref()
    }

    /// Whether the other end is about to leave; never where the tunnel is the peer's.
    pub(crate) fn going(&self) -> Going {
        self.slot.as_ref().map_or_else(Going::default, Slot::going)
    }

    /// Lets a stream that we opened go on in a session of its own once it has carried much. For
    /// streams that carry one connection's bytes: between requests it would be a waste.
    pub(crate) fn may_move(&mut self) {
        if let Kind::Mux(stream) = &mut self.bytes
            && let Some(asker) = self.slot.as_ref().and_then(Slot::asker)
        {
            stream.watch(asker);
        }
    }

    /// The next bytes, without copying; `None` at the orderly end.
    ///
    /// The peer may send as much again when this is called the next time, so ask again only when
    /// the last bytes are out of hand.
    ///
    /// # Errors
    /// [`io::ErrorKind::ConnectionReset`] if the stream ended in any other way.
    pub fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        match &mut self.bytes {
            Kind::Hbone(stream) => stream.poll_data(context),
            Kind::Mux(stream) => stream.poll_data(context),
        }
    }

    /// Takes from the front of `bytes` as much as there is room for, without copying.
    ///
    /// # Errors
    /// [`io::ErrorKind::ConnectionReset`] if the peer reset the stream or the tunnel broke.
    pub fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<io::Result<usize>> {
        match &mut self.bytes {
            Kind::Hbone(stream) => stream.poll_send(context, bytes),
            Kind::Mux(stream) => stream.poll_send(context, bytes),
        }
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.bytes {
            Kind::Hbone(stream) => Pin::new(stream).poll_read(context, buffer),
            Kind::Mux(stream) => Pin::new(&mut **stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.bytes {
            Kind::Hbone(stream) => Pin::new(stream).poll_write(context, bytes),
            Kind::Mux(stream) => Pin::new(&mut **stream).poll_write(context, bytes),
        }
    }

    /// A connection that is shared sends what it has by a task of its own.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.bytes {
            Kind::Hbone(_) => Poll::Ready(Ok(())),
            Kind::Mux(stream) => Pin::new(&mut **stream).poll_flush(context),
        }
    }

    /// Ends our direction in order after what was written. The other goes on.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.bytes {
            Kind::Hbone(stream) => Pin::new(stream).poll_shutdown(context),
            Kind::Mux(stream) => Pin::new(&mut **stream).poll_shutdown(context),
        }
    }
}

impl fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TunnelStream").field(&self.bytes).finish()
    }
}

#[cfg(test)]
mod tests;
