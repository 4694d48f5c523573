// SPDX-License-Identifier: Apache-2.0

//! What a client says first where that decides about where its bytes go, and what is decided.
//!
//! TLS is read, never answered or ended here. Knows nothing of endpoints. Invariant: what was read
//! is left in the buffer, to be carried on unchanged; a client that has begun is not waited for
//! longer than [`FIRST_BYTES`].

use std::sync::Arc;

use bytes::BytesMut;

use super::{
    Outcome,
    client_stream::ClientStream,
    connection::Connection,
    hello::{self, Hello},
    inbound_http::FIRST_BYTES,
    outbound::read_ahead,
    sniff::{self, First},
};
use crate::model::{Client, Cluster, OpaqueDecision, Opening, ServicePort};

/// What a client's first bytes are.
pub(crate) enum Said {
    /// HTTP of this version.
    Http(First),
    /// Anything else.
    Bytes(Hello),
}

/// Where a connection goes on a port that carries bytes.
pub(crate) async fn cluster(
    connection: &Connection,
    port: &ServicePort,
    stream: &mut ClientStream,
    ahead: &mut BytesMut,
) -> Result<Arc<Cluster>, Outcome> {
    if !is_awaited(connection, port) {
        return decide(connection, port, &Hello::Other);
    }
    match read(stream, ahead, false).await? {
        Said::Bytes(hello) => decide(connection, port, &hello),
        Said::Http(_) => decide(connection, port, &Hello::Other),
    }
}

/// Whether what HTTP clients say is carried as bytes, too, though no protocol is declared.
pub(crate) fn takes_all(connection: &Connection, port: &ServicePort) -> bool {
    !port.opaque.is_empty() && port.is_opaque_for(&connection.workload())
}

/// Whether it takes the client's first bytes to decide.
pub(crate) fn is_awaited(connection: &Connection, port: &ServicePort) -> bool {
    if port.opaque.is_empty() {
        return false;
    }
    let workload = connection.workload();
    port.awaits_hello(&Client {
        workload: &workload,
    })
}

/// Decides about a connection whose client says this first. Once per connection: it draws.
pub(crate) fn decide(
    connection: &Connection,
    port: &ServicePort,
    hello: &Hello,
) -> Result<Arc<Cluster>, Outcome> {
    let opening = match hello {
        Hello::Other | Hello::Undecided => Opening::Other,
        Hello::Tls(name) => Opening::Tls(name.as_deref()),
        Hello::Broken(why) => return Err(Outcome::Malformed((*why).into())),
    };
    if port.opaque.is_empty() {
        return Ok(Arc::clone(&port.cluster));
    }
    let workload = connection.workload();
    let client = Client {
        workload: &workload,
    };
    match port.decide_bytes(&client, connection.orig_dst.ip(), opening) {
        OpaqueDecision::Forward(cluster) => Ok(cluster),
        OpaqueDecision::Refuse(refusal) => Err(Outcome::Refused(refusal)),
    }
}

/// Reads what the client says first, perhaps HTTP. A client that says nothing is waited for, as long
/// as it likes: it holds no memory.
pub(crate) async fn read(
    stream: &mut ClientStream,
    ahead: &mut BytesMut,
    or_http: bool,
) -> Result<Said, Outcome> {
    if !matches!(read_ahead(stream, ahead).await, Ok(1..)) {
        return Err(Outcome::ClientGone);
    }
    let rest = async {
        loop {
            if let Some(said) = judge(ahead, or_http) {
                return Ok(said);
            }
            if !matches!(read_ahead(stream, ahead).await, Ok(1..)) {
                return Err(Outcome::ClientGone);
            }
        }
    };
    // Cancel-safe: who takes so long is not listened to any more.
    match tokio::time::timeout(FIRST_BYTES, rest).await {
        Ok(said) => said,
        Err(_elapsed) => {
            let why = "the client's first message did not come in time";
            Err(Outcome::Malformed(why.into()))
        }
    }
}

fn judge(ahead: &[u8], or_http: bool) -> Option<Said> {
    let first = sniff::first(ahead);
    match hello::hello(ahead) {
        _ if or_http && matches!(first, First::Http1 | First::Http2) => Some(Said::Http(first)),
        Hello::Undecided => None,
        Hello::Other if or_http && first == First::Undecided => None,
        hello => Some(Said::Bytes(hello)),
    }
}
