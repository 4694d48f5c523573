// SPDX-License-Identifier: Apache-2.0

//! Plain HTTP/1.1 by hand: one task per client connection, no channel, no buffer while it waits.
//!
//! A request is plain if it has exactly one reading and asks for nothing but an answer
//! ([`head::request`]). The first that is not hands the connection, with every byte that was not
//! taken, to hyper, which serves it to its end. What is sent on is written anew from what was
//! understood, never passed through: bytes that were not understood go nowhere.
//!
//! Knows nothing of how hyper serves. Invariant: a request is begun here or by hyper, never by
//! both, and a connection is handed over only between requests. References: RFC 9110, RFC 9112.

mod body;
mod buffer;
mod chunks;
mod client;
mod exchange;
mod fields;
mod flight;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod head;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod pieces;
mod request;

use std::{pin::pin, rc::Rc};

use self::{client::Client, request::Prepared};
use super::{
    client_stream::ClientStream,
    copy::Abort,
    head_clock::HeadClock,
    http,
    http_exchange::Front,
    stream::{self, Prefixed},
};

/// What happens to a client's connection next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// It may have a request.
    Go,
    /// It ends in order.
    End,
    /// It ends so that the client knows that something is missing.
    Break,
    /// hyper serves it from here.
    Hyper,
    /// It ends because its client takes too long.
    Late,
}

/// Serves HTTP/1.1 to a client.
pub(crate) async fn serve(front: Rc<Front>, client: Prefixed<ClientStream>) {
    let mut client = Client::new(client);
    match serve_plain(&front, &mut client).await {
        Then::Go | Then::End => Box::pin(stream::linger(client.into_stream())).await,
        Then::Break => client.into_stream().abort(),
        Then::Late => Box::pin(stream::part(client.into_stream(), http::TOO_LATE)).await,
        Then::Hyper => Box::pin(http::serve_http1(front, client.into_prefixed())).await,
    }
}

/// Serves as long as requests are plain.
async fn serve_plain(front: &Rc<Front>, client: &mut Client) -> Then {
    let mut drain = pin!(front.connection.thread.drain.requested());
    let mut clock = HeadClock::new(front.connection.thread.shared.head_time);
    loop {
        let then = match request::prepare(front, client.buffer()) {
            Prepared::Ready(request) => {
                clock.stop();
                Box::pin(exchange::run(front, client, request)).await
            }
            Prepared::Odd => Then::Hyper,
            Prepared::Partial => client.more(drain.as_mut(), &mut clock).await,
        };
        if then != Then::Go {
            return then;
        }
    }
}
