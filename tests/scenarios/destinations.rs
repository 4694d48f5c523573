// SPDX-License-Identifier: Apache-2.0

//! Destinations that are no Services: hosts of ServiceEntries.

use std::collections::BTreeSet;

use mesh_tests::{App, client};

use crate::mesh::{Mesh, Pods, peer_authentication};

/// A ServiceEntry for `api.example.com` at `address`, port 8080: flow YAML.
fn entry(address: &str, rest: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: api, namespace: default}}
spec: {{hosts: [api.example.com], addresses: [\"{address}\"], \
        ports: [{{number: 8080, name: http, protocol: HTTP}}], {rest}}}
"
    )
}

/// A VirtualService for `api.example.com` with one rule: flow YAML.
fn rule(rule: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: api, namespace: default}}
spec: {{hosts: [api.example.com], http: [{{{rule}}}]}}
"
    )
}

const TO_API: &str = "route: [{destination: {host: api.example.com}}]";

#[test]
fn pods_behind_a_service_entry_are_reached_by_mutual_tls() {
    let strict = peer_authentication("default", "STRICT");
    let mesh = Mesh::with("destinations static", &[], &strict);
    let (v1, v2) = (mesh.v1.v4.to_string(), mesh.v2.v4.to_string());
    mesh.apply(&entry(
        "240.1.0.1",
        &format!("location: MESH_INTERNAL, resolution: STATIC, endpoints: [{{address: {v1}}}, {{address: {v2}}}]"),
    ));
    let mut seen = BTreeSet::new();
    for _ in 0..40 {
        let answer = mesh
            .client
            .run(|| client::get("240.1.0.1:8080", "api.example.com", "/"))
            .expect("the entry's endpoints answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        seen.insert(answer.field("version"));
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
}

#[test]
fn without_resolution_requests_go_on_to_where_they_were_sent_by_the_routes() {
    let pods = Pods::start("destinations none");
    let outside = pods.lab.pod("outside").on_b().outside().start();
    let _app = App::http(&outside, 8080);
    let address = outside.v4.to_string();
    let mesh = pods.enrol(&["--access-log", "json"]);
    let to = format!("{address}:8080");
    let get = || {
        let answer = mesh.client.run(|| client::get(&to, "api.example.com", "/"));
        answer.expect("an answer")
    };
    assert_eq!(get().status, 200);
    mesh.apply(&entry(&address, "resolution: NONE"));
    assert_eq!(get().status, 200);
    mesh.a.wait_log("outbound|8080||api.example.com");
    let abort = "fault: {abort: {httpStatus: 418, percentage: {value: 100}}}";
    mesh.apply(&rule(&format!("{abort}, {TO_API}")));
    assert_eq!(get().status, 418);
    mesh.apply(&rule(&format!(
        "match: [{{method: {{exact: GET}}}}], {TO_API}"
    )));
    assert_eq!(get().status, 200);
}
