// SPDX-License-Identifier: Apache-2.0

//! Promise 3: what a pod does first it does in the mesh, however many start at once.

use std::{collections::BTreeMap, time::Duration};

use mesh_tests::{
    kube::{Cluster, Mesh, Namespace, PATIENCE, Workload, workload::IMAGE},
    wait,
};
use serde_json::Value;

use crate::strict::closed;

/// On each of the two nodes.
const PODS: usize = 25;

/// A pod whose first process asks `url`, once. It is an init container in half of the pods and the
/// first container in the others, and what stays behind keeps the pod in the agent's status.
fn pod(name: &str, node: &str, url: &str, init: bool) -> String {
    let container = |name: &str, arguments: &str| {
        format!("{{name: {name}, image: {IMAGE}, imagePullPolicy: Never, args: [{arguments}]}}")
    };
    let ask = container("ask", &format!("get, '{url}', '1'"));
    let stay = container("stay", "serve, ':8080', stay");
    let (first, then) = if init {
        (ask, stay)
    } else {
        (String::new(), format!("{ask}, {stay}"))
    };
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: early}}}}
spec:
  nodeName: {node}
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  initContainers: [{first}]
  containers: [{then}]
"
    )
}

/// How the first process of each pod ended, by pod: its exit code, or nothing while it runs.
#[track_caller]
fn ended(namespace: &Namespace) -> BTreeMap<String, Option<i64>> {
    let listed = namespace.ok(&["get", "pods", "--selector=app=early", "--output=json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let code = |pod: &Value| {
        let status = &pod["status"];
        let of = |kind: &str| status[kind].as_array().cloned().unwrap_or_default();
        let mut all = of("initContainerStatuses");
        all.extend(of("containerStatuses"));
        let ask = all.into_iter().find(|container| container["name"] == "ask");
        ask?["state"]["terminated"]["exitCode"].as_i64()
    };
    let pods = listed["items"].as_array().unwrap().iter();
    pods.map(|pod| {
        (
            pod["metadata"]["name"].as_str().unwrap().to_owned(),
            code(pod),
        )
    })
    .collect()
}

/// How many milliseconds after its capture, or after what it opens was held until the capture, the
/// first container of each pod here started.
#[track_caller]
fn captures(mesh: &Mesh, node: &str) -> BTreeMap<String, Option<i64>> {
    let status = mesh.status(node);
    let rows = status["pods"].as_array().unwrap().iter();
    rows.filter_map(|row| {
        let name = row["name"].as_str()?.strip_suffix(".early")?;
        let after = row["firstContainerAfterCaptureMs"].as_i64();
        let after_hold = row["firstContainerAfterHoldMs"].as_i64();
        let is_captured = row["captured"] == true;
        let after = after.max(after_hold).filter(|_| is_captured);
        Some((name.to_owned(), after))
    })
    .filter(|(name, _)| name.starts_with("early-"))
    .collect()
}

#[test]
fn fifty_pods_ask_in_their_first_moment_and_none_in_plaintext() {
    let cluster = Cluster::here();
    let mesh = Mesh::on(&cluster);
    // Plaintext is refused here, so an answer is proof of the mesh.
    let namespace = closed(&cluster, "early");
    let nodes = cluster.nodes();
    namespace.start(&[&Workload::new("server").on(&nodes[0])]);
    let outside = Namespace::create(&cluster, "early-outside");
    outside.start(&[&Workload::new("client").on(&nodes[1])]);
    // By address: nothing comes before the connection, not even a question to the DNS.
    let url = format!("http://{}/", namespace.address_of("server"));
    let ran = outside.get("deployment/client", &url, 1);
    assert!(!ran.ok(), "plaintext was answered: {ran:?}");
    let mut pods = String::new();
    for (letter, node) in ["a", "b"].iter().zip(&nodes) {
        for number in 0..PODS {
            let name = format!("early-{letter}{number}");
            pods.push_str(&pod(&name, node, &url, number % 2 == 0));
        }
    }
    namespace.apply(&pods);
    let codes = wait::until("the first process of each pod", 2 * PATIENCE, || {
        std::thread::sleep(Duration::from_secs(1));
        let codes = ended(&namespace);
        if codes.len() == 2 * PODS && codes.values().all(Option::is_some) {
            return Ok(codes);
        }
        Err(codes)
    });
    let said = namespace.ok(&[
        "logs",
        "--selector=app=early",
        "--container=ask",
        "--prefix",
        "--max-log-requests=50",
    ]);
    let failed = codes.iter().filter(|(_, code)| **code != Some(0));
    assert_eq!(failed.count(), 0, "{codes:?}\n{said}");
    let answered = said.lines().filter(|line| line.contains(" 200 server-v1 "));
    assert_eq!(answered.count(), 2 * PODS, "{said}");
    for node in &nodes {
        let seen = wait::until("the captures", PATIENCE, || {
            let seen = captures(&mesh, node);
            if seen.len() == PODS && seen.values().all(Option::is_some) {
                return Ok(seen);
            }
            Err(seen)
        });
        let early = seen
            .values()
            .all(|after| after.is_some_and(|after| after > 0));
        assert!(early, "a container was first on {node}: {seen:?}");
    }
}
