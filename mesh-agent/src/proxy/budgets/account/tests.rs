// SPDX-License-Identifier: Apache-2.0

//! Pools and accounts without sockets.

use std::{
    future::Future,
    task::{Context, Poll, Waker},
};

use super::*;

/// Takes one by one until there is nothing for it any more.
fn grab(account: &Arc<Account>) -> Vec<Permit> {
    std::iter::from_fn(|| account.try_take(1)).collect()
}

#[test]
fn a_flood_leaves_as_much_as_it_takes_and_all_that_is_others_own() {
    let pool = Pool::new(1000, 100, usize::MAX);
    let (flood, other, third) = (pool.open(), pool.open(), pool.open());
    let held = grab(&flood);
    // 100 of its own, and two thirds of the 700 that are common.
    assert_eq!((held.len(), flood.used(), flood.left()), (567, 567, 0));
    let others = grab(&other);
    assert_eq!(others.len(), 100 + 156);
    assert!(grab(&third).len() >= 100 + 52);
    drop((held, others));
    assert_eq!((flood.used(), other.used(), third.used()), (0, 0, 0));
    assert_eq!(grab(&third).len(), 567, "all is as it was");
}

#[test]
fn more_accounts_make_shares_smaller_and_nobody_loses_what_it_holds() {
    let pool = Pool::new(100, 40, usize::MAX);
    let first = pool.open();
    let held = grab(&first);
    assert_eq!(held.len(), 40 + 40);
    let others: Vec<_> = (0..9).map(|_| pool.open()).collect();
    assert_eq!(first.used(), 80);
    for other in &others {
        assert!(other.try_take(1).is_some(), "something is its own");
    }
    assert!(first.try_take(1).is_none());
    drop(others);
    drop(held);
    assert_eq!(grab(&first).len(), 80);
}

#[test]
fn a_setting_bounds_what_one_account_holds() {
    let pool = Pool::new(1000, 100, 7);
    let (first, second) = (pool.open(), pool.open());
    let held = grab(&first);
    assert_eq!((held.len(), first.left()), (7, 0));
    assert_eq!(grab(&second).len(), 7);
}

#[test]
fn amounts_go_back_as_they_were_taken_in_whatever_order() {
    let pool = Pool::new(1000, 100, usize::MAX);
    let account = pool.open();
    let permits: Vec<_> = [60, 30, 200, 9, 50, 1]
        .into_iter()
        .filter_map(|amount| account.try_take(amount))
        .collect();
    assert_eq!(account.used(), 350);
    for (position, permit) in permits.into_iter().enumerate() {
        let before = account.used();
        let amount = permit.amount;
        drop(permit);
        assert_eq!(account.used(), before - amount, "{position}");
    }
    assert_eq!((account.used(), pool.free()), (0, 900));
}

/// What a future that is polled by hand has.
fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
    let mut context = Context::from_waker(Waker::noop());
    match future.poll(&mut context) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

#[test]
fn who_waits_is_told_accounts_in_turn() {
    let pool = Pool::new(20, 1, 3);
    let (one, two) = (pool.open(), pool.open());
    let (mut ones, mut twos) = (grab(&one), grab(&two));
    let mut first = Box::pin(one.take());
    let mut second = Box::pin(one.take());
    let mut other = Box::pin(two.take());
    for waiting in [&mut first, &mut second] {
        assert!(poll(waiting.as_mut()).is_none());
    }
    assert!(poll(other.as_mut()).is_none());
    assert_eq!(pool.waiting.load(SeqCst), 3);
    ones.pop();
    let first_got = poll(first.as_mut()).expect("it came first");
    twos.pop();
    let other_got = poll(other.as_mut()).expect("its account's turn");
    assert!(poll(second.as_mut()).is_none());
    drop((first, first_got, other, other_got));
    ones.clear();
    twos.clear();
    let got = poll(second.as_mut()).expect("there is room");
    drop((second, got));
    assert_eq!((one.used(), two.used()), (0, 0));
    assert_eq!(pool.waiting.load(SeqCst), 0);
}

#[test]
fn who_is_told_and_leaves_passes_it_on() {
    let pool = Pool::new(2, 1, 1);
    let account = pool.open();
    let held = grab(&account);
    let mut first = Box::pin(account.take());
    let mut second = Box::pin(account.take());
    assert!(poll(first.as_mut()).is_none());
    assert!(poll(second.as_mut()).is_none());
    drop(held);
    drop(first);
    assert!(poll(second.as_mut()).is_some());
}
