// SPDX-License-Identifier: Apache-2.0

//! Which endpoint, which destination, which requests: what is drawn by chance, or by a key.
//!
//! Bounds are seven standard deviations wide: both are right, or one draws otherwise. Tables of
//! consistent hashing are not the same here as in Envoy, and need not be.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    Stand, Story,
    case::{Act, Case, Step, ask, case, get, route},
};

const REQUESTS: usize = 400;

/// Where it takes less.
const FEW: usize = 60;

fn half() -> Value {
    json!({"numerator": 50, "denominator": "HUNDRED"})
}

#[tokio::test]
async fn shares_of_requests_are_those_of_envoy() {
    let weighted = json!({"weighted_clusters": {"clusters": [
        {"name": "$A", "weight": 75}, {"name": "$B", "weight": 25},
    ]}});
    let weights =
        "{route: [{destination: {host: $A}, weight: 75}, {destination: {host: $B}, weight: 25}]}";
    let mirrored = json!({"request_mirror_policies": [
        {"cluster": "$B", "runtime_fraction": {"default_value": half()}},
    ]});
    let cases = vec![
        case("weights").rules(weights, json!([route("/", weighted)])),
        case("abort")
            .rule(
                "fault: {abort: {httpStatus: 418, percentage: {value: 50}}}",
                json!({}),
            )
            .filtered(
                "envoy.filters.http.fault",
                "fault.v3.HTTPFault",
                json!({
                    "abort": {"http_status": 418, "percentage": half()},
                }),
            ),
        case("mirror").rule(
            "mirror: {host: $B}, mirrorPercentage: {value: 50}",
            mirrored,
        ),
    ];
    let stand = Stand::start(cases).await;
    let to_b = |story: &Story| !story.copied.is_empty();
    let checks: [Check; 3] = [
        (to_b, 40..=160),
        (|story| story.code() == 418, 130..=270),
        (to_b, 130..=270),
    ];
    for (number, (is_hit, want)) in checks.into_iter().enumerate() {
        let stories = stand.tell(number, &vec![get(); REQUESTS]).await;
        for (who, stories) in ["ours", "its"].iter().zip(stories) {
            let hit = stories.iter().filter(|story| is_hit(story)).count();
            assert!(want.contains(&hit), "{number} {who}: {hit}");
        }
    }
}

/// What is counted, and how often it may be seen.
type Check = (fn(&Story) -> bool, std::ops::RangeInclusive<usize>);

/// Five endpoints, by a key.
fn hashed(ours: &'static str, its: Value, balancer: &str) -> Case {
    let detection = json!({
        "consecutive_5xx": 1, "interval": "10s", "base_ejection_time": "60s",
        "max_ejection_percent": 100, "enforcing_success_rate": 0,
    });
    case(ours)
        .rule("retries: {attempts: 0}", json!({"hash_policy": [its]}))
        .endpoints(5, 0)
        .policy(
            ours,
            json!({"lb_policy": balancer, "outlier_detection": detection}),
        )
}

/// Who was asked, request by request.
fn asked(stories: &[Story]) -> Vec<usize> {
    stories
        .iter()
        .map(|story| *story.at.last().expect("somebody was asked"))
        .collect()
}

const OUT: &str = "outlierDetection: {consecutive5xxErrors: 1, interval: 10s, baseEjectionTime: 60s, \
     maxEjectionPercent: 100}";

fn keys() -> Vec<Step> {
    (0..REQUESTS)
        .map(|key| get().with(&format!("x-user: user-{key}")))
        .collect()
}

#[tokio::test]
async fn keys_stay_where_they_are_and_move_as_little_as_in_envoy() {
    let header = || json!({"header": {"header_name": "x-user"}});
    let ring: &'static str =
        format!("loadBalancer: {{consistentHash: {{httpHeaderName: x-user}}}}, {OUT}").leak();
    let maglev: &'static str = format!(
        "loadBalancer: {{consistentHash: {{httpHeaderName: x-user, maglev: {{}}}}}}, {OUT}"
    )
    .leak();
    let cases = vec![
        hashed(ring, header(), "RING_HASH"),
        hashed(maglev, header(), "MAGLEV"),
    ];
    let stand = Stand::start(cases).await;
    // How many keys move, of those that need not: here, and in Envoy, whose ring is drawn anew.
    for (number, most) in [(0, [0, REQUESTS / 4]), (1, [REQUESTS / 10; 2])] {
        let before = stand
            .tell(number, &keys())
            .await
            .map(|stories| asked(&stories));
        let few = &keys()[..FEW];
        let again = stand.tell(number, few).await;
        for (before, again) in before.iter().zip(&again) {
            assert_eq!(before[..FEW], asked(again), "{number}: keys stick");
        }
        let bad = few.iter().cloned();
        let bad: Vec<Step> = bad.map(|step| step.first(Act::Say(500, ""))).collect();
        stand.tell(number, &bad).await;
        let after = stand
            .tell(number, &keys())
            .await
            .map(|stories| asked(&stories));
        let sides = ["ours", "its"].iter().zip(most);
        for ((who, most), (before, after)) in sides.zip(before.iter().zip(&after)) {
            let mut shares = BTreeMap::<usize, usize>::new();
            for which in before {
                *shares.entry(*which).or_default() += 1;
            }
            let even = shares
                .values()
                .all(|share| (REQUESTS / 12..=REQUESTS / 3).contains(share));
            assert!(shares.len() == 5 && even, "{number} {who}: {shares:?}");
            let pairs = before.iter().zip(after);
            let moved = pairs
                .filter(|(before, after)| **before != 0 && before != after)
                .count();
            assert!(!after.contains(&0), "{number} {who}");
            assert!(moved <= most, "{number} {who}: {moved}");
            // Those that had to move are not all at one endpoint now.
            let pairs = before.iter().zip(after).filter(|(before, _)| **before == 0);
            let spread: BTreeSet<usize> = pairs.map(|(_, after)| *after).collect();
            assert!(spread.len() > 1, "{number} {who}: {spread:?}");
        }
    }
}

#[tokio::test]
async fn what_is_a_key_in_envoy_is_one_here() {
    let by = |ours: &str, its: Value| {
        let ours: &'static str =
            format!("loadBalancer: {{consistentHash: {{{ours}}}}}, {OUT}").leak();
        hashed(ours, its, "RING_HASH")
    };
    let cases = vec![
        by(
            "useSourceIp: true",
            json!({"connection_properties": {"source_ip": true}}),
        ),
        by(
            "httpQueryParameterName: user",
            json!({"query_parameter": {"name": "user"}}),
        ),
        by(
            "httpCookie: {name: user, path: /a, ttl: 60s}",
            json!({
                "cookie": {"name": "user", "path": "/a", "ttl": "60s"},
            }),
        ),
        by(
            "httpCookie: {name: user, ttl: 0s}",
            json!({"cookie": {"name": "user", "ttl": "0s"}}),
        ),
        by(
            "httpHeaderName: x-user",
            json!({"header": {"header_name": "x-user"}}),
        ),
    ];
    let stand = Stand::start(cases).await;
    let few = 40;
    let steps: [Vec<Step>; 5] = [
        vec![get(); few],
        vec![ask("GET", "/a?x=y&user=me"); few],
        vec![get().with("cookie: other=1; user=me"); few],
        vec![get().with("cookie: user=\"me\""); few],
        vec![get().with("x-user: me").with("x-user: you"); few],
    ];
    for (number, steps) in steps.iter().enumerate() {
        for stories in stand.tell(number, steps).await {
            let all: BTreeSet<usize> = asked(&stories).into_iter().collect();
            assert_eq!(all.len(), 1, "{number}");
            assert!(stories[0].told.field("set-cookie").is_none(), "{number}");
        }
    }
    // Without a key any endpoint is right.
    for number in [1, 4] {
        for stories in stand.tell(number, &vec![get(); few]).await {
            let all: BTreeSet<usize> = asked(&stories).into_iter().collect();
            assert!(all.len() > 2, "{number}");
        }
    }
    cookies_lead_back(&stand, [2, 3]).await;
}

/// A cookie that is not there is given, and leads to where the first request went.
async fn cookies_lead_back(stand: &Stand, cases: [usize; 2]) {
    for number in cases {
        let stories = stand.tell(number, &[get()]).await;
        let said = stories.each_ref().map(|stories| cookie(&stories[0]));
        assert_eq!(without_value(&said[0]), without_value(&said[1]), "{number}");
        for (side, said) in said.iter().enumerate() {
            let value = said.split(';').next().unwrap_or_default();
            let again = stand
                .tell(number, &vec![get().with(&format!("cookie: {value}")); 5])
                .await;
            let first = asked(&stories[side])[0];
            assert_eq!(asked(&again[side]), vec![first; 5], "{number} {side}");
        }
    }
}

fn cookie(story: &Story) -> String {
    let cookie = story.told.field("set-cookie");
    cookie.expect("a cookie is given").to_owned()
}

/// A cookie's name and attributes; whether its value stands in quotes.
fn without_value(cookie: &str) -> (String, bool, Vec<String>) {
    let mut parts = cookie.split(';').map(str::trim);
    let (name, value) = parts
        .next()
        .and_then(|pair| pair.split_once('='))
        .expect("a pair");
    let attributes: BTreeSet<String> = parts.map(str::to_lowercase).collect();
    (
        name.to_owned(),
        value.starts_with('"'),
        attributes.into_iter().collect(),
    )
}
