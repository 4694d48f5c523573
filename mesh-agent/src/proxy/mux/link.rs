// SPDX-License-Identifier: Apache-2.0

//! Runs a session over a byte stream, on one thread.
//!
//! The driver is woken by the first frame that is queued, and before it writes it lets the thread look
//! once for what else has come meanwhile: what all those tasks queue is sealed and written at once.
//! Knows nothing of who the peer is.
//!
//! Invariants: no waker is woken and nothing foreign is called while the session is borrowed; when
//! the driver is gone, the session has ended. A client ends its direction after the last stream, and
//! reads the server's to its end: closed with unread bytes, a socket may lose what it still has to
//! send.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use http::StatusCode;
use tokio::io::{AsyncBufRead, AsyncWrite};

use super::{
    super::{
        budgets::{Ledger, Loan},
        bulk::BulkStream,
    },
    MuxLimits,
    frame::{Frame, Open},
    number::ByNumber,
    session::{MuxError, Role, Session, Unopened},
    state::keep,
    stream::MuxStream,
};

/// How much is sealed and written at once, in bytes.
const BATCH: usize = 64 * 1024;

/// How often is read before others have their turn.
const READS: usize = 4;

/// How much is written before others have their turn, in batches.
const WRITES: usize = 2;

/// How a connection ends that the peer closed; it need not have been told so by TLS.
const CLOSES: [io::ErrorKind; 3] = [
    io::ErrorKind::UnexpectedEof,
    io::ErrorKind::ConnectionReset,
    io::ErrorKind::BrokenPipe,
];

/// How many unused buffers a thread keeps.
const SPARE_BUFFERS: usize = 4;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A session, and who is to be woken when it has something to send.
pub(super) struct Shared {
    session: RefCell<Session>,
    driver: Cell<Option<Waker>>,
    /// Room for those who are to be woken, so that a wake-up takes no memory.
    woken: Cell<Vec<Waker>>,
    /// What the peer began to continue streams in, until they look.
    successors: RefCell<ByNumber<Box<BulkStream>>>,
}

/// Runs a session. Dropped, it ends it.
pub(in super::super) struct Driver<Io> {
    io: Io,
    shared: Rc<Shared>,
    out: Vec<u8>,
    /// How much of `out` is written.
    written: usize,
    is_flushed: bool,
    /// Others had the chance to queue something, too.
    has_waited: bool,
    /// Our direction has ended.
    is_shut_down: bool,
}

/// Opens streams. Clones share the session.
#[derive(Clone)]
pub(in super::super) struct Opener(Rc<Shared>);

/// A stream that the peer opened. Dropped, it is reset.
#[derive(Debug)]
pub(in super::super) struct Incoming {
    pub(in super::super) open: Open,
    stream: MuxStream,
}

/// Hands streams what the peer continues them in.
pub(in super::super) struct Attacher(Rc<Shared>);

/// Finds out whether the peer still answers.
pub(in super::super) struct Pings {
    shared: Rc<Shared>,
    last: u64,
}

/// The client's end of a mux over `io`.
pub(in super::super) fn client<Io>(io: Io, limits: MuxLimits) -> (Opener, Driver<Io>) {
    let driver = Driver::new(io, Session::new(Role::Client, limits));
    (Opener(Rc::clone(&driver.shared)), driver)
}

/// The server's end of a mux over `io`.
pub(in super::super) fn server<Io>(io: Io, limits: MuxLimits) -> Driver<Io> {
    Driver::new(io, Session::new(Role::Server, limits))
}

impl Shared {
    /// Lends the session out, then wakes whom that concerns.
    pub(super) fn with<T>(&self, uses: impl FnOnce(&mut Session) -> T) -> T {
        let mut session = self.session.borrow_mut();
        let result = uses(&mut session);
        let concerns_driver =
            session.wants_to_send() || session.is_finished() || session.ended.is_some();
        let mut woken = Vec::new();
        if !session.woken.is_empty() {
            woken = self.woken.take();
            std::mem::swap(&mut woken, &mut session.woken);
        }
        drop(session);
        if !woken.is_empty() {
            woken.drain(..).for_each(Waker::wake);
            self.woken.set(woken);
        }
        if concerns_driver && let Some(driver) = self.driver.take() {
            driver.wake();
        }
        result
    }
}

impl Shared {
    pub(super) fn has_successor(&self, id: u32) -> bool {
        self.successors.borrow().contains_key(&id)
    }

    pub(super) fn successor(&self, id: u32) -> Option<Box<BulkStream>> {
        self.successors.borrow_mut().remove(&id)
    }

    /// Whether the peer is not known to be gone.
    pub(super) fn check(&self) -> Result<(), MuxError> {
        match &self.session.borrow().ended {
            Some(error @ MuxError::Silent) => Err(error.clone()),
            _ => Ok(()),
        }
    }
}

impl Attacher {
    /// Whether the peer may continue its stream `id` elsewhere.
    pub(in super::super) fn may_attach(&self, id: u32) -> bool {
        self.0.session.borrow().may_move(id) && !self.0.has_successor(id)
    }

    /// Hands its stream `id` what the peer continues it in.
    pub(in super::super) fn attach(&self, id: u32, successor: Box<BulkStream>) {
        self.0.successors.borrow_mut().insert(id, successor);
        self.0.with(|session| session.wake(id));
    }
}

impl<Io> Driver<Io> {
    fn new(io: Io, session: Session) -> Self {
        Self {
            io,
            shared: Rc::new(Shared {
                session: RefCell::new(session),
                driver: Cell::new(None),
                woken: Cell::default(),
                successors: RefCell::default(),
            }),
            out: Vec::new(),
            written: 0,
            is_flushed: true,
            has_waited: false,
            is_shut_down: false,
        }
    }

    /// From now on what its streams may hold beyond the least is lent by `ledger`.
    pub(in super::super) fn borrow_from(&self, ledger: &Arc<Ledger>) {
        self.shared.with(|session| session.loan = Loan::of(ledger));
    }

    /// The means to ping the peer.
    pub(in super::super) fn pings(&self) -> Pings {
        Pings {
            shared: Rc::clone(&self.shared),
            last: 0,
        }
    }

    /// The means to continue streams elsewhere.
    pub(in super::super) fn attacher(&self) -> Attacher {
        Attacher(Rc::clone(&self.shared))
    }

    /// Whether nothing is under way, here or on streams that go on elsewhere.
    pub(in super::super) fn is_idle(&self) -> bool {
        let session = self.shared.session.borrow();
        session.live + session.moved == 0
    }

    /// Ends a session whose peer does not answer.
    pub(in super::super) fn give_up(&self) {
        self.shared.with(|session| session.end(&MuxError::Silent));
    }

    /// Asks the peer to open no more streams, and to end with the last one.
    pub(in super::super) fn close(&self) {
        self.shared.with(Session::close);
    }

    /// The next stream that the peer opened. Ask after every [`Driver::poll`].
    pub(in super::super) fn arrival(&self) -> Option<Incoming> {
        let (id, open) = self.shared.with(Session::next_arrival)?;
        let stream = MuxStream::new(Rc::clone(&self.shared), id);
        Some(Incoming { open, stream })
    }
}

impl<Io: AsyncBufRead + AsyncWrite + Unpin> Driver<Io> {
    /// Moves what can be moved; ready when the session has ended.
    pub(in super::super) fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), MuxError>> {
        // Nobody needs to wake us while we are at it.
        self.shared.driver.take();
        let moved = match self.poll_receive(context) {
            Poll::Ready(ended) => Poll::Ready(ended),
            Poll::Pending => self.poll_send(context),
        };
        match moved {
            Poll::Ready(ended) => {
                let error = ended.as_ref().err().unwrap_or(&MuxError::Closed);
                self.shared.with(|session| session.end(error));
                Poll::Ready(ended)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Reads; ready when the session has ended.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Result<(), MuxError>> {
        for _ in 0..READS {
            let bytes = match ready!(Pin::new(&mut self.io).poll_fill_buf(context)) {
                Ok(bytes) if !bytes.is_empty() => bytes,
                Ok(_end) => return Poll::Ready(self.ended_by(MuxError::Ended)),
                Err(error) => return Poll::Ready(self.ended_by(broken(error))),
            };
            let count = bytes.len();
            if !self.is_shut_down
                && let Err(error) = self.shared.with(|session| session.receive(bytes))
            {
                self.accuse(context);
                return Poll::Ready(Err(error));
            }
            Pin::new(&mut self.io).consume(count);
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// The end of the connection is that of a session only if there is nothing under way.
    fn ended_by(&self, error: MuxError) -> Result<(), MuxError> {
        let is_close = match &error {
            MuxError::Ended => true,
            MuxError::Io(error) => CLOSES.contains(&error.kind()),
            _ => false,
        };
        let is_idle = self.shared.with(|session| {
            let was_useful = session.role == Role::Server || session.is_greeted;
            session.live == 0 && was_useful
        });
        if is_close && is_idle {
            Ok(())
        } else {
            Err(error)
        }
    }

    /// Writes; ready when the connection broke.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<Result<(), MuxError>> {
        if self.is_shut_down {
            return Poll::Pending;
        }
        ready!(self.poll_others(context));
        if let Err(error) = ready!(self.poll_write_all(context)) {
            return Poll::Ready(self.ended_by(broken(error)));
        }
        if !self.shared.with(|session| session.is_finished()) {
            self.shared.driver.set(Some(context.waker().clone()));
            return Poll::Pending;
        }
        match ready!(Pin::new(&mut self.io).poll_shutdown(context)) {
            Ok(()) => {
                self.is_shut_down = true;
                // What remains is to read to the peer's end.
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Err(error) => Poll::Ready(self.ended_by(broken(error))),
        }
    }

    /// Lets whoever is ready by now queue what he has, once for each time that there is something to
    /// write: a segment of its own costs far more than that look.
    fn poll_others(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let wants = self.out.is_empty() && self.shared.with(|session| session.wants_to_send());
        if wants && !self.has_waited {
            self.has_waited = true;
            // Only asked for its wake-up, which comes behind the next look at all sockets.
            return pin!(tokio::task::yield_now()).poll(context);
        }
        self.has_waited = false;
        Poll::Ready(())
    }

    /// Writes all that is queued, and flushes.
    fn poll_write_all(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..=WRITES {
            while self.written < self.out.len() {
                let rest = &self.out[self.written..];
                let count = ready!(Pin::new(&mut self.io).poll_write(context, rest))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.written += count;
                self.is_flushed = false;
            }
            self.out.clear();
            self.written = 0;
            if !self.shared.with(|session| session.wants_to_send()) {
                return self.poll_flushed(context);
            }
            if self.out.capacity() == 0 {
                self.out = take_buffer();
            }
            let (shared, out) = (&self.shared, &mut self.out);
            shared.with(|session| session.fill(out, BATCH));
            // Who was woken by that may queue more: that is for the next time.
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_flushed(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        give_buffer(std::mem::take(&mut self.out));
        if !self.is_flushed {
            ready!(Pin::new(&mut self.io).poll_flush(context))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the peer what it did, if that can be done at once.
    fn accuse(&mut self, context: &mut Context<'_>) {
        self.shared.with(Session::accuse);
        if self.poll_write_all(context).is_pending() {
            tracing::debug!("a peer that broke the protocol was not told");
        }
    }
}

impl<Io> Drop for Driver<Io> {
    fn drop(&mut self) {
        self.shared.with(|session| session.end(&MuxError::Closed));
    }
}

impl Opener {
    /// Whether a stream besides the `taken` ones, of which not all need be open yet, can be opened.
    pub(in super::super) fn has_place(&self, taken: usize) -> bool {
        let session = self.0.session.borrow();
        session.has_place() && taken < session.peer_takes
    }

    /// Whether the peer said that it takes no more streams.
    pub(in super::super) fn is_going(&self) -> bool {
        self.0.session.borrow().is_going
    }

    /// Whether the peer has said hello: then it has accepted us.
    pub(in super::super) fn is_greeted(&self) -> bool {
        self.0.session.borrow().is_greeted
    }

    /// Opens no more streams; the session ends with the last one.
    pub(in super::super) fn close(&self) {
        self.0.with(Session::close);
    }

    /// Opens a stream and waits for the answer; gives the peer's baggage, too. Cancel-safe: a
    /// stream that is not waited for any more is reset.
    pub(in super::super) async fn open(
        &self,
        open: Open,
    ) -> Result<(MuxStream, Option<String>), Unopened> {
        let id = self.0.with(|session| session.open(open))?;
        let stream = MuxStream::new(Rc::clone(&self.0), id);
        let answer = poll_fn(|context| self.0.with(|session| session.poll_answer(id, context)));
        let baggage = answer.await?;
        Ok((stream, baggage))
    }
}

impl Incoming {
    /// Accepts the stream; if the peer gave up meanwhile, its first use says so.
    pub(in super::super) fn accept(self, baggage: Option<String>) -> MuxStream {
        let (shared, id) = self.stream.parts();
        shared.with(|session| session.accept(id, baggage));
        self.stream
    }

    /// Refuses the stream.
    pub(in super::super) fn refuse(self, status: StatusCode) {
        let (shared, id) = self.stream.parts();
        shared.with(|session| session.refuse(id, status));
    }
}

impl Pings {
    /// Pings the peer.
    pub(in super::super) fn ping(&mut self) {
        self.last += 1;
        let token = self.last;
        self.shared.with(|session| {
            session.heard = false;
            session.push(Frame::Ping(token));
        });
    }

    /// Ready when anything came since the last ping: a pong may have to wait behind much else.
    pub(in super::super) fn poll_pong(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.shared.with(|session| {
            if session.heard {
                return Poll::Ready(());
            }
            keep(&mut session.listener, context);
            Poll::Pending
        })
    }
}

fn broken(error: io::Error) -> MuxError {
    MuxError::Io(Arc::new(error))
}

fn take_buffer() -> Vec<u8> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Keeps a buffer for whoever on this thread writes next.
fn give_buffer(buffer: Vec<u8>) {
    if buffer.capacity() == 0 {
        return;
    }
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

impl<Io> fmt::Debug for Driver<Io> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
