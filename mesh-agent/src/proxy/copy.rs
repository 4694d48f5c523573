// SPDX-License-Identifier: Apache-2.0

//! Carries bytes both ways between two ends until both directions have ended.
//!
//! An end of stream on one side becomes a half-close of the other; a reset on one side becomes a
//! reset of the other, so a truncated stream never looks complete. At most one buffer of
//! [`BUFFER_BYTES`] per direction is held, and none while that direction is idle: buffers come
//! from a free list of the thread. No timers, no system calls but reads and writes.
//!
//! Knows nothing of what the bytes mean. Invariant: a byte is counted when the other side's
//! socket has taken it.

use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::tunnel::TunnelStream;
use crate::datapath;

/// The size of the one buffer that a busy direction holds.
pub const BUFFER_BYTES: usize = 64 * 1024;

/// How many buffers are carried at once in a direction, so that one busy pair does not starve its thread.
const TURNS_AT_ONCE: usize = 4;

/// How many unused buffers a thread keeps.
const SPARE_BUFFERS: usize = 16;

thread_local! {
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// An end of a connection that can be given up so that its peer notices.
pub trait Abort {
    /// Ends both directions at once: RST on a socket, a reset of the stream in a tunnel.
    fn abort(self);
}

impl Abort for TcpStream {
    fn abort(self) {
        datapath::reset(self);
    }
}

impl Abort for TunnelStream {
    fn abort(self) {
        // Dropped without an orderly end, its stream is reset.
        drop(self);
    }
}

impl Abort for datapath::Upstream {
    fn abort(self) {
        datapath::reset(self);
    }
}

/// Which of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first argument of [`copy`], by convention the client.
    Client,
    /// The second argument of [`copy`], by convention the upstream.
    Upstream,
}

/// Both directions could not be carried to their ends.
#[derive(Debug, thiserror::Error)]
#[error("{}", match .side { Side::Client => "client connection broke", Side::Upstream => "upstream connection broke" })]
pub struct Broken {
    /// The end that broke.
    pub side: Side,
    /// How it broke.
    #[source]
    pub source: io::Error,
}

/// Bytes carried so far; kept outside of the future so that they outlive its cancellation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// From the client to the upstream.
    pub to_upstream: u64,
    /// From the upstream to the client.
    pub to_client: u64,
}

/// Copies between `client` and `upstream` until both directions have ended or one end broke.
///
/// Does not close anything on an error: the caller aborts both ends then. Cancel-safe in that
/// nothing but bytes under way is lost.
pub fn copy<'a, C, U>(
    client: &'a mut C,
    upstream: &'a mut U,
    carried: &'a mut Carried,
) -> Copy<'a, C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    Copy {
        client,
        upstream,
        carried,
        to_upstream: Direction::new(),
        to_client: Direction::new(),
        broken: None,
    }
}

/// The future of [`copy`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Copy<'a, C, U> {
    client: &'a mut C,
    upstream: &'a mut U,
    carried: &'a mut Carried,
    to_upstream: Direction,
    to_client: Direction,
    broken: Option<Broken>,
}

impl<C, U> Copy<'_, C, U> {
    /// What was carried so far.
    pub(crate) fn carried(&self) -> Carried {
        *self.carried
    }
}

#[derive(Debug)]
struct Direction {
    buffer: Option<Box<[u8]>>,
    start: usize,
    end: usize,
    unflushed: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Flowing,
    /// The reader has ended; what is buffered goes out, then the half-close.
    Ending,
    Done,
}

/// What went wrong in one direction.
enum Fault {
    Read(io::Error),
    Write(io::Error),
}

impl<C, U> Future for Copy<'_, C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    type Output = Result<(), Broken>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let out = this.to_upstream.poll(
            context,
            this.client,
            this.upstream,
            &mut this.carried.to_upstream,
        );
        if let Poll::Ready(Err(fault)) = out {
            match fault {
                Fault::Read(source) => return broken(Side::Client, source),
                // What the upstream said before it went away is still worth delivering.
                Fault::Write(source) => {
                    this.to_upstream.stop();
                    this.broken = Some(Broken {
                        side: Side::Upstream,
                        source,
                    });
                }
            }
        }
        let back = this.to_client.poll(
            context,
            this.upstream,
            this.client,
            &mut this.carried.to_client,
        );
        match back {
            Poll::Ready(Err(Fault::Read(source))) => return broken(Side::Upstream, source),
            Poll::Ready(Err(Fault::Write(source))) => return broken(Side::Client, source),
            Poll::Ready(Ok(())) if this.to_upstream.state == State::Done => {}
            Poll::Ready(Ok(())) | Poll::Pending => return Poll::Pending,
        }
        Poll::Ready(this.broken.take().map_or(Ok(()), Err))
    }
}

fn broken(side: Side, source: io::Error) -> Poll<Result<(), Broken>> {
    Poll::Ready(Err(Broken { side, source }))
}

impl Direction {
    fn new() -> Self {
        Self {
            buffer: None,
            start: 0,
            end: 0,
            unflushed: false,
            state: State::Flowing,
        }
    }

    /// Moves what can be moved; ready when the reader has ended and the writer is half-closed.
    fn poll<R, W>(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        carried: &mut u64,
    ) -> Poll<Result<(), Fault>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..TURNS_AT_ONCE {
            if self.state == State::Done {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_write(context, writer, carried)).map_err(Fault::Write)?;
            if self.state == State::Ending {
                ready!(Pin::new(&mut *writer).poll_shutdown(context)).map_err(Fault::Write)?;
                self.stop();
                return Poll::Ready(Ok(()));
            }
            if self
                .poll_fill(context, reader)
                .map_err(Fault::Read)?
                .is_pending()
            {
                return self.poll_idle(context, writer);
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes all that is buffered.
    fn poll_write<W>(
        &mut self,
        context: &mut Context<'_>,
        writer: &mut W,
        carried: &mut u64,
    ) -> Poll<io::Result<()>>
    where
        W: AsyncWrite + Unpin,
    {
        let Some(buffer) = &self.buffer else {
            return Poll::Ready(Ok(()));
        };
        while self.start < self.end {
            let rest = &buffer[self.start..self.end];
            let count = ready!(Pin::new(&mut *writer).poll_write(context, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.start += count;
            self.unflushed = true;
            *carried += u64::try_from(count).expect("a buffer's length fits u64");
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once into the empty buffer.
    fn poll_fill<R>(&mut self, context: &mut Context<'_>, reader: &mut R) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
    {
        let buffer = self.buffer.get_or_insert_with(take_buffer);
        let mut target = ReadBuf::new(buffer);
        ready!(Pin::new(reader).poll_read(context, &mut target))?;
        (self.start, self.end) = (0, target.filled().len());
        if self.end == 0 {
            self.state = State::Ending;
        }
        Poll::Ready(Ok(()))
    }

    /// Nothing to read for now: flushes once, and gives the buffer back.
    fn poll_idle<W>(&mut self, context: &mut Context<'_>, writer: &mut W) -> Poll<Result<(), Fault>>
    where
        W: AsyncWrite + Unpin,
    {
        self.release();
        if self.unflushed {
            ready!(Pin::new(writer).poll_flush(context)).map_err(Fault::Write)?;
            self.unflushed = false;
        }
        Poll::Pending
    }

    fn stop(&mut self) {
        self.state = State::Done;
        self.release();
    }

    fn release(&mut self) {
        (self.start, self.end) = (0, 0);
        if let Some(buffer) = self.buffer.take() {
            give_buffer(buffer);
        }
    }
}

impl Drop for Direction {
    fn drop(&mut self) {
        self.release();
    }
}

/// A buffer of [`BUFFER_BYTES`] with whatever it held last.
pub(super) fn take_buffer() -> Box<[u8]> {
    SPARE
        .with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
}

/// Keeps a buffer for whoever on this thread needs one next.
pub(super) fn give_buffer(buffer: Box<[u8]>) {
    // An error means that the thread is ending: then the buffer is simply freed.
    SPARE
        .try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_BUFFERS {
                spare.push(buffer);
            }
        })
        .ok();
}
