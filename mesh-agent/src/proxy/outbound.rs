// SPDX-License-Identifier: Apache-2.0

//! What a pod's application opened to the mesh: found out where it was meant to go, and carried
//! there as requests or as bytes.
//!
//! Knows nothing of capture: the local address of the accepted socket is the original
//! destination. Invariant: a server that speaks first is never kept waiting for its client, unless
//! rules at its port ask for the name that a TLS client says first.

use std::{io, pin::pin, rc::Rc, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;

use super::{
    Outcome,
    client_stream::ClientStream,
    connection::{Connection, Ended, Ends, finish},
    copy::{Abort, Carried, copy},
    dial::{self, Dialed},
    elsewhere,
    hello::Hello,
    http, http_pool,
    opening::{self, Said},
    patience::Patience,
    sniff::{self, First},
    stream::{self, Prefixed, Upstream},
    usage::Admission,
};
use crate::{
    model::{Cluster, Destination, Endpoint, LoadGuard, Protocol, Service, ServicePort},
    telemetry::Reporter,
};

/// Room for what is read ahead to tell protocols apart: most requests fit, so that nothing is copied.
pub(super) const READ_AHEAD: usize = 4096;

/// How long a client may take to show that it speaks HTTP when no endpoint could be reached.
const FAILED_WAIT: Duration = Duration::from_secs(1);

/// A connected upstream and who is at its end.
struct Reached {
    upstream: Upstream,
    ends: Ends,
    load: Option<(Endpoint, LoadGuard, Option<Admission>)>,
    patience: Patience,
}

impl Reached {
    /// Leaves the connection, of which nothing was used, to the first request for that endpoint.
    fn keep(self, connection: &Connection) {
        let Some((endpoint, _load, _admission)) = self.load else {
            return;
        };
        if endpoint.proxy_protocol.is_some() {
            // It was told of this client, and the requests' own connections tell it again.
            http_pool::end(&connection.thread.shared.tasks, self.upstream);
            return;
        }
        let pool = connection.thread.pools.of(&connection.pod.workload.uid);
        pool.admit(&endpoint);
        pool.put_plain(&endpoint, self.upstream);
    }
}

/// Serves a connection from the pod's application to its end.
pub(crate) async fn serve(connection: Rc<Connection>, stream: ClientStream) {
    let client = connection.workload();
    let destination = connection
        .thread
        .snapshot()
        .destination(connection.orig_dst, &client);
    drop(client);
    // Each in memory of its own, so that none holds as much as the largest of them.
    match destination {
        Destination::Service(service, port) => match port.protocol {
            Protocol::Tcp | Protocol::Tls => {
                Box::pin(to_service(&connection, stream, service, &port)).await;
            }
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => {
                Box::pin(declared_http(connection, stream, service)).await;
            }
            Protocol::Sniff if opening::takes_all(&connection, &port) => {
                Box::pin(to_service(&connection, stream, service, &port)).await;
            }
            Protocol::Sniff => Box::pin(undeclared(connection, stream, service, port)).await,
        },
        Destination::Workload(_) => {
            let client = Prefixed::new(Bytes::new(), stream);
            Box::pin(to_address(&connection, client)).await;
        }
        Destination::Unknown => Box::pin(elsewhere::serve(connection, stream)).await,
    }
}

/// Opaque bytes to an address that is no Service's.
pub(super) async fn to_address(connection: &Rc<Connection>, client: Prefixed<ClientStream>) {
    let address = connection.orig_dst;
    let found = connection
        .thread
        .snapshot()
        .by_address
        .get(&address.ip())
        .cloned();
    let dialing = Box::pin(dial::address(connection, None, address, found.as_ref()));
    let upstream = dialing.await;
    let ends = Ends {
        endpoint: Some(address),
        mutual_tls: upstream.as_ref().is_ok_and(Upstream::is_mutual),
        destination: found.clone(),
        ..source(connection)
    };
    match upstream {
        Ok(upstream) => {
            let reached = Reached {
                upstream,
                ends,
                load: None,
                patience: Patience::default(),
            };
            carry(connection, client, reached, Bytes::new()).await;
        }
        Err(outcome) => fail(connection, client, &ends, outcome),
    }
}

/// Opaque bytes to an endpoint of the Service port.
async fn to_service(
    connection: &Rc<Connection>,
    mut stream: ClientStream,
    service: Arc<Service>,
    port: &ServicePort,
) {
    let mut ahead = BytesMut::new();
    let cluster = Box::pin(opening::cluster(connection, port, &mut stream, &mut ahead)).await;
    let client = Prefixed::new(ahead.freeze(), stream);
    to_decided(connection, client, service, &cluster).await;
}

/// Opaque bytes to an endpoint of what was decided for.
pub(super) async fn to_decided(
    connection: &Rc<Connection>,
    client: Prefixed<ClientStream>,
    service: Arc<Service>,
    decided: &Result<Arc<Cluster>, Outcome>,
) {
    let reached = reach_decided(connection, &service, decided).await;
    opaque(connection, client, service, reached, Bytes::new()).await;
}

/// HTTP by declaration: the client's first bytes say which.
async fn declared_http(
    connection: Rc<Connection>,
    mut stream: ClientStream,
    service: Arc<Service>,
) {
    let mut ahead = BytesMut::new();
    match read_ahead(&mut stream, &mut ahead).await {
        Ok(0) => return stream::linger(stream).await,
        Ok(_) => {}
        Err(_gone) => return,
    }
    let version = match sniff::first(&ahead) {
        First::Undecided => {
            let head_time = connection.thread.shared.head_time;
            let deciding = Box::pin(version(&mut stream, &mut ahead));
            // Cancel-safe: who takes so long is not listened to any more.
            match tokio::time::timeout(head_time, deciding).await {
                Ok(Some(version)) => version,
                Ok(None) => return,
                Err(_elapsed) => return stream::part(stream, http::TOO_LATE).await,
            }
        }
        First::Opaque => First::Http1,
        decided => decided,
    };
    let client = Prefixed::new(ahead.freeze(), stream);
    http::serve(connection, client, Some(service), version).await;
}

/// Which HTTP a client speaks that has begun to say so; nothing if it broke.
async fn version(stream: &mut ClientStream, ahead: &mut BytesMut) -> Option<First> {
    loop {
        match read_ahead(stream, ahead).await {
            // Whatever it is, it gets hyper's answer to a broken request.
            Ok(0) => return Some(First::Http1),
            Ok(_) => {}
            Err(_gone) => return None,
        }
        match sniff::first(ahead) {
            First::Undecided => {}
            First::Opaque => return Some(First::Http1),
            decided => return Some(decided),
        }
    }
}

/// Reads what tells protocols apart; takes no memory before something has come. Cancel-safe.
pub(super) async fn read_ahead(
    stream: &mut ClientStream,
    ahead: &mut BytesMut,
) -> io::Result<usize> {
    if ahead.capacity() == ahead.len() {
        stream.readable().await?;
        ahead.reserve(READ_AHEAD);
    }
    stream.read_buf(ahead).await
}

/// No protocol declared: the upstream is opened at once, and whoever speaks first decides.
async fn undeclared(
    connection: Rc<Connection>,
    mut stream: ClientStream,
    service: Arc<Service>,
    port: Arc<ServicePort>,
) {
    let (mut ahead, mut back) = (BytesMut::new(), BytesMut::new());
    if opening::is_awaited(&connection, &port) {
        let said = Box::pin(opening::read(&mut stream, &mut ahead, true)).await;
        return spoken(
            connection,
            Prefixed::new(ahead.freeze(), stream),
            service,
            &port,
            said,
        )
        .await;
    }
    let cluster = opening::decide(&connection, &port, &Hello::Other);
    let mut reached: Option<Result<Reached, Outcome>> = None;
    let first = {
        let mut dialing = pin!(reach_decided(&connection, &service, &cluster));
        loop {
            // Cancel-safe: a read takes nothing unless it completes, and the dial is kept.
            tokio::select! {
                biased;
                read = read_ahead(&mut stream, &mut ahead) => match read.map(|_| sniff::first(&ahead)) {
                    Ok(First::Undecided) if !ahead.is_empty() => {}
                    Ok(First::Undecided) => break First::Opaque,
                    Ok(decided) => break decided,
                    Err(_gone) => return,
                },
                result = &mut dialing, if reached.is_none() => reached = Some(result),
                () = server_speaks(&mut reached, &mut back) => break First::Opaque,
            }
        }
    };
    let client = Prefixed::new(ahead.freeze(), stream);
    if first != First::Opaque {
        if let (First::Http1, true, Some(Ok(reached))) = (first, back.is_empty(), reached) {
            // Another cluster's may be used in another way.
            if cluster.is_ok_and(|cluster| Arc::ptr_eq(&cluster, &port.cluster)) {
                reached.keep(&connection);
            }
        }
        // It would be held as long as the connection lives.
        drop(back);
        http::serve(connection, client, Some(service), first).await;
        return;
    }
    let reached = match reached {
        Some(reached) => reached,
        None => reach_decided(&connection, &service, &cluster).await,
    };
    opaque(&connection, client, service, reached, back.freeze()).await;
}

/// No protocol declared, but it takes the client's first bytes, which are `said`, to find the upstream.
async fn spoken(
    connection: Rc<Connection>,
    client: Prefixed<ClientStream>,
    service: Arc<Service>,
    port: &ServicePort,
    said: Result<Said, Outcome>,
) {
    let reached = match said {
        Ok(Said::Http(version)) => {
            return http::serve(connection, client, Some(service), version).await;
        }
        Ok(Said::Bytes(hello)) => {
            let cluster = opening::decide(&connection, port, &hello);
            reach_decided(&connection, &service, &cluster).await
        }
        Err(outcome) => Err(outcome),
    };
    opaque(&connection, client, service, reached, Bytes::new()).await;
}

/// Resolves when the upstream has sent something or ended; or, if it could not be reached, when
/// the client has had time to show that it wants HTTP's answer to that.
async fn server_speaks(reached: &mut Option<Result<Reached, Outcome>>, back: &mut BytesMut) {
    match reached {
        None => std::future::pending().await,
        Some(Err(_)) => tokio::time::sleep(FAILED_WAIT).await,
        Some(Ok(there)) => {
            back.reserve(READ_AHEAD);
            if let Err(error) = there.upstream.read_buf(back).await {
                *reached = Some(Err(Outcome::UpstreamGone(error.to_string().into())));
            }
        }
    }
}

/// Connects to an endpoint of what was decided for.
async fn reach_decided(
    connection: &Rc<Connection>,
    service: &Arc<Service>,
    decided: &Result<Arc<Cluster>, Outcome>,
) -> Result<Reached, Outcome> {
    match decided {
        Ok(cluster) => reach(connection, service, cluster).await,
        Err(outcome) => Err(outcome.clone()),
    }
}

/// Connects to an endpoint of the cluster.
async fn reach(
    connection: &Rc<Connection>,
    service: &Arc<Service>,
    cluster: &Cluster,
) -> Result<Reached, Outcome> {
    let Dialed {
        upstream,
        endpoint,
        load,
        admission,
    } = Box::pin(dial::cluster(connection, service, cluster)).await?;
    let ends = Ends {
        mutual_tls: upstream.is_mutual(),
        destination: endpoint.workload.clone(),
        service: Some(Arc::clone(service)),
        endpoint: Some(endpoint.address),
        ..source(connection)
    };
    Ok(Reached {
        upstream,
        ends,
        load: Some((endpoint, load, admission)),
        patience: Patience {
            idle: cluster.limits().idle,
            lifetime: cluster.limits().lifetime,
        },
    })
}

pub(super) fn source(connection: &Connection) -> Ends {
    Ends {
        source: Some(connection.workload()),
        ..Ends::default()
    }
}

/// Carries bytes if the upstream was reached, else gives the client up.
async fn opaque(
    connection: &Connection,
    client: Prefixed<ClientStream>,
    service: Arc<Service>,
    reached: Result<Reached, Outcome>,
    back: Bytes,
) {
    match reached {
        Ok(reached) => carry(connection, client, reached, back).await,
        Err(outcome) => {
            let ends = Ends {
                service: Some(service),
                ..source(connection)
            };
            fail(connection, client, &ends, outcome);
        }
    }
}

/// Copies both ways to the end; `back` is what the upstream has sent already.
async fn carry(
    connection: &Connection,
    mut client: Prefixed<ClientStream>,
    reached: Reached,
    back: Bytes,
) {
    let ends = reached.ends;
    let _load = reached.load;
    let mut upstream = Prefixed::new(back, reached.upstream);
    upstream.carry_bytes();
    connection.opened(&ends, Reporter::Source, connection.peer);
    let mut carried = Carried::default();
    let copying = copy(&mut client, &mut upstream, &mut carried);
    let outcome = match reached.patience.carry(copying).await {
        Ok(copied) => finish(client, upstream, copied),
        Err(expiry) => {
            client.abort();
            upstream.abort();
            Outcome::Expired(expiry)
        }
    };
    let ended = Ended { outcome, carried };
    connection.closed(&ends, Reporter::Source, connection.peer, &ended);
}

pub(super) fn fail(connection: &Connection, client: impl Abort, ends: &Ends, outcome: Outcome) {
    client.abort();
    connection.opened(ends, Reporter::Source, connection.peer);
    let ended = Ended {
        outcome,
        carried: Carried::default(),
    };
    connection.closed(ends, Reporter::Source, connection.peer, &ended);
}
