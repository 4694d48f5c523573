// SPDX-License-Identifier: Apache-2.0

//! Fills a Kubernetes API server with objects that nothing runs, or changes one of them again and
//! again.
//!
//! `cargo run --profile fast --example config_load -- KUBECONFIG fill SERVICES PODS ROUTES` makes
//! that many Services, each with its EndpointSlice and PODS pods on a hundred nodes that do not
//! exist, and routes for the first of them. `... KUBECONFIG write COUNT` changes a Service COUNT times
//! and prints when the server had answered and with which version. Not part of the agent.

use std::{
    io::{self, Write},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt, StreamExt, stream};
use http::{Method, Request};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

/// Requests under way at a time.
const PARALLEL: usize = 32;

/// Between two changes.
const PAUSE: Duration = Duration::from_millis(100);

const NAMESPACE: &str = "scale";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads");
    runtime.block_on(run());
}

async fn run() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = PathBuf::from(&arguments[0]);
    let kubeconfig = Kubeconfig::read_from(path).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let client = Client::try_from(config.expect("a kubeconfig")).expect("a client");
    let number = |index: usize| -> usize { arguments[index].parse().expect("a number") };
    match arguments[1].as_str() {
        "fill" => fill(&client, number(2), number(3), number(4)).await,
        _ => write(&client, number(2)).await,
    }
}

async fn send(client: &Client, method: Method, path: String, body: Value) -> Value {
    let kind = if method == Method::PATCH {
        "application/merge-patch+json"
    } else {
        "application/json"
    };
    let request = Request::builder()
        .method(method)
        .uri(&path)
        .header("content-type", kind)
        .body(body.to_string().into_bytes())
        .expect("a request");
    match client.request(request).await {
        Ok(answer) => answer,
        Err(error) => {
            drop(writeln!(io::stderr(), "{path}: {error}"));
            json!({"path": path, "error": error.to_string()})
        }
    }
}

async fn fill(client: &Client, services: usize, pods: usize, routes: usize) {
    let namespace = json!({"metadata": {
        "name": NAMESPACE, "labels": {"istio.io/dataplane-mode": "ambient"},
    }});
    send(
        client,
        Method::POST,
        "/api/v1/namespaces".to_owned(),
        namespace,
    )
    .await;
    let accounts = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
    stream::iter(0..services)
        .for_each_concurrent(PARALLEL, |service| {
            let account = json!({"metadata": {"name": format!("s{service}")}});
            send(client, Method::POST, accounts.clone(), account).map(drop)
        })
        .await;
    let pods_of = |service: usize| (0..pods).map(move |pod| (service, pod));
    stream::iter((0..services).flat_map(pods_of))
        .for_each_concurrent(PARALLEL, |(service, pod)| async move {
            make_pod(client, service, pod, pods).await;
        })
        .await;
    stream::iter(0..services)
        .for_each_concurrent(PARALLEL, |service| async move {
            make_service(client, service, pods).await;
            if service < routes {
                make_route(client, service).await;
            }
        })
        .await;
}

fn address(service: usize, pod: usize, pods: usize) -> String {
    let index = service * pods + pod;
    format!(
        "10.{}.{}.{}",
        100 + index / 65_536,
        index / 256 % 256,
        index % 256
    )
}

async fn make_pod(client: &Client, service: usize, pod: usize, pods: usize) {
    let name = format!("s{service}-5d9c7b8f6-{pod:05}");
    let body = json!({
        "metadata": {
            "name": name,
            "labels": {
                "app": format!("s{service}"), "version": "v1", "pod-template-hash": "5d9c7b8f6",
            },
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": true, "uid": name,
                "name": format!("s{service}-5d9c7b8f6"),
            }],
        },
        "spec": {
            "nodeName": format!("node-{}", (service * pods + pod) % 100),
            "serviceAccountName": format!("s{service}"),
            "containers": [{
                "name": "app", "image": "registry.example/app:1",
                "ports": [{"name": "http", "containerPort": 8080}],
                "env": [{"name": "A", "value": "some value"}, {"name": "B", "value": "another one"}],
                "resources": {"requests": {"cpu": "100m", "memory": "100Mi"}},
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
            }],
        },
    });
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    send(client, Method::POST, path.clone(), body).await;
    let address = address(service, pod, pods);
    let status = json!({"status": {
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }});
    send(
        client,
        Method::PATCH,
        format!("{path}/{name}/status"),
        status,
    )
    .await;
}

async fn make_service(client: &Client, service: usize, pods: usize) {
    let name = format!("s{service}");
    let body = json!({
        "metadata": {"name": name},
        "spec": {
            "selector": {"app": name},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
        },
    });
    send(
        client,
        Method::POST,
        format!("/api/v1/namespaces/{NAMESPACE}/services"),
        body,
    )
    .await;
    let endpoints = (0..pods).map(
        |pod| json!({"addresses": [address(service, pod, pods)], "conditions": {"ready": true}}),
    );
    let slice = json!({
        "metadata": {
            "name": format!("{name}-abcde"), "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": endpoints.collect::<Vec<_>>(),
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    });
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices");
    send(client, Method::POST, path, slice).await;
}

async fn make_route(client: &Client, service: usize) {
    let name = format!("s{service}");
    let body = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": name},
        "spec": {"hosts": [name], "http": [
            {"match": [{"uri": {"prefix": "/a"}}], "route": [{"destination": {"host": name}}]},
            {"route": [
                {"destination": {"host": name}, "weight": 90},
                {"destination": {"host": "s0"}, "weight": 10},
            ]},
        ]},
    });
    let path = format!("/apis/networking.istio.io/v1/namespaces/{NAMESPACE}/virtualservices");
    send(client, Method::POST, path, body).await;
}

async fn write(client: &Client, count: usize) {
    for index in 0..count {
        let patch = json!({"spec": {"ports": [
            {"name": "http", "port": 80, "targetPort": 8080 + index % 2},
        ]}});
        let path = format!("/api/v1/namespaces/{NAMESPACE}/services/s0");
        let answer = send(client, Method::PATCH, path, patch).await;
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let version = &answer["metadata"]["resourceVersion"];
        let line = format!(
            "written {} version {version}",
            since.unwrap_or_default().as_millis()
        );
        drop(writeln!(io::stdout().lock(), "{line}"));
        tokio::time::sleep(PAUSE).await;
    }
}
