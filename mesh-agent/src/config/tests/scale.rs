// SPDX-License-Identifier: Apache-2.0

//! A big mesh: 2,000 Services and 10,000 pods.

use std::fmt::Write as _;

use super::fixture::{Mesh, pod};

#[test]
fn two_thousand_services_and_ten_thousand_pods_are_joined() {
    let text = manifests();
    let before = cpu();
    let mut mesh = Mesh::new(&text);
    let loaded = cpu();
    mesh.apply(&pod("p0", "10.1.0.0", "app: s0, version: v2"));
    let changed = cpu();
    mesh.check_problems(&[]);
    let snapshot = mesh.snapshot();
    assert_eq!(
        (snapshot.workloads.len(), snapshot.by_vip.len()),
        (10_000, 2_000)
    );
    assert_eq!(
        mesh.service("default", "s7").ports[0]
            .cluster
            .endpoints
            .len(),
        5
    );
    println!(
        "loaded in {:?}, one pod changed in {:?}",
        loaded - before,
        changed - loaded
    );
    // The promise is 2 s of the optimised agent; this is the unoptimised one.
    if !cfg!(debug_assertions) {
        assert!(
            (loaded - before).as_millis() < 2_000,
            "{:?}",
            loaded - before
        );
    }
}

/// 5 pods, a Service, a DestinationRule and a VirtualService, 2,000 times.
fn manifests() -> String {
    let mut text = String::new();
    for index in 0..2_000 {
        let (high, low) = (index / 250, index % 250);
        write!(
            text,
            "---
apiVersion: v1
kind: Service
metadata: {{name: s{index}}}
spec: {{clusterIP: 10.0.{high}.{low}, selector: {{app: s{index}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: s{index}}}
spec: {{host: s{index}, subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: s{index}}}
spec: {{hosts: [s{index}], http: [{{route: [{{destination: {{host: s{index}, subset: v1}}, weight: 90}}, {{destination: {{host: s{index}, subset: v2}}, weight: 10}}]}}]}}
"
        )
        .unwrap();
    }
    for index in 0..10_000 {
        let (high, low) = (index / 250, index % 250);
        let labels = format!(
            "app: s{}, version: v{}",
            index % 2_000,
            1 + index / 2_000 % 2
        );
        text.push_str(&pod(
            &format!("p{index}"),
            &format!("10.1.{high}.{low}"),
            &labels,
        ));
    }
    text
}

/// What this thread has used.
fn cpu() -> std::time::Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanoseconds = text.split_whitespace().next().unwrap().parse().unwrap();
    std::time::Duration::from_nanos(nanoseconds)
}
