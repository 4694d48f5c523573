// SPDX-License-Identifier: Apache-2.0

//! Finds out that the peer of a tunnel is gone although its connection is not: pings it.
//!
//! Both ends of every kind of tunnel use it. Knows nothing of streams or pools. Invariant: at most
//! one ping is under way; a peer that answers is never called silent.
//! Reference: RFC 9113 section 6.7; ADR 11.

use std::{
    future::poll_fn,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{
    StreamExt,
    stream::{self, LocalBoxStream, SelectAll},
};
use h2::{Ping, PingPong};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::{mux, quiet};

/// How a silent peer is found.
#[derive(Clone, Copy, Debug)]
pub struct KeepAliveLimits {
    /// The time between two pings.
    pub interval: Duration,
    /// How long a ping may go unanswered.
    pub timeout: Duration,
}

impl Default for KeepAliveLimits {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(20),
        }
    }
}

/// By which kind of tunnel the peer is pinged.
pub(super) enum Pings {
    Hbone(PingPong),
    Mux(mux::Pings),
}

/// Pings one connection.
pub(super) struct KeepAlive {
    pings: Pings,
    tick: Interval,
    timeout: Duration,
    /// Since when a ping is unanswered.
    waiting: Option<Instant>,
    /// The connection takes no more pings: its own end is near.
    closing: bool,
}

/// What a connection has to heed besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cue {
    /// Of the peer.
    Pulse(Pulse),
    /// It is time to leave.
    Leave,
}

/// What [`KeepAlive::next`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pulse {
    /// Time passed and all is well.
    Beat,
    /// The peer does not answer.
    Silent,
}

impl Pings {
    /// Sends one; false if the connection takes no more.
    fn send(&mut self) -> bool {
        match self {
            Self::Hbone(pings) => pings.send_ping(Ping::opaque()).is_ok(),
            Self::Mux(pings) => {
                pings.ping();
                true
            }
        }
    }

    /// Ready when it was answered; false if the connection takes no more.
    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        match self {
            Self::Hbone(pings) => pings.poll_pong(context).map(|pong| pong.is_ok()),
            Self::Mux(pings) => pings.poll_pong(context).map(|()| true),
        }
    }
}

impl KeepAlive {
    pub(super) fn new(pings: Pings, limits: KeepAliveLimits) -> Self {
        let begin = Instant::now() + limits.interval;
        let mut tick = tokio::time::interval_at(begin, limits.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            pings,
            tick,
            timeout: limits.timeout,
            waiting: None,
            closing: false,
        }
    }

    /// The pulse for good, and that `leave` has ended. Costs next to nothing while neither has news.
    pub(super) fn cues(
        self,
        leave: impl Future<Output = ()> + 'static,
    ) -> SelectAll<LocalBoxStream<'static, Cue>> {
        let pulses = stream::unfold(self, async |mut alive| {
            Some((Cue::Pulse(alive.next().await), alive))
        });
        let leave = stream::once(async move {
            leave.await;
            Cue::Leave
        });
        quiet::all([pulses.boxed_local(), leave.boxed_local()])
    }

    /// The next beat, or that there is none. Cancel-safe: all state is in `self`.
    async fn next(&mut self) -> Pulse {
        loop {
            tokio::select! {
                goes_on = poll_fn(|context| self.pings.poll_answer(context)),
                    if self.waiting.is_some() && !self.closing =>
                {
                    self.waiting = None;
                    self.closing = !goes_on;
                }
                _ = self.tick.tick() => return self.beat(),
            }
        }
    }

    fn beat(&mut self) -> Pulse {
        match self.waiting {
            Some(since) if since.elapsed() >= self.timeout => return Pulse::Silent,
            Some(_) => {}
            None if self.closing => {}
            None => {
                self.closing = !self.pings.send();
                self.waiting = Some(Instant::now());
            }
        }
        Pulse::Beat
    }
}
