// SPDX-License-Identifier: Apache-2.0

//! What a pod's application opened to an address that nobody has: found out by what it says which host
//! it means, if any, and whether it may go there at all.
//!
//! Knows nothing of how hosts are told apart. Invariant: what the outbound policy refuses is never
//! connected to, and what is passed on is passed on as it came.

use std::{io, rc::Rc, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use super::{
    Outcome,
    client_stream::ClientStream,
    connection::Connection,
    hello::{self, Hello},
    http, opening, outbound,
    sniff::{self, First},
    stream::Prefixed,
};
use crate::model::{NamedPort, Told};

/// How long a client may take to say what it wants; a server that speaks first is reached after that.
const PATIENCE: Duration = Duration::from_secs(1);

/// The same where nothing is reached without its word: some connect long before they ask.
const REFUSED_PATIENCE: Duration = Duration::from_secs(15);

/// What a client's first bytes say.
enum Said {
    Http(First),
    /// A TLS handshake with a server of this name.
    Name(String),
    /// Nothing that could tell.
    Bytes,
}

/// Serves such a connection to its end.
pub(crate) async fn serve(connection: Rc<Connection>, mut stream: ClientStream) {
    let to = connection.orig_dst;
    let pod = connection.workload();
    let (names, refuses) = {
        let snapshot = connection.thread.snapshot();
        let names = snapshot.named.get(&to.port()).cloned();
        let names = names.filter(|names| names.asks_names(&pod));
        (names, snapshot.refuses(to, &pod))
    };
    if names.is_none() && !refuses {
        let client = Prefixed::new(Bytes::new(), stream);
        return Box::pin(outbound::to_address(&connection, client)).await;
    }
    let mut ahead = BytesMut::new();
    // Cancel-safe: what was read is in `ahead`.
    let patience = if refuses { REFUSED_PATIENCE } else { PATIENCE };
    let said = match timeout(patience, listen(&mut stream, &mut ahead)).await {
        Ok(Ok(said)) => said,
        Ok(Err(_gone)) => return,
        Err(_elapsed) => Said::Bytes,
    };
    let client = Prefixed::new(ahead.freeze(), stream);
    let named = |name: &str| -> Option<Arc<NamedPort>> {
        let found = names.as_ref()?.find(name, &Told::ServerName, &pod);
        found.map(Arc::clone)
    };
    match said {
        Said::Http(first) => Box::pin(http::serve(connection, client, None, first)).await,
        Said::Name(name) if let Some(port) = named(&name) => {
            let service = Arc::clone(&port.service);
            let decided = opening::decide(&connection, port.at(to.ip()), &Hello::Tls(Some(name)));
            Box::pin(outbound::to_decided(&connection, client, service, &decided)).await;
        }
        Said::Name(_) | Said::Bytes if refuses => {
            let ends = outbound::source(&connection);
            outbound::fail(&connection, client, &ends, Outcome::Unlisted);
        }
        Said::Name(_) | Said::Bytes => {
            Box::pin(outbound::to_address(&connection, client)).await;
        }
    }
}

/// Reads until it is clear what the client says. Cancel-safe: what was read stays in `ahead`.
async fn listen(stream: &mut ClientStream, ahead: &mut BytesMut) -> io::Result<Said> {
    loop {
        let ended = outbound::read_ahead(stream, ahead).await? == 0;
        match sniff::first(ahead) {
            First::Undecided if !ended => continue,
            First::Undecided => return Ok(Said::Bytes),
            // It is for a proxy, whom it asks for bytes.
            First::Http1 if ahead.starts_with(b"CONNECT ") => return Ok(Said::Bytes),
            first @ (First::Http1 | First::Http2) => return Ok(Said::Http(first)),
            First::Opaque => {}
        }
        match hello::hello(ahead) {
            Hello::Undecided if !ended => {}
            Hello::Tls(Some(name)) => return Ok(Said::Name(name)),
            Hello::Undecided | Hello::Tls(None) | Hello::Other | Hello::Broken(_) => {
                return Ok(Said::Bytes);
            }
        }
    }
}
