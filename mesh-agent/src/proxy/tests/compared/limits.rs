// SPDX-License-Identifier: Apache-2.0

//! What is too much: connections, requests that wait, requests, retries, requests in a while.

use serde_json::{Value, json};

use super::{
    Stand,
    case::{Act, Case, ask, case, get},
};

fn pool(ours: &'static str, its: Value) -> Case {
    case("pool").policy(ours, json!({"circuit_breakers": {"thresholds": [its]}}))
}

#[tokio::test]
async fn what_is_too_much_at_once_is_answered_as_by_envoy() {
    let mut retries = pool(
        "connectionPool: {http: {maxRetries: 1}}",
        json!({"max_retries": 1}),
    );
    retries = retries.rule(
        "retries: {attempts: 1, retryOn: 5xx}",
        json!({
            "retry_policy": {"retry_on": "5xx", "num_retries": 1},
        }),
    );
    let cases = vec![
        pool(
            "connectionPool: {http: {http2MaxRequests: 1}}",
            json!({"max_requests": 1}),
        ),
        pool(
            "connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}",
            json!({"max_connections": 1, "max_pending_requests": 1}),
        ),
        retries,
    ];
    let stand = Stand::start(cases).await;
    let late = |count| get().acts(&vec![Act::Late(150); count]);
    let call = ask("POST", "/")
        .with("content-type: application/grpc")
        .body("x");
    for number in [0, 1] {
        // From now on there is a connection.
        stand.play(number, &get()).await;
        for (step, count) in [
            (late(1), 1),
            (late(3), 3),
            (call.clone().acts(&[Act::Late(150); 3]), 3),
        ] {
            let [ours, its] = stand.at_once(number, &step, count).await;
            assert_eq!(ours, its, "{number}");
        }
    }
    let said = [
        Act::Say(503, ""),
        Act::Say(503, ""),
        Act::Late(300),
        Act::Late(300),
    ];
    let [ours, its] = stand.at_once(2, &get().acts(&said), 2).await;
    assert_eq!(ours, its);
}

#[tokio::test]
async fn what_is_too_much_in_a_while_is_answered_as_by_envoy_and_told_when_to_come_again() {
    let all = json!({"default_value": {"numerator": 100, "denominator": "HUNDRED"}});
    let case = case("limit")
        .limited("requests: 2, unit: Hour, burst: 2")
        .filtered(
            "envoy.filters.http.local_ratelimit",
            "local_ratelimit.v3.LocalRateLimit",
            json!({
                "stat_prefix": "limited", "filter_enabled": all, "filter_enforced": all,
                "token_bucket": {"max_tokens": 2, "tokens_per_fill": 2, "fill_interval": "3600s"},
            }),
        );
    let stand = Stand::start(vec![case]).await;
    let call = ask("POST", "/")
        .with("content-type: application/grpc")
        .body("x");
    for (step, limited) in [(get(), false), (get(), false), (get(), true), (call, true)] {
        let (mut ours, its) = stand.play(0, &step).await;
        // Envoy does not say it.
        assert_eq!(ours.told.take("retry-after"), limited);
        assert!(ours.is_like(&its), "{ours:#?}\n{its:#?}");
    }
}
