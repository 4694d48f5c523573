// SPDX-License-Identifier: Apache-2.0

//! Pods of every kind: those of Jobs, with init containers, of StatefulSets, with ports on the
//! node, and in the node's network.

use std::{fs, path::Path};

use mesh_tests::{
    command::{Ran, run, run_ok},
    kube::{Cluster, Mesh, Namespace, PATIENCE, Workload, workload::IMAGE},
    wait,
};

use crate::strict::{STRICT, closed};

/// A container of the application.
fn container(name: &str, arguments: &str) -> String {
    format!("{{name: {name}, image: {IMAGE}, imagePullPolicy: Never, args: [{arguments}]}}")
}

/// Whether anything below `directory` is called `name`.
fn has(directory: &Path, name: &str) -> bool {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        entry.file_name().to_string_lossy() == name
            || entry.file_type().is_ok_and(|kind| kind.is_dir()) && has(&entry.path(), name)
    })
}

/// Asks from outside of the mesh and of the nodes.
#[track_caller]
fn from_outside(cluster: &Cluster, address: &str, port: u16) -> Ran {
    let url = format!("http://{address}:{port}/");
    let mut curl = cluster.inside(Path::new("curl"));
    run(curl.args([
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "5",
        &url,
    ]))
}

/// The address of a node.
#[track_caller]
fn address_of(cluster: &Cluster, node: &str) -> String {
    let output = "--output=jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}";
    cluster.ok(&["get", "node", node, output])
}

#[test]
fn a_job_asks_a_meshed_server_completes_and_is_forgotten() {
    let cluster = Cluster::here();
    let mesh = Mesh::on(&cluster);
    let namespace = closed(&cluster, "jobs");
    let nodes = cluster.nodes();
    namespace.start(&[&Workload::new("server").on(&nodes[0])]);
    namespace.apply(&format!(
        "apiVersion: batch/v1
kind: Job
metadata: {{name: ask}}
spec:
  backoffLimit: 0
  template:
    metadata: {{labels: {{app: ask}}}}
    spec:
      nodeName: {node}
      restartPolicy: Never
      containers: [{ask}]
",
        node = nodes[1],
        ask = container("ask", "get, 'http://server/', '20'"),
    ));
    let ran = namespace.run(&[
        "wait",
        "--for=condition=complete",
        "job/ask",
        "--timeout=90s",
    ]);
    let said = namespace.ok(&["logs", "job/ask"]);
    assert!(ran.ok(), "{ran:?}\n{said}\n{}", namespace.describe());
    assert!(said.starts_with("20 200 server-v1 "), "{said}");
    let uid = namespace.field_of("ask", "metadata.uid");
    let pins = Path::new("/sys/fs/bpf/mesh-agent").join(&nodes[1]);
    assert!(pins.exists());
    wait::until("the pod to be forgotten", PATIENCE, || {
        let status = mesh.status(&nodes[1]);
        let is_listed = status["pods"]
            .as_array()
            .is_some_and(|pods| pods.iter().any(|pod| pod["uid"] == uid.as_str()));
        if !is_listed && !has(&pins, &uid) {
            return Ok(());
        }
        Err(status["pods"].to_string())
    });
}

#[test]
fn an_init_container_asks_a_meshed_server_by_its_name() {
    let cluster = Cluster::here();
    Mesh::on(&cluster);
    let namespace = closed(&cluster, "inits");
    let nodes = cluster.nodes();
    namespace.start(&[&Workload::new("server").on(&nodes[0])]);
    namespace.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: late, labels: {{app: late}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  restartPolicy: Never
  initContainers: [{one}, {two}]
  containers: [{stay}]
",
        node = nodes[1],
        one = container("one", "get, 'http://server/', '5'"),
        two = container("two", "unary, 'server:80', '5'"),
        stay = container("stay", "serve, ':8080', late"),
    ));
    let ran = namespace.run(&["wait", "--for=condition=Ready", "pod/late", "--timeout=90s"]);
    assert!(ran.ok(), "{ran:?}\n{}", namespace.describe());
    let said = namespace.ok(&["logs", "late", "--container=one"]);
    assert!(said.starts_with("5 200 server-v1 "), "{said}");
    let said = namespace.ok(&["logs", "late", "--container=two"]);
    assert!(
        said.starts_with("5 ") && said.contains("server-v1"),
        "{said}"
    );
}

const STORE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: store}
spec:
  clusterIP: None
  selector: {app: store}
  ports: [{name: http, port: 8080}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: store}
spec:
  serviceName: store
  replicas: 2
  selector: {matchLabels: {app: store}}
  template:
    metadata: {labels: {app: store}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: DoNotSchedule
        labelSelector: {matchLabels: {app: store}}
      containers:
      - name: app
        image: mesh-agent.local/applications:dev
        imagePullPolicy: Never
        args: [serve, ':8080', $(NAME)]
        env: [{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
";

#[test]
fn each_pod_of_a_stateful_set_answers_by_its_own_name() {
    let cluster = Cluster::here();
    let mesh = Mesh::on(&cluster);
    let namespace = closed(&cluster, "stateful");
    let nodes = cluster.nodes();
    namespace.start(&[&Workload::new("client").on(&nodes[0])]);
    namespace.apply(STORE);
    namespace.wait_for_rollout("statefulset/store");
    for pod in ["store-0", "store-1"] {
        for suffix in ["store", "store.stateful.svc.cluster.local"] {
            let url = format!("http://{pod}.{suffix}:8080/");
            let by = format!("{pod} ");
            // DNS may not know the newest pod yet, which it keeps in mind for some seconds.
            wait::until("the pod's name", PATIENCE, || {
                namespace.answers("deployment/client", &url, 1, &by)
            });
            namespace
                .answers("deployment/client", &url, 10, &by)
                .unwrap();
        }
        let output = "--output=jsonpath={.spec.nodeName} {.status.podIP}";
        let place = namespace.ok(&["get", "pod", pod, output]);
        let (node, address) = place.split_once(' ').unwrap();
        wait::until("mutual TLS in the access log", PATIENCE, || {
            let log = mesh.access_log(node, address);
            let is_it = |line: &String| {
                line.contains("direction=\"inbound\" security=\"mutual_tls\"")
                    && line.contains(&format!("dst.workload=\"{pod}\""))
            };
            if log.iter().any(is_it) {
                Ok(())
            } else {
                Err(log)
            }
        });
    }
}

#[test]
fn a_port_on_the_node_leads_to_the_pod_until_it_is_strict() {
    let cluster = Cluster::here();
    Mesh::on(&cluster);
    let namespace = Namespace::create(&cluster, "host-port");
    namespace.label("istio-injection=enabled");
    let nodes = cluster.nodes();
    namespace.start(&[&Workload::new("client").on(&nodes[0])]);
    namespace.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: edge, labels: {{app: edge}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: {IMAGE}
    imagePullPolicy: Never
    args: [serve, ':8080', edge]
    ports: [{{containerPort: 8080, hostPort: 18080}}]
    readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
    livenessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: edge}}
spec:
  selector: {{app: edge}}
  ports: [{{name: http, port: 80, targetPort: 8080}}]
",
        node = nodes[1],
    ));
    namespace.ok(&["wait", "--for=condition=Ready", "pod/edge", "--timeout=90s"]);
    let address = address_of(&cluster, &nodes[1]);
    for _ in 0..5 {
        let ran = from_outside(&cluster, &address, 18080);
        assert!(ran.stdout.starts_with("edge HTTP/1.1 "), "{ran:?}");
    }
    namespace.apply(STRICT);
    wait::until("plaintext to be refused", PATIENCE, || {
        let ran = from_outside(&cluster, &address, 18080);
        if ran.ok() { Err(ran) } else { Ok(()) }
    });
    // Three failed probes in a row, a second apart, are a restart.
    std::thread::sleep(std::time::Duration::from_secs(6));
    let state = namespace.field_of(
        "edge",
        "status.containerStatuses[0]['ready','restartCount']",
    );
    assert_eq!(state, "true 0", "{}", namespace.describe());
    namespace
        .answers("deployment/client", "http://edge/", 5, "edge ")
        .unwrap();
}

#[test]
fn a_pod_in_the_nodes_network_is_left_alone_and_listed() {
    let cluster = Cluster::here();
    let mesh = Mesh::on(&cluster);
    let namespace = closed(&cluster, "host-network");
    let nodes = cluster.nodes();
    let rules = || {
        let netns = format!("--net=/run/netns/{}", nodes[1]);
        let mut ip = std::process::Command::new("nsenter");
        run_ok(ip.args([&netns, "ip", "rule", "show"]))
    };
    let before = rules();
    namespace.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: plain, labels: {{app: plain}}}}
spec:
  nodeName: {node}
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: {IMAGE}
    imagePullPolicy: Never
    args: [serve, ':18081', plain]
    readinessProbe: {{httpGet: {{path: /, port: 18081}}, periodSeconds: 1}}
",
        node = nodes[1],
    ));
    namespace.ok(&[
        "wait",
        "--for=condition=Ready",
        "pod/plain",
        "--timeout=90s",
    ]);
    let row = wait::until("the pod in the status", PATIENCE, || {
        let status = mesh.status(&nodes[1]);
        let rows = status["pods"].as_array().cloned().unwrap_or_default();
        let row = rows
            .into_iter()
            .find(|row| row["name"] == "plain.host-network");
        row.ok_or_else(|| status["pods"].to_string())
    });
    assert_eq!(row["captured"], false, "{row}");
    assert_eq!(row["enrolled"], false, "{row}");
    assert_eq!(row["reason"], "it shares the node's network");
    let table = mesh.agent(&nodes[1], &["status"]).stdout;
    let line = table
        .lines()
        .find(|line| line.contains("plain.host-network"));
    assert!(
        line.is_some_and(|line| line.contains("it shares the node's network")),
        "{table}"
    );
    // STRICT is for pods with a network of their own.
    let ran = from_outside(&cluster, &address_of(&cluster, &nodes[1]), 18081);
    assert!(ran.stdout.starts_with("plain HTTP/1.1 "), "{ran:?}");
    assert_eq!(rules(), before);
}
