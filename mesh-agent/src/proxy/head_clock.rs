// SPDX-License-Identifier: Apache-2.0

//! How long the head of a request may take from its first byte to its last.
//!
//! Whoever reads heads says after each read that had to wait whether one is waited for, and which. Knows nothing
//! of HTTP. Invariant: there is a timer only while a head that has begun is waited for, so one
//! that comes in one piece costs nothing, and neither does a client that is silent between requests.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Sleep;

/// Watches the heads of one connection.
#[derive(Debug)]
pub(crate) struct HeadClock {
    most: Duration,
    /// The end of the head that is waited for, and which that is.
    running: Option<(u64, Pin<Box<Sleep>>)>,
}

impl HeadClock {
    /// A clock by which a head may take as long as `most`.
    pub(crate) fn new(most: Duration) -> Self {
        Self {
            most,
            running: None,
        }
    }

    /// Head number `begun` has begun and is waited for, or nothing is; ready if it has taken too long.
    pub(crate) fn poll(&mut self, begun: Option<u64>, context: &mut Context<'_>) -> Poll<()> {
        let Some(number) = begun else {
            self.running = None;
            return Poll::Pending;
        };
        let most = self.most;
        let fresh = || (number, Box::pin(tokio::time::sleep(most)));
        let (of, timer) = self.running.get_or_insert_with(fresh);
        if *of != number {
            (*of, *timer) = fresh();
        }
        timer.as_mut().poll(context)
    }

    /// No head is waited for.
    pub(crate) fn stop(&mut self) {
        self.running = None;
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Waker};

    use tokio::time::{Instant, sleep};

    use super::*;

    const MOST: Duration = Duration::from_secs(60);

    fn look(clock: &mut HeadClock, begun: Option<u64>) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        clock.poll(begun, &mut context).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_time_from_its_first_byte_on() {
        let (mut clock, started) = (HeadClock::new(MOST), Instant::now());
        sleep(2 * MOST).await;
        poll_fn(|context| clock.poll(Some(0), context)).await;
        // Timers are as fine as a millisecond.
        assert_eq!(started.elapsed().as_secs(), 3 * MOST.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn more_of_the_same_head_gives_it_no_more_time() {
        let mut clock = HeadClock::new(MOST);
        for _ in 0..9 {
            assert!(!look(&mut clock, Some(7)));
            sleep(MOST / 10).await;
        }
        sleep(MOST / 5).await;
        assert!(look(&mut clock, Some(7)));
    }

    #[tokio::test(start_paused = true)]
    async fn each_head_has_a_time_of_its_own() {
        let mut clock = HeadClock::new(MOST);
        for number in 0..4 {
            assert!(!look(&mut clock, Some(number)));
            sleep(MOST * 3 / 4).await;
        }
        assert!(!look(&mut clock, None));
        assert!(clock.running.is_none(), "nobody waits for anything");
        sleep(2 * MOST).await;
        assert!(!look(&mut clock, Some(4)));
        clock.stop();
        sleep(2 * MOST).await;
        assert!(!look(&mut clock, Some(4)));
    }
}
