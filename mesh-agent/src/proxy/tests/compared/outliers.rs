// SPDX-License-Identifier: Apache-2.0

//! Which endpoints are left out, after what, and how many of them.
//!
//! Envoy's workers hear of it from another thread: some requests may go to an endpoint that is about to
//! be left out. Here none does.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    Stand, Story,
    case::{Act, Case, Step, ask, case, get},
};

/// How many requests tell whether an endpoint is left out.
const REQUESTS: usize = 40;

/// So many more requests may go to an endpoint that Envoy leaves out.
const SLACK: usize = 8;

/// Endpoints are left out on these conditions; those of Envoy that are not said are off.
fn outlier(ours: &'static str, its: Value) -> Case {
    let mut detection = json!({
        "consecutive_5xx": 5, "enforcing_consecutive_5xx": 100,
        "enforcing_consecutive_gateway_failure": 0, "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "interval": "10s", "base_ejection_time": "60s", "max_ejection_percent": 100,
        // Where the share is too small for one endpoint; Istio leaves that at false.
        "always_eject_one_host": true,
    });
    if let (Value::Object(all), Value::Object(its)) = (&mut detection, its) {
        all.extend(its);
    }
    let none = "retries: {attempts: 0}";
    case(ours)
        .rule(none, json!({}))
        .endpoints(2, 0)
        .policy(ours, json!({"outlier_detection": detection}))
}

fn with_panic(mut case: Case, percent: u32) -> Case {
    case.cluster["common_lb_config"] = json!({"healthy_panic_threshold": {"value": percent}});
    case
}

/// How often the endpoint was tried that misbehaves: the first, or the one that nobody is at.
fn count(case: &Case, stories: &[Story]) -> usize {
    let tried = |story: &&Story| match case.dead {
        0 => story.at.contains(&0),
        _ => story.at.is_empty(),
    };
    stories.iter().filter(tried).count()
}

/// A call in gRPC's form, to which the first endpoint answers with this status.
fn called(status: &'static str) -> Step {
    ask("POST", "/shop.Shop/Buy")
        .with("content-type: application/grpc")
        .body("x")
        .first(Act::Say(200, status))
}

/// The endpoints that were asked.
fn at(stories: &[Story]) -> BTreeSet<usize> {
    stories
        .iter()
        .flat_map(|story| story.at.iter().copied())
        .collect()
}

const GATEWAY: &str = "outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 2, \
     interval: 10s, baseEjectionTime: 60s, maxEjectionPercent: 100}";
const SERVER: &str = "outlierDetection: {consecutive5xxErrors: 3, interval: 10s, baseEjectionTime: 60s, \
     maxEjectionPercent: 100}";
const LOCAL: &str = "outlierDetection: {splitExternalLocalOriginErrors: true, \
     consecutiveLocalOriginFailures: 2, consecutive5xxErrors: 0, interval: 10s, baseEjectionTime: 60s, \
     maxEjectionPercent: 100}";

fn gateway() -> Case {
    outlier(
        GATEWAY,
        json!({
            "consecutive_gateway_failure": 2, "enforcing_consecutive_gateway_failure": 100,
            "enforcing_consecutive_5xx": 0,
        }),
    )
}

fn server() -> Case {
    outlier(SERVER, json!({"consecutive_5xx": 3}))
}

fn local() -> Case {
    outlier(
        LOCAL,
        json!({
            "split_external_local_origin_errors": true, "consecutive_local_origin_failure": 2,
            "enforcing_consecutive_local_origin_failure": 100, "enforcing_consecutive_5xx": 0,
        }),
    )
}

#[tokio::test]
async fn an_endpoint_is_left_out_after_as_many_errors_as_in_envoy() {
    let first = |status| get().first(Act::Say(status, ""));
    // What the first endpoint does, and after how many requests it is left out.
    let table: [(Case, Step, Option<usize>); 14] = [
        (server(), first(500), Some(3)),
        (server(), first(503), Some(3)),
        (server(), first(404), None),
        (server(), get().first(Act::Close), Some(3)),
        (server(), called("grpc-status: 14\r\n"), Some(3)),
        (server(), called("grpc-status: 5\r\n"), None),
        (gateway(), first(502), Some(2)),
        (gateway(), first(504), Some(2)),
        (gateway(), first(500), None),
        (gateway(), get().first(Act::Close), Some(2)),
        (gateway(), called("grpc-status: 14\r\n"), Some(2)),
        (local(), first(503), None),
        (server().endpoints(1, 1), get(), Some(3)),
        (local().endpoints(1, 1), get(), Some(2)),
    ];
    let stand = Stand::start(table.iter().map(|row| row.0.clone()).collect()).await;
    for (number, (case, step, after)) in table.iter().enumerate() {
        let [ours, its] = stand.tell(number, &vec![step.clone(); REQUESTS]).await;
        let (ours, its) = (count(case, &ours), count(case, &its));
        let what = (number, case.what, ours, its);
        match *after {
            Some(after) => {
                assert_eq!(ours, after, "{what:?}");
                assert!((after..=after + SLACK).contains(&its), "{what:?}");
            }
            None => assert!(ours > 5 && its > 5, "{what:?}"),
        }
    }
}

#[tokio::test]
async fn no_more_endpoints_are_left_out_than_may_be() {
    let of = |ours: &'static str, percent: u32| {
        outlier(
            ours,
            json!({"consecutive_5xx": 1, "max_ejection_percent": percent}),
        )
    };
    let tenth = "outlierDetection: {consecutive5xxErrors: 1, interval: 10s, baseEjectionTime: 60s}";
    let half = "outlierDetection: {consecutive5xxErrors: 1, interval: 10s, baseEjectionTime: 60s, \
         maxEjectionPercent: 50}";
    let all = "outlierDetection: {consecutive5xxErrors: 1, interval: 10s, baseEjectionTime: 60s, \
         maxEjectionPercent: 100}";
    let healthy = "outlierDetection: {consecutive5xxErrors: 1, interval: 10s, baseEjectionTime: 60s, \
         maxEjectionPercent: 100, minHealthPercent: 80}";
    let table = [
        (of(tenth, 10).endpoints(4, 0), 3),
        (of(half, 50).endpoints(4, 0), 2),
        (of(half, 50).endpoints(3, 0), 2),
        (of(half, 50).endpoints(5, 0), 3),
        (of(all, 100).endpoints(3, 0), 0),
        (of(all, 100).endpoints(1, 0), 0),
        (with_panic(of(healthy, 100).endpoints(3, 0), 80), 3),
    ];
    let stand = Stand::start(table.iter().map(|row| row.0.clone()).collect()).await;
    for (number, (case, left)) in table.iter().enumerate() {
        let (bad, good) = (get().acts(&[Act::Say(500, "")]), get());
        let both = vec![vec![bad.clone(), good, bad]; REQUESTS].concat();
        stand.tell(number, &both).await;
        let [ours, its] = stand.tell(number, &vec![get(); REQUESTS]).await;
        let (ours, its) = (at(&ours), at(&its));
        let what = (number, case.what, &ours, &its);
        // Envoy leaves out one at once, and takes its time for others.
        assert!(ours.len() == *left && its.len() >= *left, "{what:?}");
    }
    // Nobody is left, and that is said.
    let (ours, its) = stand.play(5, &get()).await;
    assert!(ours.is_like(&its), "{ours:#?}\n{its:#?}");
}

#[tokio::test]
async fn an_endpoint_that_was_left_out_comes_back() {
    let brief = "outlierDetection: {consecutive5xxErrors: 1, interval: 50ms, baseEjectionTime: 200ms, \
         maxEjectionPercent: 100}";
    let case = outlier(
        brief,
        json!({
            "consecutive_5xx": 1, "interval": "0.05s", "base_ejection_time": "0.2s",
        }),
    );
    let stand = Stand::start(vec![case.endpoints(1, 0)]).await;
    stand.play(0, &get().first(Act::Say(500, ""))).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut back = [false; 2];
    while back != [true; 2] {
        assert!(Instant::now() < deadline, "{back:?}");
        let (ours, its) = stand.play(0, &get()).await;
        back[0] |= ours.code() == 200;
        back[1] |= its.code() == 200;
    }
}
