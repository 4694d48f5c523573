// SPDX-License-Identifier: Apache-2.0

//! Promise 1: a label enrols running pods and its removal lets them go, without a restart; a
//! namespace that is deleted is forgotten.

use mesh_tests::{
    kube::{Cluster, Mesh, Namespace, PATIENCE, Workload},
    wait,
};

/// Sends everything for `server` to its second version: only who is enrolled obeys.
pub(crate) const ALL_TO_V2: &str = "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: server}
spec:
  host: server
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: server}
spec:
  hosts: [server]
  http:
  - route: [{destination: {host: server, subset: v2}}]
";

/// Who answers twenty connections.
#[track_caller]
fn answers(namespace: &Namespace) -> (bool, bool) {
    let mut seen = String::new();
    for _ in 0..20 {
        let answer = namespace.answers("deployment/client", "http://server/", 1, "server-v");
        seen.push_str(&answer.unwrap());
    }
    (seen.contains("server-v1"), seen.contains("server-v2"))
}

/// Identity and restarts of every pod.
#[track_caller]
fn pods(namespace: &Namespace) -> String {
    namespace.ok(&[
        "get",
        "pods",
        "--output",
        "jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[0].restartCount} {end}",
    ])
}

#[test]
fn a_label_enrols_running_pods_and_its_removal_lets_them_go() {
    let cluster = Cluster::here();
    Mesh::on(&cluster);
    let namespace = Namespace::create(&cluster, "enrolled-later");
    let nodes = cluster.nodes();
    namespace.start(&[
        &Workload::version("server", "v1").on(&nodes[0]),
        &Workload::version("server", "v2").on(&nodes[1]),
        &Workload::new("client").on(&nodes[0]),
    ]);
    let before = pods(&namespace);
    namespace.apply(ALL_TO_V2);
    assert_eq!(answers(&namespace), (true, true), "not enrolled yet");
    let wait_for = |what: &str, want: (bool, bool)| {
        wait::until(what, PATIENCE, || {
            let seen = answers(&namespace);
            if seen == want { Ok(()) } else { Err(seen) }
        });
    };
    namespace.label("istio-injection=enabled");
    wait_for("the mesh to route", (false, true));
    namespace.label("istio-injection-");
    wait_for("the mesh to let go", (true, true));
    namespace.label("mesh-agent.io/enrolled=true");
    wait_for("the mesh to route again", (false, true));
    assert_eq!(pods(&namespace), before, "no pod was restarted");
}

#[test]
fn a_deleted_namespace_is_forgotten() {
    let cluster = Cluster::here();
    let mesh = Mesh::on(&cluster);
    let nodes = cluster.nodes();
    let status = || mesh.agent(&nodes[0], &["status"]);
    for _ in 0..2 {
        let namespace = Namespace::create(&cluster, "short-lived");
        namespace.label("istio-injection=enabled");
        namespace.start(&[
            &Workload::new("server").on(&nodes[0]),
            &Workload::new("client").on(&nodes[0]),
        ]);
        wait::until("the pods in the status", PATIENCE, || {
            let ran = status();
            if ran.stdout.contains("short-lived") {
                return Ok(());
            }
            Err(ran)
        });
        namespace
            .answers("deployment/client", "http://server/", 5, "server-v1")
            .unwrap();
        namespace.delete();
        wait::until("the pods to be forgotten", PATIENCE, || {
            let ran = status();
            if ran.ok() && !ran.stdout.contains("short-lived") {
                return Ok(());
            }
            Err(ran)
        });
    }
    mesh.wait();
}
