// SPDX-License-Identifier: Apache-2.0

//! What one change costs in a mesh of 1,000 Services, 10,000 pods and 100 routes, without an API server.
//!
//! `cargo run --profile fast --example config_change [PODS]` prints, for each kind of change, the
//! time from the object to the published snapshot (median, worst) and the mean CPU time of many. Not part of the agent;
//! `docs/scale.md` says how it was used.

use std::{
    fs,
    io::{self, Write},
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use mesh_agent::config::{Index, IndexSettings, Object, Origin};
use serde_json::{Value, json};

const SERVICES: usize = 1_000;
const ROUTES: usize = 100;
const COUNT: usize = 1_000;

fn main() {
    let pods = std::env::args()
        .nth(1)
        .map_or(10_000, |text| text.parse().expect("a number"));
    let mut mesh = Mesh {
        index: Index::new(IndexSettings {
            node: "node-1".to_owned(),
            ..IndexSettings::default()
        }),
        pods,
    };
    let (before, began) = (cpu(), Instant::now());
    mesh.fill();
    say(
        "everything at once",
        vec![began.elapsed()],
        cpu().saturating_sub(before),
    );
    mesh.measure("nothing", |_, _| {});
    mesh.measure("a pod is ready or not", |mesh, count| {
        mesh.pod(77, "10.1.0.77", count % 2 == 0);
    });
    mesh.measure("the same, with its slice", |mesh, count| {
        mesh.pod(77, "10.1.0.77", count % 2 == 0);
        mesh.slice(77 % SERVICES, count % 2 == 0);
    });
    mesh.measure("a pod comes or goes", |mesh, count| {
        let (high, low) = (count / 200, count % 200);
        mesh.pod(mesh.pods + count, &format!("10.250.{high}.{low}"), true);
    });
    mesh.measure("a Service with a route", |mesh, count| {
        mesh.service(7, 8080 + count % 2);
    });
    mesh.measure("a VirtualService", |mesh, count| mesh.route(7, count));
}

struct Mesh {
    index: Index,
    pods: usize,
}

impl Mesh {
    fn fill(&mut self) {
        let namespace =
            json!({"metadata": {"name": "scale", "labels": {"istio-injection": "enabled"}}});
        self.put(Object::Namespace(read(namespace)));
        for service in 0..SERVICES {
            self.service(service, 8080);
            self.slice(service, true);
        }
        for pod in 0..self.pods {
            self.pod(pod, &address(pod), true);
        }
        for route in 0..ROUTES {
            self.route(route, 10);
        }
        self.index.publish();
    }

    fn measure(&mut self, what: &str, mut change: impl FnMut(&mut Self, usize)) {
        let mut times = Vec::new();
        let before = cpu();
        for count in 0..COUNT {
            let began = Instant::now();
            change(self, count);
            self.index.publish();
            times.push(began.elapsed());
        }
        say(what, times, cpu().saturating_sub(before));
    }

    fn put(&mut self, object: Object) {
        self.index.apply(object, Origin::default());
    }

    fn service(&mut self, number: usize, target: usize) {
        let (high, low) = (number / 250, number % 250);
        let service: Service = read(json!({
            "metadata": {"name": format!("s{number}"), "namespace": "scale"},
            "spec": {
                "clusterIP": format!("10.0.{high}.{low}"),
                "selector": {"app": format!("s{number}")},
                "ports": [{"name": "http", "port": 80, "targetPort": target}],
            },
        }));
        self.put(Object::Service(Box::new(service)));
    }

    fn slice(&mut self, number: usize, ready: bool) {
        let pods = (number..self.pods).step_by(SERVICES);
        let endpoints: Vec<Value> = pods
            .map(|pod| {
                let ready = ready || pod != 77;
                json!({"addresses": [address(pod)], "conditions": {"ready": ready}})
            })
            .collect();
        let slice: EndpointSlice = read(json!({
            "metadata": {
                "name": format!("s{number}-1"),
                "namespace": "scale",
                "labels": {"kubernetes.io/service-name": format!("s{number}")},
            },
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{"name": "http", "port": 8080}],
        }));
        self.put(Object::EndpointSlice(Box::new(slice)));
    }

    fn pod(&mut self, number: usize, address: &str, ready: bool) {
        let labels = json!({"app": format!("s{}", number % SERVICES), "version": format!("v{}", 1 + number % 2)});
        let ready = if ready { "True" } else { "False" };
        let pod: Pod = read(json!({
            "metadata": {
                "name": format!("p{number}"),
                "namespace": "scale",
                "uid": format!("uid-{number}"),
                "labels": labels,
            },
            "spec": {"nodeName": format!("node-{}", number % 100), "containers": []},
            "status": {"podIP": address, "conditions": [{"type": "Ready", "status": ready}]},
        }));
        self.put(Object::Pod(Box::new(pod)));
    }

    fn route(&mut self, number: usize, weight: usize) {
        let host = format!("s{number}");
        self.put(Object::VirtualService(Box::new(read(json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": host, "namespace": "scale"},
            "spec": {
                "hosts": [host],
                "http": [{"route": [
                    {"destination": {"host": host}, "weight": weight},
                    {"destination": {"host": format!("s{}", number + ROUTES)}, "weight": 10},
                ]}],
            },
        })))));
    }
}

fn address(pod: usize) -> String {
    format!("10.{}.{}.{}", 1 + pod / 62_500, pod / 250 % 250, pod % 250)
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object")
}

fn say(what: &str, mut times: Vec<Duration>, cpu: Duration) {
    times.sort_unstable();
    let count = u32::try_from(times.len()).expect("few times");
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    // Whoever reads this may have gone. The kernel counts in ticks: only the sum is exact.
    drop(writeln!(
        io::stdout().lock(),
        "{what:<26} median {median:>9.1?} worst {worst:>9.1?} cpu {:>9.1?}",
        cpu / count
    ));
}

/// What this thread has used.
fn cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text
        .split_whitespace()
        .next()
        .and_then(|text| text.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or_default())
}
