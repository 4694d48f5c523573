// SPDX-License-Identifier: Apache-2.0

//! What others opened to a pod: tunnels on port 15008, plaintext on all others.
//!
//! The application sees the client's address either way. Knows nothing of HTTP in what it
//! carries. Invariant: to a port that is STRICT no byte of a plaintext connection is delivered, and
//! of a connection that AuthorizationPolicies do not allow none at all; when policy changes, what is
//! no longer allowed is cut.
//! Reference: ztunnel's HBONE server (status codes and checks).

use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{
    Outcome,
    budgets::{Guest, Permit},
    client_stream::ClientStream,
    connection::{Connection, Ended, Ends, finish},
    copy::{Abort, Carried, copy},
    dial,
    entrance::{Entrance, Knock, Pass, Seen},
    hbone::{self, Around, ConnectRequest, Handshake, HboneError},
    inbound_http,
    refused::Refused,
    turns,
};
use crate::{
    datapath,
    model::{SpiffeId, Workload},
    telemetry::Reporter,
};

/// Where tunnels arrive.
pub const HBONE_PORT: u16 = 15008;

/// Ports that belong to the mesh in every pod: 15001 and 15006 by Istio's custom, and the tunnel's.
const OWN_PORTS: [u16; 3] = [15001, 15006, HBONE_PORT];

/// How long a client may take to begin a handshake, and then for its turn to come.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves a connection to the pod to its end.
pub(crate) async fn serve(connection: Rc<Connection>, stream: TcpStream) {
    let connector = &connection.thread.shared.connector;
    if connector.is_own_upstream(connection.peer) {
        connection.refuse(stream, Outcome::Loop, Reporter::Destination);
    } else if connection.orig_dst.port() == HBONE_PORT {
        tunnels(connection, stream).await;
    } else {
        let entrance = entrance(&connection, None, connection.orig_dst);
        if entrance.needs_identity() {
            let (peer, port) = (connection.peer, connection.orig_dst.port());
            let last = &connection.pod.last_refused;
            last.note(peer, None, port, Refused::Plaintext);
            connection.refuse(stream, Outcome::PolicyDenied, Reporter::Destination);
        } else {
            // Who does not say who they are count as one with whom they ask.
            let source = known(&connection, connection.peer);
            let workload = source
                .unwrap_or_else(|| connection.workload())
                .identity
                .clone();
            let served = plaintext(&connection, ClientStream::new(stream), entrance);
            turns::of(&workload, Box::pin(served)).await;
        }
    }
}

/// Who wants to talk to `to` of the connection's pod.
fn entrance(connection: &Connection, identity: Option<SpiffeId>, to: SocketAddr) -> Entrance {
    let (thread, pod) = (&connection.thread, &connection.pod);
    Entrance::new(thread, pod, identity, connection.peer, to)
}

async fn plaintext(connection: &Rc<Connection>, client: ClientStream, entrance: Entrance) {
    let _counted = connection.pod.begin_plaintext();
    let ends = Ends {
        source: known(connection, connection.peer),
        destination: Some(connection.workload()),
        endpoint: Some(connection.orig_dst),
        ..Ends::default()
    };
    let denial = match entrance.knock() {
        Knock::Look(otherwise) => {
            let connection = Rc::clone(connection);
            let serving = inbound_http::serve(connection, client, entrance, ends, otherwise);
            return Box::pin(serving).await;
        }
        Knock::Allowed => None,
        Knock::Denied(denial) => Some(denial),
    };
    connection.opened(&ends, Reporter::Destination, connection.peer);
    let mut carried = Carried::default();
    let outcome = match denial {
        None => {
            let pass = entrance.admit(Seen::Nothing);
            match pass.entrance().connect().await {
                Err(error) => {
                    client.abort();
                    Outcome::ConnectFailed(format!("{}: {error}", connection.orig_dst).into())
                }
                Ok(app) => carry(client, app, &pass, &mut carried).await,
            }
        }
        Some(denial) => {
            client.abort();
            entrance.denied(denial)
        }
    };
    let ended = Ended { outcome, carried };
    connection.closed(&ends, Reporter::Destination, connection.peer, &ended);
}

/// Carries bytes both ways, as long as policy allows it.
pub(super) async fn carry<Client>(
    mut client: Client,
    mut app: crate::datapath::Upstream,
    pass: &Pass,
    carried: &mut Carried,
) -> Outcome
where
    Client: AsyncRead + AsyncWrite + Abort + Unpin,
{
    // Cancel-safe: the copy is given up only together with both ends. Policy comes first, as it may
    // have changed since it was asked.
    let copied = tokio::select! {
        biased;
        outcome = pass.until_revoked() => Err(outcome),
        copied = copy(&mut client, &mut app, carried) => Ok(copied),
    };
    match copied {
        Ok(copied) => finish(client, app, copied),
        Err(outcome) => {
            client.abort();
            app.abort();
            outcome
        }
    }
}

/// The workload whose address `peer` is.
fn known(connection: &Connection, peer: SocketAddr) -> Option<Arc<Workload>> {
    connection
        .thread
        .snapshot()
        .by_address
        .get(&peer.ip())
        .cloned()
}

/// Serves a tunnel: each of its streams is a connection to the application.
async fn tunnels(connection: Rc<Connection>, stream: TcpStream) {
    let thread = Rc::clone(&connection.thread);
    let shared = &thread.shared;
    let local = connection.workload();
    let Some(handshake) = begin(&connection, &stream).await else {
        datapath::reset(stream);
        return;
    };
    let streams = {
        let connection = Rc::clone(&connection);
        move |request: ConnectRequest| {
            let connection = Rc::clone(&connection);
            let tasks = connection.thread.shared.tasks.clone();
            let peer = request.peer.clone();
            let carrying = stream_to_app(connection, request);
            tasks.spawn_local("inbound stream", turns::of(&peer, carrying));
        }
    };
    let around = Around {
        drain: thread.drain.clone(),
        sessions: thread.lanes.sessions.clone(),
        handshake,
        bytes: Some(Arc::clone(&connection.pod.budgets.inbound.bytes)),
    };
    let served = hbone::serve(
        stream,
        &local,
        &shared.identities,
        thread.tunnel,
        around,
        streams,
    );
    if let Err(error) = Box::pin(served).await {
        if let HboneError::Identity(refusal) = &error {
            let why = Refused::Certificate(dial::chain(refusal).into());
            let last = &connection.pod.last_refused;
            last.note(connection.peer, None, HBONE_PORT, why);
        }
        tracing::debug!(peer = %connection.peer, error = dial::chain(&error), "tunnel ended");
    }
}

/// Waits until the client begins a handshake and its turn has come; `None` if that takes too long. Who says
/// nothing holds no place.
async fn begin(connection: &Connection, stream: &TcpStream) -> Option<Option<Handshake>> {
    let Some(guest) = &connection.guest else {
        return Some(None);
    };
    let budget = &connection.pod.budgets.handshakes;
    let turn = async {
        stream.readable().await.ok()?;
        let among_its_own = Arc::clone(guest.handshakes());
        if among_its_own.available_permits() == 0 {
            budget.hold_back(&guest.address());
        }
        let among_its_own = among_its_own.acquire_owned().await.ok()?;
        let permit = budget.take().await;
        Some(Handshake::new(guest.address(), permit, among_its_own))
    };
    // Cancel-safe: what was taken is given back.
    match tokio::time::timeout(BEGIN_TIMEOUT, turn).await {
        Ok(handshake) => handshake.map(Some),
        Err(_elapsed) => {
            budget.refuse(&guest.address());
            None
        }
    }
}

/// What a stream of a tunnel holds: it takes a socket to the application. `None` if the pod, or who
/// opened the tunnel, has as much as it may.
fn place(connection: &Connection) -> Option<(Permit, Option<Guest>)> {
    let budget = &connection.pod.budgets.inbound.connections;
    let taken = budget.try_take().and_then(|permit| {
        let Some(guest) = &connection.guest else {
            return Some((permit, None));
        };
        let another = guest.another(budget.left())?;
        Some((permit, Some(another)))
    });
    if taken.is_none() {
        budget.refuse(&connection.peer.ip());
    }
    taken
}

/// Refuses a stream for which there is no place, and says so.
fn crowded(connection: &Connection, ends: &Ends, request: ConnectRequest) {
    let why = "the budget of connections is used up";
    request.refuse(StatusCode::SERVICE_UNAVAILABLE, why);
    let (outcome, carried) = (Outcome::Overflow, Carried::default());
    let (started, ended) = (Instant::now(), Ended { outcome, carried });
    let (reporter, peer) = (Reporter::Destination, connection.peer);
    connection.opened(ends, reporter, peer);
    connection.closed_since(started, ends, reporter, peer, &ended);
}

/// One stream of a tunnel.
async fn stream_to_app(connection: Rc<Connection>, request: ConnectRequest) {
    let started = Instant::now();
    let local = connection.workload();
    let address = request.authority;
    let source = known(&connection, connection.peer)
        .filter(|workload| workload.identity.is_same_account(&request.peer));
    let ends = Ends {
        source,
        source_identity: Some(request.peer.clone()),
        destination: Some(Arc::clone(&local)),
        service: None,
        mutual_tls: true,
        endpoint: Some(address),
    };
    if let Some((status, reason)) = misdirected(&local, &connection.pod.addresses, address) {
        request.refuse(status, reason);
        return;
    }
    let Some(_place) = place(&connection) else {
        return crowded(&connection, &ends, request);
    };
    let entrance = entrance(&connection, Some(request.peer.clone()), address);
    let denial = match entrance.knock() {
        Knock::Look(otherwise) => {
            let client = request.accept(dial::baggage(&local));
            let serving = inbound_http::serve(connection, client, entrance, ends, otherwise);
            return Box::pin(serving).await;
        }
        Knock::Allowed => None,
        Knock::Denied(denial) => Some(denial),
    };
    connection.opened(&ends, Reporter::Destination, connection.peer);
    let mut carried = Carried::default();
    let outcome = match denial {
        None => {
            let pass = entrance.admit(Seen::Nothing);
            match pass.entrance().connect().await {
                Err(error) => {
                    let why = format!("{address}: {error}");
                    request.refuse(StatusCode::SERVICE_UNAVAILABLE, &why);
                    Outcome::ConnectFailed(why.into())
                }
                Ok(app) => {
                    let client = request.accept(dial::baggage(&local));
                    carry(client, app, &pass, &mut carried).await
                }
            }
        }
        Some(denial) => {
            request.refuse(StatusCode::UNAUTHORIZED, denial.as_str());
            entrance.denied(denial)
        }
    };
    let ended = Ended { outcome, carried };
    let (reporter, peer) = (Reporter::Destination, connection.peer);
    connection.closed_since(started, &ends, reporter, peer, &ended);
}

/// Why a stream may not go to `address`, if it may not. The pod's interface may have had its
/// addresses before its status says them.
pub(super) fn misdirected(
    local: &Workload,
    on_interface: &[IpAddr],
    address: SocketAddr,
) -> Option<(StatusCode, &'static str)> {
    let ip = address.ip().to_canonical();
    let is_local = match local.addresses.as_slice() {
        [] => on_interface.contains(&ip),
        known => known.contains(&ip),
    };
    if !is_local {
        return Some((
            StatusCode::BAD_REQUEST,
            "the authority is not this workload",
        ));
    }
    if OWN_PORTS.contains(&address.port()) {
        return Some((
            StatusCode::SERVICE_UNAVAILABLE,
            "the port belongs to the mesh",
        ));
    }
    None
}
