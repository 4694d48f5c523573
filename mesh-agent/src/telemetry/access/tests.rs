// SPDX-License-Identifier: Apache-2.0

//! Access log lines, character by character.

use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::telemetry::samples;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_012)
}

#[test]
fn a_request_has_envoys_layout() {
    let sample = samples::Sample::new();
    let mut line = String::new();
    request_text(&mut line, &sample.request(), now());
    assert_eq!(
        line,
        "[2023-11-14T22:13:20.000Z] \"GET /items?page=2 HTTP/1.1\" 200 - via_upstream - \"-\" 7 \
         4096 12 9 \"-\" \"curl/8.5.0\" \"6f1c\" \"recommendations\" \"10.1.2.4:8080\" \
         outbound|80|v2|recommendations.default.svc.cluster.local - 10.96.0.7:80 10.1.1.3:40312 \
         - canary\n"
    );
}

#[test]
fn a_refused_request_says_why() {
    let sample = samples::Sample::new();
    let mut record = sample.request();
    record.status = 503;
    record.flags = "NC";
    record.reason = Some("DestinationRule default/recommendations has no subset v3");
    record.endpoint = None;
    record.upstream_duration = None;
    let mut line = String::new();
    request_text(&mut line, &record, now());
    assert!(
        line.contains(
            " 503 NC cluster_not_found - \"DestinationRule default/recommendations has no subset \
             v3\" 7 4096 12 - "
        ),
        "{line}"
    );
}

#[test]
fn a_client_cannot_forge_a_line() {
    let sample = samples::Sample::new();
    let mut record = sample.request();
    record.user_agent = "x\" 200 -\n[forged";
    let mut line = String::new();
    request_text(&mut line, &record, now());
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(line.contains(r#""x\" 200 -\n[forged""#), "{line}");
}

#[test]
fn json_requests_have_istios_names() {
    let sample = samples::Sample::new();
    let mut line = String::new();
    request_json(&mut line, &sample.request(), now());
    let value: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["start_time"], "2023-11-14T22:13:20.000Z");
    assert_eq!(value["response_code"], 200);
    assert_eq!(value["upstream_host"], "10.1.2.4:8080");
    assert_eq!(value["x_forwarded_for"], Value::Null);
    assert_eq!(value["source_workload"], "web-5d8-x2");
    assert_eq!(line.lines().count(), 1);
}

#[test]
fn a_connection_has_ztunnels_fields() {
    let sample = samples::Sample::new();
    let mut line = String::new();
    connection_text(&mut line, &sample.connection(), now());
    assert_eq!(
        line,
        "2023-11-14T22:13:20.012Z\tinfo\taccess\tconnection complete\t\
         src.addr=10.1.1.3:40312 src.workload=\"web-5d8-x2\" src.namespace=\"shop\" \
         src.identity=\"spiffe://cluster.local/ns/shop/sa/web\" dst.addr=10.1.2.4:8080 \
         dst.orig_addr=10.96.0.7:80 dst.service=\"recommendations.default.svc.cluster.local\" \
         dst.workload=\"recommendations-v2-7c\" dst.namespace=\"default\" \
         dst.identity=\"spiffe://cluster.local/ns/default/sa/recommendations\" \
         direction=\"outbound\" security=\"mutual_tls\" bytes_sent=4096 bytes_recv=7 \
         duration=\"12ms\" flags=-\n"
    );
}

#[test]
fn a_failed_connection_is_an_error_with_its_reason() {
    let sample = samples::Sample::new();
    let mut record = sample.connection();
    record.flags = "UF";
    record.error = Some("connecting to 10.1.2.4:15008: refused");
    let (mut text, mut json) = (String::new(), String::new());
    connection_text(&mut text, &record, now());
    connection_json(&mut json, &record, now());
    assert!(text.contains("\terror\taccess\t"), "{text}");
    assert!(
        text.ends_with("flags=UF error=\"connecting to 10.1.2.4:15008: refused\"\n"),
        "{text}"
    );
    let value: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["level"], "error");
    assert_eq!(
        value["src.identity"],
        "spiffe://cluster.local/ns/shop/sa/web"
    );
    assert_eq!(value["duration"], "12ms");
}
