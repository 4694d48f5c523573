// SPDX-License-Identifier: Apache-2.0

//! What endpoints and clients are told besides, where the agent was asked to say what Envoy says.

use serde_json::json;

use super::{
    Side, Stand,
    case::{Step, ask, case, get},
    retries::retried_with,
};
use crate::proxy::RequestHeaders;

/// What endpoints are told.
const NAMES: [&str; 5] = [
    "x-envoy-attempt-count",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-original-path",
    "x-forwarded-proto",
    "x-request-id",
];

/// What each try at a request said of that.
async fn said(side: &Side, number: usize, step: &Step) -> Vec<String> {
    side.play(number, step).await;
    let tries = side.endpoints[number].seen().into_iter();
    let shown = tries.map(|(_, asked)| {
        let fields = NAMES.map(|name| format!("{name}: {:?}", asked.fields.get(name)));
        format!("{} {}", asked.line, fields.join(", "))
    });
    shown.collect()
}

#[tokio::test]
async fn endpoints_are_told_what_envoy_tells_them() {
    let mut brief = case("a time limit");
    brief.rules = brief.rules.replace("}}], }", "}}], timeout: 2s}");
    brief.routes[0]["route"]["timeout"] = json!("2s");
    let limit = json!({"per_try_timeout": "1s"});
    let mut both = retried_with("503", 2, ", perTryTimeout: 1s", limit);
    both.rules = both.rules.replace("retries", "timeout: 5s, retries");
    both.routes[0]["route"]["timeout"] = json!("5s");
    let own = get()
        .with("x-request-id: mine")
        .with("X-Envoy-Attempt-Count: 9")
        .with("x-forwarded-proto: https")
        .with("x-envoy-original-path: /mine")
        .with("x-envoy-expected-rq-timeout-ms: 7");
    let cases = vec![
        case("nothing").asks([get(), own.clone(), ask("POST", "/a?b=c").body("x")]),
        case("a rewrite")
            .rule("rewrite: {uri: /new}", json!({"prefix_rewrite": "/new"}))
            .asks([ask("GET", "/a?b=c"), own.clone()]),
        brief.asks([get(), own.clone()]),
        both.asks([get().statuses(&[503, 503]), own.statuses(&[503])]),
    ];
    let stand = Stand::start_adding(cases, RequestHeaders::Envoy).await;
    let mut wrong = String::new();
    for (number, case) in stand.cases.iter().enumerate() {
        for step in &case.steps {
            let (mut ours, its) = tokio::join!(
                said(&stand.ours, number, step),
                said(&stand.its, number, step)
            );
            // This Envoy makes no ids.
            for line in &mut ours {
                if let Some(at) = line.find("x-request-id: Some([\"")
                    && !line.ends_with("x-request-id: Some([\"mine\"])")
                {
                    line.replace_range(at.., "x-request-id: None");
                }
            }
            if ours != its {
                wrong += &format!(
                    "{}: {step:?}\n  ours {ours:#?}\n  its  {its:#?}\n",
                    case.what
                );
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
