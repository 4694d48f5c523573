// SPDX-License-Identifier: Apache-2.0

//! When a request is tried again, how often, and where.

use serde_json::{Value, json};

use super::{
    Stand,
    case::{Act, Case, Step, ask, case, get},
};

/// What ends a call without a message.
macro_rules! grpc_status {
    ($status:literal) => {
        concat!(
            "content-type: application/grpc\r\ngrpc-status: ",
            $status,
            "\r\n"
        )
    };
}

/// All words, and a status.
const WORDS: [&str; 15] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "refused-stream",
    "retriable-4xx",
    "envoy-ratelimited",
    "cancelled",
    "deadline-exceeded",
    "resource-exhausted",
    "internal",
    "unavailable",
    "418",
    "",
];

/// What Istio takes where nothing is said.
const DEFAULT: &str = "connect-failure,refused-stream,unavailable,cancelled";

/// `on` for Envoy, whose words do not have statuses among them.
fn policy(on: &str, attempts: u32, mut fields: Value) -> Value {
    let words: Vec<&str> = match on {
        "" => vec![DEFAULT],
        on => on.split(',').collect(),
    };
    let is_status = |word: &&str| word.parse::<u32>().is_ok();
    let (statuses, mut words): (Vec<&str>, Vec<&str>) = words.into_iter().partition(is_status);
    if !statuses.is_empty() {
        words.push("retriable-status-codes");
    }
    let statuses: Vec<u32> = statuses.iter().filter_map(|one| one.parse().ok()).collect();
    fields["retry_on"] = json!(words.join(","));
    fields["num_retries"] = json!(attempts);
    fields["retriable_status_codes"] = json!(statuses);
    // Istio's is 5: then it may happen that no other endpoint is found.
    fields["host_selection_retry_max_attempts"] = json!(60);
    fields["retry_host_predicate"] = json!([{
        "name": "envoy.retry_host_predicates.previous_hosts",
        "typed_config": {"@type": "type.googleapis.com/\
            envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
    }]);
    json!({"retry_policy": fields})
}

/// Requests to one destination are tried again on these words.
fn retried(on: &'static str, attempts: u32) -> Case {
    retried_with(on, attempts, "", json!({}))
}

pub(super) fn retried_with(on: &'static str, attempts: u32, ours: &str, its: Value) -> Case {
    let fields = format!("retries: {{attempts: {attempts}, retryOn: \"{on}\"{ours}}}");
    case(on).rule(&fields, policy(on, attempts, its))
}

/// Requests that end in all the ways that an endpoint can give them.
fn endings() -> Vec<Step> {
    let acts = [
        Act::Say(500, ""),
        Act::Say(501, ""),
        Act::Say(502, ""),
        Act::Say(503, ""),
        Act::Say(504, ""),
        Act::Say(409, ""),
        Act::Say(418, ""),
        Act::Say(429, ""),
        Act::Say(429, "x-envoy-ratelimited: true\r\n"),
        Act::Say(503, "x-envoy-ratelimited: true\r\n"),
        Act::Say(200, "grpc-status: 0\r\n"),
        Act::Say(200, "grpc-status: 1\r\n"),
        Act::Say(200, "grpc-status: 4\r\n"),
        Act::Say(200, "grpc-status: 8\r\n"),
        Act::Say(200, "grpc-status: 13\r\n"),
        Act::Say(200, "grpc-status: 14\r\n"),
        Act::Say(503, "grpc-status: 14\r\n"),
        Act::Close,
    ];
    let methods = ["GET", "POST", "PUT"].into_iter().cycle();
    let step = |(act, method): (Act, &'static str)| {
        let step = ask(method, "/a?b=c").with("x-mine: 1").acts(&[act]);
        match method {
            "GET" => step,
            _ => step.body("two potatoes"),
        }
    };
    acts.into_iter().zip(methods).map(step).collect()
}

#[tokio::test]
async fn each_word_retries_what_it_retries_in_envoy() {
    let cases = WORDS.map(|on| retried(on, 1).asks(endings()));
    Stand::start(cases.into()).await.compare().await;
}

#[tokio::test]
async fn each_word_retries_the_same_streams_of_http2() {
    let cases = WORDS.map(|on| retried(on, 1).http2().asks(streams()));
    Stand::start(cases.into()).await.compare().await;
}

/// Calls of gRPC, and requests, that end in all the ways that streams can.
fn streams() -> Vec<Step> {
    let calls = [
        Act::Refuse,
        Act::Close,
        Act::Cut,
        Act::Say(503, ""),
        Act::Say(200, grpc_status!(0)),
        Act::Say(200, grpc_status!(1)),
        Act::Say(200, grpc_status!(4)),
        Act::Say(200, grpc_status!(5)),
        Act::Say(200, grpc_status!(8)),
        Act::Say(200, grpc_status!(13)),
        Act::Say(200, grpc_status!(14)),
    ];
    let calls = calls.map(|act| call().acts(&[act]));
    let requests = [
        Act::Refuse,
        Act::Close,
        Act::Cut,
        Act::Say(409, "x-none: 1\r\n"),
        Act::Say(418, "x-none: 1\r\n"),
        Act::Say(502, "x-none: 1\r\n"),
        Act::Say(429, "x-envoy-ratelimited: true\r\n"),
    ];
    let requests = requests.map(|act| ask("POST", "/a?b=c").body("x").acts(&[act]));
    calls.into_iter().chain(requests).collect()
}

fn call() -> Step {
    let call = ask("POST", "/shop.Shop/Buy").with("content-type: application/grpc");
    call.body("two potatoes")
}

#[tokio::test]
async fn streams_are_tried_as_often_as_attempts_says_and_where_they_were_not() {
    let refused = |count: usize| call().acts(&vec![Act::Refuse; count]);
    let cases = vec![
        retried("refused-stream", 3)
            .http2()
            .asks([refused(2), refused(3), refused(4)]),
        retried("unavailable", 2).endpoints(3, 0).http2().asks(
            [1, 2, 3].map(|count| call().acts(&vec![Act::Say(200, grpc_status!(14)); count])),
        ),
        retried("reset", 2)
            .endpoints(2, 0)
            .http2()
            .asks([1, 2].map(|count| call().acts(&vec![Act::Cut; count]))),
    ];
    Stand::start(cases).await.compare().await;
}

#[tokio::test]
async fn connections_for_streams_that_fail_are_tried_again_on_the_same_words() {
    let cases = WORDS.map(|on| retried(on, 1).http2().endpoints(0, 1).asks([call()]));
    let also = ["connect-failure", "5xx", "reset"].map(|on| {
        let asks = (0..4).map(|_| call());
        retried(on, 1).http2().endpoints(1, 1).asks(asks)
    });
    let all = cases.into_iter().chain(also).collect();
    Stand::start(all).await.compare().await;
}

#[tokio::test]
async fn a_stream_that_takes_too_long_is_given_up_on_the_same_words() {
    let cases = WORDS.map(|on| {
        let its = json!({"per_try_timeout": "0.06s"});
        let case = retried_with(on, 1, ", perTryTimeout: 60ms", its);
        case.http2().asks([
            call().acts(&[Act::Hang]),
            call().acts(&[Act::Hang, Act::Hang]),
        ])
    });
    Stand::start(cases.into()).await.compare().await;
}

#[tokio::test]
async fn a_connection_that_fails_is_tried_again_on_the_same_words() {
    let cases = WORDS.map(|on| retried(on, 1).endpoints(0, 1).asks([get()]));
    let also = WORDS.map(|on| {
        let on: &'static str = format!("{on},connect-failure").leak();
        let asks = (0..4).map(|_| ask("POST", "/").body("x"));
        retried(on, 1).endpoints(1, 1).asks(asks)
    });
    let all = cases.into_iter().chain(also).collect();
    Stand::start(all).await.compare().await;
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_given_up_on_the_same_words() {
    let cases = WORDS.map(|on| {
        let case = retried_with(
            on,
            1,
            ", perTryTimeout: 60ms",
            json!({"per_try_timeout": "0.06s"}),
        );
        case.asks([
            get().acts(&[Act::Hang]),
            ask("POST", "/").body("x").acts(&[Act::Hang, Act::Hang]),
        ])
    });
    Stand::start(cases.into()).await.compare().await;
}

#[tokio::test]
async fn a_request_is_tried_as_often_as_attempts_says_and_where_it_was_not() {
    let later = |count: usize| get().statuses(&vec![503; count]);
    let body = "x".repeat(3 * 1024 * 1024);
    let mut brief = retried("503", 3);
    brief.rules = brief.rules.replace("retries", "timeout: 60ms, retries");
    brief.routes[0]["route"]["timeout"] = json!("0.06s");
    let cases = vec![
        retried("503", 3).asks([later(2), later(3), later(4), later(9)]),
        retried("503,5xx", 1)
            .endpoints(2, 0)
            .asks(vec![later(1); 6]),
        retried("503", 2).endpoints(3, 0).asks(vec![later(2); 6]),
        retried("503", 4).endpoints(2, 0).asks(vec![later(3); 3]),
        // Too much to keep.
        retried("503", 1).asks([ask("POST", "/").body(&body).statuses(&[503])]),
        // Too little time.
        brief.asks([get().acts(&[Act::Say(503, ""), Act::Hang])]),
        // Statuses and words.
        retried("404,410,gateway-error", 1).asks(
            [404, 410, 411, 500, 502].map(|status| ask("DELETE", "/").statuses(&[status, 500])),
        ),
        case("no attempts")
            .rule("retries: {attempts: 0}", json!({}))
            .asks([
                get().statuses(&[503]),
                ask("POST", "/").body("x").acts(&[Act::Close]),
            ]),
    ];
    Stand::start(cases).await.compare().await;
}
