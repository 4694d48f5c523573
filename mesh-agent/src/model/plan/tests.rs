// SPDX-License-Identifier: Apache-2.0

//! Which tier is chosen, with how many fit.

use super::*;

const NOW: Duration = Duration::from_secs(1_000);

fn outlier(min_health_percent: u32) -> Outlier {
    Outlier {
        server_errors: 1,
        gateway_errors: 0,
        local_failures: None,
        interval: Duration::from_secs(10),
        base_ejection: Duration::from_secs(30),
        max_ejected_percent: 100,
        min_health_percent,
    }
}

/// Tiers of such weights and sizes, the first `left_out` of each left out.
fn made(tiers: &[(u32, u32, u32)]) -> (Plan, Vec<Endpoint>) {
    let mut endpoints = Vec::new();
    let mut made = Vec::new();
    for (weight, size, left_out) in tiers {
        let first = u32::try_from(endpoints.len()).unwrap();
        for nth in 0..*size {
            let endpoint = Endpoint {
                address: ([10, 0, 0, 1], 80).into(),
                workload: None,
                place: None,
                tls: None,
                proxy_protocol: None,
                upkeep: None,
                weight: 1,
                load: Arc::default(),
            };
            if nth < *left_out {
                endpoint.load.health().eject(&outlier(0), NOW);
            }
            endpoints.push(endpoint);
        }
        made.push(Tier {
            weight: *weight,
            members: (first..first + size).collect(),
        });
    }
    (Plan::new(Some(made), endpoints.len()), endpoints)
}

/// How many of all draws go to each tier, `!` if to all of its endpoints.
#[track_caller]
fn check(tiers: &[(u32, u32, u32)], min_health: u32, want: &[&str]) {
    let (plan, endpoints) = made(tiers);
    let mut counts = BTreeMap::<String, usize>::new();
    let mut size = 1;
    let mut number = 0;
    while number < size {
        let chosen = plan.choose(Some(&outlier(min_health)), &endpoints, NOW, |count| {
            size = count;
            number
        });
        let shown = chosen.map_or("none".to_owned(), |chosen| {
            let all = if chosen.all { "!" } else { "" };
            format!("{}{all}", chosen.tier)
        });
        *counts.entry(shown).or_default() += 1;
        number += 1;
    }
    let shares = counts.iter();
    let shares: Vec<String> = shares
        .map(|(tier, count)| format!("{tier}: {}", count * 100 / size))
        .collect();
    assert_eq!(shares, want, "{tiers:?} {min_health}");
}

#[test]
fn the_first_tier_takes_all_while_it_is_fit() {
    check(&[(0, 10, 0), (0, 10, 5)], 0, &["0: 100"]);
    // 140 % of seven tenths are 98 %.
    check(&[(0, 10, 2), (0, 10, 0)], 0, &["0: 100"]);
    check(&[(0, 10, 3), (0, 10, 0)], 0, &["0: 98", "1: 2"]);
}

#[test]
fn what_a_tier_cannot_take_goes_to_the_next() {
    check(&[(0, 10, 5), (0, 10, 0)], 0, &["0: 70", "1: 30"]);
    let three = [(0, 10, 5), (0, 10, 9), (0, 10, 0)];
    check(&three, 0, &["0: 70", "1: 14", "2: 16"]);
    check(&[(0, 2, 2), (0, 3, 0)], 0, &["1: 100"]);
}

#[test]
fn what_is_left_is_shared_when_no_tier_can_take_the_rest() {
    check(&[(0, 10, 9), (0, 10, 9)], 0, &["0: 50", "1: 50"]);
    check(&[(0, 2, 2), (0, 3, 3)], 0, &["none: 100"]);
}

#[test]
fn min_health_percent_counts_only_when_all_tiers_together_are_too_few() {
    check(&[(0, 10, 8), (0, 10, 0)], 50, &["0: 28", "1: 72"]);
    check(&[(0, 2, 2), (0, 3, 3)], 50, &["0!: 40", "1!: 60"]);
    // 14 % and 70 %: only the first has fewer than half.
    check(&[(0, 10, 9), (0, 10, 5)], 50, &["0!: 17", "1: 83"]);
}

#[test]
fn distribute_shrinks_with_the_fit_of_each_place() {
    check(&[(80, 5, 0), (20, 5, 0)], 0, &["0: 80", "1: 20"]);
    // 80 * 70 % to 20.
    check(&[(80, 10, 5), (20, 5, 0)], 0, &["0: 73", "1: 26"]);
    check(&[(80, 5, 5), (20, 5, 0)], 0, &["1: 100"]);
    check(&[(80, 5, 5), (20, 5, 5)], 10, &["0!: 50", "1!: 50"]);
}

#[test]
fn what_was_left_out_counts_again_when_its_time_is_over() {
    let (plan, endpoints) = made(&[(0, 2, 2), (0, 2, 0)]);
    let tier = |now| {
        let chosen = plan.choose(Some(&outlier(0)), &endpoints, now, |_| 0);
        chosen.unwrap().tier
    };
    assert_eq!(tier(NOW), 1);
    assert_eq!(tier(NOW + Duration::from_secs(30)), 0);
    endpoints[0].load.health().eject(&outlier(0), NOW * 2);
    endpoints[1].load.health().eject(&outlier(0), NOW * 2);
    assert_eq!(tier(NOW * 2), 1);
}

#[test]
fn a_plan_is_made_once_for_each_kind_of_client() {
    use crate::model::locality::{NearLabel, Nearness};

    let (_, endpoints) = made(&[(0, 2, 0)]);
    let label = NearLabel {
        key: "app".into(),
        value: None,
    };
    let spread = Spread::Nearest(Nearness {
        labels: vec![label],
        ..Nearness::default()
    });
    let plans = Plans::new(None);
    let labels = |app: &str| BTreeMap::from([("app".to_owned(), app.to_owned())]);
    let (x, y) = (labels("x"), labels("y"));
    let plan = |labels| std::ptr::from_ref(plans.plan(&spread, labels, &endpoints));
    assert_eq!(plan(Some(&x)), plan(Some(&x)));
    assert_ne!(plan(Some(&x)), plan(Some(&y)));
    assert_eq!(plan(None), plan(None));
}
