// SPDX-License-Identifier: Apache-2.0

//! Statuses against objects in memory.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use super::*;
use crate::config::{Condition, Conditions, Revision, status::ACCEPTED};

/// One object; the first writes meet a conflict, or fail.
#[derive(Default)]
struct Fake {
    object: Mutex<Value>,
    conflicts: AtomicUsize,
    failures: AtomicUsize,
    writes: AtomicUsize,
}

fn one_less(count: &AtomicUsize) -> bool {
    let less = |count: usize| count.checked_sub(1);
    count
        .try_update(Ordering::Relaxed, Ordering::Relaxed, less)
        .is_ok()
}

impl Objects for Arc<Fake> {
    async fn read(&self, _: &ObjectKey) -> Result<Value, WriteError> {
        Ok(self.object.lock().unwrap().clone())
    }

    async fn change(&self, _: &ObjectKey, version: &str, status: Value) -> Result<(), WriteError> {
        if one_less(&self.failures) {
            return Err(WriteError::TimedOut);
        }
        let mut object = self.object.lock().unwrap();
        if one_less(&self.conflicts) {
            object["metadata"]["resourceVersion"] = "12".into();
        }
        if object["metadata"]["resourceVersion"] != version {
            return Err(WriteError::Conflict);
        }
        object["status"] = status;
        self.writes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

struct Writer {
    objects: Arc<Fake>,
    statuses: watch::Sender<Arc<Vec<ObjectStatus>>>,
    leadership: watch::Sender<Leadership>,
    reports: watch::Sender<u64>,
    nodes: Arc<AtomicUsize>,
    tasks: Tasks,
}

impl Writer {
    /// A leader of three nodes and one object that it has not written about.
    fn start(fake: Fake) -> Self {
        *fake.object.lock().unwrap() = json!({"metadata": {"uid": "u", "resourceVersion": "11"}});
        let (objects, nodes) = (Arc::new(fake), Arc::new(AtomicUsize::new(0)));
        let statuses = watch::Sender::new(Arc::new(vec![status()]));
        let (leadership, reports) = (watch::Sender::new(leads(true)), watch::Sender::new(0));
        let reached = Arc::clone(&nodes);
        let sources = Sources {
            statuses: statuses.subscribe(),
            leadership: leadership.subscribe(),
            reports: reports.subscribe(),
            applied: move |_: &str, _| {
                let nodes = reached.load(Ordering::Relaxed);
                Applied {
                    nodes,
                    of: 3,
                    slowest: (nodes < 3).then(|| "node-b".to_owned()),
                }
            },
        };
        let tasks = Tasks::new();
        tasks.spawn("writer", write(Arc::clone(&objects), sources));
        Self {
            objects,
            statuses,
            leadership,
            reports,
            nodes,
            tasks,
        }
    }

    async fn after(&self, seconds: u64) -> (usize, String) {
        time::sleep(Duration::from_secs(seconds)).await;
        let conditions = self.objects.object.lock().unwrap()["status"]["conditions"].clone();
        let said = conditions.as_array().cloned().unwrap_or_default();
        let said = said.iter().filter_map(|one| one["message"].as_str());
        let said = said.collect::<Vec<_>>().join(" | ");
        (self.objects.writes.load(Ordering::Relaxed), said)
    }
}

fn leads(leading: bool) -> Leadership {
    Leadership {
        leading,
        holder: None,
    }
}

fn status() -> ObjectStatus {
    ObjectStatus {
        key: ObjectKey {
            kind: Kind::PeerAuthentication,
            namespace: "default".to_owned(),
            name: "x".to_owned(),
        },
        revision: Revision {
            uid: "u".into(),
            generation: Some(1),
            resource_version: "11".into(),
        },
        conditions: Conditions::Own(vec![Condition {
            kind: ACCEPTED,
            holds: true,
            reason: "Accepted",
            message: "fine".to_owned(),
        }]),
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_is_written_once_and_again_when_it_reached_all_nodes() {
    let writer = Writer::start(Fake::default());
    assert_eq!(writer.after(1).await, (1, "fine".to_owned()));
    for nodes in 1..=3 {
        writer.nodes.store(nodes, Ordering::Relaxed);
        writer.reports.send_modify(|count| *count += 1);
    }
    let want = "fine | applied on 3 of 3 nodes".to_owned();
    assert_eq!(writer.after(1).await, (2, want.clone()));
    writer
        .statuses
        .send_modify(|all| *all = Arc::new(vec![status()]));
    assert_eq!(writer.after(1000).await, (2, want));
}

#[tokio::test(start_paused = true)]
async fn who_lags_is_said_after_ten_seconds() {
    let writer = Writer::start(Fake::default());
    writer.nodes.store(2, Ordering::Relaxed);
    assert_eq!(writer.after(9).await.0, 1);
    let want = "fine | applied on 2 of 3 nodes; slowest: node-b".to_owned();
    assert_eq!(writer.after(2).await, (2, want));
}

#[tokio::test(start_paused = true)]
async fn conflicts_and_failures_are_survived() {
    let writer = Writer::start(Fake {
        conflicts: AtomicUsize::new(1),
        failures: AtomicUsize::new(3),
        ..Fake::default()
    });
    assert_eq!(writer.after(5).await.0, 0);
    assert_eq!(writer.after(5).await.0, 1);
    assert!(writer.tasks.panics() == 0);
}

#[tokio::test(start_paused = true)]
async fn only_the_leader_writes_and_only_about_the_incarnation_it_judged() {
    let writer = Writer::start(Fake::default());
    writer.leadership.send_replace(leads(false));
    assert_eq!(writer.after(1).await.0, 0);
    writer.objects.object.lock().unwrap()["metadata"]["uid"] = "another".into();
    writer.leadership.send_replace(leads(true));
    assert_eq!(writer.after(60).await.0, 0);
}

#[test]
fn every_kind_with_a_status_has_its_plural() {
    for (kind, want) in [
        (Kind::HttpRoute, "httproutes"),
        (Kind::GrpcRoute, "grpcroutes"),
        (Kind::TcpRoute, "tcproutes"),
        (Kind::TlsRoute, "tlsroutes"),
        (Kind::Policy, "policies"),
        (Kind::MeshPolicy, "meshpolicies"),
        (Kind::AuthorizationPolicy, "authorizationpolicies"),
        (Kind::PeerAuthentication, "peerauthentications"),
        (Kind::LocalRateLimit, "localratelimits"),
    ] {
        assert_eq!(plural(kind.as_str()), want);
        assert!(served(kind).is_some());
    }
}
