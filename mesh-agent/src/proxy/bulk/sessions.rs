// SPDX-License-Identifier: Apache-2.0

//! The server's end: finds the stream that a bulk session continues, on whichever thread it is.
//!
//! Knows nothing of what is carried. Invariants: a stream is continued only for the peer that opened it; a
//! session that finds no stream carries no byte. Reference: ADR 14.

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    net::TcpStream as StdStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::StatusCode;
use rustls::{
    ServerConfig,
    server::{Acceptor, UnbufferedServerConnection},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::TcpStream,
    sync::{mpsc, oneshot},
};

use super::{
    super::mux,
    handshake::{self, Session},
    header::{MAY, Name, REQUEST, Request, put_answer},
    record::Records,
    stream::{BulkStream, Held, Lent},
};
use crate::{
    datapath,
    identity::{Alpn, Cutter, Identities, Seat, Side},
    model::SpiffeId,
};

/// What is read of a hello at once.
const READ: usize = 2048;

/// A hello is not longer.
const MOST_HELLO: usize = 64 * 1024;

/// A connection that can be given to another thread.
pub trait Portable: AsyncRead + AsyncWrite + Unpin {
    /// The socket, as it is.
    ///
    /// # Errors
    /// If there is none, or it cannot be given away.
    fn into_std(self) -> io::Result<StdStream>;

    /// What ends it from outside; nothing for what is no socket.
    ///
    /// # Errors
    /// There are no descriptors left.
    fn cutter(&self) -> io::Result<Option<Cutter>>;
}

impl Portable for TcpStream {
    fn into_std(self) -> io::Result<StdStream> {
        Self::into_std(self)
    }

    fn cutter(&self) -> io::Result<Option<Cutter>> {
        datapath::duplicate(self).map(Some)
    }
}

/// What a client sent first.
pub(in super::super) struct Hello {
    /// To be given to whoever speaks TLS with it.
    pub(in super::super) bytes: Vec<u8>,
    /// It wants a bulk session.
    pub(in super::super) is_bulk: bool,
}

/// A bulk session that a client wants.
pub(in super::super) struct Arrival {
    socket: StdStream,
    records: Records,
    behind: Vec<u8>,
    seat: Seat,
    local: SpiffeId,
    request: Request,
}

/// The sessions of the mux in this process whose streams can be continued.
#[derive(Clone, Default)]
pub struct BulkSessions(Arc<Mutex<HashMap<Name, Lane>>>);

type Lane = mpsc::UnboundedSender<Offer>;

/// A bulk session on its way to its stream's thread.
struct Offer {
    arrival: Arrival,
    lent: Lent,
}

/// What one session of the mux gets; while it lives, the session can be found.
pub(in super::super) struct Offers {
    all: BulkSessions,
    name: Name,
    lane: mpsc::UnboundedReceiver<Offer>,
}

/// Reads a client's hello.
pub(in super::super) async fn hello(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Hello> {
    let (mut bytes, mut acceptor) = (Vec::with_capacity(READ), Acceptor::default());
    let mut is_bulk = false;
    while bytes.len() < MOST_HELLO {
        let begin = bytes.len();
        bytes.reserve(READ);
        if io.read_buf(&mut bytes).await? == 0 {
            break;
        }
        let mut fresh = &bytes[begin..];
        while !fresh.is_empty() && acceptor.read_tls(&mut fresh)? > 0 {}
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                is_bulk = hello
                    .alpn()
                    .is_some_and(|mut names| names.any(|name| name == Alpn::Bulk.name()));
                break;
            }
            // Whoever speaks TLS with it says what is wrong.
            Err(_) => break,
        }
    }
    Ok(Hello { bytes, is_bulk })
}

/// Does a client's handshake, of which `hello` was read, and reads its request.
pub(in super::super) async fn greet<Io: Portable>(
    mut io: Io,
    config: Arc<ServerConfig>,
    hello: Vec<u8>,
    local: &SpiffeId,
    identities: &Identities,
) -> io::Result<Arrival> {
    let cutter = io.cutter()?;
    let session = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
    let done = Box::pin(handshake::complete(&mut io, session, hello)).await?;
    let seat = identities
        .seat(&done.session, local, Side::Client, cutter)
        .map_err(io::Error::other)?;
    let mut records = done.session.into_records()?;
    let (mut opened, mut behind) = (done.opened, done.records);
    while opened.len() < REQUEST {
        handshake::read_record(&mut io, &mut records, &mut behind, &mut opened).await?;
    }
    let request = match <[u8; REQUEST]>::try_from(opened) {
        Ok(request) => Request::parse(request).map_err(io::Error::other)?,
        Err(_longer) => return Err(io::Error::other("bytes before the answer")),
    };
    Ok(Arrival {
        socket: io.into_std()?,
        records,
        behind,
        seat,
        local: local.clone(),
        request,
    })
}

impl BulkSessions {
    /// Lets the session of the mux called `name` be found.
    pub(in super::super) fn register(&self, name: Name) -> Offers {
        let (sender, lane) = mpsc::unbounded_channel();
        self.lock().insert(name, sender);
        Offers {
            all: self.clone(),
            name,
            lane,
        }
    }

    /// Gives a bulk session to the stream that it continues, and waits until that has ended.
    pub(in super::super) async fn serve(&self, arrival: Arrival) -> io::Result<()> {
        let lane = self.lock().get(&arrival.request.session).cloned();
        let Some(lane) = lane else {
            return arrival.refuse(StatusCode::NOT_FOUND).await;
        };
        let (lent, released) = oneshot::channel();
        if let Err(gone) = lane.send(Offer { arrival, lent }) {
            return gone.0.arrival.refuse(StatusCode::NOT_FOUND).await;
        }
        // It is dropped, not sent.
        released.await.ok();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Lane>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Offers {
    /// Gives the next bulk session to its stream, one of `attacher`'s session between `local` and
    /// `peer`. Never resolves. Cancel-safe.
    pub(in super::super) async fn settle(
        &mut self,
        attacher: &mux::Attacher,
        local: &SpiffeId,
        peer: &SpiffeId,
    ) {
        while let Some(offer) = self.lane.recv().await {
            let arrival = &offer.arrival;
            let is_theirs = *arrival.seat.peer() == *peer && arrival.local == *local;
            let stream = arrival.request.stream;
            let settled = if !is_theirs {
                offer.arrival.refuse(StatusCode::FORBIDDEN).await
            } else if !attacher.may_attach(stream) {
                offer.arrival.refuse(StatusCode::CONFLICT).await
            } else {
                offer.attach(attacher)
            };
            if let Err(error) = settled {
                tracing::debug!(%peer, %error, "a bulk session came to nothing");
            }
        }
        std::future::pending().await
    }
}

impl Drop for Offers {
    fn drop(&mut self) {
        self.all.lock().remove(&self.name);
    }
}

impl Offer {
    /// Hands the stream its session, which says so when the stream is looked at next.
    fn attach(self, attacher: &mux::Attacher) -> io::Result<()> {
        let stream = self.arrival.request.stream;
        let mut bulk = self.arrival.into_stream(Some(self.lent))?;
        bulk.say(&put_answer(MAY))?;
        attacher.attach(stream, Box::new(bulk));
        Ok(())
    }
}

impl Arrival {
    fn into_stream(self, lent: Option<Lent>) -> io::Result<BulkStream> {
        let socket = TcpStream::from_std(self.socket)?;
        let held = Held::new(self.seat, lent);
        BulkStream::new(socket, self.records, (&[], &self.behind), held)
    }

    async fn refuse(self, status: StatusCode) -> io::Result<()> {
        let mut bulk = self.into_stream(None)?;
        bulk.say(&put_answer(status))?;
        poll_fn(|context| bulk.poll_written(context)).await?;
        bulk.part();
        Ok(())
    }
}
