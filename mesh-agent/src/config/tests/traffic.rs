// SPDX-License-Identifier: Apache-2.0

//! What a VirtualService's rule can do with requests, field by field.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    fixture::Mesh,
    routes::{WEB, to, virtual_service, web},
};
use crate::model::{AbortStatus, Decision, Rewritten, Share, Treatment, TryEnd};

/// A mesh whose only rule for `web` is this.
fn with(rule: &str) -> Mesh {
    let spec = format!("hosts: [web], http: [{{{rule}}}]");
    Mesh::new(&(virtual_service("name: web", &spec) + &web()))
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        (name, HeaderValue::from_str(value).unwrap())
    };
    pairs.iter().map(pair).collect()
}

/// What the rule makes of `GET path`.
#[track_caller]
fn check(rule: &str, path: &str, want: &str) {
    let mesh = with(rule);
    mesh.check_problems(&[]);
    assert_eq!(mesh.get("client", WEB, path), want, "{rule}");
}

/// The rule is refused, with these words.
#[track_caller]
fn check_refused(rule: &str, want: &str) {
    let mesh = with(rule);
    mesh.check_problems(&[want]);
    let whole = "*@10.1.0.1:8080";
    assert_eq!(mesh.get("client", WEB, "/"), whole, "no good state: {rule}");
}

/// The rule is in force, with a warning of these words.
#[track_caller]
fn check_warned(rule: &str, want: &str) {
    let mesh = with(rule);
    mesh.check_problems(&[want]);
    assert_eq!(mesh.get("client", WEB, "/"), "v1@10.1.0.1:8080", "{rule}");
}

#[test]
fn redirect_keeps_what_it_does_not_name_and_is_301() {
    check(
        "redirect: {uri: /new}",
        "/old?a=b",
        "301 http://web/new?a=b",
    );
    let rule = "redirect: {authority: shop.example, redirectCode: 308}";
    check(rule, "/old", "308 http://shop.example/old");
    check("redirect: {scheme: https}", "/", "301 https://web/");
    check("redirect: {port: 8081}", "/", "301 http://web:8081/");
    let rule = "redirect: {authority: a, derivePort: FROM_REQUEST_PORT}";
    check(rule, "/", "301 http://a/");
    let rule = "redirect: {authority: \"a:81\", derivePort: FROM_PROTOCOL_DEFAULT}";
    check(rule, "/", "301 http://a:81/");
    check(
        "redirect: {uri: \"/n?x=y\"}",
        "/o?a=b",
        "301 http://web/n?x=y",
    );
}

#[test]
fn redirect_is_refused_where_it_means_nothing() {
    for (rule, want) in [
        ("redirect: {}", "redirect: nothing is redirected"),
        (
            "redirect: {uri: new}",
            "redirect.uri: \"new\" is not a path",
        ),
        (
            "redirect: {uri: /, redirectCode: 200}",
            "redirectCode: 200 is no redirect",
        ),
        (
            "redirect: {uri: /, scheme: ftp}",
            "scheme: \"ftp\" is neither",
        ),
        (
            "redirect: {authority: \"a b\"}",
            "authority: \"a b\" is not a host",
        ),
        (
            "redirect: {uri: /, port: 1, derivePort: FROM_REQUEST_PORT}",
            "port and derivePort exclude each other",
        ),
    ] {
        check_refused(rule, want);
    }
}

#[test]
fn redirect_and_direct_response_exclude_other_actions() {
    for field in [
        to("v1").as_str(),
        "rewrite: {uri: /}",
        "fault: {abort: {httpStatus: 500, percentage: {value: 1}}}",
        "directResponse: {status: 200}",
    ] {
        let rule = format!("redirect: {{uri: /}}, {field}");
        check_refused(&rule, "exclude each other");
    }
    let rule = format!("directResponse: {{status: 200}}, {}", to("v1"));
    check_refused(&rule, "directResponse and route exclude each other");
}

/// Status, body and headers of the answer that the rule gives to `GET /`.
#[track_caller]
fn answered(rule: &str, asked: &HeaderMap) -> (u16, Vec<u8>, HeaderMap) {
    let mesh = with(rule);
    mesh.check_problems(&[]);
    match mesh.decide("client", WEB, "GET", "/", asked) {
        Decision::Answer { answer, .. } => (
            answer.status.as_u16(),
            answer.body.to_vec(),
            answer.headers.clone(),
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn direct_response_answers_with_status_body_and_headers() {
    let none = HeaderMap::new();
    let rule = "directResponse: {status: 503, body: {string: later}}, \
                headers: {response: {set: {retry-after: \"60\"}}}";
    let want = headers(&[("retry-after", "60")]);
    assert_eq!(answered(rule, &none), (503, b"later".to_vec(), want));
    let rule = "directResponse: {status: 200, body: {bytes: AAEC}}";
    assert_eq!(answered(rule, &none).1, [0, 1, 2]);
    assert_eq!(answered("directResponse: {status: 204}", &none).0, 204);
}

#[test]
fn direct_response_is_refused_where_it_means_nothing() {
    for (rule, want) in [
        ("directResponse: {}", "status: 0 is no status"),
        ("directResponse: {status: 199}", "status: 199 is no status"),
        (
            "directResponse: {status: 200, body: {bytes: \"!\"}}",
            "bytes: this is not base64",
        ),
        (
            "directResponse: {status: 200, body: {bytes: AA, string: x}}",
            "string and bytes exclude each other",
        ),
    ] {
        check_refused(rule, want);
    }
}

/// What the endpoint sees of `GET path`.
#[track_caller]
fn rewritten(rule: &str, path: &str) -> Rewritten {
    let mesh = with(rule);
    mesh.check_problems(&[]);
    match mesh.decide("client", WEB, "GET", path, &HeaderMap::new()) {
        Decision::Forward {
            rewritten: Some(rewritten),
            ..
        } => *rewritten,
        other => panic!("{other:?}"),
    }
}

#[test]
fn rewrite_uri_replaces_what_was_matched() {
    let rule = format!(
        "match: [{{uri: {{prefix: /old}}}}], rewrite: {{uri: /new}}, {}",
        to("v1")
    );
    let path = rewritten(&rule, "/older/a?b=c").path.unwrap();
    assert_eq!(path.as_str(), "/newer/a?b=c");
}

#[test]
fn rewrite_uri_regex_rewrite_uses_groups() {
    let rule = format!(
        "rewrite: {{uriRegexRewrite: {{match: \"^/v[0-9]/(.*)\", rewrite: '/\\1'}}}}, {}",
        to("v1")
    );
    let path = rewritten(&rule, "/v2/a").path.unwrap();
    assert_eq!(path.as_str(), "/a");
}

#[test]
fn rewrite_authority_and_a_set_host_change_the_authority() {
    let rule = format!("rewrite: {{authority: \"other:81\"}}, {}", to("v1"));
    let authority = rewritten(&rule, "/").authority.unwrap();
    assert_eq!(authority.as_str(), "other:81");
    let both = "headers: {request: {set: {Host: rule}}}, \
                route: [{destination: {host: web}, headers: {request: {set: {\":authority\": one}}}}]";
    assert_eq!(rewritten(both, "/").authority.unwrap().as_str(), "rule");
    let only = "route: [{destination: {host: web}, headers: {request: {set: {host: one}}}}]";
    assert_eq!(rewritten(only, "/").authority.unwrap().as_str(), "one");
}

#[test]
fn rewrite_is_refused_where_it_means_nothing() {
    for (rewrite, want) in [
        ("{}", "rewrite: nothing is rewritten"),
        ("{uri: new}", "rewrite.uri: \"new\" is not a path"),
        (
            "{uri: /a, uriRegexRewrite: {match: a, rewrite: b}}",
            "exclude each other",
        ),
        (
            "{uriRegexRewrite: {match: \"(\", rewrite: b}}",
            "is not valid",
        ),
        (
            "{uriRegexRewrite: {match: a, rewrite: '\\1'}}",
            "is not valid",
        ),
        ("{authority: \"a b\"}", "is not a host"),
    ] {
        check_refused(&format!("rewrite: {rewrite}, {}", to("v1")), want);
    }
}

#[test]
fn headers_that_are_the_authority_can_only_be_set() {
    let rule = format!("headers: {{request: {{remove: [Host]}}}}, {}", to("v1"));
    check_warned(&rule, "\"Host\" cannot be changed so");
    let rule = format!("headers: {{response: {{set: {{Host: x}}}}}}, {}", to("v1"));
    check_warned(&rule, "\"Host\" cannot be changed so");
}

/// What else is done with requests that meet the rule.
#[track_caller]
fn treatment(rule: &str) -> Arc<Treatment> {
    let mesh = with(&format!("{rule}, {}", to("v1")));
    mesh.check_problems(&[]);
    let decided = mesh.decide("client", WEB, "GET", "/", &HeaderMap::new());
    assert!(!decided.is_plain());
    match decided {
        Decision::Forward {
            treatment: Some(treatment),
            ..
        } => treatment,
        other => panic!("{other:?}"),
    }
}

#[test]
fn fault_delay_and_abort_have_shares_of_their_own() {
    let rule = "fault: {delay: {fixedDelay: 5s, percentage: {value: 0.1}}, \
                abort: {httpStatus: 418, percentage: {value: 100}}}";
    let fault = treatment(rule).fault.unwrap();
    let tenth = Share::percent(0.1).unwrap();
    assert_eq!(fault.delay, Some((tenth, Duration::from_secs(5))));
    assert_eq!(fault.abort, Some((Share::ALL, AbortStatus::Http(418))));
    let rule = "fault: {abort: {grpcStatus: UNAVAILABLE, percentage: {value: 50}}}";
    let (_, status) = treatment(rule).fault.unwrap().abort.unwrap();
    assert_eq!(status, AbortStatus::Grpc(14));
    let rule = "fault: {delay: {fixedDelay: 1ms, percent: 7}}";
    let (share, _) = treatment(rule).fault.unwrap().delay.unwrap();
    assert_eq!(share, Share::percent(7.0).unwrap());
}

#[test]
fn fault_without_a_percentage_hits_nobody_and_says_so() {
    for (fault, want) in [
        (
            "{abort: {httpStatus: 500}}",
            "abort.percentage: without a percentage no request is aborted",
        ),
        (
            "{delay: {fixedDelay: 1s}}",
            "delay.percentage: without a percentage no request is delayed",
        ),
    ] {
        check_warned(&format!("fault: {fault}, {}", to("v1")), want);
    }
}

#[test]
fn fault_is_refused_where_it_means_nothing() {
    for (fault, want) in [
        ("{}", "fault: neither delay nor abort"),
        ("{delay: {}}", "fixedDelay: must be set"),
        (
            "{delay: {fixedDelay: soon}}",
            "fixedDelay: \"soon\" is not a duration",
        ),
        (
            "{delay: {fixedDelay: 1s, percentage: {value: 101}}}",
            "101 is not a percentage",
        ),
        ("{abort: {}}", "exactly one of httpStatus and grpcStatus"),
        ("{abort: {httpStatus: 99}}", "99 is no status"),
        (
            "{abort: {grpcStatus: gone}}",
            "\"gone\" is no status of gRPC",
        ),
        (
            "{abort: {http2Error: x}}",
            "http2Error: Istio does not inject it either",
        ),
    ] {
        check_refused(&format!("fault: {fault}, {}", to("v1")), want);
    }
}

#[test]
fn fault_with_exponential_delay_is_not_supported() {
    let rule = format!("fault: {{delay: {{exponentialDelay: 1s}}}}, {}", to("v1"));
    check_warned(&rule, "exponentialDelay: not supported: ");
}

#[test]
fn retries_say_how_often_on_what_and_how_long() {
    let rule = "retries: {attempts: 3, perTryTimeout: 2s, retryOn: \"5xx,409\", backoff: 10ms, \
                retryIgnorePreviousHosts: false, retryRemoteLocalities: true}";
    let policy = treatment(rule).retry.clone().unwrap();
    assert_eq!(policy.attempts, 3);
    assert_eq!(policy.per_try_timeout, Some(Duration::from_secs(2)));
    assert_eq!(policy.base_interval, Duration::from_millis(10));
    assert_eq!(policy.max_interval, Duration::from_millis(100));
    assert!(!policy.avoids_tried && policy.goes_elsewhere);
    let none = HeaderMap::new();
    let answered = |status| TryEnd::Answered(http::StatusCode::from_u16(status).unwrap(), &none);
    let post = http::Method::POST;
    let met = [409, 500, 404].map(|status| policy.on.includes(&post, &answered(status)));
    assert_eq!(met, [true, true, false]);
}

#[test]
fn retries_have_istios_defaults() {
    let policy = treatment("retries: {attempts: 1}").retry.clone().unwrap();
    assert_eq!(policy.base_interval, Duration::from_millis(25));
    assert_eq!(policy.max_interval, Duration::from_millis(250));
    assert!(policy.avoids_tried && !policy.goes_elsewhere);
    let post = http::Method::POST;
    assert!(policy.on.includes(&post, &TryEnd::NotConnected));
    assert!(!policy.on.includes(&post, &TryEnd::Broken));
    let none = treatment("retries: {attempts: 0}").retry.clone().unwrap();
    assert_eq!(none.attempts, 0);
}

#[test]
fn retries_are_refused_where_they_mean_nothing() {
    for (retries, want) in [
        (
            "{attempts: 1, retryOn: often}",
            "retryOn: \"often\" is not a condition",
        ),
        (
            "{attempts: 1, perTryTimeout: 0s}",
            "perTryTimeout: \"0s\" is not a duration",
        ),
        (
            "{attempts: 1, backoff: x}",
            "backoff: \"x\" is not a duration",
        ),
        ("{attempts: 101}", "attempts: 101 is more than 100"),
    ] {
        check_refused(&format!("retries: {retries}, {}", to("v1")), want);
    }
    let rule = format!("retries: {{perTryTimeout: 1s}}, {}", to("v1"));
    check_warned(
        &rule,
        "attempts: without attempts no request is tried again",
    );
}

#[test]
fn mirror_and_mirrors_name_clusters_and_shares() {
    let rule = "mirror: {host: web, subset: v2}";
    let mirrors = &treatment(rule).mirrors;
    assert_eq!(mirrors[0].share, Share::ALL);
    assert_eq!(mirrors[0].cluster.subset.as_deref(), Some("v2"));
    let rule = "mirror: {host: web}, mirrorPercentage: {value: 10}, mirrorPercent: 3";
    assert_eq!(
        treatment(rule).mirrors[0].share,
        Share::percent(10.0).unwrap()
    );
    let rule = "mirror: {host: web}, mirrorPercent: 3";
    assert_eq!(
        treatment(rule).mirrors[0].share,
        Share::percent(3.0).unwrap()
    );
    let rule = "mirrors: [{destination: {host: web, subset: v2}, percentage: {value: 1}}, \
                {destination: {host: web}}, {destination: {host: web}, percentage: {value: 0}}]";
    let shares: Vec<Share> = treatment(rule)
        .mirrors
        .iter()
        .map(|one| one.share)
        .collect();
    assert_eq!(shares, [Share::percent(1.0).unwrap(), Share::ALL]);
}

#[test]
fn mirror_of_nobody_is_reported_and_requests_go_on() {
    let rule = format!("mirror: {{host: nobody}}, {}", to("v1"));
    check_warned(
        &rule,
        "mirror.host: no Service has the host nobody.default.svc.cluster.local: no request is copied there",
    );
    let rule = format!(
        "mirror: {{host: web}}, mirrors: [{{destination: {{host: web}}}}], {}",
        to("v1")
    );
    check_refused(&rule, "mirror and mirrors exclude each other");
}

const CORS: &str = "corsPolicy: {allowOrigins: [{prefix: https://shop.}], allowMethods: [GET, PUT], \
                    allowHeaders: [x-a], exposeHeaders: [x-b], maxAge: 24h, allowCredentials: true}";

#[test]
fn cors_policy_answers_preflights_and_marks_answers() {
    let mesh = with(&format!("{CORS}, {}", to("v1")));
    mesh.check_problems(&[]);
    let preflight =
        |origin| headers(&[("origin", origin), ("access-control-request-method", "PUT")]);
    let decided = mesh.decide(
        "client",
        WEB,
        "OPTIONS",
        "/",
        &preflight("https://shop.example"),
    );
    let Decision::Answer { answer, .. } = decided else {
        panic!("{decided:?}");
    };
    let said = |name: &str| answer.headers[name].to_str().unwrap().to_owned();
    assert_eq!(said("access-control-allow-methods"), "GET,PUT");
    assert_eq!(said("access-control-allow-headers"), "x-a");
    assert_eq!(said("access-control-max-age"), "86400");
    assert_eq!(said("access-control-allow-credentials"), "true");
    let other = mesh.decide(
        "client",
        WEB,
        "OPTIONS",
        "/",
        &preflight("https://evil.example"),
    );
    assert!(matches!(other, Decision::Forward { .. }), "{other:?}");
    let ignoring = CORS.replace("maxAge", "unmatchedPreflights: IGNORE, maxAge");
    let mesh = with(&format!("{ignoring}, {}", to("v1")));
    let other = mesh.decide(
        "client",
        WEB,
        "OPTIONS",
        "/",
        &preflight("https://evil.example"),
    );
    let Decision::Answer { answer, .. } = other else {
        panic!("{other:?}");
    };
    assert!(answer.headers.is_empty());
}

#[test]
fn cors_policy_marks_direct_responses_too() {
    let rule = format!("{CORS}, directResponse: {{status: 200}}");
    let (_, _, said) = answered(&rule, &headers(&[("origin", "https://shop.example")]));
    assert_eq!(said["access-control-allow-origin"], "https://shop.example");
    assert_eq!(said["access-control-expose-headers"], "x-b");
}

#[test]
fn cors_policy_reads_the_old_list_of_origins() {
    let rule = "corsPolicy: {allowOrigin: [\"*\"]}, directResponse: {status: 200}";
    let (_, _, said) = answered(rule, &headers(&[("origin", "https://any.example")]));
    assert_eq!(said["access-control-allow-origin"], "https://any.example");
}

#[test]
fn cors_policy_is_refused_where_it_means_nothing() {
    for (policy, want) in [
        (
            "{maxAge: 1500ms}",
            "maxAge: \"1500ms\" is not a duration of whole seconds",
        ),
        (
            "{allowOrigins: [{regex: \"(\"}]}",
            "allowOrigins[0].regex: regular expression",
        ),
        (
            "{allowMethods: [\"\\n\"]}",
            "allowMethods: \"\\n\" is not a header value",
        ),
    ] {
        check_refused(&format!("corsPolicy: {policy}, {}", to("v1")), want);
    }
}
