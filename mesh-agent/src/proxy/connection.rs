// SPDX-License-Identifier: Apache-2.0

//! One accepted connection on its data thread: whose it is, where it was meant to go, and the one
//! record made of it if it is carried as bytes.
//!
//! Knows nothing of HTTP. Invariant: a permit and a place in the counts of live connections are
//! held from accept until the connection's task has ended.

use std::{io, net::SocketAddr, rc::Rc, sync::Arc, time::Instant};

use tokio::net::TcpStream;

use super::{
    Outcome,
    budgets::{Guest, Ledger, Permit, Pieces},
    client_stream::ClientStream,
    copy::{Abort, Broken, Carried, Side},
    inbound,
    listen::{self, Way},
    outbound,
    pod::Pod,
    threads::{Live, Thread},
    turns,
};
use crate::{
    model::{Service, SpiffeId, Workload},
    telemetry::{ConnectionRecord, Flow, Reporter},
};

/// What is known of an accepted socket on its way to the thread that serves it.
pub(crate) struct Accepted {
    /// The other end.
    pub(crate) peer: SocketAddr,
    /// What the listener is bound to.
    pub(crate) own: SocketAddr,
    pub(crate) way: Way,
    pub(crate) pod: Arc<Pod>,
    pub(crate) live: Live,
    pub(crate) permit: Permit,
    /// Counts it for who opened it, if that is for others to do.
    pub(crate) guest: Option<Guest>,
}

/// A connection being served.
pub(crate) struct Connection {
    pub(crate) thread: Rc<Thread>,
    pub(crate) pod: Arc<Pod>,
    /// The other end of the accepted socket.
    pub(crate) peer: SocketAddr,
    /// What the client connected to.
    pub(crate) orig_dst: SocketAddr,
    pub(crate) started: Instant,
    pub(crate) way: Way,
    _live: Option<Live>,
    _permit: Option<Permit>,
    /// Counts it for who opened it, if that is for others to do.
    pub(crate) guest: Option<Guest>,
}

/// Serves an accepted connection on this thread.
pub(crate) fn spawn(thread: &Rc<Thread>, stream: TcpStream, accepted: Accepted) {
    let (way, own) = (accepted.way, accepted.own);
    let connection = match admit(thread, &stream, accepted) {
        Ok(connection) => Rc::new(connection),
        Err(error) => {
            tracing::debug!(%error, "accepted connection was already gone");
            return;
        }
    };
    if connection.orig_dst == own {
        // Nobody is sent here by the kernel: somebody in the pod found the listener.
        connection.refuse(stream, Outcome::Loop, reporter(way));
        return;
    }
    let tasks = &thread.shared.tasks;
    match way {
        Way::Outbound => {
            let client = ClientStream::breaking(stream);
            let pod = Arc::clone(&connection.pod);
            let serving = outbound::serve(connection, client);
            tasks.spawn_local("outbound", turns::of(&pod.workload.identity, serving));
        }
        Way::Inbound => tasks.spawn_local("inbound", inbound::serve(connection, stream)),
    }
}

fn admit(thread: &Rc<Thread>, stream: &TcpStream, accepted: Accepted) -> io::Result<Connection> {
    Ok(Connection {
        thread: Rc::clone(thread),
        pod: accepted.pod,
        peer: accepted.peer,
        orig_dst: listen::canonical(stream.local_addr()?),
        started: Instant::now(),
        way: accepted.way,
        _live: Some(accepted.live),
        _permit: Some(accepted.permit),
        guest: accepted.guest,
    })
}

fn reporter(way: Way) -> Reporter {
    match way {
        Way::Outbound => Reporter::Source,
        Way::Inbound => Reporter::Destination,
    }
}

/// Who talks to whom on a connection that is carried as bytes.
#[derive(Clone, Default)]
pub(crate) struct Ends {
    pub(crate) source: Option<Arc<Workload>>,
    pub(crate) source_identity: Option<SpiffeId>,
    pub(crate) destination: Option<Arc<Workload>>,
    pub(crate) service: Option<Arc<Service>>,
    pub(crate) mutual_tls: bool,
    pub(crate) endpoint: Option<SocketAddr>,
}

/// How a connection carried as bytes ended.
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    pub(crate) carried: Carried,
}

impl Connection {
    /// What stands for a connection of `pod` to `orig_dst` where nobody opened one: the pod's
    /// policies ask there themselves.
    pub(crate) fn own(
        thread: &Rc<Thread>,
        pod: &Arc<Pod>,
        peer: SocketAddr,
        orig_dst: SocketAddr,
    ) -> Self {
        Self {
            thread: Rc::clone(thread),
            pod: Arc::clone(pod),
            peer,
            orig_dst,
            started: Instant::now(),
            way: Way::Inbound,
            _live: None,
            _permit: None,
            guest: None,
        }
    }

    /// Counts one more request of the connection; false if it is one too many.
    pub(crate) fn begin_request(&self) -> bool {
        self.requests().begin(self.thread.index())
    }

    /// Counts one less.
    pub(crate) fn end_request(&self) {
        self.requests().end(self.thread.index());
    }

    /// Notes that a request was one too many.
    pub(crate) fn refuse_request(&self) {
        self.requests().refuse(&self.peer.ip());
    }

    /// What lends what may be held for its requests.
    pub(crate) fn bytes(&self) -> &Arc<Ledger> {
        &self.pod.budgets.side(self.way).bytes
    }

    fn requests(&self) -> &Pieces {
        &self.pod.budgets.side(self.way).requests
    }

    /// The workload of the pod that the connection was accepted for.
    pub(crate) fn workload(&self) -> Arc<Workload> {
        self.thread.workload(&self.pod)
    }

    /// Resets a connection of which nothing was carried, and says so.
    pub(crate) fn refuse(&self, stream: impl Abort, outcome: Outcome, reporter: Reporter) {
        stream.abort();
        let own = Some(self.workload());
        let ends = match reporter {
            Reporter::Source => Ends {
                source: own,
                ..Ends::default()
            },
            Reporter::Destination => Ends {
                destination: own,
                ..Ends::default()
            },
        };
        let ended = Ended {
            outcome,
            carried: Carried::default(),
        };
        self.opened(&ends, reporter, self.peer);
        self.closed(&ends, reporter, self.peer, &ended);
    }

    /// Counts the connection as opened.
    pub(crate) fn opened(&self, ends: &Ends, reporter: Reporter, peer: SocketAddr) {
        let flow = flow(ends, reporter, peer, self.orig_dst);
        self.thread.shared.telemetry.connection_opened(&flow);
    }

    /// Makes the connection's record.
    pub(crate) fn closed(&self, ends: &Ends, reporter: Reporter, peer: SocketAddr, ended: &Ended) {
        self.closed_since(self.started, ends, reporter, peer, ended);
    }

    /// Makes the record of a stream of the connection that began at `started`.
    pub(crate) fn closed_since(
        &self,
        started: Instant,
        ends: &Ends,
        reporter: Reporter,
        peer: SocketAddr,
        ended: &Ended,
    ) {
        let flow = flow(ends, reporter, peer, self.orig_dst);
        let record = record(flow, ends, ended, started);
        self.thread.shared.telemetry.connection_closed(&record);
    }
}

/// The record of what was carried over a flow since `started`.
pub(super) fn record<'a>(
    flow: Flow<'a>,
    ends: &Ends,
    ended: &'a Ended,
    started: Instant,
) -> ConnectionRecord<'a> {
    ConnectionRecord {
        flow,
        bytes_sent: ended.carried.to_client,
        bytes_received: ended.carried.to_upstream,
        duration: started.elapsed(),
        flags: ended.outcome.flags(),
        error: ended.outcome.reason(),
        endpoint: ends.endpoint,
    }
}

/// Who talks to whom, as records say it.
pub(super) fn flow(
    ends: &Ends,
    reporter: Reporter,
    peer: SocketAddr,
    orig_dst: SocketAddr,
) -> Flow<'_> {
    let source = ends.source.as_ref().map(|workload| &workload.identity);
    let destination = ends.destination.as_ref().map(|workload| &workload.identity);
    Flow {
        reporter,
        source: ends.source.as_ref(),
        source_identity: match reporter {
            Reporter::Source => source,
            Reporter::Destination => ends.source_identity.as_ref(),
        },
        destination: ends.destination.as_ref(),
        destination_identity: destination.filter(|_| ends.mutual_tls),
        service: ends.service.as_deref(),
        mutual_tls: ends.mutual_tls,
        peer,
        orig_dst,
    }
}

/// Ends both ends as the copy between them ended, and says how that was.
pub(crate) fn finish<C: Abort, U: Abort>(
    client: C,
    upstream: U,
    copied: Result<(), Broken>,
) -> Outcome {
    match copied {
        Ok(()) => Outcome::Complete,
        Err(broken) => {
            client.abort();
            upstream.abort();
            let why = format!("{broken}: {}", broken.source);
            tracing::debug!(why, "connection broke");
            match broken.side {
                Side::Client => Outcome::ClientGone,
                Side::Upstream => Outcome::UpstreamGone(why.into()),
            }
        }
    }
}
