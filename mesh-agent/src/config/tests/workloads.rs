// SPDX-License-Identifier: Apache-2.0

//! Pods become workloads.

use std::{net::SocketAddr, path::Path, sync::Arc};

use super::fixture::{Mesh, client_in, pod, pod_in, service};
use crate::{
    config::{Kind, ObjectKey},
    model::Destination,
};

fn namespace(labels: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: default, labels: {{{labels}}}}}\n"
    )
}

const ENROLLED: &str = "istio-injection: enabled";

#[test]
fn enrolment_follows_the_namespace_at_run_time() {
    let mut mesh = Mesh::new(&(namespace("") + &pod("web", "10.1.0.1", "")));
    assert!(!mesh.workload("web").enrolled);
    mesh.apply(&namespace(ENROLLED));
    assert!(mesh.workload("web").enrolled);
    mesh.delete(&ObjectKey {
        kind: Kind::Namespace,
        namespace: String::new(),
        name: "default".to_owned(),
    });
    assert!(!mesh.workload("web").enrolled);
}

#[test]
fn a_namespace_that_says_both_is_kept_out_and_reported() {
    let mesh = Mesh::new(
        &(namespace("istio-injection: disabled, istio.io/dataplane-mode: ambient")
            + &pod("web", "10.1.0.1", "")),
    );
    assert!(!mesh.workload("web").enrolled);
    mesh.check_problems(&["Warning [MESH0005] (Namespace default test.yaml:2) metadata.labels"]);
}

#[test]
fn a_pod_of_the_hosts_network_is_never_enrolled() {
    let text = "---
apiVersion: v1
kind: Pod
metadata: {name: host, annotations: {mesh-agent.io/netns: x}}
spec: {nodeName: node-a, hostNetwork: true, containers: []}
status: {podIP: 192.168.0.1}
";
    let mesh = Mesh::new(&(namespace(ENROLLED) + text));
    let workload = mesh.workload("host");
    assert!(!workload.enrolled && workload.host_network && workload.netns.is_none());
    assert!(mesh.snapshot().by_address.is_empty());
}

#[test]
fn a_pod_that_has_ended_is_gone() {
    for phase in ["Succeeded", "Failed"] {
        let ended =
            pod("old", "10.1.0.1", "").replace("podIP:", &format!("phase: {phase}, podIP:"));
        let mesh = Mesh::new(&(namespace(ENROLLED) + &ended + &pod("zz-new", "10.1.0.1", "")));
        let snapshot = mesh.snapshot();
        assert_eq!(snapshot.workloads.len(), 1);
        let owner =
            snapshot.destination(SocketAddr::from(([10, 1, 0, 1], 1)), &client_in("default"));
        assert!(matches!(owner, Destination::Workload(workload) if &*workload.name == "zz-new"));
        mesh.check_problems(&[]);
    }
}

#[test]
fn identity_node_and_namespace_path_are_taken_from_the_pod() {
    let text = "---
apiVersion: v1
kind: Pod
metadata:
  name: web-5d9c7b8f6-abcde
  uid: 6f0f1d2e-0000-0000-0000-000000000001
  labels: {pod-template-hash: 5d9c7b8f6, app: web, version: v2}
  annotations: {mesh-agent.io/netns: pod-a}
  ownerReferences:
  - {apiVersion: apps/v1, kind: ReplicaSet, name: web-5d9c7b8f6, uid: x, controller: true}
spec:
  nodeName: node-a
  serviceAccountName: front
  containers:
  - name: app
    resources: {limits: {cpu: 1, memory: 1Gi}}
    ports: [{name: web, containerPort: 8080}, {name: probe, containerPort: 9090}]
    livenessProbe: {httpGet: {port: probe}}
    readinessProbe: {tcpSocket: {port: 8080}}
    startupProbe: {grpc: {port: 9}}
status:
  podIPs: [{ip: 10.1.0.1}, {ip: \"fd00::1\"}]
  podIP: 10.1.0.1
  conditions: [{type: Ready, status: \"False\"}]
";
    let mesh = Mesh::new(text);
    mesh.check_problems(&[]);
    let workload = mesh.workload("web-5d9c7b8f6-abcde");
    assert_eq!(
        workload.identity.as_str(),
        "spiffe://cluster.local/ns/default/sa/front"
    );
    assert_eq!(
        workload.netns.as_deref(),
        Some(Path::new("/run/netns/pod-a"))
    );
    assert_eq!(workload.addresses.len(), 2);
    assert_eq!(
        (&*workload.owner, &*workload.canonical_service),
        ("web", "web")
    );
    assert_eq!(&*workload.canonical_revision, "v2");
    assert_eq!(workload.probe_ports, [9, 8080, 9090]);
    assert!(!workload.ready);
}

#[test]
fn an_absolute_namespace_path_stays_and_other_nodes_have_none() {
    let annotated = |text: String| {
        text.replace(
            "labels:",
            "annotations: {mesh-agent.io/netns: /proc/7/ns/net}, labels:",
        )
    };
    let far = annotated(pod("far", "10.1.0.2", "")).replace("node-a", "node-b");
    let mesh = Mesh::new(&(annotated(pod("near", "10.1.0.1", "")) + &far));
    assert_eq!(
        mesh.workload("near").netns.as_deref(),
        Some(Path::new("/proc/7/ns/net"))
    );
    assert_eq!(mesh.workload("far").netns, None);
}

#[test]
fn a_uid_is_derived_from_name_and_address_if_absent() {
    let uid = |text: &str| Mesh::new(text).workload("web").uid.clone();
    let first = uid(&pod("web", "10.1.0.1", ""));
    assert_eq!(first, uid(&pod("web", "10.1.0.1", "app: other")));
    assert_ne!(first, uid(&pod("web", "10.1.0.2", "")));
    assert_ne!(first, uid(&pod_in("other", "web", "10.1.0.1", "")));
    assert_eq!(first.0.len(), 36);
}

#[test]
fn a_probe_port_that_nothing_has_is_reported() {
    let text = pod("web", "10.1.0.1", "").replace(
        "image: app,",
        "image: app, livenessProbe: {httpGet: {port: nope}},",
    );
    Mesh::new(&text).check_problems(&["spec.containers[app].livenessProbe"]);
}

#[test]
fn two_pods_with_one_address_are_reported() {
    let mesh = Mesh::new(&(pod("a", "10.1.0.1", "") + &pod("b", "10.1.0.1", "")));
    mesh.check_problems(&["Error [MESH0002] (Pod default/b test.yaml:8) status.podIPs: 10.1.0.1 is also the address of Pod default/a"]);
}

#[test]
fn what_changes_nothing_publishes_nothing() {
    let text =
        namespace(ENROLLED) + &service("web", "10.0.0.1") + &pod("web", "10.1.0.1", "app: web");
    let mut mesh = Mesh::new(&text);
    let before = mesh.snapshot();
    mesh.apply(&text);
    assert!(Arc::ptr_eq(&before, &mesh.snapshot()));
    // Fields that have no bearing on the mesh, and lines that moved.
    mesh.apply(&format!(
        "# moved\n{}",
        text.replace("image: app", "image: app:2")
    ));
    assert!(Arc::ptr_eq(&before, &mesh.snapshot()));
}

#[test]
fn unchanged_workloads_loads_and_clusters_are_the_same_values() {
    let text = service("web", "10.0.0.1") + &pod("web", "10.1.0.1", "app: web");
    let mut mesh = Mesh::new(&text);
    let before = (mesh.workload("web"), mesh.service("default", "web"));
    mesh.apply(&pod("new", "10.1.0.2", ""));
    let after = (mesh.workload("web"), mesh.service("default", "web"));
    assert!(Arc::ptr_eq(&before.0, &after.0));
    assert!(Arc::ptr_eq(
        &before.1.ports[0].cluster,
        &after.1.ports[0].cluster
    ));
    mesh.apply(&pod("web-2", "10.1.0.3", "app: web"));
    let grown = mesh.service("default", "web");
    let (old, new) = (
        &before.1.ports[0].cluster.endpoints,
        &grown.ports[0].cluster.endpoints,
    );
    assert_eq!((old.len(), new.len()), (1, 2));
    assert!(Arc::ptr_eq(&old[0].load, &new[0].load));
}

/// What a namespace and a pod say about connections older than the capture, and what counts.
#[track_caller]
fn check_close_existing(namespace: &str, of_pod: &str, want: Option<u64>) {
    let key = "mesh-agent.io/close-existing-after";
    let pairs = |text: &str| match text.split_once(' ') {
        Some((field, value)) => format!("{field}: {{{key}: \"{value}\"}}"),
        None => "labels: {}".to_owned(),
    };
    let namespace = format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: default, {}}}\n",
        pairs(namespace)
    );
    let pod = format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: default, {}}}\n\
         spec: {{nodeName: node-a, containers: []}}\nstatus: {{podIP: 10.1.0.1}}\n",
        pairs(of_pod)
    );
    let limit = Mesh::new(&(namespace + &pod))
        .workload("web")
        .close_existing_after;
    assert_eq!(limit, want.map(std::time::Duration::from_secs));
}

#[test]
fn a_pod_decides_about_older_connections_and_else_its_namespace() {
    check_close_existing("", "", None);
    check_close_existing("annotations 10m", "", Some(600));
    check_close_existing("labels 10m", "", Some(600));
    check_close_existing("annotations 10m", "annotations 5s", Some(5));
    check_close_existing("annotations 10m", "labels 5s", Some(5));
    check_close_existing("annotations 10m", "annotations 0", Some(0));
    check_close_existing("", "annotations 5s", Some(5));
    // What cannot be read counts as not said.
    check_close_existing("annotations 10m", "annotations soon", Some(600));
    check_close_existing("annotations soon", "", None);
}

#[test]
fn what_a_namespace_says_about_older_connections_is_checked() {
    let mesh = Mesh::new(
        "---\napiVersion: v1\nkind: Namespace\n\
         metadata: {name: default, annotations: {mesh-agent.io/close-existing-after: soon}}\n",
    );
    mesh.check_problems(&["metadata.annotations[mesh-agent.io/close-existing-after]"]);
}
