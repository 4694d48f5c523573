// SPDX-License-Identifier: Apache-2.0

//! Which hosts the objects that route are about, so that a change of one is known to concern them.
//!
//! Kept over snapshots, because an object that changed or is gone says no more whom it was about.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    delegate,
    dirty::Dirty,
    endpoints::Endpoints,
    facts::Name,
    index::{IndexSettings, Shelves},
    object::Kind,
    resolve::{self, HostPattern},
};
use crate::model::ServiceName;

/// Which hosts an object that routes was about when it was last looked at.
#[derive(Debug, Default)]
pub(super) struct Reach(HashMap<(Kind, Name), Vec<HostPattern>>);

impl Reach {
    /// Adds the host names of all Services that an object that changed is or was about.
    pub(super) fn update(
        &mut self,
        shelves: &Shelves,
        settings: &IndexSettings,
        endpoints: &Endpoints,
        dirty: &Dirty,
        changed: &mut BTreeSet<Arc<str>>,
    ) {
        let mut patterns = Vec::new();
        // What limits a route is about the route's hosts.
        let limits = shelves.rate_limits.iter();
        let limits = limits.filter(|(facts, _)| dirty.routing.contains(&facts.target));
        let limits = limits.map(|(facts, _)| {
            let meta = &facts.meta;
            let name = (Arc::clone(&meta.namespace), Arc::clone(&meta.name));
            (Kind::LocalRateLimit, name)
        });
        let keys: BTreeSet<(Kind, Name)> = dirty.routing.iter().cloned().chain(limits).collect();
        for key in &keys {
            patterns.extend(self.0.remove(key).into_iter().flatten());
            let now = about(shelves, &settings.cluster_domain, key);
            if !now.is_empty() {
                patterns.extend(now.iter().cloned());
                self.0.insert(key.clone(), now);
            }
        }
        for pattern in &patterns {
            endpoints.about(pattern, changed);
        }
    }
}

/// The hosts that an object is about.
fn about(shelves: &Shelves, domain: &str, (kind, name): &(Kind, Name)) -> Vec<HostPattern> {
    let routes = match kind {
        Kind::VirtualService => {
            let found = shelves.virtual_services.find(name);
            let own = found.into_iter().map(|(facts, _)| facts);
            // What it says is also about the hosts of those that leave rules to it.
            let roots = shelves.virtual_services.iter().map(|(facts, _)| facts);
            let roots = roots.filter(|facts| delegate::leaves_to(facts, name));
            return own
                .chain(roots)
                .flat_map(|facts| facts.hosts.iter().cloned())
                .collect();
        }
        Kind::DestinationRule => {
            let found = shelves.destination_rules.find(name);
            return found.map_or_else(Vec::new, |(facts, _)| vec![facts.host.clone()]);
        }
        Kind::LocalRateLimit => {
            let found = shelves.rate_limits.find(name);
            return match found.map(|(facts, _)| &facts.target) {
                Some((Kind::Service, (namespace, name))) => {
                    let host = resolve::hostname(namespace, name, domain);
                    vec![HostPattern::Exact(host)]
                }
                Some(target) => about(shelves, domain, target),
                None => Vec::new(),
            };
        }
        Kind::BackendTrafficPolicy => {
            let targets = shelves.backend_policies.find(name).into_iter();
            let targets = targets.flat_map(|(facts, _)| &facts.targets);
            let host = |(namespace, name): &Name| resolve::hostname(namespace, name, domain);
            return targets.map(|one| HostPattern::Exact(host(one))).collect();
        }
        Kind::GrpcRoute => &shelves.grpc_routes,
        Kind::TcpRoute => &shelves.tcp_routes,
        Kind::TlsRoute => &shelves.tls_routes,
        _ => &shelves.http_routes,
    };
    let parents = routes.find(name).into_iter();
    let parents = parents.flat_map(|(facts, _)| &facts.parents);
    let host = |service: &ServiceName| resolve::hostname(&service.namespace, &service.name, domain);
    parents
        .map(|parent| HostPattern::Exact(host(&parent.service)))
        .collect()
}
