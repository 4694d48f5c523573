// SPDX-License-Identifier: Apache-2.0

//! The socket of a client whose bytes are carried on.
//!
//! Knows nothing of where to. Invariant: unless our side was ended in order, closing the socket
//! resets the connection, whether it is dropped, the drain deadline passes, or the process dies:
//! a client never takes half an answer for a whole one.

use std::{
    io,
    ops::Deref,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::copy::Abort;
use crate::datapath;

/// A client's socket.
#[derive(Debug)]
pub(crate) struct ClientStream(TcpStream);

impl ClientStream {
    /// Takes over an accepted socket.
    pub(crate) fn new(stream: TcpStream) -> Self {
        datapath::break_when_closed(&stream);
        Self(stream)
    }

    /// Takes over a socket that was accepted to break when it is closed.
    pub(crate) fn breaking(stream: TcpStream) -> Self {
        Self(stream)
    }
}

impl Abort for ClientStream {
    fn abort(self) {
        datapath::reset(self);
    }
}

impl Deref for ClientStream {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.0
    }
}

impl AsFd for ClientStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = ready!(Pin::new(&mut self.0).poll_shutdown(context));
        datapath::end_when_closed(&self.0);
        Poll::Ready(ended)
    }
}
