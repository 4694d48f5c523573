// SPDX-License-Identifier: Apache-2.0

//! Futures that hardly ever have something to do, beside one that always has.
//!
//! Whoever waits for several things at once polls all of them whenever one of them moves: a timer and
//! a signal to leave cost a busy connection more than its own bytes do. What is in here is polled
//! only when it was itself woken. It costs one allocation, and is for what lives long.

use futures_util::{
    StreamExt,
    stream::{FuturesUnordered, LocalBoxStream, SelectAll},
};

/// Runs `future` to its end; polled again only when it was woken. Cancel-safe if it is.
pub(super) async fn once<F: Future<Output = ()>>(future: F) {
    let mut alone = FuturesUnordered::from_iter([future]);
    alone.next().await;
}

/// All that any of `sources` gives; each is polled again only when it was woken.
pub(super) fn all<T>(
    sources: impl IntoIterator<Item = LocalBoxStream<'static, T>>,
) -> SelectAll<LocalBoxStream<'static, T>> {
    sources.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        future::poll_fn,
        pin::pin,
        rc::Rc,
        task::{Context, Poll, Waker},
    };

    use futures_util::stream;

    use super::*;

    #[test]
    fn a_future_is_polled_only_when_it_was_woken() {
        let (polls, waker) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(None::<Waker>)));
        let mut quiet = pin!(once({
            let (polls, waker) = (Rc::clone(&polls), Rc::clone(&waker));
            poll_fn(move |context| {
                polls.set(polls.get() + 1);
                waker.set(Some(context.waker().clone()));
                if polls.get() < 2 {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            })
        }));
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert!(quiet.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(polls.get(), 1);
        waker.take().expect("it was polled").wake();
        assert!(quiet.as_mut().poll(&mut context).is_ready());
    }

    #[tokio::test]
    async fn what_any_source_gives_arrives() {
        let (numbers, silence) = (stream::iter([1, 2]), stream::pending());
        let mut all = all([numbers.boxed_local(), silence.boxed_local()]);
        assert_eq!((all.next().await, all.next().await), (Some(1), Some(2)));
    }
}
