// SPDX-License-Identifier: Apache-2.0

//! All objects, reduced to facts, and the snapshot made of them.
//!
//! A front end applies and deletes objects in any order and publishes when it has a consistent
//! state. Knows nothing of where objects come from.
//!
//! Invariants: readers see either the whole of a change or nothing of it; what changes nothing
//! publishes nothing; an object that is rejected keeps its last good state.

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use tokio::sync::{mpsc, watch};

pub(super) use self::shelves::Shelves;
use super::{
    authorization_facts::AuthorizationFacts,
    backend_policy::BackendPolicyFacts,
    build::Joined,
    destination_rule::DestinationRuleFacts,
    dirty::Dirty,
    enrol::NamespaceFacts,
    facts::{Change, Findings},
    gaps::Gap,
    grpc_route, http_route,
    intern::Interner,
    mesh_config::{self, MeshConfigFacts},
    names::Answer,
    nodes::NodeFacts,
    object::{Kind, Object, ObjectKey},
    opaque_route,
    pod::PodFacts,
    policy::{PeerAuthenticationFacts, PolicyFacts},
    problem::{Origin, Problem, Report, Severity, code},
    rate_limit::RateLimitFacts,
    service::{ServiceFacts, SliceFacts},
    service_entry::ServiceEntryFacts,
    sidecar::SidecarFacts,
    status::{self, ObjectStatus},
    token_rules::RequestAuthenticationFacts,
    virtual_service::VirtualServiceFacts,
    workload_entry::WorkloadEntryFacts,
};
use crate::model::{OutboundPolicy, Snapshot};

/// What an index must know of its surroundings.
#[derive(Clone, Debug)]
pub struct IndexSettings {
    /// The node whose pods are local.
    pub node: String,
    /// The trust domain of identities.
    pub trust_domain: String,
    /// Other names of it, besides those of Istio's mesh-wide configuration.
    pub trust_domain_aliases: Vec<String>,
    /// The DNS domain of Services.
    pub cluster_domain: String,
    /// The namespace whose policies are for the whole mesh.
    pub root_namespace: String,
    /// What becomes of connections to what nobody has.
    pub outbound: OutboundPolicy,
    /// Whether [`Index::statuses`] are made: that is for the one who writes them.
    pub statuses: bool,
}

impl Default for IndexSettings {
    fn default() -> Self {
        Self {
            node: String::new(),
            trust_domain: "cluster.local".to_owned(),
            trust_domain_aliases: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            root_namespace: "istio-system".to_owned(),
            outbound: OutboundPolicy::default(),
            statuses: false,
        }
    }
}

/// All objects and what follows from them.
#[derive(Debug)]
pub struct Index {
    settings: IndexSettings,
    shelves: Shelves,
    interner: Interner,
    /// What a front end could not even hand over.
    front_end: Vec<Problem>,
    joined: Joined,
    /// What changed since the last snapshot.
    change: Change,
    dirty: Dirty,
    /// Something changed of what statuses are made of.
    owners_ask: bool,
    between: Vec<Problem>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    reports: watch::Sender<Arc<Report>>,
    statuses: watch::Sender<Arc<Vec<ObjectStatus>>>,
    /// Names that are to be resolved.
    names: watch::Sender<Arc<BTreeSet<Arc<str>>>>,
    answers: Option<mpsc::UnboundedReceiver<Answer>>,
}

impl Index {
    /// An index of nothing, with an empty snapshot of generation 0.
    pub fn new(settings: IndexSettings) -> Self {
        let empty = Snapshot {
            node: settings.node.as_str().into(),
            ..Snapshot::default()
        };
        Self {
            joined: Joined::new(&settings),
            settings,
            shelves: Shelves::default(),
            interner: Interner::default(),
            front_end: Vec::new(),
            // Even an empty configuration is published once: the agent then knows that it is empty.
            change: Change::Facts,
            dirty: Dirty::default(),
            owners_ask: true,
            between: Vec::new(),
            snapshots: watch::Sender::new(Arc::new(empty)),
            reports: watch::Sender::new(Arc::default()),
            statuses: watch::Sender::new(Arc::default()),
            names: watch::Sender::new(Arc::default()),
            answers: None,
        }
    }

    /// Takes in the new state of an object; readers see it after [`publish`](Self::publish). Returns
    /// whether it is another state, and a good one.
    #[expect(clippy::too_many_lines, reason = "a few lines for each kind")]
    pub fn apply(&mut self, object: Object, origin: Origin) -> bool {
        let key = object.key();
        let mut findings = Findings::new(key.to_ref(), origin);
        // Nobody asks for the state of what others own, and there are many of those.
        if !key.kind.is_built_in() {
            findings.revision = object.revision();
        }
        let Self {
            shelves,
            settings,
            interner,
            ..
        } = self;
        let domain = &settings.cluster_domain;
        let (kind, name) = (key.kind, key.name.clone());
        let namespace = key.namespace.clone();
        let change = match object {
            Object::Namespace(object) => {
                let facts = NamespaceFacts::new(&object, &mut findings);
                shelves.namespaces.put(facts, findings)
            }
            Object::Node(object) => shelves.nodes.put(NodeFacts::new(&object), findings),
            Object::Pod(object) => {
                let mut facts = PodFacts::new(&object, &mut findings);
                facts.intern(interner);
                shelves.pods.put(facts, findings)
            }
            Object::Service(object) => {
                let facts = ServiceFacts::new(&object, &mut findings);
                shelves.services.put(facts, findings)
            }
            Object::EndpointSlice(object) => {
                let facts = SliceFacts::new(&object, &mut findings);
                shelves.slices.put(facts, findings)
            }
            Object::VirtualService(object) => {
                let facts = VirtualServiceFacts::new(&object, domain, &mut findings);
                shelves.virtual_services.put(facts, findings)
            }
            Object::DestinationRule(object) => {
                let facts = DestinationRuleFacts::new(&object, domain, &mut findings);
                shelves.destination_rules.put(facts, findings)
            }
            Object::ServiceEntry(object) => {
                let domain = &settings.trust_domain;
                let facts = ServiceEntryFacts::new(&object, domain, &mut findings);
                shelves.service_entries.put(facts, findings)
            }
            Object::WorkloadEntry(object) => {
                let domain = &settings.trust_domain;
                let facts = WorkloadEntryFacts::new(&object, domain, &mut findings);
                shelves.workload_entries.put(facts, findings)
            }
            Object::Sidecar(object) => {
                let facts = SidecarFacts::new(&object, settings.outbound, &mut findings);
                shelves.sidecars.put(facts, findings)
            }
            Object::PeerAuthentication(object) => {
                let root = &settings.root_namespace;
                let facts = PeerAuthenticationFacts::new(&object, root, &mut findings);
                shelves.peer_authentications.put(facts, findings)
            }
            Object::AuthorizationPolicy(object) => {
                let domain = &settings.trust_domain;
                let facts = AuthorizationFacts::new(&object, domain, &mut findings);
                let shelf = &mut shelves.authorization_policies;
                shelf.put_closed(facts, findings, |facts| facts.stopgap)
            }
            Object::RequestAuthentication(object) => {
                let facts = RequestAuthenticationFacts::new(&object, &mut findings);
                let shelf = &mut shelves.request_authentications;
                shelf.put_closed(facts, findings, |facts| facts.stopgap)
            }
            Object::ConfigMap(object) => {
                if !mesh_config::is(&object, &settings.root_namespace) {
                    // Whatever it is, it is no business of the mesh.
                    return false;
                }
                let facts = MeshConfigFacts::new(&object, &mut findings);
                shelves.mesh_configs.put(facts, findings)
            }
            Object::Policy(object) => {
                let facts = PolicyFacts::new(&object, false, &mut findings);
                shelves.policies.put(facts, findings)
            }
            Object::MeshPolicy(object) => {
                let facts = PolicyFacts::new(&object, true, &mut findings);
                shelves.mesh_policies.put(facts, findings)
            }
            Object::HttpRoute(object) => {
                let facts = http_route::read(&object, &mut findings);
                shelves.http_routes.put(facts, findings)
            }
            Object::GrpcRoute(object) => {
                let facts = grpc_route::read(&object, &mut findings);
                shelves.grpc_routes.put(facts, findings)
            }
            Object::TcpRoute(object) => {
                let facts = opaque_route::tcp(&object, &mut findings);
                shelves.tcp_routes.put(facts, findings)
            }
            Object::TlsRoute(object) => {
                let facts = opaque_route::tls(&object, &mut findings);
                shelves.tls_routes.put(facts, findings)
            }
            Object::BackendTrafficPolicy(object) => {
                let facts = BackendPolicyFacts::new(&object, &mut findings);
                shelves.backend_policies.put(facts, findings)
            }
            Object::LocalRateLimit(object) => {
                let facts = RateLimitFacts::new(&object, &mut findings);
                shelves.rate_limits.put(facts, findings)
            }
            Object::ServiceAccount(_) | Object::Inert(..) => {
                inert(key.kind, &mut findings);
                shelves.put_other(key, findings)
            }
        };
        self.change = self.change.max(change);
        if change != Change::Nothing {
            self.dirty.note(kind, &namespace, &name);
        }
        self.owners_ask |= !kind.is_built_in();
        change == Change::Facts
    }

    /// Forgets an object; readers see that after [`publish`](Self::publish). Returns whether it was
    /// there.
    pub fn delete(&mut self, key: &ObjectKey) -> bool {
        let (namespace, name) = (key.namespace.as_str(), key.name.as_str());
        let shelves = &mut self.shelves;
        let removed = match key.kind {
            Kind::Namespace => shelves.namespaces.remove(namespace, name),
            Kind::Node => shelves.nodes.remove(namespace, name),
            Kind::Pod => shelves.pods.remove(namespace, name),
            Kind::Service => shelves.services.remove(namespace, name),
            Kind::EndpointSlice => shelves.slices.remove(namespace, name),
            Kind::VirtualService => shelves.virtual_services.remove(namespace, name),
            Kind::DestinationRule => shelves.destination_rules.remove(namespace, name),
            Kind::ServiceEntry => shelves.service_entries.remove(namespace, name),
            Kind::WorkloadEntry => shelves.workload_entries.remove(namespace, name),
            Kind::Sidecar => shelves.sidecars.remove(namespace, name),
            Kind::PeerAuthentication => shelves.peer_authentications.remove(namespace, name),
            Kind::AuthorizationPolicy => shelves.authorization_policies.remove(namespace, name),
            Kind::RequestAuthentication => shelves.request_authentications.remove(namespace, name),
            Kind::ConfigMap => shelves.mesh_configs.remove(namespace, name),
            Kind::Policy => shelves.policies.remove(namespace, name),
            Kind::MeshPolicy => shelves.mesh_policies.remove(namespace, name),
            Kind::HttpRoute => shelves.http_routes.remove(namespace, name),
            Kind::GrpcRoute => shelves.grpc_routes.remove(namespace, name),
            Kind::TcpRoute => shelves.tcp_routes.remove(namespace, name),
            Kind::TlsRoute => shelves.tls_routes.remove(namespace, name),
            Kind::LocalRateLimit => shelves.rate_limits.remove(namespace, name),
            Kind::BackendTrafficPolicy => shelves.backend_policies.remove(namespace, name),
            Kind::ServiceAccount | Kind::Unenforced(_) | Kind::Unsupported(_) => {
                let (namespace, name) = other_place(key);
                shelves.others.remove(&namespace, &name)
            }
        };
        if removed {
            self.change = Change::Facts;
            self.dirty.note(key.kind, namespace, name);
            self.owners_ask |= !key.kind.is_built_in();
        }
        removed
    }

    /// Whether anything changed since the last [`publish`](Self::publish).
    pub fn is_changed(&self) -> bool {
        self.change != Change::Nothing
    }

    /// The objects of a kind, with or without a good state.
    pub(super) fn keys(&self, kind: Kind) -> Vec<ObjectKey> {
        let names = self.shelves.names(kind);
        names
            .map(|(namespace, name)| ObjectKey {
                kind,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            })
            .collect()
    }

    /// How many objects of a kind there are.
    pub(super) fn count(&self, kind: Kind) -> usize {
        let names = self.shelves.names(kind);
        match names.size_hint() {
            (low, Some(high)) if low == high => low,
            _ => names.count(),
        }
    }

    /// Replaces what a front end has to say about what it could not hand over as objects.
    pub fn set_front_end_problems(&mut self, problems: Vec<Problem>) {
        self.front_end = problems;
    }

    /// Publishes a snapshot if anything changed, and the report in any case.
    pub fn publish(&mut self) {
        let change = std::mem::take(&mut self.change);
        if change != Change::Nothing {
            let dirty = std::mem::take(&mut self.dirty);
            self.owners_ask |= dirty.concerns_owners();
            self.between = self.joined.update(&self.shelves, &self.settings, &dirty);
            self.ask();
            if change == Change::Facts {
                let snapshot = self.joined.snapshot(self.generation() + 1);
                self.snapshots.send_replace(Arc::new(snapshot));
            }
        }
        let report = self.compile_report();
        if self.settings.statuses && std::mem::take(&mut self.owners_ask) {
            let fresh = status::build(&self.shelves, &report.problems);
            self.statuses.send_if_modified(|last| {
                let differs = **last != fresh;
                if differs {
                    *last = Arc::new(fresh);
                }
                differs
            });
        }
        self.reports.send_replace(Arc::new(report));
    }

    fn compile_report(&mut self) -> Report {
        let of_objects = self.shelves.problems();
        let all = of_objects.chain(&self.front_end).chain(&self.between);
        let mut problems: Vec<Problem> = all.cloned().collect();
        problems.sort();
        problems.dedup();
        self.owners_ask |= self.reports.borrow().problems != problems;
        Report {
            problems,
            generation: self.snapshots.borrow().generation,
            objects: self.shelves.len(),
            loaded_at: SystemTime::now(),
        }
    }

    /// Publishes the report without a new snapshot, while there is nothing fit to be published.
    pub fn publish_report(&mut self) {
        let report = self.compile_report();
        self.reports.send_replace(Arc::new(report));
    }

    /// The generation of the current snapshot.
    pub fn generation(&self) -> u64 {
        self.snapshots.borrow().generation
    }

    /// The snapshots that will be published, beginning with the current one.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.subscribe()
    }

    /// The reports that will be published, beginning with the current one.
    pub fn report(&self) -> watch::Receiver<Arc<Report>> {
        self.reports.subscribe()
    }

    /// What to tell the owners of objects, beginning with the current state; none is ever made
    /// unless the settings ask for it.
    pub fn statuses(&self) -> watch::Receiver<Arc<Vec<ObjectStatus>>> {
        self.statuses.subscribe()
    }
}

/// Where an object of no shelf of its own is kept: several kinds share one shelf.
fn other_place(key: &ObjectKey) -> (Arc<str>, Arc<str>) {
    (
        key.namespace.as_str().into(),
        format!("{} {}", key.kind.as_str(), key.name).into(),
    )
}

fn inert(kind: Kind, findings: &mut Findings) {
    match kind {
        Kind::Unenforced(_) => findings.add(
            Severity::Error,
            code::UNSUPPORTED,
            "",
            "not enforced yet: what it forbids is allowed",
            "do not rely on it; remove it to acknowledge that",
        ),
        Kind::Unsupported(name) => {
            if let Some(gap) = Gap::of_kind(name) {
                findings.gap("", gap);
            }
        }
        _ => {}
    }
}

mod questions;
mod shelves;
#[cfg(test)]
mod tests;
