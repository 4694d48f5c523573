// SPDX-License-Identifier: Apache-2.0

//! Destinations that are no Services: hosts of ServiceEntries.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use mesh_tests::{App, Http1, Lab, Pod, client};

use crate::mesh::{Mesh, Pods, peer_authentication};

/// A ServiceEntry for `api.example.com` at `address` (none if empty), port 8080: flow YAML.
fn entry(address: &str, rest: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: api, namespace: default}}
spec: {{hosts: [api.example.com], addresses: [{address}], \
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

/// A server that is no pod to the agents.
#[track_caller]
fn stranger(lab: &Lab) -> (Pod, App, String) {
    let pod = lab.pod("stranger").on_b().outside().start();
    let app = App::http(&pod, 8080);
    let to = format!("{}:8080", pod.v4);
    lab.delete("Pod", "outside", "stranger");
    (pod, app, to)
}

#[test]
fn hosts_without_addresses_are_told_by_the_host_of_each_request() {
    let pods = Pods::start("destinations named");
    let (_pod, _app, to) = stranger(&pods.lab);
    let mesh = pods.enrol(&["--access-log", "json"]);
    let abort = "fault: {abort: {httpStatus: 418, percentage: {value: 100}}}";
    mesh.apply(&format!(
        "{}---{}",
        entry("", "resolution: NONE"),
        rule(&format!("{abort}, {TO_API}"))
    ));
    let statuses = mesh.client.run(|| {
        let mut http = Http1::connect(&to, "api.example.com").unwrap();
        let named = http.get("/").unwrap().status;
        let other = client::get(&to, "other.example.com", "/").unwrap();
        (named, other.status)
    });
    assert_eq!(statuses, (418, 200));
    mesh.a.wait_log("PassthroughCluster");
}

#[test]
fn what_nobody_has_is_refused_where_the_policy_says_so() {
    let pods = Pods::start("destinations closed");
    let (_pod, _app, to) = stranger(&pods.lab);
    let mesh = pods.enrol(&["--access-log", "json", "--outbound-policy", "registry-only"]);
    let get = || {
        let answer = mesh.client.run(|| client::get(&to, "api.example.com", "/"));
        answer.expect("an answer").status
    };
    assert_eq!(get(), 502);
    mesh.a.wait_log("block_all");
    let ended = mesh.client.run(|| {
        let mut stream = TcpStream::connect(&to)?;
        stream.write_all(b"\x00\x01 no protocol")?;
        stream.read(&mut [0])
    });
    let reset = ended.expect_err("it is reset").kind();
    assert_eq!(reset, std::io::ErrorKind::ConnectionReset);
    mesh.a.wait_log("registry-only");
    // Services are known, and so is what a ServiceEntry names.
    assert_eq!(mesh.get("/").status, 200);
    mesh.apply(&entry("", "resolution: NONE"));
    assert_eq!(get(), 200);
}

#[test]
fn a_range_of_addresses_is_known_and_what_lies_outside_of_it_is_not() {
    let pods = Pods::start("destinations range");
    let (_pod, _app, to) = stranger(&pods.lab);
    let mesh = pods.enrol(&["--access-log", "json", "--outbound-policy", "registry-only"]);
    let get = || {
        let answer = mesh.client.run(|| client::get(&to, "api.example.com", "/"));
        answer.expect("an answer").status
    };
    mesh.apply(&entry("192.0.2.0/24", "resolution: NONE"));
    assert_eq!(get(), 502);
    let (address, _) = to.split_once(':').expect("an address and a port");
    mesh.apply(&entry(&format!("{address}/24"), "resolution: NONE"));
    assert_eq!(get(), 200);
    mesh.a.wait_log("outbound|8080||api.example.com");
    let abort = "fault: {abort: {httpStatus: 418, percentage: {value: 100}}}";
    mesh.apply(&rule(&format!("{abort}, {TO_API}")));
    assert_eq!(get(), 418);
}
