// SPDX-License-Identifier: Apache-2.0

//! One connection of the pool: what runs on it, and how it ends.
//!
//! What it speaks is the wire's business ([`super::tunnel_wire`]), which connection a stream goes
//! to the pool's ([`super::tunnel`]).
//!
//! Invariant: a link that is retired takes no new streams, and closes when its last one ends.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    net::SocketAddr,
    rc::{Rc, Weak},
    task::Context,
    time::Duration,
};

use futures_util::StreamExt;
use tokio::{sync::Notify, time::Instant};

use super::{
    bulk::Asker,
    tunnel::{ConnectHeaders, TunnelError, TunnelLimits},
    tunnel_keep_alive::{Cue, KeepAlive, Pulse},
    tunnel_pool::{Key, Pool},
    tunnel_stream::TunnelStream,
    tunnel_wire::{Requests, Unanswered, Wire},
};
use crate::{identity::Identities, tasks::Drain};

/// A place for streams on one connection.
pub(super) struct Link {
    key: Key,
    /// Grows with every link of the thread.
    sequence: u64,
    pool: Weak<Pool>,
    /// Nothing once retired.
    requests: RefCell<Option<Requests>>,
    max_streams: usize,
    /// Where the peer may give streams sessions of their own.
    asker: Option<Rc<Asker>>,
    streams: Cell<usize>,
    idle_since: Cell<Instant>,
    /// A stream was answered on it, so its peer accepted us.
    proven: Cell<bool>,
    became_idle: Notify,
    /// The peer is leaving: what is kept for later must be kept elsewhere.
    going: Rc<Cell<bool>>,
}

/// Whether a peer is about to leave; what only waits for more work there should end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Going(Option<Rc<Cell<bool>>>);

impl Going {
    /// Whether it is.
    pub(crate) fn is_set(&self) -> bool {
        self.0.as_ref().is_some_and(|going| going.get())
    }
}

/// One stream's place on a link; given back when dropped.
pub(super) struct Slot(Rc<Link>);

/// A stream that could not be opened.
pub(super) struct Failure {
    pub(super) error: TunnelError,
    /// The peer never began to act on it, and was known to accept us: another link may do.
    pub(super) try_again: bool,
}

impl Link {
    pub(super) fn new(
        key: Key,
        sequence: u64,
        pool: Weak<Pool>,
        fresh: (Requests, usize),
        asker: Option<Rc<Asker>>,
    ) -> Rc<Self> {
        let (requests, max_streams) = fresh;
        Rc::new(Self {
            key,
            sequence,
            pool,
            requests: RefCell::new(Some(requests)),
            max_streams,
            asker,
            streams: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            proven: Cell::new(false),
            became_idle: Notify::new(),
            going: Rc::default(),
        })
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// A place for one more stream, if there is one.
    pub(super) fn slot(self: &Rc<Self>) -> Option<Slot> {
        let requests = self.requests.borrow();
        let taken = self.streams.get();
        if taken >= self.max_streams || !requests.as_ref()?.has_place(taken) {
            return None;
        }
        self.streams.set(self.streams.get() + 1);
        Some(Slot(Rc::clone(self)))
    }

    /// Takes no more streams; closes with the last one.
    pub(super) fn retire(&self) {
        // Not held on to meanwhile: to close it may wake who asks for it.
        let requests = self.requests.take();
        if let Some(requests) = requests {
            requests.close();
            if let Some(pool) = self.pool.upgrade() {
                pool.forget(self);
            }
        }
    }

    /// Runs the connection until it ends: serves its streams, pings the peer, lets go when idle.
    pub(super) async fn run(
        self: Rc<Self>,
        mut wire: Wire,
        identities: Identities,
        limits: TunnelLimits,
        drain: Drain,
    ) {
        let Some(pings) = wire.pings() else {
            return;
        };
        let keep_alive = KeepAlive::new(pings, limits.keep_alive);
        let mut cues = keep_alive.cues(async move { drain.requested().await });
        let mut draining = false;
        loop {
            // Each arm is cancel-safe: the wire and the cues hold their own state.
            tokio::select! {
                ended = poll_fn(|context| {
                    let ended = wire.poll(context);
                    self.note_going(context);
                    ended
                }) => {
                    if let Err(error) = ended {
                        tracing::debug!(to = %self.key.address, %error, "tunnel broke");
                    }
                    break;
                }
                Some(cue) = cues.next() => match cue {
                    Cue::Pulse(Pulse::Silent) => {
                        tracing::info!(to = %self.key.address, "tunnel closed: its peer is silent");
                        wire.give_up();
                        break;
                    }
                    Cue::Pulse(Pulse::Beat) => {
                        if self.is_stale(&identities) || self.is_idle_for(limits.idle_timeout) {
                            self.retire();
                        }
                    }
                    Cue::Leave => {
                        draining = true;
                        if self.is_idle_for(Duration::ZERO) {
                            self.retire();
                        }
                    }
                },
                () = self.became_idle.notified(), if draining => self.retire(),
            }
        }
        self.retire();
    }

    /// Looks whether the peer has said that it takes no more streams, right after what it sent
    /// was read.
    fn note_going(&self, context: &mut Context<'_>) {
        if self.going.get() {
            return;
        }
        let told = match &mut *self.requests.borrow_mut() {
            Some(requests) => requests.is_going(context),
            None => return,
        };
        if told {
            self.going.set(true);
            let pool = self.pool.upgrade();
            self.retire();
            if let Some(pool) = pool {
                pool.note_going();
            }
        }
    }

    fn is_idle_for(&self, long: Duration) -> bool {
        self.idle_since()
            .is_some_and(|since| since.elapsed() >= long)
    }

    /// Since when it has no streams, if it has none.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.streams.get() == 0).then(|| self.idle_since.get())
    }

    /// The source has another certificate by now.
    fn is_stale(&self, identities: &Identities) -> bool {
        identities.generation(&self.key.source) != self.key.generation
    }

    /// Judges what ended a stream before its answer.
    fn failure(&self, unanswered: Unanswered) -> Failure {
        if unanswered.is_going() || unanswered.is_io() {
            self.retire();
        }
        let proven = self.proven.get();
        // A connection that broke before its first answer would most likely break again.
        let try_again = unanswered.is_untouched() || (unanswered.is_io() && proven);
        let error = unanswered.into_error(self.key.address, proven);
        Failure { error, try_again }
    }
}

impl Slot {
    pub(super) fn link(&self) -> &Rc<Link> {
        &self.0
    }

    /// Whether the peer is about to leave.
    pub(super) fn going(&self) -> Going {
        Going(Some(Rc::clone(&self.0.going)))
    }

    /// What asks for sessions for single streams.
    pub(super) fn asker(&self) -> Option<Rc<Asker>> {
        self.0.asker.clone()
    }

    /// Opens a stream to `authority` in this place, within the time that the limits give.
    pub(super) async fn connect(
        self,
        authority: SocketAddr,
        headers: &ConnectHeaders,
        limits: &TunnelLimits,
    ) -> Result<TunnelStream, Failure> {
        let link = Rc::clone(&self.0);
        // Cancel-safe: a stream that is dropped half-way is reset.
        match within(limits.response_timeout, self.request(authority, headers)).await {
            Some(outcome) => outcome,
            None => Err(Failure {
                error: TunnelError::ResponseTimeout {
                    to: link.key.address,
                    after: limits.response_timeout,
                },
                try_again: false,
            }),
        }
    }

    async fn request(
        self,
        authority: SocketAddr,
        headers: &ConnectHeaders,
    ) -> Result<TunnelStream, Failure> {
        let link = Rc::clone(&self.0);
        let requests = link.requests.borrow().clone();
        let Some(requests) = requests else {
            // Retired between the choice and now: nothing was sent.
            let to = link.key.address;
            return Err(Failure {
                error: TunnelError::Closed { to },
                try_again: true,
            });
        };
        match Box::pin(requests.open(authority, headers)).await {
            Ok((bytes, baggage)) => {
                link.proven.set(true);
                Ok(TunnelStream::new(bytes, baggage, Some(self)))
            }
            Err(unanswered) => {
                if unanswered.is_answer() {
                    link.proven.set(true);
                }
                Err(link.failure(unanswered))
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let streams = self.0.streams.get() - 1;
        self.0.streams.set(streams);
        if streams == 0 {
            self.0.idle_since.set(Instant::now());
            self.0.became_idle.notify_one();
        }
    }
}

async fn within<F: Future>(time: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(time, future).await.ok()
}
