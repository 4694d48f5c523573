// SPDX-License-Identifier: Apache-2.0

//! Finds out that the peer of a tunnel is gone although its connection is not: pings it.
//!
//! Both ends of HBONE use it. Knows nothing of streams or pools. Invariant: at most one ping is
//! under way; a peer that answers is never called silent. Reference: RFC 9113 section 6.7.

use std::{future::poll_fn, time::Duration};

use h2::{Ping, PingPong};
use tokio::time::{Instant, Interval, MissedTickBehavior};

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

/// Pings one connection.
pub(super) struct KeepAlive {
    pings: PingPong,
    tick: Interval,
    timeout: Duration,
    /// Since when a ping is unanswered.
    waiting: Option<Instant>,
    /// The connection takes no more pings: its own end is near.
    closing: bool,
}

/// What [`KeepAlive::next`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pulse {
    /// Time passed and all is well.
    Beat,
    /// The peer does not answer.
    Silent,
}

impl KeepAlive {
    pub(super) fn new(pings: PingPong, limits: KeepAliveLimits) -> Self {
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

    /// The next beat, or that there is none. Cancel-safe: all state is in `self`.
    pub(super) async fn next(&mut self) -> Pulse {
        loop {
            tokio::select! {
                pong = poll_fn(|context| self.pings.poll_pong(context)),
                    if self.waiting.is_some() && !self.closing =>
                {
                    self.waiting = None;
                    self.closing = pong.is_err();
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
                self.closing = self.pings.send_ping(Ping::opaque()).is_err();
                self.waiting = Some(Instant::now());
            }
        }
        Pulse::Beat
    }
}
