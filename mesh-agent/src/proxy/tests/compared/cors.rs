// SPDX-License-Identifier: Apache-2.0

//! What pages of other origins are told.

use serde_json::{Value, json};

use super::{
    Stand,
    case::{Act, Case, Step, ask, case, get},
};

/// A rule with this policy, and the same for Envoy.
fn cors(what: &'static str, ours: &str, its: Value) -> Case {
    case(what)
        .rule(&format!("corsPolicy: {{{ours}}}"), json!({}))
        .filtered("envoy.filters.http.cors", "cors.v3.CorsPolicy", its)
        .asks(asked_by_pages())
}

/// What pages of several origins ask.
fn asked_by_pages() -> Vec<Step> {
    let origins = [
        "https://shop.test",
        "https://SHOP.test",
        "https://evil.test",
        "null",
    ];
    let marked = Act::Say(
        200,
        "access-control-allow-origin: *\r\n\
         access-control-expose-headers: x-theirs\r\nvary: accept\r\n",
    );
    let mut steps = vec![get(), ask("OPTIONS", "/")];
    for origin in origins {
        let origin = format!("origin: {origin}");
        let preflight = ask("OPTIONS", "/a").with(&origin);
        steps.push(get().with(&origin));
        steps.push(get().with(&origin).acts(&[marked]));
        steps.push(preflight.clone());
        let preflight = preflight.with("access-control-request-method: PUT");
        steps.push(preflight.clone());
        let preflight = preflight.with("access-control-request-headers: x-odd, x-even");
        steps.push(preflight.clone());
        steps.push(preflight.with("access-control-request-private-network: true"));
    }
    steps
}

/// The origin that is right.
fn exact() -> Value {
    json!([{"exact": "https://shop.test"}])
}

/// Requests that a fault ends before anybody looks at their origin.
fn aborted() -> Case {
    let mut aborted = cors(
        "a fault before it",
        "allowOrigins: [{exact: \"https://shop.test\"}], allowMethods: [PUT]",
        json!({"allow_origin_string_match": exact(), "allow_methods": "PUT", "forward_not_matching_preflights": true}),
    );
    aborted.rules = aborted.rules.replace(
        "corsPolicy",
        "fault: {abort: {httpStatus: 500, percentage: {value: 100}}}, corsPolicy",
    );
    aborted.routes[0]["typed_per_filter_config"]["envoy.filters.http.fault"] = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
        "abort": {"http_status": 500, "percentage": {"numerator": 100}},
    });
    aborted
}

#[tokio::test]
async fn pages_of_other_origins_are_told_the_same_as_by_envoy() {
    let cases = vec![
        cors(
            "all fields",
            "allowOrigins: [{exact: \"https://shop.test\"}], allowMethods: [GET, PUT], \
             allowHeaders: [x-odd, x-even], exposeHeaders: [x-total], maxAge: 60s, allowCredentials: true",
            json!({
                "allow_origin_string_match": exact(), "allow_methods": "GET,PUT",
                "allow_headers": "x-odd,x-even", "expose_headers": "x-total", "max_age": "60",
                "allow_credentials": true, "forward_not_matching_preflights": true,
            }),
        ),
        cors(
            "an origin alone",
            "allowOrigins: [{exact: \"https://shop.test\"}]",
            json!({"allow_origin_string_match": exact(), "forward_not_matching_preflights": true}),
        ),
        cors(
            "others are not sent on",
            "allowOrigins: [{exact: \"https://shop.test\"}], unmatchedPreflights: IGNORE",
            json!({"allow_origin_string_match": exact(), "forward_not_matching_preflights": false}),
        ),
        cors(
            "prefixes and patterns",
            "allowOrigins: [{prefix: \"https://shop\"}, {regex: \"https://e.*\"}], allowMethods: [\"*\"], allowHeaders: [\"*\"]",
            json!({
                "allow_origin_string_match": [
                    {"prefix": "https://shop"}, {"safe_regex": {"regex": "https://e.*"}},
                ],
                "allow_methods": "*", "allow_headers": "*", "forward_not_matching_preflights": true,
            }),
        ),
        cors(
            "whatever is asked for",
            "allowOrigins: [{exact: \"https://shop.test\"}], allowMethods: [\"*\"], allowHeaders: [\"*\"], \
             exposeHeaders: [\"*\"], allowCredentials: true",
            json!({
                "allow_origin_string_match": exact(), "allow_methods": "*", "allow_headers": "*",
                "expose_headers": "*", "allow_credentials": true, "forward_not_matching_preflights": true,
            }),
        ),
        cors(
            "any",
            "allowOrigins: [{exact: \"*\"}], allowMethods: [GET]",
            json!({
                "allow_origin_string_match": [{"exact": "*"}], "allow_methods": "GET",
                "forward_not_matching_preflights": true,
            }),
        ),
        aborted(),
    ];
    Stand::start(cases).await.compare().await;
}
