// SPDX-License-Identifier: Apache-2.0

//! The client's end of a connection: its socket, and what was read from it and not taken yet.
//!
//! Knows nothing of requests. Invariant: while the client is silent it holds no memory but itself.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{
    super::{client_stream::ClientStream, head_clock::HeadClock, stream::Prefixed},
    Then,
    buffer::Buffer,
};

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    stream: ClientStream,
    buffer: Buffer,
    /// It has ended its side.
    ended: bool,
}

impl Client {
    /// A client of which something may have been read.
    pub(super) fn new(client: Prefixed<ClientStream>) -> Self {
        let (ahead, stream) = client.into_parts();
        Self {
            stream,
            buffer: Buffer::of(&ahead),
            ended: false,
        }
    }

    /// What it sent and nobody took.
    pub(super) fn buffer(&mut self) -> &mut Buffer {
        &mut self.buffer
    }

    /// Whether it has ended its side.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Its socket.
    pub(super) fn into_stream(self) -> ClientStream {
        self.stream
    }

    /// Its socket, with what was read and not taken in front.
    pub(super) fn into_prefixed(self) -> Prefixed<ClientStream> {
        Prefixed::new(Bytes::copy_from_slice(self.buffer.data()), self.stream)
    }

    /// Waits for more of a request; ends when `drain` does, if nothing of one has come, and by `clock`
    /// if something has.
    pub(super) async fn more(
        &mut self,
        mut drain: Pin<&mut impl Future<Output = ()>>,
        clock: &mut HeadClock,
    ) -> Then {
        if !self.buffer.has_room() {
            return Then::Hyper;
        }
        poll_fn(|context| {
            let idle = self.buffer.is_empty();
            if idle && (self.ended || drain.as_mut().poll(context).is_ready()) {
                return Poll::Ready(Then::End);
            }
            let Poll::Ready(read) = self.poll_fill(context) else {
                let begun = (!idle).then_some(0);
                return clock.poll(begun, context).map(|()| Then::Late);
            };
            Poll::Ready(match read {
                Ok(0) if idle => Then::End,
                // hyper answers what was cut short as it always has.
                Ok(0) => Then::Hyper,
                Ok(_) => Then::Go,
                Err(_gone) => Then::Break,
            })
        })
        .await
    }

    /// Reads once; 0 at the end. There must be room.
    pub(super) fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        let read = self.buffer.poll_fill(context, &mut self.stream);
        self.ended = matches!(read, Poll::Ready(Ok(0)));
        read
    }

    /// Reads ahead what is there while the client waits for an answer.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn look(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while !self.ended && self.buffer.has_room() {
            match self.poll_fill(context) {
                Poll::Ready(read) => drop(read?),
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    /// The same, at once.
    pub(super) async fn look_once(&mut self) -> io::Result<()> {
        poll_fn(|context| Poll::Ready(self.look(context))).await
    }

    /// Writes some of `bytes`.
    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    /// Writes all of `bytes`.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }
}
