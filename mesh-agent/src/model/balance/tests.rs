// SPDX-License-Identifier: Apache-2.0

//! Ratios are exact, endpoints are chosen by load.

use std::{collections::HashSet, sync::Arc, thread};

use super::*;
use crate::model::ServiceName;

fn draws(schedule: &Schedule, count: usize) -> Vec<usize> {
    (0..count)
        .map(|_| schedule.next().expect("a weight is set"))
        .collect()
}

fn count(draws: &[usize], backend: usize) -> usize {
    draws.iter().filter(|drawn| **drawn == backend).count()
}

#[track_caller]
fn check_windows(weights: &[u32]) {
    let schedule = Schedule::new(weights, Position::default());
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let window = schedule.window();
    let all = draws(&schedule, window * 3);
    for start in 0..window * 2 {
        for (backend, weight) in weights.iter().enumerate() {
            assert_eq!(
                count(&all[start..start + window], backend),
                (weight / divisor) as usize,
                "backend {backend} of {weights:?} from {start}"
            );
        }
    }
}

#[test]
fn every_window_of_a_table_length_has_exact_counts() {
    for weights in [
        &[90, 10][..],
        &[99, 1],
        &[1, 0],
        &[0, 0, 7],
        &[70, 30],
        &[33, 33, 34],
        &[5, 1, 1],
        &[1, 2, 3, 4, 5],
    ] {
        check_windows(weights);
    }
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..50 {
        let weights: Vec<u32> = (0..random.usize(1..6)).map(|_| random.u32(0..60)).collect();
        if weights.iter().any(|weight| *weight > 0) {
            check_windows(&weights);
        }
    }
}

#[test]
fn ninety_to_ten_over_a_hundred_requests_is_ninety_and_ten() {
    let schedule = Schedule::new(&[90, 10], Position::default());
    let first = draws(&schedule, 100);
    assert_eq!((count(&first, 0), count(&first, 1)), (90, 10));
    // Smooth: the tenth never comes in a burst.
    assert!(first.windows(2).all(|pair| pair != [1, 1]));
}

#[test]
fn one_percent_is_one_request_in_a_hundred() {
    let schedule = Schedule::new(&[99, 1], Position::default());
    for _ in 0..5 {
        assert_eq!(count(&draws(&schedule, 100), 1), 1);
    }
}

#[test]
fn a_ratio_holds_across_threads() {
    let schedule = Schedule::new(&[90, 10], Position::default());
    let counts: Vec<usize> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| count(&draws(&schedule, 250), 1)))
            .collect();
        threads.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(counts.iter().sum::<usize>(), 100);
}

#[test]
fn no_weight_draws_nothing() {
    assert_eq!(Schedule::new(&[0, 0], Position::default()).next(), None);
    assert_eq!(Schedule::new(&[], Position::default()).next(), None);
}

#[test]
fn a_position_is_carried_into_the_next_snapshot() {
    let old = Schedule::new(&[3, 1], Position::default());
    let whole = draws(&Schedule::new(&[3, 1], Position::default()), 8);
    let head = draws(&old, 3);
    let new = Schedule::new(&[3, 1], old.position().clone());
    assert_eq!([head, draws(&new, 5)].concat(), whole);
}

#[test]
fn absurd_weights_are_scaled_to_the_longest_table() {
    let schedule = Schedule::new(&[u32::MAX, 1, 0, u32::MAX / 3], Position::default());
    let all = draws(&schedule, schedule.window());
    assert!(schedule.window().abs_diff(MAX_TABLE as usize) <= 1);
    assert_eq!(count(&all, 1), 1, "a backend with weight keeps a share");
    assert_eq!(count(&all, 2), 0);
    assert!(count(&all, 0).abs_diff(7_500) <= 1);
}

fn cluster(loads: &[u32]) -> (Cluster, Vec<LoadGuard>) {
    let mut guards = Vec::new();
    let endpoints = loads
        .iter()
        .enumerate()
        .map(|(index, load)| {
            let cell = Arc::new(EndpointLoad::default());
            guards.extend((0..*load).map(|_| cell.begin()));
            Endpoint {
                address: address(index),
                workload: None,
                place: None,
                tls: None,
                proxy_protocol: None,
                upkeep: None,
                weight: 1,
                load: cell,
            }
        })
        .collect();
    let cluster = Cluster::new(
        ServiceName::new("default", "web"),
        "web.default.svc.cluster.local".into(),
        80,
        None,
        None,
        endpoints,
    );
    (cluster, guards)
}

fn address(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(index).unwrap()], 80))
}

#[test]
fn the_less_loaded_of_two_is_picked() {
    let (cluster, guards) = cluster(&[3, 1]);
    for first in 0..2 {
        let mut numbers = [first, 0].into_iter();
        let picked = cluster.pick(|_| numbers.next().unwrap(), &[]).unwrap();
        assert_eq!(picked.address, address(1));
    }
    drop(guards);
    assert_eq!(cluster.endpoints[0].load.current(), 0);
}

#[test]
fn every_endpoint_is_picked_and_avoided_ones_are_not() {
    let (cluster, _guards) = cluster(&[0; 5]);
    let mut random = fastrand::Rng::with_seed(7);
    let mut seen = HashSet::new();
    for _ in 0..200 {
        let picked = cluster.pick(|n| random.usize(..n), &[address(2)]).unwrap();
        seen.insert(picked.address);
    }
    assert_eq!(seen.len(), 4);
    assert!(!seen.contains(&address(2)));
}

#[test]
fn nothing_is_picked_when_all_are_avoided_or_there_are_none() {
    let (cluster, _guards) = cluster(&[0]);
    assert!(cluster.pick(|_| 0, &[]).is_some());
    assert!(cluster.pick(|_| 0, &[address(0)]).is_none());
    let (empty, _guards) = self::cluster(&[]);
    assert!(empty.pick(|_| 0, &[]).is_none());
}
