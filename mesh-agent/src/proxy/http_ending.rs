// SPDX-License-Identifier: Apache-2.0

//! A client that ends its side while it waits for an answer, and the endpoint that is told so.
//!
//! Without a proxy the endpoint would see the client's FIN behind the request: some cancel then,
//! others answer all the same. So a half-close is passed on behind the request, and is no
//! reason to give up the answer. hyper would end the exchange instead; hence it does not see
//! the client's end until the exchange is over.
//!
//! Knows nothing of HTTP but where a request ends. Invariant: nothing is ended before the whole request is
//! out.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use super::{
    http_body::Progress,
    stream::{Prefixed, Upstream},
};

/// How long a body may stand still behind the client's end before it counts as cut short.
const STANDSTILL: Duration = Duration::from_secs(1);

/// What a client waits for, if it does.
#[derive(Default)]
pub(crate) struct Waiting {
    /// The client has ended its side.
    ended: Cell<bool>,
    request: RefCell<Option<Request>>,
    /// Of hyper, which does not know yet that the client has ended its side.
    waker: Cell<Option<Waker>>,
    /// How many requests have come.
    begun: Cell<u64>,
    /// Something of the next one has come.
    ahead: Cell<bool>,
    /// Something of an answer waits for the client.
    unflushed: Cell<bool>,
}

struct Request {
    progress: Option<Rc<Progress>>,
    upstream: Option<Rc<Ending>>,
}

/// Tells a connection to an endpoint that no more requests follow.
#[derive(Default)]
pub(crate) struct Ending {
    asked: Cell<bool>,
    /// Something of the request at hand has been written.
    begun: Cell<bool>,
    /// The body of the request at hand, if it has one.
    progress: RefCell<Option<Rc<Progress>>>,
    waker: RefCell<Option<Waker>>,
}

/// The client's socket as hyper sees it.
pub(crate) struct ClientEnd<Client> {
    inner: Prefixed<Client>,
    waiting: Rc<Waiting>,
    standstill: Option<(Pin<Box<Sleep>>, u64)>,
}

/// The endpoint's stream as hyper sees it.
pub(crate) struct UpstreamEnd {
    inner: Upstream,
    ending: Rc<Ending>,
    unflushed: bool,
    ended: bool,
}

impl Waiting {
    /// A request has come, with a body if there is `progress`.
    pub(crate) fn begin(&self, progress: Option<Rc<Progress>>) {
        self.begun.set(self.begun.get() + 1);
        self.ahead.set(false);
        self.request.replace(Some(Request {
            progress,
            upstream: None,
        }));
    }

    /// The request is being sent over the connection of `upstream`.
    pub(crate) fn attach(&self, upstream: &Rc<Ending>) {
        upstream.begun.set(false);
        if let Some(request) = &mut *self.request.borrow_mut() {
            upstream.progress.replace(request.progress.clone());
            request.upstream = Some(Rc::clone(upstream));
        }
        self.tell();
    }

    /// The exchange is over.
    pub(crate) fn end(&self) {
        self.request.replace(None);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The number of the head that has begun and is waited for, if one is. What came together with the end of an
    /// earlier request is not seen as one before more of it comes.
    pub(crate) fn head(&self) -> Option<u64> {
        let waits = self.ahead.get() && !self.unflushed.get() && self.request.borrow().is_none();
        waits.then(|| self.begun.get())
    }

    /// These bytes came, of a request or before one.
    fn read(&self, bytes: &[u8]) {
        let request = self.request.borrow();
        // Line ends may stand between requests.
        if request.as_ref().is_none_or(Request::has_come)
            && !bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
        {
            self.ahead.set(true);
        }
    }

    /// Whether the client has ended its side while it waited.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Passes the client's end on, if it has come and the whole request is on its way.
    pub(crate) fn tell(&self) {
        if let Some(request) = &*self.request.borrow()
            && self.ended.get()
            && request.is_whole()
            && let Some(upstream) = &request.upstream
        {
            upstream.ask();
        }
    }
}

impl Request {
    fn is_whole(&self) -> bool {
        let ended = |progress: &Rc<Progress>| progress.has_ended();
        self.progress.as_ref().is_none_or(ended)
    }

    /// All of it has come, if it has not gone on yet.
    fn has_come(&self) -> bool {
        let come = |progress: &Rc<Progress>| progress.has_come();
        self.progress.as_ref().is_none_or(come)
    }

    fn bytes(&self) -> u64 {
        let bytes = |progress: &Rc<Progress>| progress.bytes();
        self.progress.as_ref().map_or(0, bytes)
    }
}

impl Ending {
    fn ask(&self) {
        if !self.asked.replace(true)
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }

    /// Whether the connection can take no further request.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.get()
    }

    /// Whether a request was begun that has not been passed on to its end.
    pub(crate) fn is_cut_short(&self) -> bool {
        let unended = |progress: &Rc<Progress>| !progress.has_ended();
        self.progress.borrow().as_ref().is_some_and(unended)
    }
}

impl<Client> ClientEnd<Client> {
    /// Wraps the client's stream.
    pub(crate) fn new(inner: Prefixed<Client>, waiting: Rc<Waiting>) -> Self {
        Self {
            inner,
            waiting,
            standstill: None,
        }
    }

    /// The client's stream.
    pub(crate) fn into_inner(self) -> Prefixed<Client> {
        self.inner
    }

    /// The client has ended its side: ready if hyper may know.
    fn poll_ended(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let request = self.waiting.request.borrow();
        let Some(request) = &*request else {
            return Poll::Ready(Ok(()));
        };
        self.waiting.waker.set(Some(context.waker().clone()));
        if request.has_come() {
            return Poll::Pending;
        }
        // Either the end of the body is still on its way to the endpoint, or it will never come.
        let bytes = request.bytes();
        let (timer, seen) = self
            .standstill
            .get_or_insert_with(|| (Box::pin(tokio::time::sleep(STANDSTILL)), bytes));
        while timer.as_mut().poll(context).is_ready() {
            if *seen == bytes {
                return Poll::Ready(Ok(()));
            }
            *seen = bytes;
            timer.set(tokio::time::sleep(STANDSTILL));
        }
        Poll::Pending
    }
}

impl UpstreamEnd {
    /// Wraps a stream to an endpoint.
    pub(crate) fn new(inner: Upstream, ending: Rc<Ending>) -> Self {
        Self {
            inner,
            ending,
            unflushed: false,
            ended: false,
        }
    }

    /// The stream.
    pub(crate) fn into_inner(self) -> Upstream {
        self.inner
    }

    /// Ends our side once the whole request is out.
    fn poll_end(&mut self, context: &mut Context<'_>) {
        let ready = self.ending.asked.get() && self.ending.begun.get() && !self.unflushed;
        if ready && !self.ended {
            // An error shows when the answer is read.
            self.ended = Pin::new(&mut self.inner).poll_shutdown(context).is_ready();
        }
    }
}

impl<Client: AsyncRead + Unpin> AsyncRead for ClientEnd<Client> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.waiting.ended.get() {
            let before = buffer.filled().len();
            let read = Pin::new(&mut self.inner).poll_read(context, buffer);
            let at_end = matches!(read, Poll::Ready(Ok(()))) && buffer.filled().len() == before;
            if !at_end {
                self.waiting.read(&buffer.filled()[before..]);
                return read;
            }
            self.waiting.ended.set(true);
        }
        self.waiting.tell();
        self.poll_ended(context)
    }
}

impl<Client: AsyncWrite + Unpin> AsyncWrite for ClientEnd<Client> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.waiting.unflushed.set(true);
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.waiting.unflushed.set(false);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.waiting.unflushed.set(true);
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl AsyncRead for UpstreamEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_end(context);
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        if read.is_pending() && !self.ended {
            let mut waker = self.ending.waker.borrow_mut();
            if !waker
                .as_ref()
                .is_some_and(|known| known.will_wake(context.waker()))
            {
                *waker = Some(context.waker().clone());
            }
        }
        read
    }
}

impl AsyncWrite for UpstreamEnd {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.unflushed = true;
        self.ending.begun.set(true);
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.unflushed = false;
            self.poll_end(context);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.unflushed = true;
        self.ending.begun.set(true);
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
