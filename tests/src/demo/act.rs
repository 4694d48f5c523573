// SPDX-License-Identifier: Apache-2.0

//! What the demo shows, act by act.
//!
//! Knows nothing of how it is presented. Invariant: counts come from answers and from the wire.

use std::collections::BTreeMap;

use super::{Findings, Progress, latency, stage::Stage};
use crate::{Pod, Wire};

/// Requests per act; the weights of the manifests divide it without remainder.
const REQUESTS: usize = 1000;

/// Sent in a request's body, searched for on the wire.
const MARKER: &str = "attack-at-dawn-4f1c";

const CANARY: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: recommendations}
spec:
  hosts: [recommendations]
  http:
  - route:
    - destination: {host: recommendations, subset: v1}
      weight: 99
    - destination: {host: recommendations, subset: v2}
      weight: 1
";

const SERVICE: &str = "http://recommendations/";

pub(super) fn measure_direct(stage: &Stage, progress: &Progress, findings: &mut Findings) {
    progress.say("latency without the mesh");
    let address = format!("{}:8080", stage.servers[0].v4);
    findings.direct = latency::measure(&stage.client, &address);
}

pub(super) fn measure_mesh(stage: &Stage, progress: &Progress, findings: &mut Findings) {
    progress.say("latency with the mesh: captured, routed, and encrypted between the nodes");
    let address = format!("{}:80", stage.lab.address("recommendations"));
    findings.mesh = latency::measure(&stage.client, &address);
}

/// The split, and the wire meanwhile: every request carries the marker in its body.
pub(super) fn split_requests(stage: &Stage, progress: &Progress, findings: &mut Findings) {
    progress.say("1,000 requests of curl on one connection, 90/10 by the VirtualService");
    progress
        .say("meanwhile a capture on the wire between the nodes; every body has a marker in it");
    let wire = Wire::listen(&stage.lab);
    let seen = curl_many(&stage.client);
    let crossed = wire.stop();
    findings.requests = REQUESTS;
    findings.v1 = version(&seen, "v1");
    findings.v2 = version(&seen, "v2");
    findings.identity = identity(stage);
    findings.wire_bytes = crossed.payload_bytes();
    findings.wire_marker_hits = crossed.hits(MARKER.as_bytes());
    // A byte outside of TLS records means none of it counts.
    findings.wire_tls_records = crossed.tls_records().unwrap_or(0);
}

pub(super) fn canary(stage: &Stage, progress: &Progress, findings: &mut Findings) {
    progress.say("the VirtualService becomes 99/1 while everything runs; 1,000 requests");
    stage.lab.apply(CANARY);
    stage.settle();
    let seen = curl_many(&stage.client);
    findings.canary_requests = seen.values().sum();
    findings.canary_v2 = version(&seen, "v2");
}

/// Plaintext from a pod outside the mesh, under either mode. Under PERMISSIVE the wire is looked
/// at again: there the same search must find the same marker.
pub(super) fn judge_plaintext(stage: &Stage, progress: &Progress, findings: &mut Findings) {
    progress.say("STRICT: plaintext from a pod outside the mesh");
    let server = format!("http://{}:8080/", stage.servers[0].v4);
    stage.lab.apply(&peer_authentication("STRICT"));
    stage.settle();
    let refused = stage.outsider.curl(&["--data", MARKER, &server]);
    let inside = stage.client.curl(&[SERVICE]);
    findings.strict_refused = !refused.ok() && refused.stdout.is_empty() && inside.ok();
    progress.say("PERMISSIVE: the same again");
    stage.lab.apply(&peer_authentication("PERMISSIVE"));
    stage.settle();
    let wire = Wire::listen(&stage.lab);
    let accepted = stage.outsider.curl(&["--data", MARKER, &server]);
    findings.permissive_accepted = accepted.stdout == "recommendations-v1 v1\n";
    findings.wire_control_hits = wire.stop().hits(MARKER.as_bytes());
}

fn peer_authentication(mode: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: {{name: default, namespace: default}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
    )
}

/// One curl, one connection, many requests; how often each answer came.
#[track_caller]
fn curl_many(client: &Pod) -> BTreeMap<String, usize> {
    let ran = client.curl(&[
        "--fail",
        "--data",
        MARKER,
        &format!("{SERVICE}?[1-{REQUESTS}]"),
    ]);
    assert!(ran.ok(), "curl ended with {}: {}", ran.code, ran.stderr);
    let mut seen = BTreeMap::new();
    for answer in ran.stdout.lines() {
        *seen.entry(answer.to_owned()).or_default() += 1;
    }
    seen
}

fn version(seen: &BTreeMap<String, usize>, version: &str) -> usize {
    seen.get(&format!("recommendations-{version} {version}"))
        .copied()
        .unwrap_or(0)
}

/// Whom the servers' node took the client for: the name in the client's certificate.
fn identity(stage: &Stage) -> String {
    let metrics = stage.agents[1].admin("/metrics").text();
    let told = metrics
        .lines()
        .filter(|line| line.contains("reporter=\"destination\""));
    let principals =
        told.filter_map(|line| line.split_once("source_principal=\"")?.1.split('"').next());
    principals
        .filter(|name| name.starts_with("spiffe:"))
        .max()
        .unwrap_or_default()
        .to_owned()
}
