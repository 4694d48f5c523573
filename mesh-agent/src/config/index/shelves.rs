// SPDX-License-Identifier: Apache-2.0

//! The facts of all objects, by kind.
//!
//! Knows nothing of what is made of them.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use super::{
    super::{
        authorization_facts::AuthorizationFacts,
        backend_policy::BackendPolicyFacts,
        destination_rule::DestinationRuleFacts,
        enrol::NamespaceFacts,
        facts::{Change, Findings, Shelf},
        mesh_config::{self, MeshConfigFacts, Providers},
        nodes::NodeFacts,
        object::{Kind, ObjectKey},
        pod::PodFacts,
        policy::{PeerAuthenticationFacts, PolicyFacts},
        problem::{Origin, Problem},
        rate_limit::RateLimitFacts,
        route::RouteFacts,
        service::{ServiceFacts, SliceFacts},
        service_entry::ServiceEntryFacts,
        sidecar::SidecarFacts,
        token_rules::RequestAuthenticationFacts,
        virtual_service::VirtualServiceFacts,
        workload_entry::WorkloadEntryFacts,
    },
    IndexSettings, other_place,
};
use crate::model::TrustDomains;

/// The facts of all objects, by kind.
#[derive(Debug, Default)]
pub(in super::super) struct Shelves {
    pub(in super::super) namespaces: Shelf<NamespaceFacts>,
    pub(in super::super) nodes: Shelf<NodeFacts>,
    pub(in super::super) pods: Shelf<PodFacts>,
    pub(in super::super) services: Shelf<ServiceFacts>,
    pub(in super::super) slices: Shelf<SliceFacts>,
    pub(in super::super) virtual_services: Shelf<VirtualServiceFacts>,
    pub(in super::super) destination_rules: Shelf<DestinationRuleFacts>,
    pub(in super::super) service_entries: Shelf<ServiceEntryFacts>,
    pub(in super::super) workload_entries: Shelf<WorkloadEntryFacts>,
    /// What names resolve to, as far as that is known.
    pub(in super::super) resolved: HashMap<Arc<str>, Vec<IpAddr>>,
    pub(in super::super) sidecars: Shelf<SidecarFacts>,
    pub(in super::super) peer_authentications: Shelf<PeerAuthenticationFacts>,
    pub(in super::super) authorization_policies: Shelf<AuthorizationFacts>,
    pub(in super::super) request_authentications: Shelf<RequestAuthenticationFacts>,
    pub(in super::super) policies: Shelf<PolicyFacts>,
    pub(in super::super) mesh_policies: Shelf<PolicyFacts>,
    pub(in super::super) http_routes: Shelf<RouteFacts>,
    pub(in super::super) grpc_routes: Shelf<RouteFacts>,
    pub(in super::super) rate_limits: Shelf<RateLimitFacts>,
    pub(in super::super) backend_policies: Shelf<BackendPolicyFacts>,
    pub(in super::super) tcp_routes: Shelf<RouteFacts>,
    pub(in super::super) tls_routes: Shelf<RouteFacts>,
    pub(in super::super) mesh_configs: Shelf<MeshConfigFacts>,
    /// Kinds of which only the existence counts.
    pub(in super::super) others: Shelf<Kind>,
}

impl Shelves {
    /// The Gateway API's routes, of all kinds.
    pub(in super::super) fn routes(&self) -> impl Iterator<Item = (&RouteFacts, &Origin)> {
        let http = self.http_routes.iter().chain(self.grpc_routes.iter());
        http.chain(self.tcp_routes.iter())
            .chain(self.tls_routes.iter())
    }

    /// The providers that CUSTOM policies may name.
    pub(in super::super) fn providers(&self, settings: &IndexSettings) -> Providers {
        let root = settings.root_namespace.as_str().into();
        let config = self.mesh_configs.get(&root, &mesh_config::NAME.into());
        config.map_or_else(Providers::new, |config| config.providers.clone())
    }

    /// The own trust domain, by all its names.
    pub(in super::super) fn trust_domains(&self, settings: &IndexSettings) -> TrustDomains {
        let root = settings.root_namespace.as_str().into();
        let config = self.mesh_configs.get(&root, &mesh_config::NAME.into());
        let written = config.into_iter().flat_map(|config| &config.aliases);
        let given = &settings.trust_domain_aliases;
        let given = given.iter().map(|alias| Arc::from(alias.as_str()));
        TrustDomains::new(&settings.trust_domain, written.map(Arc::clone).chain(given))
    }

    /// Namespace and name of all objects of a kind.
    pub(super) fn names(&self, kind: Kind) -> Box<dyn Iterator<Item = (&str, &str)> + '_> {
        fn plain<'a>((namespace, name): (&'a Arc<str>, &'a Arc<str>)) -> (&'a str, &'a str) {
            (namespace, name)
        }
        match kind {
            Kind::Namespace => Box::new(self.namespaces.keys().map(plain)),
            Kind::Node => Box::new(self.nodes.keys().map(plain)),
            Kind::Pod => Box::new(self.pods.keys().map(plain)),
            Kind::Service => Box::new(self.services.keys().map(plain)),
            Kind::EndpointSlice => Box::new(self.slices.keys().map(plain)),
            Kind::VirtualService => Box::new(self.virtual_services.keys().map(plain)),
            Kind::DestinationRule => Box::new(self.destination_rules.keys().map(plain)),
            Kind::ServiceEntry => Box::new(self.service_entries.keys().map(plain)),
            Kind::WorkloadEntry => Box::new(self.workload_entries.keys().map(plain)),
            Kind::Sidecar => Box::new(self.sidecars.keys().map(plain)),
            Kind::PeerAuthentication => Box::new(self.peer_authentications.keys().map(plain)),
            Kind::AuthorizationPolicy => Box::new(self.authorization_policies.keys().map(plain)),
            Kind::RequestAuthentication => Box::new(self.request_authentications.keys().map(plain)),
            Kind::Policy => Box::new(self.policies.keys().map(plain)),
            Kind::MeshPolicy => Box::new(self.mesh_policies.keys().map(plain)),
            Kind::HttpRoute => Box::new(self.http_routes.keys().map(plain)),
            Kind::GrpcRoute => Box::new(self.grpc_routes.keys().map(plain)),
            Kind::TcpRoute => Box::new(self.tcp_routes.keys().map(plain)),
            Kind::TlsRoute => Box::new(self.tls_routes.keys().map(plain)),
            Kind::LocalRateLimit => Box::new(self.rate_limits.keys().map(plain)),
            Kind::BackendTrafficPolicy => Box::new(self.backend_policies.keys().map(plain)),
            Kind::ConfigMap => Box::new(self.mesh_configs.keys().map(plain)),
            Kind::ServiceAccount | Kind::Unenforced(_) | Kind::Unsupported(_) => {
                let others = self.others.keys();
                Box::new(others.filter_map(move |(namespace, name)| {
                    let name = name.strip_prefix(kind.as_str())?.strip_prefix(' ')?;
                    Some((&**namespace, name))
                }))
            }
        }
    }

    pub(super) fn put_other(&mut self, key: ObjectKey, mut findings: Findings) -> Change {
        let (namespace, name) = other_place(&key);
        findings.object.namespace = namespace;
        findings.object.name = name;
        self.others.put(key.kind, findings)
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        let parts: [Box<dyn Iterator<Item = &Problem>>; 22] = [
            Box::new(self.namespaces.problems()),
            Box::new(self.pods.problems()),
            Box::new(self.services.problems()),
            Box::new(self.slices.problems()),
            Box::new(self.virtual_services.problems()),
            Box::new(self.destination_rules.problems()),
            Box::new(self.service_entries.problems()),
            Box::new(self.workload_entries.problems()),
            Box::new(self.sidecars.problems()),
            Box::new(self.peer_authentications.problems()),
            Box::new(self.authorization_policies.problems()),
            Box::new(self.request_authentications.problems()),
            Box::new(self.policies.problems()),
            Box::new(self.mesh_policies.problems()),
            Box::new(self.http_routes.problems()),
            Box::new(self.grpc_routes.problems()),
            Box::new(self.rate_limits.problems()),
            Box::new(self.backend_policies.problems()),
            Box::new(self.tcp_routes.problems()),
            Box::new(self.tls_routes.problems()),
            Box::new(self.mesh_configs.problems()),
            Box::new(self.others.problems()),
        ];
        parts.into_iter().flatten()
    }

    pub(super) fn len(&self) -> usize {
        self.namespaces.len()
            + self.nodes.len()
            + self.pods.len()
            + self.services.len()
            + self.slices.len()
            + self.virtual_services.len()
            + self.destination_rules.len()
            + self.service_entries.len()
            + self.workload_entries.len()
            + self.sidecars.len()
            + self.peer_authentications.len()
            + self.authorization_policies.len()
            + self.request_authentications.len()
            + self.policies.len()
            + self.mesh_policies.len()
            + self.http_routes.len()
            + self.grpc_routes.len()
            + self.rate_limits.len()
            + self.backend_policies.len()
            + self.tcp_routes.len()
            + self.tls_routes.len()
            + self.mesh_configs.len()
            + self.others.len()
    }
}
