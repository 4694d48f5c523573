// SPDX-License-Identifier: Apache-2.0

//! Heads, frames and the copy loop.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::copy::{self, Carried};
pub(crate) use super::{
    http1::pieces::{bare_head, edit_head, mark_head, read_head, write_head},
    mux::pieces::{frame, unframe},
};

/// What one turn of the copy loop's piece carries, in bytes.
const CARRIED: usize = 1 << 20;

/// An end that gives what is left of it and takes everything.
#[derive(Default)]
struct Memory {
    left: usize,
}

impl AsyncRead for Memory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.left.min(buffer.remaining());
        buffer.initialize_unfilled_to(count).fill(b'x');
        buffer.advance(count);
        self.left -= count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Carries 1 MiB from an end in memory to another, to both ends' ends.
pub(crate) fn copy() -> Box<dyn FnMut() -> usize> {
    Box::new(|| {
        let (mut client, mut upstream) = (Memory { left: CARRIED }, Memory::default());
        let mut carried = Carried::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut all = copy::copy(&mut client, &mut upstream, &mut carried);
        while Pin::new(&mut all).poll(&mut context).is_pending() {}
        usize::try_from(carried.to_upstream).expect("it was a usize")
    })
}
