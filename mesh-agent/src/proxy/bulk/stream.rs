// SPDX-License-Identifier: Apache-2.0

//! A bulk session as a byte stream.
//!
//! Reads as much ciphertext as there is room for, opens it in place, and writes as many records as
//! a write makes with one system call. Buffers are the copy loop's, held only while bytes are under
//! way. Knows nothing of what the bytes mean.
//!
//! Invariants: the reader sees an orderly end only after the peer's close_notify, and the peer
//! sees one only if [`poll_shutdown`](AsyncWrite::poll_shutdown) was called; dropped earlier, the
//! connection is reset. Every other end is [`io::ErrorKind::ConnectionReset`].

use std::{
    collections::VecDeque,
    fmt, io,
    io::IoSlice,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    super::copy::{self, BUFFER_BYTES},
    record::{HEAD, MAX_RECORD, Opened, Records, record_length},
};
use crate::{datapath, identity::Seat};

/// How much of one write is sealed and written at once, in bytes.
const BATCH: usize = BUFFER_BYTES;

/// Slices that one system call takes, at most.
const MOST_SLICES: usize = 16;

/// A byte stream in a TLS session of its own.
pub(in super::super) struct BulkStream {
    socket: TcpStream,
    records: Records,
    incoming: Incoming,
    outgoing: Outgoing,
    end: End,
    peer_ended: bool,
    /// Ended with the stream.
    _held: Held,
}

/// Dropped with the stream, it tells who lent the connection.
pub(super) type Lent = tokio::sync::oneshot::Sender<()>;

/// What ends with the stream.
#[derive(Default)]
pub(super) struct Held {
    /// The place among the live sessions.
    _seat: Option<Seat>,
    _lent: Option<Lent>,
}

impl Held {
    pub(super) fn new(seat: Seat, lent: Option<Lent>) -> Self {
        Self {
            _seat: Some(seat),
            _lent: lent,
        }
    }
}

/// How far our direction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    No,
    /// Sealed, but not all written.
    Sealed,
    Written,
}

/// Ciphertext as it came, opened record by record.
#[derive(Default)]
struct Incoming {
    buffer: Option<Box<[u8]>>,
    /// Opened and not yet read.
    plain: Range<usize>,
    /// Where the next record begins, and where what came ends.
    sealed: Range<usize>,
}

/// Records that are to be written.
#[derive(Default)]
struct Outgoing {
    records: VecDeque<Vec<u8>>,
    /// How much of the first is written.
    written: usize,
}

impl BulkStream {
    /// A stream over `socket`, of which `ahead` were read already: opened bytes, then records.
    pub(super) fn new(
        socket: TcpStream,
        records: Records,
        ahead: (&[u8], &[u8]),
        held: Held,
    ) -> io::Result<Self> {
        datapath::break_when_closed(&socket);
        Ok(Self {
            socket,
            records,
            incoming: Incoming::with(ahead.0, ahead.1)?,
            outgoing: Outgoing::default(),
            end: End::No,
            peer_ended: false,
            _held: held,
        })
    }

    /// Sends a few bytes soon: at once if the socket takes them, else before what is written next.
    pub(super) fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.records.seal(bytes, &mut self.outgoing.records)?;
        while let Some(first) = self.outgoing.records.front() {
            match self.socket.try_write(&first[self.outgoing.written..]) {
                Ok(count) => self.outgoing.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(reset(error)),
            }
        }
        Ok(())
    }

    /// Closes in order a session that carries nothing: what was said still arrives.
    pub(super) fn part(self) {
        datapath::end_when_closed(&self.socket);
    }

    /// Begins to end our direction in order; [`AsyncWrite::poll_flush`] carries that out.
    pub(super) fn begin_end(&mut self) -> io::Result<()> {
        if self.end == End::No {
            self.records.seal_end(&mut self.outgoing.records)?;
            self.end = End::Sealed;
        }
        Ok(())
    }

    /// Writes what is sealed, and ends our direction if that was the last of it.
    pub(super) fn poll_written(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.outgoing.poll_write(context, &mut self.socket)).map_err(reset)?;
        if self.end == End::Sealed {
            ready!(Pin::new(&mut self.socket).poll_shutdown(context)).map_err(reset)?;
            self.end = End::Written;
            self.note_ends();
        }
        Poll::Ready(Ok(()))
    }

    /// Both directions have ended in order: nothing is lost by closing.
    fn note_ends(&self) {
        if self.peer_ended && self.end == End::Written {
            datapath::end_when_closed(&self.socket);
        }
    }

    /// Opens records until there are bytes to read or the peer has ended.
    fn poll_opened(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.incoming.plain.is_empty() && !self.peer_ended {
            let Some(record) = self.incoming.record()? else {
                ready!(self.incoming.poll_fill(context, &mut self.socket)).map_err(reset)?;
                continue;
            };
            let begin = record.start;
            match self.records.open(self.incoming.bytes(record))? {
                Opened::Bytes(count) => self.incoming.plain = begin + HEAD..begin + HEAD + count,
                Opened::Nothing => {}
                Opened::End => {
                    self.peer_ended = true;
                    self.incoming = Incoming::default();
                    self.note_ends();
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// However a session breaks, for its user it was reset.
fn reset(error: io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl Incoming {
    fn with(opened: &[u8], records: &[u8]) -> io::Result<Self> {
        let length = opened.len() + records.len();
        if length > BUFFER_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if length == 0 {
            return Ok(Self::default());
        }
        let mut buffer = copy::take_buffer();
        buffer[..opened.len()].copy_from_slice(opened);
        buffer[opened.len()..length].copy_from_slice(records);
        Ok(Self {
            buffer: Some(buffer),
            plain: 0..opened.len(),
            sealed: opened.len()..length,
        })
    }

    /// The next record, if it is whole; it counts as taken then.
    fn record(&mut self) -> io::Result<Option<Range<usize>>> {
        let Some(buffer) = &self.buffer else {
            return Ok(None);
        };
        let length = record_length(&buffer[self.sealed.clone()])?;
        let Some(length) = length.filter(|length| *length <= self.sealed.len()) else {
            return Ok(None);
        };
        let record = self.sealed.start..self.sealed.start + length;
        self.sealed.start = record.end;
        Ok(Some(record))
    }

    fn bytes(&mut self, range: Range<usize>) -> &mut [u8] {
        let buffer = self.buffer.as_mut().expect("what came is in a buffer");
        &mut buffer[range]
    }

    /// Reads what there is room for behind what came, of which no record is whole.
    fn poll_fill(
        &mut self,
        context: &mut Context<'_>,
        socket: &mut TcpStream,
    ) -> Poll<io::Result<()>> {
        let buffer = self.buffer.get_or_insert_with(copy::take_buffer);
        if buffer.len() - self.sealed.start < MAX_RECORD {
            buffer.copy_within(self.sealed.clone(), 0);
            self.sealed = 0..self.sealed.len();
        }
        let mut target = ReadBuf::new(&mut buffer[self.sealed.end..]);
        let read = Pin::new(socket).poll_read(context, &mut target);
        let count = target.filled().len();
        if read.is_pending() && self.sealed.is_empty() {
            self.release();
        }
        ready!(read)?;
        if count == 0 {
            // Nobody but the peer's TLS can say that this is all.
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.sealed.end += count;
        Poll::Ready(Ok(()))
    }

    /// Moves opened bytes to a reader.
    fn read(&mut self, target: &mut ReadBuf<'_>) {
        let count = self.plain.len().min(target.remaining());
        let Some(buffer) = &self.buffer else {
            return;
        };
        target.put_slice(&buffer[self.plain.start..self.plain.start + count]);
        self.plain.start += count;
        if self.plain.is_empty() && self.sealed.is_empty() {
            self.release();
        }
    }

    fn release(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            copy::give_buffer(buffer);
        }
        (self.plain, self.sealed) = (0..0, 0..0);
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.release();
    }
}

impl Outgoing {
    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        socket: &mut TcpStream,
    ) -> Poll<io::Result<()>> {
        while !self.records.is_empty() {
            let mut slices = [IoSlice::new(&[]); MOST_SLICES];
            let mut used = 0;
            let mut skip = self.written;
            for (slice, record) in slices.iter_mut().zip(&self.records) {
                *slice = IoSlice::new(&record[std::mem::take(&mut skip)..]);
                used += 1;
            }
            let written = Pin::new(&mut *socket).poll_write_vectored(context, &slices[..used]);
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.advance(count),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(first) = self.records.front() {
            let rest = first.len() - self.written;
            if count < rest {
                self.written += count;
                return;
            }
            count -= rest;
            self.written = 0;
            self.records.pop_front();
        }
    }
}

impl AsyncRead for BulkStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let begin = buffer.filled().len();
        while buffer.remaining() > 0 && !this.peer_ended {
            match this.poll_opened(context) {
                Poll::Ready(Ok(())) => this.incoming.read(buffer),
                // What was opened before is handed on first.
                Poll::Ready(Err(_)) | Poll::Pending if buffer.filled().len() > begin => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(reset(error))),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BulkStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.end != End::No {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(this.outgoing.poll_write(context, &mut this.socket)).map_err(reset)?;
        let bytes = &bytes[..bytes.len().min(BATCH)];
        this.records.seal(bytes, &mut this.outgoing.records)?;
        match this.outgoing.poll_write(context, &mut this.socket) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(reset(error))),
            // What is sealed goes out before anything else does.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(bytes.len())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_written(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.begin_end()?;
        this.poll_written(context)
    }
}

impl fmt::Debug for BulkStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkStream")
            .field("end", &self.end)
            .field("peer_ended", &self.peer_ended)
            .finish_non_exhaustive()
    }
}
