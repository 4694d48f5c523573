// SPDX-License-Identifier: Apache-2.0

//! Which objects changed since the last snapshot.
//!
//! Knows nothing of what follows from them: that is for each part of the build to say.
//! Invariant: every kind of which a part of a snapshot is made is noted (the match has no `_`).

use std::{collections::HashSet, sync::Arc};

use super::{facts::Name, object::Kind};

/// The objects that were applied with another state, or deleted.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) namespaces: HashSet<Arc<str>>,
    pub(super) nodes: HashSet<Arc<str>>,
    pub(super) pods: HashSet<Name>,
    pub(super) services: HashSet<Name>,
    pub(super) slices: HashSet<Name>,
    /// ServiceEntries.
    pub(super) entries: HashSet<Name>,
    pub(super) workload_entries: HashSet<Name>,
    /// Names that resolve to other addresses than before.
    pub(super) names: HashSet<Arc<str>>,
    /// VirtualServices, DestinationRules and routes and their limits.
    pub(super) routing: HashSet<(Kind, Name)>,
    /// What decides about all pods of a namespace, or of the mesh.
    pub(super) policies: HashSet<(Kind, Name)>,
}

impl Dirty {
    /// Notes that an object is not what it was.
    pub(super) fn note(&mut self, kind: Kind, namespace: &str, name: &str) {
        let name: Name = (namespace.into(), name.into());
        match kind {
            Kind::Namespace => {
                self.namespaces.insert(name.1);
            }
            Kind::Node => {
                self.nodes.insert(name.1);
            }
            Kind::Pod => {
                self.pods.insert(name);
            }
            Kind::Service => {
                self.services.insert(name);
            }
            Kind::EndpointSlice => {
                self.slices.insert(name);
            }
            Kind::ServiceEntry => {
                self.entries.insert(name);
            }
            Kind::WorkloadEntry => {
                self.workload_entries.insert(name);
            }
            Kind::VirtualService
            | Kind::DestinationRule
            | Kind::HttpRoute
            | Kind::GrpcRoute
            | Kind::TcpRoute
            | Kind::TlsRoute
            | Kind::LocalRateLimit
            | Kind::BackendTrafficPolicy => {
                self.routing.insert((kind, name));
            }
            Kind::Sidecar
            | Kind::PeerAuthentication
            | Kind::AuthorizationPolicy
            | Kind::RequestAuthentication
            | Kind::ConfigMap
            | Kind::Policy
            | Kind::MeshPolicy => {
                self.policies.insert((kind, name));
            }
            // Nothing of a snapshot is made of them.
            Kind::ServiceAccount | Kind::Unenforced(_) | Kind::Unsupported(_) => {}
        }
    }

    /// Whether an object changed whose owner is told what became of it, or a Service, on which
    /// that depends.
    pub(super) fn concerns_owners(&self) -> bool {
        let entries = self.entries.is_empty() && self.workload_entries.is_empty();
        let others = self.services.is_empty() && self.routing.is_empty();
        !(entries && others && self.policies.is_empty())
    }
}
