// SPDX-License-Identifier: Apache-2.0

//! Each word against each way in which a try can end.

use http::HeaderValue;

use super::*;

/// Which of the ends below a word is met by.
#[track_caller]
fn check(words: &str, method: &Method, want: &[&str]) {
    let on = RetryOn::parse(words).unwrap();
    check_on(&on, method, want);
}

#[track_caller]
fn check_on(on: &RetryOn, method: &Method, want: &[&str]) {
    let none = HeaderMap::new();
    let with = |name: &'static str, value: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        headers
    };
    let (unavailable, cancelled) = (with("grpc-status", "14"), with("grpc-status", "1"));
    let limited = with("x-envoy-ratelimited", "true");
    let status = |code| StatusCode::from_u16(code).unwrap();
    let ends = [
        ("not connected", TryEnd::NotConnected),
        ("refused", TryEnd::StreamRefused),
        ("broken", TryEnd::Broken),
        ("timed out", TryEnd::TimedOut),
        ("200", TryEnd::Answered(status(200), &none)),
        ("409", TryEnd::Answered(status(409), &none)),
        ("500", TryEnd::Answered(status(500), &none)),
        ("503", TryEnd::Answered(status(503), &none)),
        ("14", TryEnd::Answered(status(200), &unavailable)),
        ("1", TryEnd::Answered(status(200), &cancelled)),
        ("limited", TryEnd::Answered(status(503), &limited)),
    ];
    let met = ends.iter().filter(|(_, end)| on.includes(method, end));
    let met: Vec<&str> = met.map(|(name, _)| *name).collect();
    assert_eq!(met, want, "{on:?}");
}

#[test]
fn each_word_of_retry_on_means_what_envoy_says() {
    let post = &Method::POST;
    let no_answer = ["not connected", "refused", "broken", "timed out"];
    check("5xx", post, &[&no_answer[..], &["500", "503"]].concat());
    check("gateway-error", post, &[&no_answer[..], &["503"]].concat());
    check("reset", post, &no_answer);
    check("reset-before-request", post, &["not connected"]);
    check("connect-failure", post, &["not connected"]);
    check("refused-stream", post, &["refused"]);
    check("retriable-4xx", post, &["409"]);
    check("envoy-ratelimited", post, &["limited"]);
    check("unavailable", post, &["14"]);
    check("cancelled", post, &["1"]);
    check("deadline-exceeded, internal,resource-exhausted", post, &[]);
    check("retriable-status-codes,503", post, &["503", "limited"]);
    check("retriable-headers,http3-post-connect-failure", post, &[]);
}

#[test]
fn a_word_that_is_no_condition_is_refused() {
    for word in ["5XX", "always", "99", "600", "connect_failure"] {
        assert_eq!(RetryOn::parse(word), Err(NotCondition(word.to_owned())));
    }
    assert_eq!(RetryOn::parse(" ,"), Ok(RetryOn::default()));
}

#[test]
fn istios_default_never_repeats_what_may_have_been_acted_upon_but_for_two_grpc_statuses() {
    let want = ["not connected", "refused", "14", "1"];
    check_on(&RetryOn::istio_default(), &Method::POST, &want);
}

#[test]
fn the_gateway_apis_broken_connections_are_retried_for_idempotent_methods() {
    let on = RetryOn::gateway(&[503]);
    let safe = ["not connected", "refused", "503", "limited"];
    check_on(&on, &Method::POST, &safe);
    let all = [
        "not connected",
        "refused",
        "broken",
        "timed out",
        "503",
        "limited",
    ];
    check_on(&on, &Method::PUT, &all);
}

#[test]
fn waits_double_up_to_the_longest() {
    let policy = RetryPolicy {
        attempts: 9,
        per_try_timeout: None,
        on: RetryOn::default(),
        base_interval: Duration::from_millis(25),
        max_interval: Duration::from_millis(250),
        avoids_tried: true,
        goes_elsewhere: false,
    };
    let longest = |nth| policy.backoff(nth, |below| below).as_millis();
    assert_eq!(
        [1, 2, 3, 4, 5, 99].map(longest),
        [25, 50, 100, 200, 250, 250]
    );
    assert_eq!(policy.backoff(1, |_| 0), Duration::ZERO);
}
