// SPDX-License-Identifier: Apache-2.0

//! What follows a 101: bytes both ways, until both directions have ended.
//!
//! Knows nothing of what is spoken then. Invariant: the exchange that switched is recorded when
//! the bytes have ended, not before.

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
};

use super::{
    Outcome,
    connection::finish,
    copy::{Abort, Carried, copy},
    http_exchange::Exchange,
    stream::{Prefixed, Upstream},
};

/// An exchange that switched protocols, and where the endpoint's bytes will come from.
pub(crate) struct Switched {
    pub(crate) exchange: Box<Exchange>,
    pub(crate) upstream: oneshot::Receiver<Prefixed<Upstream>>,
}

/// Carries bytes between the client, which sent `ahead` already, and the endpoint.
pub(crate) async fn run<Client>(client: Prefixed<Client>, ahead: Bytes, switched: Switched)
where
    Client: AsyncRead + AsyncWrite + Abort + Unpin,
{
    let Switched {
        mut exchange,
        upstream,
    } = switched;
    let mut client = Prefixed::new(ahead, client);
    let Ok(mut upstream) = upstream.await else {
        client.abort();
        exchange.end(Outcome::UpstreamGone(
            "ended while switching protocols".into(),
        ));
        return;
    };
    upstream.carry_bytes();
    let mut carried = Carried::default();
    let copied = copy(&mut client, &mut upstream, &mut carried).await;
    exchange.request_bytes = carried.to_upstream;
    exchange.response_bytes = carried.to_client;
    exchange.end(finish(client, upstream, copied));
}
