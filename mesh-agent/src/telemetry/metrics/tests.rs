// SPDX-License-Identifier: Apache-2.0

//! What a scrape reads.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use regex::Regex;

use super::*;
use crate::{
    model::Snapshot,
    telemetry::{
        AccessLogFormat, Telemetry,
        samples::{Sample, workload},
    },
};

fn telemetry() -> Telemetry {
    Telemetry::new(AccessLogFormat::Off)
}

#[track_caller]
fn valid(text: &str) {
    let label = r#"[a-z_]+="([^"\\\n]|\\["\\n])*""#;
    let sample = format!(r"^[a-z_]+(\{{{label}(,{label})*\}})? -?[0-9]+(\.[0-9]+)?$");
    let sample = Regex::new(&sample).unwrap();
    let mut seen = HashSet::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            current = rest.split(' ').next().unwrap().to_owned();
            assert!(seen.insert(current.clone()), "{current} is there twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert!(rest.starts_with(&format!("{current} ")), "{line}");
        } else {
            assert!(sample.is_match(line), "not valid: {line}");
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(name.starts_with(&current), "{name} stands under {current}");
        }
    }
    assert!(text.ends_with('\n'));
}

#[test]
fn every_line_of_a_scrape_is_valid() {
    let (telemetry, sample) = (telemetry(), Sample::new());
    let mut refused = sample.request();
    refused.flow.destination = None;
    refused.flow.destination_identity = None;
    refused.flags = "NR";
    telemetry.request(&sample.request());
    telemetry.request(&refused);
    telemetry.connection_opened(&sample.flow());
    telemetry.connection_closed(&sample.connection());
    let mut text = telemetry.exposition();
    text.agent(&AgentState {
        config_age_seconds: Some(1.25),
        source: SourceState {
            kind: "kubernetes",
            synced: true,
            from_disk_age_seconds: Some(3.5),
            last_event_age_seconds: Some(0.5),
            disk_errors: 1,
            kinds: vec![KindState {
                kind: "Pod",
                watching: true,
                objects: 3,
                restarts: 2,
                errors: 1,
            }],
        },
        problems: vec![("error".to_owned(), 2)],
        certificates: vec![("spiffe://td/ns/a/sa/b".to_owned(), 1_700_000_000)],
        pods: vec![PodState {
            namespace: "shop".to_owned(),
            name: "we\"b\\\n".to_owned(),
            captured: true,
            connections: Some(3),
            budgets: vec![BudgetState {
                budget: "connections",
                side: "outbound",
                used: 3,
                limit: 9,
                held_back: 2,
                refused: 1,
            }],
            kernel: vec![("captured".to_owned(), 9)],
        }],
        kernel: vec![("map_full".to_owned(), 0)],
        missed: vec![(["outbound", "older"].map(str::to_owned), 1)],
        round_trips: vec![("0.5".to_owned(), 0.000_25)],
        recent_retransmits: 1,
        tasks: vec![("connection", 4)],
        ..AgentState::default()
    });
    valid(&text.into_string());
}

#[test]
fn the_labels_of_requests_are_istios_in_order() {
    let (telemetry, sample) = (telemetry(), Sample::new());
    telemetry.request(&sample.request());
    let want = "istio_requests_total{reporter=\"source\",source_workload=\"web\",\
        source_canonical_service=\"web\",source_canonical_revision=\"v2\",\
        source_workload_namespace=\"shop\",\
        source_principal=\"spiffe://cluster.local/ns/shop/sa/web\",source_app=\"web\",\
        source_version=\"v2\",source_cluster=\"Kubernetes\",\
        destination_service=\"recommendations.default.svc.cluster.local\",\
        destination_service_namespace=\"default\",destination_service_name=\"recommendations\",\
        destination_workload=\"recommendations-v2\",\
        destination_canonical_service=\"recommendations\",\
        destination_canonical_revision=\"v2\",destination_workload_namespace=\"default\",\
        destination_principal=\"spiffe://cluster.local/ns/default/sa/recommendations\",\
        destination_app=\"recommendations\",destination_version=\"v2\",\
        destination_cluster=\"Kubernetes\",request_protocol=\"http\",response_code=\"200\",\
        grpc_response_status=\"\",response_flags=\"-\",connection_security_policy=\"mutual_tls\"} 1";
    let text = telemetry.encode();
    assert!(text.lines().any(|line| line == want), "{text}");
}

#[test]
fn durations_and_sizes_fall_into_envoys_buckets() {
    let (telemetry, sample) = (telemetry(), Sample::new());
    telemetry.request(&sample.request());
    let text = telemetry.encode();
    let value = |name: &str, end: &str| {
        text.lines()
            .find(|line| line.starts_with(name) && line.contains(end))
            .and_then(|line| line.rsplit(' ').next())
            .unwrap_or_else(|| panic!("{name} {end} in {text}"))
            .to_owned()
    };
    let name = "istio_request_duration_milliseconds";
    assert_eq!(value(&format!("{name}_bucket"), "le=\"10\""), "0");
    assert_eq!(value(&format!("{name}_bucket"), "le=\"25\""), "1");
    assert_eq!(value(&format!("{name}_bucket"), "le=\"+Inf\""), "1");
    assert_eq!(value(&format!("{name}_sum"), ""), "12");
    assert_eq!(value("istio_request_bytes_bucket", "le=\"0.5\""), "0");
    assert_eq!(value("istio_response_bytes_sum", ""), "4096");
}

#[test]
fn labels_are_composed_once_for_many_records() {
    let (telemetry, sample) = (telemetry(), Sample::new());
    for _ in 0..1_000 {
        telemetry.request(&sample.request());
        telemetry.connection_opened(&sample.flow());
    }
    assert_eq!(telemetry.0.requests.composed(), 1);
    assert_eq!(telemetry.0.connections.composed(), 1);
    assert!(telemetry.encode().contains("} 1000\n"));
}

#[test]
fn a_pod_that_was_replaced_gets_labels_of_its_own() {
    let (telemetry, mut sample) = (telemetry(), Sample::new());
    telemetry.request(&sample.request());
    let mut relabelled = (*sample.source).clone();
    Arc::make_mut(&mut relabelled.labels).insert("version".to_owned(), "v3".to_owned());
    sample.source = Arc::new(relabelled);
    telemetry.request(&sample.request());
    let text = telemetry.encode();
    assert!(text.contains("source_version=\"v2\"") && text.contains("source_version=\"v3\""));
}

#[test]
fn an_identity_that_only_a_certificate_showed_is_the_principal() {
    let (telemetry, sample) = (telemetry(), Sample::new());
    let stranger = SpiffeId::new("td2", "x", "y");
    let mut flow = sample.flow();
    flow.source = None;
    flow.source_identity = Some(&stranger);
    telemetry.connection_opened(&flow);
    let text = telemetry.encode();
    assert!(text.contains("source_workload=\"unknown\""), "{text}");
    assert!(
        text.contains("source_principal=\"spiffe://td2/ns/x/sa/y\""),
        "{text}"
    );
}

#[test]
fn series_of_pods_that_are_gone_are_dropped_after_a_while() {
    let (telemetry, sample) = (telemetry(), Sample::new());
    let (start, minute) = (Instant::now(), Duration::from_secs(60));
    let empty = Snapshot::default();
    telemetry.request(&sample.request());
    telemetry.forget_gone(&empty, start);
    telemetry.request(&sample.request());
    telemetry.forget_gone(&empty, start + 4 * minute);
    telemetry.forget_gone(&empty, start + 8 * minute);
    assert!(
        telemetry.encode().contains("istio_requests_total"),
        "it was active four minutes ago"
    );
    telemetry.forget_gone(&empty, start + 9 * minute);
    assert!(!telemetry.encode().contains("istio_requests_total"));
    telemetry.request(&sample.request());
    assert!(
        telemetry.encode().contains("\"mutual_tls\"} 1\n"),
        "counting begins anew"
    );
}

#[test]
fn series_of_pods_that_live_stay() {
    let (telemetry, sample) = (telemetry(), Sample::new());
    let mut snapshot = Snapshot::default();
    for workload in [&sample.source, &sample.destination] {
        snapshot
            .workloads
            .insert(workload.uid.clone(), Arc::clone(workload));
    }
    telemetry.request(&sample.request());
    for hours in 0..3 {
        telemetry.forget_gone(
            &snapshot,
            Instant::now() + Duration::from_secs(3600 * hours),
        );
    }
    assert!(telemetry.encode().contains("istio_requests_total"));
}

#[test]
fn codes_that_an_application_invents_share_one_label() {
    let (telemetry, sample) = (telemetry(), Sample::new());
    for code in [0, 17, 4_000_000_000] {
        let mut record = sample.request();
        record.is_grpc = true;
        record.grpc = Some(code);
        telemetry.request(&record);
    }
    let text = telemetry.encode();
    assert!(text.contains("request_protocol=\"grpc\""));
    assert!(text.contains("grpc_response_status=\"unknown\""));
    assert_eq!(text.matches("istio_requests_total{").count(), 2, "{text}");
}

#[test]
fn a_scrape_of_many_series_comes_in_small_pieces() {
    let telemetry = telemetry();
    let pods: Vec<_> = (0..200)
        .map(|number| {
            workload(
                "shop",
                &format!("web-{number}"),
                &format!("web-{number}"),
                "web",
            )
        })
        .collect();
    for pod in &pods {
        let sample = Sample::new();
        let mut record = sample.request();
        record.flow.source = Some(pod);
        telemetry.request(&record);
    }
    let pieces: Vec<String> = telemetry.exposition().pieces().collect();
    assert!(pieces.len() > 50, "{}", pieces.len());
    assert!(pieces.iter().all(|piece| piece.len() < 160 * 1024));
    valid(&pieces.concat());
    assert_eq!(pieces.concat(), telemetry.encode());
}

#[test]
fn names_begin_with_istio_or_ours() {
    let telemetry = telemetry();
    let text = telemetry.encode();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(
            line.starts_with("istio_") || line.starts_with("mesh_agent_"),
            "{line}"
        );
    }
}
