// SPDX-License-Identifier: Apache-2.0

//! What nodes reported, and what follows: whom a configuration reached, which roots are trusted.
//!
//! Only the leader has reports. Invariant: a node counts while its last report is fresh; a node
//! that runs an agent and does not report is one that has nothing applied.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{authorize::Account, pods::Pods};
use crate::grpc::messages::ReportRequest;

/// A report says nothing any more after this time.
const FRESH: Duration = Duration::from_secs(180);

/// The reports. Clones share them.
#[derive(Clone)]
pub(super) struct Nodes(Arc<Shared>);

struct Shared {
    reports: Mutex<BTreeMap<String, Held>>,
    expected: Box<dyn Fn() -> BTreeSet<String> + Send + Sync>,
    changed: watch::Sender<u64>,
}

#[derive(Clone, Debug)]
struct Held {
    at: Instant,
    report: ReportRequest,
}

/// Whom a version of an object reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Nodes that have it.
    pub nodes: usize,
    /// Nodes that run an agent.
    pub of: usize,
    /// A node that does not have it: the one that is furthest behind.
    pub slowest: Option<String>,
}

/// A node, for people.
#[derive(Clone, Debug)]
pub(super) struct NodeView {
    pub(super) name: String,
    /// Seconds since its report; `None` if it does not report.
    pub(super) age: Option<u64>,
    pub(super) report: ReportRequest,
}

impl NodeView {
    /// Whether its report still says something.
    pub(super) fn is_fresh(&self) -> bool {
        self.age.is_some_and(|age| age < FRESH.as_secs())
    }
}

impl Nodes {
    /// No reports yet. Nodes that run a pod of one of `accounts` are expected to report.
    pub(super) fn new(pods: Pods, accounts: Vec<Account>) -> Self {
        Self::expecting(move || pods.nodes_of(&accounts))
    }

    fn expecting(expected: impl Fn() -> BTreeSet<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared {
            reports: Mutex::new(BTreeMap::new()),
            expected: Box::new(expected),
            changed: watch::Sender::new(0),
        }))
    }

    /// Takes the report of `node`.
    pub(super) fn note(&self, node: &str, report: ReportRequest, now: Instant) {
        let held = Held { at: now, report };
        let mut reports = self.lock();
        reports.retain(|_, held| now.duration_since(held.at) < FRESH);
        let before = reports.insert(node.to_owned(), held.clone());
        drop(reports);
        if before.is_none_or(|before| before.report != held.report) {
            self.0.changed.send_modify(|count| *count += 1);
        }
    }

    /// Changes whenever a report says something new.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Whom the object of `kind` with this resource version reached.
    pub(super) fn applied(&self, kind: &str, version: u64) -> Applied {
        let expected = (self.0.expected)();
        let fresh = self.fresh();
        let frontier = |node: &String| {
            let report = fresh.get(node)?;
            report.frontier.get(kind).copied()
        };
        let behind = expected
            .iter()
            .filter(|node| frontier(node) < Some(version));
        let slowest = behind.clone().min_by_key(|node| frontier(node)).cloned();
        let missing = behind.count();
        Applied {
            nodes: expected.len() - missing,
            of: expected.len(),
            slowest,
        }
    }

    /// Whether every node that runs an agent reported to trust the root with this fingerprint.
    pub(super) fn all_trust(&self, fingerprint: &str) -> bool {
        let fresh = self.fresh();
        (self.0.expected)().iter().all(|node| {
            let report = fresh.get(node);
            report.is_some_and(|report| report.trusted_roots.iter().any(|root| root == fingerprint))
        })
    }

    /// All nodes that run an agent or report, in order.
    pub(super) fn list(&self) -> Vec<NodeView> {
        let now = Instant::now();
        let reports = self.lock().clone();
        let mut names = (self.0.expected)();
        names.extend(reports.keys().cloned());
        names
            .into_iter()
            .map(|name| {
                let held = reports.get(&name);
                NodeView {
                    age: held.map(|held| now.duration_since(held.at).as_secs()),
                    report: held.map(|held| held.report.clone()).unwrap_or_default(),
                    name,
                }
            })
            .collect()
    }

    fn fresh(&self) -> BTreeMap<String, ReportRequest> {
        let now = Instant::now();
        let reports = self.lock();
        let fresh = reports
            .iter()
            .filter(|(_, held)| now.duration_since(held.at) < FRESH);
        fresh
            .map(|(node, held)| (node.clone(), held.report.clone()))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Held>> {
        self.0
            .reports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(expected: &[&str]) -> Nodes {
        let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
        Nodes::expecting(move || expected.clone())
    }

    fn report(routes: u64, roots: &[&str]) -> ReportRequest {
        ReportRequest {
            frontier: BTreeMap::from([("HTTPRoute".to_owned(), routes)]),
            trusted_roots: roots.iter().map(|root| (*root).to_owned()).collect(),
            ..ReportRequest::default()
        }
    }

    #[test]
    fn a_version_is_applied_where_the_frontier_has_passed_it() {
        let nodes = nodes(&["a", "b", "c"]);
        let now = Instant::now();
        nodes.note("a", report(10, &[]), now);
        nodes.note("b", report(8, &[]), now);
        nodes.note("stranger", report(99, &[]), now);
        let want = |nodes, slowest: &str| Applied {
            nodes,
            of: 3,
            slowest: Some(slowest.to_owned()),
        };
        // The one that says nothing at all is the slowest.
        assert_eq!(nodes.applied("HTTPRoute", 9), want(1, "c"));
        assert_eq!(nodes.applied("HTTPRoute", 8), want(2, "c"));
        assert_eq!(nodes.applied("GRPCRoute", 1).nodes, 0);
        nodes.note("c", report(10, &[]), now);
        assert_eq!(nodes.applied("HTTPRoute", 10), want(2, "b"));
        assert_eq!(nodes.applied("HTTPRoute", 8).slowest, None);
    }

    #[test]
    fn a_root_is_trusted_by_all_when_each_agent_says_so() {
        let nodes = nodes(&["a", "b"]);
        let now = Instant::now();
        nodes.note("a", report(0, &["old", "new"]), now);
        assert!(!nodes.all_trust("new"));
        nodes.note("b", report(0, &["old"]), now);
        assert!(nodes.all_trust("old") && !nodes.all_trust("new"));
        nodes.note("b", report(0, &["old", "new"]), now);
        assert!(nodes.all_trust("new"));
    }

    #[test]
    fn a_report_that_says_the_same_changes_nothing() {
        let nodes = nodes(&["a"]);
        let mut changes = nodes.changes();
        nodes.note("a", report(1, &[]), Instant::now());
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        nodes.note("a", report(1, &[]), Instant::now());
        assert!(!changes.has_changed().unwrap());
    }
}
