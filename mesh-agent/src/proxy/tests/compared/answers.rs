// SPDX-License-Identifier: Apache-2.0

//! Answers of the route's own, and what it makes of requests and answers on their way.

use serde_json::{Value, json};

use super::{
    Stand,
    case::{Act, Case, Step, ask, case, get, route},
};

/// A rule and a route for what begins with `prefix`, to `$A`.
fn under(what: &'static str, prefix: &str, ours: &str, its: Value) -> Case {
    let rules = format!(
        "{{match: [{{uri: {{prefix: \"{prefix}\"}}}}], route: [{{destination: {{host: $A}}}}], {ours}}}"
    );
    case(what).rules(&rules, json!([route(prefix, its)]))
}

fn paths(paths: &[&str]) -> Vec<Step> {
    paths.iter().map(|path| ask("GET", path)).collect()
}

#[tokio::test]
async fn clients_are_sent_elsewhere_as_by_envoy() {
    let redirect = |ours: &str, its: Value| {
        let rules = format!("{{redirect: {{{ours}}}}}");
        let routes = json!([{"match": {"prefix": "/"}, "redirect": its}]);
        let asks = [
            get(),
            ask("GET", "/a/b?c=d"),
            ask("POST", "/a").body("x"),
            ask("HEAD", "/a"),
            ask("POST", "/a")
                .with("content-type: application/grpc")
                .body("x"),
        ];
        case("redirect").rules(&rules, routes).asks(asks)
    };
    let cases = vec![
        redirect("uri: /new", json!({"path_redirect": "/new"})),
        redirect("uri: \"/new?x=y\"", json!({"path_redirect": "/new?x=y"})),
        redirect(
            "authority: other.test",
            json!({"host_redirect": "other.test"}),
        ),
        redirect(
            "uri: /n, authority: other.test, redirectCode: 308",
            json!({"path_redirect": "/n", "host_redirect": "other.test", "response_code": "PERMANENT_REDIRECT"}),
        ),
        redirect(
            "scheme: https, redirectCode: 302",
            json!({"scheme_redirect": "https", "response_code": "FOUND"}),
        ),
        redirect("port: 8081", json!({"port_redirect": 8081})),
        redirect("port: 80", json!({})),
        redirect(
            "scheme: https, port: 443",
            json!({"scheme_redirect": "https"}),
        ),
        redirect(
            "authority: \"a.test:81\", derivePort: FROM_PROTOCOL_DEFAULT",
            json!({"host_redirect": "a.test:81"}),
        ),
    ];
    Stand::start(cases).await.compare().await;
}

#[tokio::test]
async fn a_rule_answers_as_envoy_does() {
    let answer = |ours: &str, its: Value| {
        let rules = format!("{{{ours}}}");
        let mut route = json!({"match": {"prefix": "/"}});
        if let (Value::Object(route), Value::Object(its)) = (&mut route, its) {
            route.extend(its);
        }
        let asks = [
            get(),
            ask("HEAD", "/"),
            ask("POST", "/").body("x"),
            ask("POST", "/")
                .with("content-type: application/grpc")
                .body("x"),
        ];
        case("answer").rules(&rules, json!([route])).asks(asks)
    };
    let text = |status: u32, text: &str| json!({"direct_response": {"status": status, "body": {"inline_string": text}}});
    let mut marked = text(503, "later");
    marked["response_headers_to_add"] = json!([{
        "header": {"key": "x-why", "value": "closed"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }]);
    let cases = vec![
        answer(
            "directResponse: {status: 200, body: {string: hello}}",
            text(200, "hello"),
        ),
        answer(
            "directResponse: {status: 404}",
            json!({"direct_response": {"status": 404}}),
        ),
        answer(
            "directResponse: {status: 204}",
            json!({"direct_response": {"status": 204}}),
        ),
        answer(
            "directResponse: {status: 503, body: {string: later}}, headers: {response: {set: {x-why: closed}}}",
            marked,
        ),
        case("no rule")
            .rules(
                "{match: [{uri: {prefix: /a}}], route: [{destination: {host: $A}}]}",
                json!([route("/a", json!({}))]),
            )
            .asks([
                get(),
                ask("GET", "/ab"),
                ask("POST", "/")
                    .with("content-type: application/grpc")
                    .body("x"),
            ]),
    ];
    Stand::start(cases).await.compare().await;
}

/// What is matched as a whole is replaced as a whole.
fn whole() -> [Case; 2] {
    let exact = case("exact").rules(
        "{match: [{uri: {exact: /old}}], route: [{destination: {host: $A}}], rewrite: {uri: /new}}",
        json!([{"match": {"path": "/old"}, "route": {"cluster": "$A", "prefix_rewrite": "/new"}}]),
    );
    let by_regex = case("regex match").rules(
        "{match: [{uri: {regex: '/o.*d'}}], route: [{destination: {host: $A}}], rewrite: {uri: /new}}",
        json!([{
            "match": {"safe_regex": {"regex": "/o.*d"}},
            "route": {"cluster": "$A", "prefix_rewrite": "/new"},
        }]),
    );
    [exact, by_regex]
}

#[tokio::test]
async fn urls_are_rewritten_as_by_envoy() {
    let regex = |pattern: &str, substitution: &str| {
        let rewrite = json!({
            "regex_rewrite": {"pattern": {"regex": pattern}, "substitution": substitution},
        });
        let ours = format!(
            "rewrite: {{uriRegexRewrite: {{match: '{pattern}', rewrite: '{substitution}'}}}}"
        );
        case("regex").rule(&ours, rewrite)
    };
    let asked = [
        "/old",
        "/old/",
        "/old/a",
        "/older?x=/old",
        "/old?a=b",
        "/old//a",
    ];
    let [exact, by_regex] = whole();
    let host = json!({"host_rewrite_literal": "other.test:81"});
    let cases = vec![
        under(
            "to a prefix",
            "/old",
            "rewrite: {uri: /new}",
            json!({"prefix_rewrite": "/new"}),
        )
        .asks(paths(&asked)),
        under(
            "to the root",
            "/old",
            "rewrite: {uri: /}",
            json!({"prefix_rewrite": "/"}),
        )
        .asks(paths(&asked)),
        under(
            "to a slash",
            "/old/",
            "rewrite: {uri: /}",
            json!({"prefix_rewrite": "/"}),
        )
        .asks(paths(&["/old/", "/old/a", "/old//a"])),
        exact.asks(paths(&["/old", "/old?a=b"])),
        by_regex.asks(paths(&["/old", "/old?a=b", "/ord/d?x"])),
        case("all")
            .rule("rewrite: {uri: /x/}", json!({"prefix_rewrite": "/x/"}))
            .asks(paths(&["/", "/a", "/a?b"])),
        case("host")
            .rule("rewrite: {authority: \"other.test:81\"}", host)
            .asks([get()]),
        regex("^/old/([^/]+)(/.*)?$", "/\\\\2?id=\\\\1").asks(paths(&asked)),
        regex("a", "bb").asks(paths(&["/a/aa?a=a", "/", "/b"])),
        regex("/(x*)", "/y").asks(paths(&["/", "/xx/x", "/b"])),
    ];
    Stand::start(cases).await.compare().await;
}

#[tokio::test]
async fn paths_are_matched_as_by_envoy() {
    let odd = [
        "/a/../b",
        "/a/./b",
        "/a//b",
        "/a%2Fb",
        "/a/%2e%2e/b",
        "/%61",
        "/a;x",
        "/A",
        "/a?/../b",
        "/b/..",
        "/a/b/..?c=/../d",
        "/.a/../a/..b",
        "/a\\b",
        "/%41%2D%5f%7e%2E",
        "/a%20b%2fc%5Cd%zz",
        "/a//../b",
        "/%2e%2e/a/%2e",
        "/a/..;x/b",
        "/b/..;x/a/.;y",
        "/a/...;x",
        "/a/..%3Bx/b",
        "/a/..//a",
        "/a%7Bb%7d",
        "/a%00",
    ];
    let rules = "{match: [{uri: {prefix: /a}}], route: [{destination: {host: $A}}]}, \
         {directResponse: {status: 404}}";
    let routes = json!([
        route("/a", json!({})),
        {"match": {"prefix": "/"}, "direct_response": {"status": 404}},
    ]);
    let cases = vec![case("odd paths").rules(rules, routes).asks(paths(&odd))];
    Stand::start(cases).await.compare().await;
}

fn edit(key: &str, value: &str, action: &str) -> Value {
    json!({"header": {"key": key, "value": value}, "append_action": action})
}

const SET: &str = "OVERWRITE_IF_EXISTS_OR_ADD";
const ADD: &str = "APPEND_IF_EXISTS_OR_ADD";

#[tokio::test]
async fn headers_are_edited_as_by_envoy() {
    let mut plain = case("rule").rule(
        "headers: {request: {set: {x-set: new}, add: {x-add: more}, remove: [x-gone]}, \
         response: {set: {x-said: new}, add: {x-more: more}, remove: [x-secret]}}",
        json!({}),
    );
    plain.routes[0]["request_headers_to_add"] =
        json!([edit("x-set", "new", SET), edit("x-add", "more", ADD)]);
    plain.routes[0]["request_headers_to_remove"] = json!(["x-gone"]);
    plain.routes[0]["response_headers_to_add"] =
        json!([edit("x-said", "new", SET), edit("x-more", "more", ADD)]);
    plain.routes[0]["response_headers_to_remove"] = json!(["x-secret"]);
    let said = Act::Say(
        200,
        "x-said: old\r\nx-said: older\r\nx-more: some\r\nx-secret: 1\r\n",
    );
    let asks = [
        get().acts(&[said]),
        get(),
        get()
            .with("x-set: old")
            .with("x-set: older")
            .with("x-add: some")
            .with("x-gone: 1")
            .with("x-gone: 2")
            .acts(&[said]),
    ];
    let mut cases = vec![plain.asks(asks)];
    cases.extend(hosts().map(|case| case.asks([get()])));
    cases.extend(two_levels().map(|case| {
        let full = get()
            .with("x-both: mine")
            .with("x-late: 1")
            .with("x-also: 1");
        case.asks([get(), full.with("x-add: a").with("x-add: b")])
    }));
    Stand::start(cases).await.compare().await;
}

/// Edits of a rule, and of its only destination; then of one of two.
fn two_levels() -> [Case; 2] {
    let rule = "headers: {request: {set: {x-both: rule}, add: {x-add: rule}, remove: [x-late]}, \
         response: {set: {x-said: rule}}}";
    let destination = "{destination: {host: $A}, WEIGHT headers: {request: {\
         set: {x-both: destination, x-late: here}, add: {x-add: destination}, remove: [x-also]}, \
         response: {set: {x-said: destination}}}}";
    let of_rule = [edit("x-both", "rule", SET), edit("x-add", "rule", ADD)];
    let of_destination = [
        edit("x-both", "destination", SET),
        edit("x-late", "here", SET),
        edit("x-add", "destination", ADD),
    ];
    let said = ["rule", "destination"].map(|who| edit("x-said", who, SET));
    let mut one = route("/", json!({}));
    one["request_headers_to_add"] = json!([&of_rule[..], &of_destination[..]].concat());
    one["request_headers_to_remove"] = json!(["x-late", "x-also"]);
    one["response_headers_to_add"] = json!(said);
    let weighted = json!({
        "name": "$A", "weight": 100, "request_headers_to_add": of_destination,
        "request_headers_to_remove": ["x-also"], "response_headers_to_add": [said[1]],
    });
    let both = json!({"clusters": [weighted, {"name": "$B", "weight": 0}]});
    let mut two = route("/", json!({"weighted_clusters": both}));
    two["request_headers_to_add"] = json!(of_rule);
    two["request_headers_to_remove"] = json!(["x-late"]);
    two["response_headers_to_add"] = json!([said[0]]);
    let alone = destination.replace("WEIGHT", "");
    let beside = destination.replace("WEIGHT", "weight: 100,");
    [
        case("one").rules(&format!("{{{rule}, route: [{alone}]}}"), json!([one])),
        case("two").rules(
            &format!("{{{rule}, route: [{beside}, {{destination: {{host: $B}}, weight: 0}}]}}"),
            json!([two]),
        ),
    ]
}

/// Another host, as a rule wants it, or its destination, or both.
fn hosts() -> [Case; 5] {
    let with_host = |host: &str| format!("headers: {{request: {{set: {{Host: {host}}}}}}}");
    let (rule, own) = (with_host("rule.test"), with_host("own.test"));
    let to_a = format!("{{destination: {{host: $A}}, weight: 100, {own}}}");
    let to_b = "{destination: {host: $B}, weight: 0}";
    let rewrite = |host: &str| route("/", json!({"host_rewrite_literal": host}));
    let weighted = || {
        let a = json!({"name": "$A", "weight": 100, "host_rewrite_literal": "own.test"});
        json!({"weighted_clusters": {"clusters": [a, {"name": "$B", "weight": 0}]}})
    };
    let mut both = weighted();
    both["host_rewrite_literal"] = json!("rule.test");
    let host = |rules: String, route: Value| case("host").rules(&rules, json!([route]));
    [
        host(
            format!("{{route: [{{destination: {{host: $A}}}}], {rule}}}"),
            rewrite("rule.test"),
        ),
        host(format!("{{route: [{to_a}]}}"), rewrite("own.test")),
        host(format!("{{route: [{to_a}], {rule}}}"), rewrite("rule.test")),
        host(
            format!("{{route: [{to_a}, {to_b}]}}"),
            route("/", weighted()),
        ),
        host(
            format!("{{route: [{to_a}, {to_b}], {rule}}}"),
            route("/", both),
        ),
    ]
}
