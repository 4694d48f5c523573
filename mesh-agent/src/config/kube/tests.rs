// SPDX-License-Identifier: Apache-2.0

//! The front end against an API server that can be made to fail.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::time::sleep;

use super::*;
use crate::{
    config::{IndexSettings, Report},
    model::{ServiceName, Snapshot},
};

mod fake;

use self::fake::{DEFINITIONS, Fake, NAMESPACES, PODS, SERVICES, VIRTUAL_SERVICES};

/// A front end that runs.
struct Running {
    tasks: Tasks,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    report: watch::Receiver<Arc<Report>>,
    source: KubeSource,
}

impl Running {
    fn start(address: SocketAddr, state_dir: Option<PathBuf>) -> Self {
        let url = format!("http://{address}").parse().unwrap();
        let server = Server::to(kube::Config::new(url)).unwrap();
        let index = Index::new(IndexSettings {
            node: "node-a".to_owned(),
            ..IndexSettings::default()
        });
        let tasks = Tasks::new();
        let (snapshot, report) = (index.subscribe(), index.report());
        let settings = KubeSettings {
            node: "node-a".to_owned(),
            kubeconfig: None,
            state_dir,
        };
        let source = start(server, &settings, index, &tasks);
        Self {
            tasks,
            snapshot,
            report,
            source,
        }
    }

    fn services(&self) -> Vec<String> {
        let snapshot = self.snapshot.borrow();
        let mut names: Vec<String> = snapshot
            .services
            .keys()
            .map(|ServiceName { name, .. }| name.to_string())
            .collect();
        names.sort();
        names
    }

    async fn wait(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "not in time: {what}"
            );
            sleep(Duration::from_millis(2)).await;
        }
    }

    async fn wait_services(&self, want: &[&str]) {
        let what = format!("Services {want:?}");
        self.wait(&what, |it| it.services() == want).await;
    }

    async fn stop(self) {
        self.tasks.begin_drain();
        assert_eq!(self.tasks.drained(Duration::from_secs(10)).await, []);
    }
}

fn service(address: &str) -> Value {
    json!({
        "metadata": {"namespace": "shop", "managedFields": [{"fieldsV1": {"f:spec": {}}}]},
        "spec": {"clusterIP": address, "ports": [{"port": 80, "name": "http"}], "novelty": 1},
    })
}

fn pod(node: &str, address: &str) -> Value {
    json!({
        "metadata": {"namespace": "shop", "uid": format!("uid-{address}"), "labels": {"app": "web"}},
        "spec": {"nodeName": node},
        "status": {"podIP": address, "podIPs": [{"ip": address}], "phase": "Running"},
    })
}

#[tokio::test]
async fn what_the_server_has_is_published_once_and_followed() {
    let (fake, address) = Fake::start().await;
    fake.change(|state| state.page = 2);
    for (index, name) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        fake.put(SERVICES, name, service(&format!("10.0.0.{}", index + 1)));
    }
    let running = Running::start(address, None);
    running.wait_services(&["a", "b", "c", "d", "e"]).await;
    assert_eq!(running.snapshot.borrow().generation, 1);
    fake.put(SERVICES, "f", service("10.0.0.6"));
    fake.delete(SERVICES, "a");
    running.wait_services(&["b", "c", "d", "e", "f"]).await;
    running
        .wait("in step", |it| it.source.state.borrow().synced)
        .await;
    running.stop().await;
}

#[tokio::test]
async fn the_frontier_moves_with_objects_and_bookmarks() {
    let (fake, address) = Fake::start().await;
    let running = Running::start(address, None);
    fake.put(SERVICES, "a", service("10.0.0.1"));
    fake.put(NAMESPACES, "shop", json!({}));
    let version = fake.change(|state| state.version);
    let reached = |it: &Running| {
        let frontier = it.source.frontier.borrow();
        let all = ["Service", "Namespace", "Pod", "EndpointSlice"].iter();
        let mut all = all.map(|kind| frontier.versions.get(kind).copied());
        all.all(|known| known >= Some(version))
    };
    running.wait("the frontier", reached).await;
    assert_eq!(running.services(), ["a"]);
    let generation = running.snapshot.borrow().generation;
    assert_eq!(running.source.frontier.borrow().generation, generation);
    running.stop().await;
}

#[tokio::test]
async fn a_status_that_changes_no_fact_publishes_nothing() {
    let (fake, address) = Fake::start().await;
    fake.put(PODS, "web", pod("node-b", "10.1.0.1"));
    let running = Running::start(address, None);
    running
        .wait("the pod", |it| it.snapshot.borrow().workloads.len() == 1)
        .await;
    let mut same = pod("node-b", "10.1.0.1");
    same["status"]["startTime"] = "2026-01-01T00:00:00Z".into();
    fake.put(PODS, "web", same);
    let version = fake.change(|state| state.version);
    let reached =
        |it: &Running| it.source.frontier.borrow().versions.get("Pod").copied() >= Some(version);
    running.wait("the event", reached).await;
    assert_eq!(running.snapshot.borrow().generation, 1);
    running.stop().await;
}

#[tokio::test]
async fn pods_that_cannot_matter_are_left_out() {
    let (fake, address) = Fake::start().await;
    let mut over = pod("node-a", "10.1.0.1");
    over["status"]["phase"] = "Succeeded".into();
    fake.put(PODS, "over", over);
    let mut host = pod("node-b", "10.1.0.2");
    host["spec"]["hostNetwork"] = true.into();
    fake.put(PODS, "host", host);
    let mut pending = pod("node-b", "");
    pending["status"] = json!({"phase": "Pending"});
    fake.put(PODS, "pending", pending.clone());
    pending["spec"]["nodeName"] = "node-a".into();
    fake.put(PODS, "pending-here", pending);
    fake.put(PODS, "web", pod("node-b", "10.1.0.4"));
    let running = Running::start(address, None);
    let names = |it: &Running| {
        let snapshot = it.snapshot.borrow();
        let mut names: Vec<String> = snapshot
            .workloads
            .values()
            .map(|workload| workload.name.to_string())
            .collect();
        names.sort();
        names
    };
    running
        .wait("the pods", |it| names(it) == ["pending-here", "web"])
        .await;
    running.stop().await;
}

#[tokio::test]
async fn a_relist_after_410_deletes_only_at_its_end() {
    let (fake, address) = Fake::start().await;
    fake.change(|state| state.page = 1);
    for name in ["a", "b", "c"] {
        fake.put(SERVICES, name, service("10.0.0.1"));
    }
    let running = Running::start(address, None);
    running.wait_services(&["a", "b", "c"]).await;
    running
        .wait("in step", |it| it.source.state.borrow().synced)
        .await;
    let generation = running.snapshot.borrow().generation;
    fake.change(|state| state.no_last_page = true);
    fake.compact();
    fake.delete(SERVICES, "a");
    fake.compact();
    let again = fake.requests("services?limit=500&continue=1");
    running
        .wait("another list", |_| {
            fake.requests("services?limit=500&continue=1") > again + 1
        })
        .await;
    assert_eq!(running.services(), ["a", "b", "c"]);
    assert_eq!(running.snapshot.borrow().generation, generation);
    fake.change(|state| state.no_last_page = false);
    running.wait_services(&["b", "c"]).await;
    running
        .wait("in step", |it| it.source.state.borrow().synced)
        .await;
    running.stop().await;
}

#[tokio::test]
async fn a_broken_watch_goes_on_from_where_it_was() {
    let (fake, address) = Fake::start().await;
    fake.put(SERVICES, "a", service("10.0.0.1"));
    let running = Running::start(address, None);
    running
        .wait("in step", |it| it.source.state.borrow().synced)
        .await;
    let lists = fake.requests("services?limit");
    fake.change(|state| state.down = true);
    let unread = |it: &Running| {
        it.source
            .state
            .borrow()
            .kinds
            .iter()
            .any(|kind| kind.error.is_some())
    };
    running.wait("an error", unread).await;
    running
        .wait("out of step", |it| !it.source.state.borrow().synced)
        .await;
    fake.put(SERVICES, "b", service("10.0.0.2"));
    assert_eq!(running.services(), ["a"]);
    let problems = |it: &Running| {
        let report = it.report.borrow();
        report
            .problems
            .iter()
            .filter(|it| it.text.contains("cannot be read"))
            .count()
    };
    running.wait("a problem", |it| problems(it) > 0).await;
    fake.change(|state| state.down = false);
    running.wait_services(&["a", "b"]).await;
    running
        .wait("in step", |it| it.source.state.borrow().synced)
        .await;
    running.wait("no problem", |it| problems(it) == 0).await;
    assert_eq!(
        fake.requests("services?limit"),
        lists,
        "it was read in full again"
    );
    running.stop().await;
}

#[tokio::test]
async fn kinds_come_and_go_with_their_definitions() {
    let (fake, address) = Fake::start().await;
    fake.put(SERVICES, "web", service("10.0.0.1"));
    let running = Running::start(address, None);
    running.wait_services(&["web"]).await;
    let definition = "virtualservices.networking.istio.io";
    fake.put(DEFINITIONS, definition, json!({}));
    fake.put(
        VIRTUAL_SERVICES,
        "web",
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"namespace": "shop"},
            "spec": {"hosts": ["web"], "http": [{"route": [{"destination": {"host": "web"}}]}]},
        }),
    );
    // It is served a little later than its definition is seen.
    sleep(Duration::from_millis(200)).await;
    let kind = [
        "networking.istio.io",
        "v1",
        "virtualservices",
        "VirtualService",
    ];
    fake.change(|state| state.custom.push(kind));
    let routed = |it: &Running| {
        let snapshot = it.snapshot.borrow();
        let mut ports = snapshot
            .services
            .values()
            .flat_map(|service| &service.ports);
        ports.any(|port| port.routes.is_some())
    };
    running.wait("the route", routed).await;
    fake.change(|state| {
        state.custom.clear();
        state
            .objects
            .remove(&(VIRTUAL_SERVICES.to_owned(), "web".to_owned()));
        state.cut += 1;
    });
    fake.delete(DEFINITIONS, definition);
    running.wait("no route", |it| !routed(it)).await;
    running
        .wait("in step", |it| it.source.state.borrow().synced)
        .await;
    running.stop().await;
}

#[tokio::test]
async fn a_broken_object_keeps_its_last_good_state_and_is_told() {
    let (fake, address) = Fake::start().await;
    let kind = [
        "networking.istio.io",
        "v1",
        "virtualservices",
        "VirtualService",
    ];
    fake.change(|state| state.custom.push(kind));
    fake.put(SERVICES, "web", service("10.0.0.1"));
    let mut route = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"namespace": "shop"},
        "spec": {"hosts": ["web"], "http": [{"route": [{"destination": {"host": "web"}}]}]},
    });
    fake.put(VIRTUAL_SERVICES, "web", route.clone());
    let running = Running::start(address, None);
    running.wait_services(&["web"]).await;
    route["spec"]["http"] = 7.into();
    fake.put(VIRTUAL_SERVICES, "web", route);
    let version = fake.change(|state| state.version);
    let told = |it: &Running| {
        let report = it.report.borrow();
        let mut problems = report.problems.iter().map(ToString::to_string);
        problems.any(|text| {
            text.contains("VirtualService shop/web")
                && text.contains("spec.http")
                && text.contains(&format!("resourceVersion {version}"))
        })
    };
    running.wait("the problem", told).await;
    let snapshot = running.snapshot.borrow().clone();
    assert!(
        snapshot
            .services
            .values()
            .all(|service| service.ports[0].routes.is_some())
    );
    fake.delete(VIRTUAL_SERVICES, "web");
    running.wait("no problem", |it| !told(it)).await;
    running.stop().await;
}

#[tokio::test]
async fn a_start_without_the_server_takes_what_the_disk_has() {
    let (fake, address) = Fake::start().await;
    let dir = std::env::temp_dir().join(format!("mesh-kube-disk-{}", std::process::id()));
    for name in ["a", "b"] {
        fake.put(SERVICES, name, service("10.0.0.1"));
    }
    let running = Running::start(address, Some(dir.clone()));
    running.wait_services(&["a", "b"]).await;
    fake.delete(SERVICES, "a");
    running.wait_services(&["b"]).await;
    running.stop().await;

    fake.change(|state| state.down = true);
    let begin = Instant::now();
    let running = Running::start(address, Some(dir.clone()));
    running.wait_services(&["b"]).await;
    assert!(
        begin.elapsed() >= Duration::from_secs(3),
        "{:?}",
        begin.elapsed()
    );
    let state = Arc::clone(&running.source.state.borrow());
    assert!(state.disk_as_of.is_some() && !state.synced, "{state:?}");
    fake.change(|state| state.down = false);
    fake.put(SERVICES, "c", service("10.0.0.3"));
    running.wait_services(&["b", "c"]).await;
    running
        .wait("in step", |it| it.source.state.borrow().synced)
        .await;
    assert_eq!(running.source.state.borrow().disk_as_of, None);
    running.stop().await;
    drop(fs::remove_dir_all(dir));
}
