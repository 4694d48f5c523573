// SPDX-License-Identifier: Apache-2.0

//! A stream of the mux that may go on in a bulk session.
//!
//! The client asks for a session once the stream has carried much in large pieces. Each direction
//! ends on the mux behind its last byte there and goes on in the session, where its end is TLS's. Knows nothing of how
//! sessions come about.
//!
//! Invariants: the reader gets all of the mux's bytes before the first of the session's; after the
//! client's GO an end on the mux never is the stream's; a session that breaks breaks its stream. Reference:
//! ADR 14.

use std::{
    fmt, io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};

use super::{
    super::mux::MuxStream,
    asker::{Asker, Granted},
    header::{GO, STAY},
    stream::BulkStream,
};

/// A stream moves after so many bytes, in both directions together.
const MUCH: usize = 1024 * 1024;

/// Smaller pieces do not count: messages gain more from being sent together with others'.
const LARGE: usize = 16 * 1024;

/// What a reader that wants no copies gets at once.
const CHUNK: usize = 16 * 1024;

/// A stream that may move.
pub(in super::super) struct Moving {
    mux: MuxStream,
    bulk: Option<Box<BulkStream>>,
    stage: Stage,
    /// In large pieces.
    carried: usize,
    /// The mux has given its last byte.
    mux_ended: bool,
    read_ended: bool,
    write_ended: bool,
}

enum Stage {
    /// Stays, unless the peer moves it.
    Settled,
    /// Ours; moves when it is worth it.
    Watched(Rc<Asker>),
    /// Ours; the peer was asked.
    Asked(oneshot::Receiver<Granted>),
    /// The peer's, which has yet to say whether it moves.
    Offered,
    /// Writes to the session, and reads from it what comes behind the mux's bytes.
    Moved,
}

impl Moving {
    pub(in super::super) fn new(mux: MuxStream) -> Self {
        Self {
            mux,
            bulk: None,
            stage: Stage::Settled,
            carried: 0,
            mux_ended: false,
            read_ended: false,
            write_ended: false,
        }
    }

    /// Lets a stream of ours move when it is worth it.
    pub(in super::super) fn watch(&mut self, asker: Rc<Asker>) {
        if matches!(self.stage, Stage::Settled) {
            self.stage = Stage::Watched(asker);
        }
    }

    fn note_carried(&mut self, count: usize) {
        if count < LARGE {
            return;
        }
        let Stage::Watched(asker) = &self.stage else {
            return;
        };
        self.carried += count;
        if self.carried >= MUCH {
            let asked = asker.ask(self.mux.id());
            self.stage = asked.map_or(Stage::Settled, Stage::Asked);
        }
    }

    /// Takes the next step of a move, if there is one.
    fn progress(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match &mut self.stage {
            Stage::Settled => {
                if let Some(bulk) = self.mux.successor() {
                    self.bulk = Some(bulk);
                    self.stage = Stage::Offered;
                    self.hear(context)?;
                }
            }
            Stage::Watched(_) => {}
            Stage::Asked(answer) => match Pin::new(answer).poll(context) {
                Poll::Pending => {}
                Poll::Ready(Ok(granted)) => self.enter(granted, context)?,
                Poll::Ready(Err(_none)) => self.stage = Stage::Settled,
            },
            Stage::Offered => self.hear(context)?,
            Stage::Moved => self.mux.check()?,
        }
        // What is still to be written is the writer's business, if there is one.
        if (self.write_ended || matches!(self.stage, Stage::Offered))
            && let Some(bulk) = &mut self.bulk
            && let Poll::Ready(written) = bulk.poll_written(context)
        {
            written?;
        }
        Ok(())
    }

    /// A direction has ended: a stream of ours that did not move by then ends where it is. A
    /// session that the peer gives for it all the same is told so when it is dropped.
    fn note_end(&mut self) {
        if matches!(self.stage, Stage::Watched(_) | Stage::Asked(_)) {
            self.stage = Stage::Settled;
        }
    }

    /// Goes on in a session that the peer gave.
    fn enter(&mut self, granted: Granted, context: &mut Context<'_>) -> io::Result<()> {
        self.stage = Stage::Settled;
        if let Some(mut bulk) = granted.take() {
            self.leave_mux(context)?;
            bulk.say(&[GO])?;
            self.bulk = Some(bulk);
            self.stage = Stage::Moved;
        }
        Ok(())
    }

    /// Hears whether a session that a peer of ours began is to be used.
    fn hear(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Some(bulk) = &mut self.bulk else {
            return Ok(());
        };
        let mut word = [0];
        let mut target = ReadBuf::new(&mut word);
        match Pin::new(&mut **bulk).poll_read(context, &mut target) {
            Poll::Pending => return Ok(()),
            Poll::Ready(read) => read?,
        }
        match target.filled() {
            [GO] if self.write_ended => bulk.begin_end()?,
            [GO] => self.leave_mux(context)?,
            [STAY] => {
                self.bulk = None;
                self.stage = Stage::Settled;
                return Ok(());
            }
            _ => return Err(broken("no word about a stream that moves")),
        }
        self.stage = Stage::Moved;
        Ok(())
    }

    /// Our bytes on the mux end here.
    fn leave_mux(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        self.mux.note_moved();
        match Pin::new(&mut self.mux).poll_shutdown(context) {
            Poll::Ready(ended) => ended,
            Poll::Pending => Err(broken("a mux that does not take an end")),
        }
    }

    fn is_moved(&self) -> bool {
        matches!(self.stage, Stage::Moved)
    }

    /// Reads what the mux has left; false if there is no more of the stream there.
    fn poll_mux(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<bool>> {
        if self.mux_ended {
            return Poll::Ready(Ok(false));
        }
        let begin = buffer.filled().len();
        ready!(Pin::new(&mut self.mux).poll_read(context, buffer))?;
        let count = buffer.filled().len() - begin;
        self.note_carried(count);
        self.mux_ended = count == 0;
        Poll::Ready(Ok(count > 0))
    }

    /// The next bytes, `None` at the orderly end.
    pub(in super::super) fn poll_data(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Bytes>>> {
        if matches!(self.stage, Stage::Settled) && !self.mux.has_successor() && !self.mux_ended {
            let data = ready!(self.mux.poll_data(context));
            self.mux_ended = data.is_none();
            self.read_ended = data.is_none();
            return Poll::Ready(data);
        }
        let mut chunk = vec![0; CHUNK];
        let mut target = ReadBuf::new(&mut chunk);
        match ready!(Pin::new(self).poll_read(context, &mut target)) {
            Ok(()) => {}
            Err(error) => return Poll::Ready(Some(Err(error))),
        }
        let count = target.filled().len();
        chunk.truncate(count);
        Poll::Ready((count > 0).then(|| Ok(chunk.into())))
    }

    /// Takes from the front of `bytes` as much as there is room for.
    pub(in super::super) fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<io::Result<usize>> {
        if matches!(self.stage, Stage::Settled) && !self.mux.has_successor() {
            return self.mux.poll_send(context, bytes);
        }
        let count = ready!(Pin::new(self).poll_write(context, bytes))?;
        drop(bytes.split_to(count));
        Poll::Ready(Ok(count))
    }
}

fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, why)
}

impl AsyncRead for Moving {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.progress(context)?;
        if this.read_ended || buffer.remaining() == 0 || ready!(this.poll_mux(context, buffer))? {
            return Poll::Ready(Ok(()));
        }
        match &this.stage {
            Stage::Offered => return Poll::Pending,
            Stage::Settled | Stage::Watched(_) | Stage::Asked(_) => {
                this.read_ended = true;
                this.note_end();
                return Poll::Ready(Ok(()));
            }
            Stage::Moved => {}
        }
        let Some(bulk) = &mut this.bulk else {
            return Poll::Ready(Err(broken("a stream that moved nowhere")));
        };
        let begin = buffer.filled().len();
        let read = Pin::new(&mut **bulk).poll_read(context, buffer);
        if read.is_pending() {
            // A session has no pings: whether its peer is alive, the mux finds out.
            this.mux.wait(context);
        }
        ready!(read)?;
        if buffer.filled().len() == begin {
            if this.write_ended {
                // Nobody would ask for it any more.
                ready!(bulk.poll_written(context))?;
            }
            this.read_ended = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Moving {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.progress(context)?;
        if this.write_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if this.is_moved()
            && let Some(bulk) = &mut this.bulk
        {
            return Pin::new(&mut **bulk).poll_write(context, bytes);
        }
        let count = ready!(Pin::new(&mut this.mux).poll_write(context, bytes))?;
        this.note_carried(count);
        Poll::Ready(Ok(count))
    }

    /// On the mux the connection's own task sends what it has; a session has none.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.progress(context)?;
        match &mut this.bulk {
            Some(bulk) => bulk.poll_written(context),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Ends our direction after what was written. The other goes on.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.progress(context)?;
        if this.is_moved()
            && let Some(bulk) = &mut this.bulk
        {
            ready!(Pin::new(&mut **bulk).poll_shutdown(context))?;
        } else if !this.write_ended {
            ready!(Pin::new(&mut this.mux).poll_shutdown(context))?;
        }
        this.write_ended = true;
        this.note_end();
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for Moving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Moving")
            .field("mux", &self.mux)
            .field("bulk", &self.bulk)
            .field("read_ended", &self.read_ended)
            .field("write_ended", &self.write_ended)
            .finish_non_exhaustive()
    }
}
