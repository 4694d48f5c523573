// SPDX-License-Identifier: Apache-2.0

//! Accepts clients and speaks HTTP/1 with them, within limits.
//!
//! Knows nothing of what is asked. Invariant: at most [`CLIENTS_MAX`] clients at a time on each
//! listener, each for at most [`EXCHANGE`]; others wait in the kernel's queue.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use http::{Method, Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore},
};

use super::{
    answer::{self, Scope},
    body::Body,
    hand_over,
    views::Views,
};
use crate::tasks::Tasks;

/// Clients at the same time, on one listener.
const CLIENTS_MAX: usize = 8;

/// The time a client has from being accepted to having its answer.
const EXCHANGE: Duration = Duration::from_secs(10);

/// What is left of that when the drain begins.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// A request head is a line and a few headers.
const HEAD_MAX_BYTES: usize = 16 * 1024;

/// How long accepting rests after an error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where clients come from.
#[derive(Debug)]
pub(super) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Accepts until the drain begins.
pub(super) async fn accept(listener: Listener, scope: Scope, views: Arc<Views>, tasks: Tasks) {
    let drain = tasks.drain();
    let permits = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let permit = Arc::clone(&permits).acquire_owned();
        // All arms are cancel-safe: a client stays in the kernel's queue until it is accepted, and
        // the drain stays requested.
        let accepted = tokio::select! {
            accepted = admit(&listener, scope, permit, &views, &tasks) => accepted,
            () = drain.requested() => return,
            () = views.hand_over.closed() => return,
        };
        if let Err(error) = accepted {
            tracing::warn!(%error, "accepting an admin client");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

async fn admit(
    listener: &Listener,
    scope: Scope,
    permit: impl Future<Output = Result<OwnedSemaphorePermit, AcquireError>>,
    views: &Arc<Views>,
    tasks: &Tasks,
) -> io::Result<()> {
    let permit = permit.await.map_err(io::Error::other)?;
    let (views, exchange_tasks) = (Arc::clone(views), tasks.clone());
    match listener {
        Listener::Unix(listener) => {
            let (client, _) = listener.accept().await?;
            // The socket's mode says so already; it can be changed by whoever owns it.
            let uid = client.peer_cred()?.uid();
            if uid != 0 && uid != hand_over::own_uid()? {
                tracing::warn!(uid, "another user is at the admin socket");
                return Ok(());
            }
            tasks.spawn("admin-client", async move {
                let _permit = permit;
                exchange(client, scope, views, exchange_tasks).await;
            });
        }
        Listener::Tcp(listener) => {
            let (client, _) = listener.accept().await?;
            tasks.spawn("admin-client", async move {
                let _permit = permit;
                exchange(client, scope, views, exchange_tasks).await;
            });
        }
    }
    Ok(())
}

/// One request and its answer.
pub(super) async fn exchange(
    client: impl AsyncRead + AsyncWrite + Unpin,
    scope: Scope,
    views: Arc<Views>,
    tasks: Tasks,
) {
    let drain = tasks.drain();
    let service = service_fn(|request: Request<Incoming>| {
        let (views, tasks) = (Arc::clone(&views), tasks.clone());
        async move { Ok::<_, Infallible>(respond(request, scope, views, tasks).await) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .half_close(true)
        .max_buf_size(HEAD_MAX_BYTES)
        .timer(TokioTimer::new())
        .header_read_timeout(EXCHANGE)
        .serve_connection(TokioIo::new(client), service);
    let leave = async {
        // A client that is being answered when the drain begins may have the rest.
        drain.requested().await;
        tokio::time::sleep(LAST_ANSWER).await;
    };
    // Cancelling the exchange closes it, which is what both limits are for.
    tokio::select! {
        ended = tokio::time::timeout(EXCHANGE, connection) => match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "an admin client went away"),
            Err(_elapsed) => tracing::debug!("an admin client was too slow"),
        },
        () = leave => tracing::debug!("an admin client was too slow for the drain"),
    }
}

/// Composes the answer on a thread where reading the kernel may block.
async fn respond(
    request: Request<Incoming>,
    scope: Scope,
    views: Arc<Views>,
    tasks: Tasks,
) -> Response<Body> {
    let (head, _body) = request.into_parts();
    if scope == Scope::All && head.uri.path() == answer::HAND_OVER && head.method == Method::POST {
        return answer::hand_over(&head.uri, &views).await;
    }
    let blocking = tasks.clone();
    blocking
        .blocking("admin-answer", move || {
            answer::answer(&head.method, &head.uri, scope, &views, &tasks)
        })
        .await
        .unwrap_or_else(answer::panicked)
}
