// SPDX-License-Identifier: Apache-2.0

//! Services without an address of their own: clients connect to one of their pods.

use mesh_tests::client;

use crate::mesh::{Mesh, peer_authentication};

/// The same pods as `recommendations` has, by their own addresses.
const HEADLESS: &str = "
apiVersion: v1
kind: Service
metadata: {name: direct, namespace: default}
spec: {clusterIP: None, selector: {app: recommendations}, ports: [{name: http, port: 8080}]}
";

/// A VirtualService with one rule: flow YAML.
fn rule(rule: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: direct, namespace: default}}
spec: {{hosts: [direct], http: [{{{rule}}}]}}
"
    )
}

const TO_DIRECT: &str = "route: [{destination: {host: direct}}]";

#[test]
fn pods_of_a_headless_service_are_reached_themselves_and_by_its_rules() {
    let strict = peer_authentication("default", "STRICT");
    let mesh = Mesh::with("headless", &["--access-log", "json"], &strict);
    let get = |address: String| {
        let to = format!("{address}:8080");
        // As a StatefulSet's pod is called.
        let host = "direct-0.direct.default.svc.cluster.local";
        let answer = mesh.client.run(|| client::get(&to, host, "/"));
        answer.expect("an answer")
    };
    let pods = || [mesh.v1.v4.to_string(), mesh.v2.v4.to_string()];
    let check = || {
        for (address, version) in pods().into_iter().zip(["v1", "v2"]) {
            for _ in 0..5 {
                let answer = get(address.clone());
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert_eq!(answer.field("version"), version);
            }
        }
    };
    check();
    mesh.apply(HEADLESS);
    check();
    mesh.a
        .wait_log("outbound|8080||direct.default.svc.cluster.local");
    let abort = "fault: {abort: {httpStatus: 418, percentage: {value: 100}}}";
    mesh.apply(&rule(&format!("{abort}, {TO_DIRECT}")));
    for address in pods() {
        assert_eq!(get(address).status, 418);
    }
    mesh.apply(&rule(&format!(
        "match: [{{method: {{exact: GET}}}}], {TO_DIRECT}"
    )));
    check();
    // As another Service's destination it is one like any other.
    mesh.apply(&rule(
        "route: [{destination: {host: recommendations, port: {number: 80}}}]",
    ));
    assert_eq!(get(mesh.v1.v4.to_string()).status, 200);
}
