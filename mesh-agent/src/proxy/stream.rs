// SPDX-License-Identifier: Apache-2.0

//! The byte streams that the proxy holds: to an endpoint, directly or through a tunnel, and with
//! bytes that were read ahead put back in front.
//!
//! Knows nothing of how they were opened. Invariant: dropping an [`Upstream`] without an orderly
//! end in a tunnel resets its stream.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::client::TlsStream;

use super::{
    copy::Abort, local::LocalStream, pipe::PipeEnd, tunnel::TunnelStream, tunnel_link::Going,
};
use crate::datapath;

/// What is still read from a peer after our end of the connection, at most.
const LINGER_BYTES: usize = 64 * 1024;

/// How long a peer may take to end its side.
const LINGER: Duration = Duration::from_secs(2);

/// A connection to an endpoint.
#[derive(Debug)]
pub enum Upstream {
    /// Plain TCP from the pod's own address.
    Plain(datapath::Upstream),
    /// A stream of a mutual TLS tunnel.
    Tunnel(TunnelStream),
    /// To an application of this node.
    Local(LocalStream),
    /// To an application of this node whose policies look at requests.
    Piped(PipeEnd),
    /// TLS towards the application, over one of the others.
    Originated(Box<TlsStream<Box<Upstream>>>),
}

/// A stream with bytes in front that were read from it before.
#[derive(Debug)]
pub struct Prefixed<Io> {
    prefix: Bytes,
    inner: Io,
}

/// Ends our side of `stream` and waits a little for the peer to end its own.
///
/// Closed at once, a socket with unread bytes is reset, and the peer may lose what it was sent last.
pub(crate) async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let ending = async {
        let mut discarded = [0; 1024];
        let mut total = 0;
        stream.shutdown().await?;
        while total < LINGER_BYTES {
            match stream.read(&mut discarded).await? {
                0 => break,
                count => total += count,
            }
        }
        Ok::<_, io::Error>(())
    };
    // Cancel-safe: what is read here is thrown away. However it went, that was the end.
    tokio::time::timeout(LINGER, ending).await.ok();
}

/// Says `words` to a peer that is not listened to any more, and ends as [`linger`] does.
pub(crate) async fn part(mut stream: impl AsyncRead + AsyncWrite + Unpin, words: &[u8]) {
    // Cancel-safe: who does not take them in that time is reset.
    let said = tokio::time::timeout(LINGER, stream.write_all(words)).await;
    if matches!(said, Ok(Ok(()))) {
        linger(stream).await;
    }
}

impl Upstream {
    /// Whether both ends are known to be who they say they are.
    pub(crate) fn is_mutual(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tunnel(_) | Self::Local(_) | Self::Piped(_) => true,
            Self::Originated(stream) => stream.get_ref().0.is_mutual(),
        }
    }

    /// From now on it carries the bytes of one connection to its end.
    pub(crate) fn carry_bytes(&mut self) {
        match self {
            // What TLS was begun on stays where it is.
            Self::Plain(_) | Self::Local(_) | Self::Piped(_) | Self::Originated(_) => {}
            Self::Tunnel(stream) => stream.may_move(),
        }
    }

    /// Whether the tunnel's other end is about to leave.
    pub(crate) fn going(&self) -> Going {
        match self {
            Self::Plain(_) | Self::Local(_) | Self::Piped(_) => Going::default(),
            Self::Tunnel(stream) => stream.going(),
            Self::Originated(stream) => stream.get_ref().0.going(),
        }
    }
}

impl<Io> Prefixed<Io> {
    /// Gives `prefix` back first, then what `inner` has.
    pub fn new(prefix: Bytes, inner: Io) -> Self {
        Self { prefix, inner }
    }

    /// The bytes not yet given back, and the stream.
    pub fn into_parts(self) -> (Bytes, Io) {
        (self.prefix, self.inner)
    }
}

impl Prefixed<Upstream> {
    /// See [`Upstream::carry_bytes`].
    pub(crate) fn carry_bytes(&mut self) {
        self.inner.carry_bytes();
    }
}

impl<Io: Abort> Abort for Prefixed<Io> {
    fn abort(self) {
        self.inner.abort();
    }
}

impl Abort for Upstream {
    fn abort(self) {
        match self {
            Self::Plain(stream) => stream.abort(),
            Self::Tunnel(stream) => stream.abort(),
            Self::Local(stream) => stream.abort(),
            Self::Piped(stream) => stream.abort(),
            Self::Originated(stream) => stream.into_inner().0.abort(),
        }
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Prefixed<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.has_remaining() {
            let count = self.prefix.remaining().min(buffer.remaining());
            buffer.put_slice(&self.prefix[..count]);
            self.prefix.advance(count);
            if self.prefix.is_empty() {
                // Even empty it would keep what it was cut from, as long as the connection lives.
                self.prefix = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Prefixed<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl AsyncRead for Upstream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tunnel(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Local(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Piped(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Originated(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Upstream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tunnel(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Local(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Piped(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Originated(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tunnel(stream) => Pin::new(stream).poll_flush(context),
            Self::Local(stream) => Pin::new(stream).poll_flush(context),
            Self::Piped(stream) => Pin::new(stream).poll_flush(context),
            Self::Originated(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tunnel(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Local(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Piped(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Originated(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tunnel(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Local(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Piped(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Originated(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tunnel(stream) => stream.is_write_vectored(),
            Self::Local(stream) => stream.is_write_vectored(),
            Self::Piped(stream) => stream.is_write_vectored(),
            Self::Originated(stream) => stream.is_write_vectored(),
        }
    }
}
