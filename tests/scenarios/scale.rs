// SPDX-License-Identifier: Apache-2.0

//! A large cluster's manifests: CPU time to load them, and memory to keep them.

use std::time::Duration;

use mesh_tests::Lab;
use serde_json::json;

const SERVICES: usize = 2000;
const PODS: usize = 10_000;

/// All in a few files, as `kubectl get -o json` would write them.
#[track_caller]
fn write(lab: &Lab) {
    let services = (0..SERVICES).map(|index| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": format!("service-{index}"), "namespace": "default"},
            "spec": {
                "clusterIP": format!("10.97.{}.{}", index / 250, index % 250 + 1),
                "selector": {"app": format!("app-{index}")},
                "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
            },
        })
    });
    let pods = (0..PODS).map(|index| {
        let address = format!(
            "10.{}.{}.{}",
            128 + index / 50_000,
            index / 250,
            index % 250 + 1
        );
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": format!("pod-{index}"), "namespace": "default",
                "uid": format!("cccccccc-0000-4000-8000-{index:012}"),
                "labels": {"app": format!("app-{}", index % SERVICES), "version": "v1"},
            },
            "spec": {"nodeName": format!("far-{}", index % 100), "serviceAccountName": "default",
                     "containers": [{"name": "app", "image": "app"}]},
            "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
                       "conditions": [{"type": "Ready", "status": "True"}]},
        })
    });
    for (name, items) in [
        ("services", services.collect::<Vec<_>>()),
        ("pods", pods.collect()),
    ] {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        lab.manifests
            .write(&format!("{name}.json"), &list.to_string());
    }
}

#[test]
fn two_thousand_services_and_ten_thousand_pods_load_in_two_seconds_of_cpu() {
    let lab = Lab::new("scale");
    let empty = lab.a.start_agent(&[]);
    let (small_cpu, small_memory) = (empty.cpu_time(), empty.resident_bytes());
    drop(empty);
    write(&lab);
    // Ready means that all of it is loaded and applied; asking for it costs CPU time of its own.
    let agent = lab.a.start_agent(&[]);
    let cpu = agent.cpu_time().saturating_sub(small_cpu);
    println!(
        "loading {SERVICES} services and {PODS} pods: {cpu:?} of CPU time; resident {} MiB, {} MiB without",
        agent.resident_bytes() >> 20,
        small_memory >> 20,
    );
    let known = agent.admin("/config").text();
    assert!(known.contains("service-1999") && known.contains("pod-9999"));
    assert!(cpu < Duration::from_secs(2), "{cpu:?} of CPU time");
}
