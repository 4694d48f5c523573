// SPDX-License-Identifier: Apache-2.0

//! Which endpoint is chosen under each policy.

use std::{collections::BTreeMap, sync::Arc};

use super::*;
use crate::model::{
    ServiceName,
    hashing::{HashKey, TableKind},
    locality::Nearness,
};

fn cluster(count: u8, policy: UpstreamPolicy) -> Cluster {
    let endpoint = |last| Endpoint {
        address: address(last),
        workload: None,
        place: None,
        tls: None,
        proxy_protocol: None,
        upkeep: None,
        weight: 1,
        load: Arc::default(),
    };
    let endpoints: Vec<Endpoint> = (1..=count).map(endpoint).collect();
    let upstream = UpstreamUse::new(policy, Position::default(), &endpoints, None);
    let cluster = Cluster::new(
        ServiceName::new("default", "web"),
        "web.default.svc.cluster.local".into(),
        80,
        None,
        None,
        endpoints,
    );
    cluster.used(Some(Arc::new(upstream)))
}

fn address(last: u8) -> SocketAddr {
    ([10, 0, 0, last], 80).into()
}

fn ask(key: Option<u64>, now: Duration) -> Ask<'static> {
    Ask {
        key,
        labels: None,
        now,
    }
}

const NOW: Duration = Duration::from_secs(1_000);

/// How often each endpoint comes in `draws`.
fn counts(cluster: &Cluster, draws: usize, avoid: &[SocketAddr]) -> BTreeMap<SocketAddr, usize> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut counts = BTreeMap::new();
    for _ in 0..draws {
        let chosen = cluster.choose(&ask(None, NOW), |n| random.usize(..n), avoid);
        *counts.entry(chosen.unwrap().address).or_default() += 1;
    }
    counts
}

fn balanced(balancer: Balancer) -> UpstreamPolicy {
    UpstreamPolicy {
        balancer,
        ..UpstreamPolicy::default()
    }
}

fn weighted(balancer: Balancer, weights: &[u32]) -> Cluster {
    let even = cluster(
        u8::try_from(weights.len()).unwrap(),
        UpstreamPolicy::default(),
    );
    let weigh = |(endpoint, weight): (&Endpoint, &u32)| Endpoint {
        weight: *weight,
        ..endpoint.clone()
    };
    let endpoints: Vec<Endpoint> = even.endpoints.iter().zip(weights).map(weigh).collect();
    let upstream = UpstreamUse::new(balanced(balancer), Position::default(), &endpoints, None);
    let (name, host) = (even.service.clone(), Arc::clone(&even.hostname));
    let cluster = Cluster::new(name, host, 80, None, None, endpoints);
    cluster.used(Some(Arc::new(upstream)))
}

#[test]
fn endpoints_are_chosen_as_often_as_they_weigh() {
    let round_robin = weighted(Balancer::RoundRobin, &[5, 3, 2]);
    let exact = [(1, 500), (2, 300), (3, 200)].map(|(last, count)| (address(last), count));
    assert_eq!(counts(&round_robin, 1_000, &[]), BTreeMap::from(exact));
    for balancer in [Balancer::Random, Balancer::LeastRequest] {
        let found = counts(&weighted(balancer, &[100, 1, 99]), 20_000, &[]);
        for (last, want) in [(1, 10_000), (2, 100), (3, 9_900)] {
            let count = found.get(&address(last)).copied().unwrap_or_default();
            assert!(count.abs_diff(want) < 500, "{found:?}");
        }
    }
}

#[test]
fn a_heavy_endpoint_that_is_avoided_leaves_the_others_their_ratio() {
    let cluster = weighted(Balancer::Random, &[1_000, 3, 1]);
    let found = counts(&cluster, 8_000, &[address(1)]);
    assert_eq!(found.len(), 2);
    assert!(found[&address(2)].abs_diff(6_000) < 400, "{found:?}");
}

#[test]
fn the_less_loaded_is_the_one_with_less_for_what_it_weighs() {
    let cluster = weighted(Balancer::LeastRequest, &[4, 1]);
    let load = |index: usize| cluster.endpoints[index].load.begin();
    // Three on the heavy one are less than one on the light one.
    let held = [load(0), load(0), load(0), load(1)];
    assert_eq!(
        counts(&cluster, 2_000, &[])
            .get(&address(2))
            .copied()
            .unwrap_or(0),
        0
    );
    drop(held);
}

#[test]
fn round_robin_is_exact() {
    let cluster = cluster(3, balanced(Balancer::RoundRobin));
    assert!(
        counts(&cluster, 300, &[])
            .values()
            .all(|count| *count == 100)
    );
    let avoiding = counts(&cluster, 100, &[address(2)]);
    assert_eq!(avoiding, [(address(1), 50), (address(3), 50)].into());
}

#[test]
fn random_reaches_all_whatever_their_load() {
    let cluster = cluster(2, balanced(Balancer::Random));
    let _busy: Vec<_> = (0..100)
        .map(|_| cluster.endpoints[0].load.begin())
        .collect();
    let counts = counts(&cluster, 1_000, &[]);
    assert!(counts.values().all(|count| *count > 400), "{counts:?}");
}

#[test]
fn least_request_prefers_the_less_loaded_of_two() {
    let cluster = cluster(2, balanced(Balancer::LeastRequest));
    let _busy = cluster.endpoints[0].load.begin();
    assert_eq!(counts(&cluster, 100, &[]), [(address(2), 100)].into());
}

#[test]
fn a_key_keeps_its_endpoint_until_that_must_be_avoided() {
    let hash = HashPolicy {
        key: HashKey::Source,
        table: TableKind::Ring(1024),
    };
    let cluster = cluster(5, balanced(Balancer::Hash(hash)));
    let never = |_| unreachable!("nothing is drawn");
    for key in 0..1_000_u64 {
        let key = Some(key.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let owner = cluster.choose(&ask(key, NOW), never, &[]).unwrap().address;
        assert_eq!(
            cluster.choose(&ask(key, NOW), never, &[]).unwrap().address,
            owner
        );
        let other = cluster
            .choose(&ask(key, NOW), never, &[owner])
            .unwrap()
            .address;
        assert_ne!(other, owner);
    }
    let counts = counts(&cluster, 500, &[]);
    assert_eq!(counts.len(), 5, "a request without a key goes anywhere");
}

fn ejecting(max_ejected_percent: u32, min_health_percent: u32) -> UpstreamPolicy {
    UpstreamPolicy {
        outlier: Some(Outlier {
            server_errors: 1,
            gateway_errors: 0,
            local_failures: None,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejected_percent,
            min_health_percent,
        }),
        ..UpstreamPolicy::default()
    }
}

#[test]
fn an_ejected_endpoint_gets_nothing_until_its_time_is_over() {
    let cluster = cluster(3, ejecting(100, 0));
    cluster.note(&cluster.endpoints[0], Conduct::Status(500), NOW);
    let chosen = counts(&cluster, 300, &[]);
    assert!(!chosen.contains_key(&address(1)) && chosen.len() == 2);
    let later = NOW + Duration::from_secs(31);
    let mut random = fastrand::Rng::with_seed(7);
    let mut seen = (0..100).map(|_| cluster.choose(&ask(None, later), |n| random.usize(..n), &[]));
    assert!(seen.any(|chosen| chosen.unwrap().address == address(1)));
}

#[test]
fn with_all_ejected_nobody_is_left_but_in_panic_all_are() {
    let all_out = |policy| {
        let cluster = cluster(2, policy);
        for endpoint in &cluster.endpoints {
            cluster.note(endpoint, Conduct::Failed, NOW);
        }
        cluster.choose(&ask(None, NOW), |_| 0, &[]).is_some()
    };
    assert!(!all_out(ejecting(100, 0)));
    assert!(all_out(ejecting(100, 50)));
    assert!(all_out(ejecting(10, 0)), "one of two stays");
}

#[test]
fn without_a_policy_failures_are_not_counted() {
    let cluster = cluster(2, balanced(Balancer::LeastRequest));
    for _ in 0..100 {
        cluster.note(&cluster.endpoints[0], Conduct::Failed, NOW);
    }
    assert_eq!(cluster.ejected(NOW), 0);
}

/// How often each endpoint comes when the first has been used for a long time and the others are new.
fn warming(balancer: Balancer) -> BTreeMap<SocketAddr, usize> {
    let warmup = Warmup {
        length: Duration::from_secs(100),
        at_first: 100,
        aggression: 1_000,
    };
    let cluster = cluster(
        2,
        UpstreamPolicy {
            warmup: Some(warmup),
            ..balanced(balancer)
        },
    );
    cluster.endpoints[0]
        .load
        .age()
        .at(NOW - Duration::from_secs(200));
    counts(&cluster, 11_000, &[])
}

#[test]
fn a_new_endpoint_gets_a_tenth_of_what_others_get() {
    let round = warming(Balancer::RoundRobin);
    assert!((800..1_200).contains(&round[&address(2)]), "{round:?}");
    let least = warming(Balancer::LeastRequest);
    assert!((800..1_200).contains(&least[&address(2)]), "{least:?}");
}

#[test]
fn endpoints_that_are_all_new_are_all_alike() {
    let warmup = Warmup {
        length: Duration::from_secs(100),
        at_first: 100,
        aggression: 1_000,
    };
    let policy = UpstreamPolicy {
        warmup: Some(warmup),
        ..balanced(Balancer::RoundRobin)
    };
    let counts = counts(&cluster(4, policy), 8_000, &[]);
    assert!(
        counts.values().all(|count| (1_800..2_200).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn few_of_many_that_can_be_used_are_found_and_used_alike() {
    let cluster = cluster(
        100,
        UpstreamPolicy {
            balancer: Balancer::RoundRobin,
            ..ejecting(100, 0)
        },
    );
    let outlier = cluster.upstream.as_ref().unwrap().policy.outlier.unwrap();
    for endpoint in &cluster.endpoints[..97] {
        endpoint.load.health().eject(&outlier, NOW);
    }
    let counts = counts(&cluster, 3_000, &[]);
    assert_eq!(counts.len(), 3);
    assert!(
        counts.values().all(|count| (900..1_100).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn beside_an_endpoint_are_those_of_its_tier() {
    let place = |zone: &str| {
        Arc::new(Place {
            region: "r".into(),
            zone: zone.into(),
            ..Place::default()
        })
    };
    let even = cluster(4, UpstreamPolicy::default());
    let mut endpoints = even.endpoints.clone();
    for (endpoint, zone) in endpoints.iter_mut().zip(["a", "a", "b", "b"]) {
        endpoint.place = Some(place(zone));
    }
    let of = |spread| {
        let policy = UpstreamPolicy {
            spread,
            ..UpstreamPolicy::default()
        };
        let here = Some(place("a"));
        let upstream = UpstreamUse::new(policy, Position::default(), &endpoints, here);
        let (name, host) = (even.service.clone(), Arc::clone(&even.hostname));
        let cluster = Cluster::new(name, host, 80, None, None, endpoints.clone());
        let cluster = cluster.used(Some(Arc::new(upstream)));
        let beside = |last| cluster.beside(address(last), None).collect::<Vec<_>>();
        [beside(1), beside(4), beside(9)]
    };
    let near = Some(Spread::Nearest(Nearness::by_zone()));
    let (first, second) = (vec![address(1), address(2)], vec![address(3), address(4)]);
    assert_eq!(of(near), [first, second, vec![]]);
    // Where all are as near as each other, none is farther.
    assert_eq!(of(None), [vec![], vec![], vec![]]);
}
