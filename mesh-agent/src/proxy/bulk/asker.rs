// SPDX-License-Identifier: Apache-2.0

//! The client's end: asks the peer of a mux for bulk sessions for its streams.
//!
//! Knows nothing of what is carried. Invariant: no stream depends on the answer; a peer that does
//! not know bulk sessions is asked once. Reference: ADR 14.

use std::{cell::Cell, future::Future, io, rc::Rc, time::Duration};

use http::StatusCode;
use rustls::{AlertDescription, client::UnbufferedClientConnection, pki_types::ServerName};
use tokio::{net::TcpStream, sync::oneshot};

use super::{
    super::{tunnel::TunnelLimits, tunnel_wire::Route},
    handshake::{self, Session},
    header::{ANSWER, MAY, Name, Request, STAY, parse_answer},
    record::Records,
    stream::{BulkStream, Held},
};
use crate::{
    datapath::{self, Connector, Leg},
    identity::{Alpn, Identities, Seat, Side},
    tasks::Tasks,
};

/// After so many failures in a row a peer is asked no more.
const MOST_FAILURES: u32 = 3;

/// What begins bulk sessions.
#[derive(Clone)]
pub(in super::super) struct Means {
    pub(in super::super) connector: Connector,
    pub(in super::super) identities: Identities,
    pub(in super::super) tasks: Tasks,
    pub(in super::super) limits: TunnelLimits,
}

/// Asks the peer of one session of the mux.
pub(in super::super) struct Asker {
    means: Means,
    route: Route,
    name: Name,
    failures: Cell<u32>,
}

/// A session that the peer gave; dropped unused, it tells the peer so.
pub(super) struct Granted(Option<Box<BulkStream>>);

/// A session that has just been made.
struct Fresh {
    socket: TcpStream,
    records: Records,
    seat: Seat,
    /// What came behind the handshake: opened bytes, then records.
    opened: Vec<u8>,
    behind: Vec<u8>,
}

impl Asker {
    /// For the session called `name`, which leads along `route`.
    pub(in super::super) fn new(means: Means, route: Route, name: Name) -> Rc<Self> {
        Rc::new(Self {
            means,
            route,
            name,
            failures: Cell::new(0),
        })
    }

    /// Asks for a session that continues `stream`; nothing if the peer would not give one.
    pub(super) fn ask(self: &Rc<Self>, stream: u32) -> Option<oneshot::Receiver<Granted>> {
        if self.failures.get() >= MOST_FAILURES {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        let asker = Rc::clone(self);
        self.means.tasks.spawn_local("bulk tunnel", async move {
            match asker.begin(stream).await {
                Ok(bulk) => {
                    let to = asker.route.address;
                    tracing::debug!(%to, stream, "a stream may go on in a bulk tunnel");
                    asker.failures.set(0);
                    // A stream that has ended meanwhile needs none.
                    drop(sender.send(Granted(Some(Box::new(bulk)))));
                }
                Err(error) => {
                    let to = asker.route.address;
                    tracing::debug!(%to, %error, "no bulk tunnel: the stream stays where it is");
                    asker.note_failure(&error);
                }
            }
        });
        Some(receiver)
    }

    fn note_failure(&self, error: &io::Error) {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
        let is_unknown = matches!(
            cause,
            Some(rustls::Error::AlertReceived(
                AlertDescription::NoApplicationProtocol
            ))
        );
        let failures = self.failures.get() + 1;
        self.failures
            .set(if is_unknown { MOST_FAILURES } else { failures });
    }

    /// Asks, and gives the session if there is one.
    pub(super) async fn begin(&self, stream: u32) -> io::Result<BulkStream> {
        let limits = &self.means.limits;
        // Cancel-safe: whatever there is by then is dropped, and with it the socket.
        let mut session = within(limits.connect_timeout, self.establish()).await?;
        let request = Request {
            session: self.name,
            stream,
        };
        session.write(&request.put()).await?;
        // Cancel-safe: what was read is not needed any more.
        match within(limits.response_timeout, session.answer()).await {
            Ok(MAY) => session.into_stream(),
            Ok(status) => Err(io::Error::other(format!("http status: {status}"))),
            Err(error) => {
                // The peer may have taken the stream for one that moves.
                session.write(&[STAY]).await.ok();
                Err(error)
            }
        }
    }

    async fn establish(&self) -> io::Result<Fresh> {
        let (route, means) = (&self.route, &self.means);
        let connecting = means
            .connector
            .connect(&route.netns, Leg::Tunnel, route.address);
        let mut socket = connecting.await?.into_stream();
        socket.set_nodelay(true)?;
        let cutter = datapath::duplicate(&socket)?;
        let expected = std::slice::from_ref(&route.to.identity);
        let tls = means
            .identities
            .client(&route.from.identity, expected, Alpn::Bulk);
        let config = tls.map_err(io::Error::other)?.config().clone();
        let name = ServerName::IpAddress(route.address.ip().into());
        let session = UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?;
        let done = handshake::complete(&mut socket, session, Vec::new()).await?;
        // The session may be a resumed one: its peer was verified then, its validity is now.
        let local = &route.from.identity;
        let seat = means
            .identities
            .seat(&done.session, local, Side::Server, Some(cutter))
            .map_err(io::Error::other)?;
        Ok(Fresh {
            records: done.session.into_records()?,
            seat,
            socket,
            opened: done.opened,
            behind: done.records,
        })
    }
}

impl Fresh {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        handshake::write_record(&mut self.socket, &mut self.records, bytes).await
    }

    async fn answer(&mut self) -> io::Result<StatusCode> {
        let (records, opened) = (&mut self.records, &mut self.opened);
        while opened.len() < ANSWER {
            handshake::read_record(&mut self.socket, records, &mut self.behind, opened).await?;
        }
        match <[u8; ANSWER]>::try_from(opened.as_slice()) {
            Ok(answer) => parse_answer(answer).map_err(io::Error::other),
            Err(_longer) => Err(io::Error::other("bytes before they may be")),
        }
    }

    fn into_stream(self) -> io::Result<BulkStream> {
        let held = Held::new(self.seat, None);
        BulkStream::new(self.socket, self.records, (&[], &self.behind), held)
    }
}

impl Granted {
    /// The session, which is to be told that the stream goes on in it.
    pub(super) fn take(mut self) -> Option<Box<BulkStream>> {
        self.0.take()
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if let Some(mut bulk) = self.0.take()
            && bulk.say(&[STAY]).is_ok()
        {
            bulk.part();
        }
    }
}

async fn within<T>(time: Duration, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(time, Box::pin(future)).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
    }
}
