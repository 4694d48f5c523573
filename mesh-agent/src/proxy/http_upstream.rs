// SPDX-License-Identifier: Apache-2.0

//! HTTP connections to endpoints: opened, driven in a task of their own, ended in order.
//!
//! An HTTP/1.1 connection that switches protocols hands its bytes to whoever asked for that.
//! Knows nothing of pools and routes. Invariant: a connection that broke in the middle of an
//! exchange is reset, so that the endpoint never takes half a request for a whole one.

use std::{cell::RefCell, future::poll_fn, rc::Rc};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
    rt::Executor,
};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use super::{
    copy::Abort,
    http_body::RequestBody,
    http_ending::{Ending, UpstreamEnd},
    stream::{self, Prefixed, Upstream},
    tunnel_link::Going,
};
use crate::tasks::Tasks;

/// Flow control of HTTP/2, per stream: what a reader that stops may hold.
pub(crate) const STREAM_WINDOW: u32 = 256 * 1024;

/// Flow control of HTTP/2, per connection: far more than a stream, so that readers that stop do
/// not stall the others.
pub(crate) const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// A request that got no answer, and itself if nothing of it was sent.
pub(crate) type Unanswered = Box<TrySendError<Request<RequestBody>>>;

/// Where the bytes of a connection go that switches protocols.
type Switch = Rc<RefCell<Option<oneshot::Sender<Prefixed<Upstream>>>>>;

/// An HTTP/1.1 connection to an endpoint, for one exchange at a time.
pub(crate) struct Http1 {
    sender: http1::SendRequest<RequestBody>,
    switch: Switch,
    ending: Rc<Ending>,
    going: Going,
    exchanges: u32,
}

/// The HTTP/2 connection to an endpoint, for any number of exchanges.
#[derive(Clone)]
pub(crate) struct Http2 {
    sender: http2::SendRequest<RequestBody>,
    going: Going,
}

/// How large the head of an answer of HTTP/1 may be, and what may wait to be read or written beside it.
pub(crate) const MAX_HTTP1_BUFFER: usize = 128 * 1024;

/// Runs HTTP/2's tasks on the current data thread.
#[derive(Clone, Debug)]
pub(crate) struct Local(pub(crate) Tasks);

impl<F: Future<Output = ()> + 'static> Executor<F> for Local {
    fn execute(&self, task: F) {
        self.0.spawn_local("http/2", task);
    }
}

/// Speaks HTTP/1.1 on `upstream`.
pub(crate) async fn http1(tasks: &Tasks, upstream: Upstream) -> hyper::Result<Http1> {
    let ending = Rc::new(Ending::default());
    let going = upstream.going();
    let (sender, connection) = http1::Builder::new()
        .preserve_header_case(true)
        .max_buf_size(MAX_HTTP1_BUFFER)
        .handshake(TokioIo::new(UpstreamEnd::new(upstream, Rc::clone(&ending))))
        .await?;
    let switch = Switch::default();
    tasks.spawn_local(
        "upstream http/1",
        drive(connection, Rc::clone(&switch), Rc::clone(&ending)),
    );
    Ok(Http1 {
        sender,
        switch,
        ending,
        going,
        exchanges: 0,
    })
}

/// Speaks HTTP/2 on `upstream`.
pub(crate) async fn http2(tasks: &Tasks, upstream: Upstream) -> hyper::Result<Http2> {
    let going = upstream.going();
    let (sender, connection) = http2::Builder::new(Local(tasks.clone()))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_reset_streams(1024)
        .handshake(TokioIo::new(upstream))
        .await?;
    tasks.spawn_local("upstream http/2", async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "http/2 connection to an endpoint broke");
        }
    });
    Ok(Http2 { sender, going })
}

async fn drive(
    mut connection: http1::Connection<TokioIo<UpstreamEnd>, RequestBody>,
    switch: Switch,
    ending: Rc<Ending>,
) {
    let ended = poll_fn(|context| connection.poll_without_shutdown(context)).await;
    let parts = connection.into_parts();
    let upstream = parts.io.into_inner().into_inner();
    if let Err(error) = &ended {
        tracing::debug!(%error, "http/1 connection to an endpoint broke");
    }
    if ended.is_err() || ending.is_cut_short() {
        upstream.abort();
        return;
    }
    let wanted = switch.borrow_mut().take();
    match wanted {
        Some(wanted) => {
            // Whoever wanted it may have gone; then it is dropped, and reset.
            drop(wanted.send(Prefixed::new(parts.read_buf, upstream)));
        }
        None => stream::linger(upstream).await,
    }
}

impl Http2 {
    /// Whether the connection should take no further request.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed() || self.going.is_set()
    }

    /// Sends a request; gives it back if nothing of it was sent.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Unanswered> {
        let sending = self.sender.try_send_request(request);
        sending.await.map_err(Box::new)
    }
}

impl Http1 {
    /// Whether the connection should take no further request.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed() || self.ending.is_asked() || self.going.is_set()
    }

    /// How many requests were sent.
    pub(crate) fn exchanges(&self) -> u32 {
        self.exchanges
    }

    /// Tells the endpoint that the client has ended its side.
    pub(crate) fn ending(&self) -> &Rc<Ending> {
        &self.ending
    }

    /// Resolves when a request can be sent; fails if the connection has ended.
    pub(crate) async fn ready(&mut self) -> hyper::Result<()> {
        self.sender.ready().await
    }

    /// Sends a request; gives it back if nothing of it was sent.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Unanswered> {
        self.exchanges = self.exchanges.saturating_add(1);
        let sending = self.sender.try_send_request(request);
        sending.await.map_err(Box::new)
    }

    /// Asks for the connection's bytes once it has switched protocols.
    pub(crate) fn switching(&self) -> oneshot::Receiver<Prefixed<Upstream>> {
        let (sender, receiver) = oneshot::channel();
        self.switch.replace(Some(sender));
        receiver
    }

    /// Takes the wish of [`Http1::switching`] back.
    pub(crate) fn stay(&self) {
        self.switch.replace(None);
    }
}
