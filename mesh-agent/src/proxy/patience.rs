// SPDX-License-Identifier: Apache-2.0

//! How long a connection that is carried as bytes may live, and be silent.
//!
//! Knows nothing of what is carried. Invariant: without a limit there is no timer.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep_until},
};

use super::{
    copy::{Broken, Copy},
    outcome::Expiry,
};

/// How often silence is looked for within the time that it may last.
const LOOKS: u32 = 8;

/// The limits of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Patience {
    /// How long it may carry nothing.
    pub(crate) idle: Option<Duration>,
    /// How long it may live.
    pub(crate) lifetime: Option<Duration>,
}

impl Patience {
    /// Carries on until the end or until one of the limits is met. Cancel-safe as [`Copy`] is.
    pub(crate) async fn carry<C, U>(
        self,
        mut copying: Copy<'_, C, U>,
    ) -> Result<Result<(), Broken>, Expiry>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        U: AsyncRead + AsyncWrite + Unpin,
    {
        let Self { idle, lifetime } = self;
        if idle.is_none() && lifetime.is_none() {
            return Ok(copying.await);
        }
        let started = Instant::now();
        let dies = lifetime.map(|lifetime| started + lifetime);
        let (mut seen, mut since) = (copying.carried(), started);
        loop {
            let look = idle.map(|idle| Instant::now() + idle / LOOKS);
            // One of the two is there.
            let Some(wake) = dies.into_iter().chain(look).min() else {
                return Ok(copying.await);
            };
            let mut timer = pin!(sleep_until(wake));
            let ended = poll_fn(|context| {
                if let Poll::Ready(copied) = std::pin::Pin::new(&mut copying).poll(context) {
                    return Poll::Ready(Some(copied));
                }
                timer.as_mut().poll(context).map(|()| None)
            });
            if let Some(copied) = ended.await {
                return Ok(copied);
            }
            let now = Instant::now();
            if dies.is_some_and(|dies| dies <= now) {
                return Err(Expiry::Lifetime);
            }
            let carried = copying.carried();
            if carried != seen {
                (seen, since) = (carried, now);
            } else if idle.is_some_and(|idle| now - since >= idle) {
                return Err(Expiry::Idle);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};

    use super::{
        super::copy::{Carried, copy},
        *,
    };

    const MINUTE: Duration = Duration::from_secs(60);

    /// How a connection ends whose client says something every `pause`, three times, and then is silent.
    async fn ending(patience: Patience, pause: Duration) -> Result<bool, Expiry> {
        let (mut client, mut ours) = duplex(16);
        let (mut theirs, _server) = duplex(16);
        let mut carried = Carried::default();
        let copying = copy(&mut ours, &mut theirs, &mut carried);
        let saying = async {
            for _ in 0..3 {
                client.write_u8(1).await.expect("room");
                tokio::time::sleep(pause).await;
            }
            std::future::pending::<()>().await;
        };
        // Cancel-safe: the test is over then.
        tokio::select! {
            ended = patience.carry(copying) => ended.map(|copied| copied.is_ok()),
            () = saying => unreachable!("it never ends"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_connection_and_bytes_keep_it() {
        let patience = Patience {
            idle: Some(MINUTE),
            lifetime: None,
        };
        let started = Instant::now();
        let pause = MINUTE * 3 / 4;
        assert_eq!(ending(patience, pause).await, Err(Expiry::Idle));
        let lived = started.elapsed();
        assert!(lived >= 2 * pause + MINUTE, "{lived:?}");
        assert!(lived < 2 * pause + 2 * MINUTE, "{lived:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lifetime_ends_a_connection_whatever_it_carries() {
        let patience = Patience {
            idle: Some(MINUTE),
            lifetime: Some(MINUTE),
        };
        let started = Instant::now();
        let pause = MINUTE / 4;
        assert_eq!(ending(patience, pause).await, Err(Expiry::Lifetime));
        assert_eq!(started.elapsed().as_secs(), 60);
    }
}
