// SPDX-License-Identifier: Apache-2.0

//! Faults, time-outs, mirrors, limits: requests that do not just go on.

use serde_json::{Value, json};

use super::{
    Stand,
    case::{Act, Case, Step, ask, case, get},
};

/// A case with a fault in both languages.
fn fault(what: &'static str, ours: &str, its: Value) -> Case {
    case(what)
        .rule(&format!("fault: {{{ours}}}"), json!({}))
        .filtered("envoy.filters.http.fault", "fault.v3.HTTPFault", its)
}

fn share(percent: u32) -> Value {
    json!({"numerator": percent, "denominator": "HUNDRED"})
}

/// A call in gRPC's form.
fn call() -> Step {
    ask("POST", "/shop.Shop/Buy")
        .with("content-type: application/grpc")
        .body("x")
}

const FAULT: &str = "envoy.filters.http.fault";

#[tokio::test]
async fn faults_hit_as_in_envoy() {
    let all = |value: &str| format!("{value}, percentage: {{value: 100}}");
    let abort = |what, ours: &str, its: Value| {
        let mut its = its;
        its["percentage"] = share(100);
        fault(
            what,
            &format!("abort: {{{}}}", all(ours)),
            json!({"abort": its}),
        )
    };
    let delay = || json!({"fixed_delay": "0.03s", "percentage": share(100)});
    let delayed = format!("delay: {{{}}}", all("fixedDelay: 30ms"));
    let mut both = abort("both", "httpStatus: 500", json!({"http_status": 500}));
    both.rules = both
        .rules
        .replace("fault: {", &format!("fault: {{{delayed}, "));
    both.routes[0]["typed_per_filter_config"][FAULT]["delay"] = delay();
    let mut slow = fault("time is taken", &delayed, json!({"delay": delay()}));
    slow.rules = slow.rules.replace("fault:", "timeout: 20ms, fault:");
    slow.routes[0]["route"]["timeout"] = json!("0.02s");
    let cases = vec![
        abort("status", "httpStatus: 418", json!({"http_status": 418})).asks([
            get(),
            ask("POST", "/").body("x"),
            ask("HEAD", "/"),
            call(),
        ]),
        abort("less", "httpStatus: 503", json!({"http_status": 503})).asks([get(), call()]),
        abort(
            "grpc",
            "grpcStatus: UNAVAILABLE",
            json!({"grpc_status": 14}),
        )
        .asks([get(), call()]),
        abort(
            "not found",
            "grpcStatus: NOT_FOUND",
            json!({"grpc_status": 5}),
        )
        .asks([get(), call()]),
        fault("delay", &delayed, json!({"delay": delay()})).asks([get(), call()]),
        both.asks([get()]),
        slow.asks([get(), get().acts(&[Act::Hang])]),
        fault(
            "none",
            "abort: {httpStatus: 500, percentage: {value: 0}}",
            json!({
                "abort": {"http_status": 500, "percentage": share(0)},
            }),
        )
        .asks(vec![get(); 5]),
    ];
    Stand::start(cases).await.compare().await;
}

#[tokio::test]
async fn what_takes_too_long_is_answered_as_by_envoy() {
    let brief = || case("timeout").rule("timeout: 50ms", json!({"timeout": "0.05s"}));
    let hang = [
        get().acts(&[Act::Hang]),
        call().acts(&[Act::Hang]),
        ask("HEAD", "/").acts(&[Act::Hang]),
        get(),
    ];
    let cases = vec![
        brief().asks(hang),
        case("nobody")
            .endpoints(0, 1)
            .asks([get(), call(), ask("HEAD", "/")]),
        case("no endpoint").endpoints(0, 0).asks([get(), call()]),
        case("gone").asks([get().acts(&[Act::Close]), call().acts(&[Act::Close])]),
    ];
    Stand::start(cases).await.compare().await;
}

#[tokio::test]
async fn copies_are_made_as_by_envoy() {
    let mirror = |ours: &str, percent: u32| {
        let its = json!({"cluster": "$B", "runtime_fraction": {"default_value": share(percent)}});
        case("mirror").rule(
            &format!("mirror: {{host: $B}}{ours}"),
            json!({"request_mirror_policies": [its]}),
        )
    };
    let mut retried = mirror(", retries: {attempts: 2, retryOn: \"503\"}", 100);
    retried.routes[0]["route"]["retry_policy"] = json!({
        "retry_on": "retriable-status-codes", "retriable_status_codes": [503], "num_retries": 2,
    });
    let mut aborted = mirror(
        ", fault: {abort: {httpStatus: 500, percentage: {value: 100}}}",
        100,
    )
    .filtered(
        FAULT,
        "fault.v3.HTTPFault",
        json!({
            "abort": {"http_status": 500, "percentage": share(100)},
        }),
    );
    aborted.what = "an aborted request is not copied";
    let rewritten = mirror(
        ", rewrite: {uri: /new/, authority: new.test}, \
         headers: {request: {set: {x-set: \"1\"}}}",
        100,
    );
    let mut rewritten = rewritten;
    rewritten.routes[0]["route"]["prefix_rewrite"] = json!("/new/");
    rewritten.routes[0]["route"]["host_rewrite_literal"] = json!("new.test");
    rewritten.routes[0]["request_headers_to_add"] = json!([{
        "header": {"key": "x-set", "value": "1"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }]);
    let twice = case("two").rule(
        "mirrors: [{destination: {host: $B}}, {destination: {host: $B}, percentage: {value: 100}}]",
        json!({"request_mirror_policies": [{"cluster": "$B"}, {"cluster": "$B"}]}),
    );
    let cases = vec![
        mirror("", 100).asks([
            get().copies(1),
            ask("POST", "/a?b=c").with("x-mine: 1").body("x").copies(1),
            ask("PUT", "/").body(&"y".repeat(100_000)).copies(1),
            ask("HEAD", "/").copies(1),
            get().statuses(&[503]).copies(1),
            call().copies(1),
        ]),
        mirror(", mirrorPercentage: {value: 0}", 0).asks(vec![get(); 5]),
        retried.asks([ask("POST", "/").body("x").statuses(&[503, 503]).copies(1)]),
        aborted.asks([get()]),
        rewritten.asks([get().copies(1), ask("POST", "/a").body("x").copies(1)]),
        twice.asks([get().copies(2)]),
    ];
    Stand::start(cases).await.compare().await;
}
