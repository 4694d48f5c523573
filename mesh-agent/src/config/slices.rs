// SPDX-License-Identifier: Apache-2.0

//! Which EndpointSlices a Service has.
//!
//! Kept over snapshots, because a slice that changed or is gone says no more whose it was.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    facts::{Name, Shelf},
    service::SliceFacts,
};

/// The slices of all Services, whether those exist or not.
#[derive(Debug, Default)]
pub(super) struct Slices {
    service_of: HashMap<Name, Arc<str>>,
    /// By name: all are of the Service's namespace.
    of_service: HashMap<Name, BTreeSet<Arc<str>>>,
}

impl Slices {
    /// Takes in slices that changed; adds the Services whose endpoints that may change.
    pub(super) fn update(
        &mut self,
        shelf: &Shelf<SliceFacts>,
        dirty: &HashSet<Name>,
        services: &mut HashSet<Name>,
    ) {
        for name in dirty {
            let (namespace, own) = name;
            if let Some(last) = self.service_of.remove(name) {
                let service = (Arc::clone(namespace), last);
                if let Some(slices) = self.of_service.get_mut(&service) {
                    slices.remove(own);
                    if slices.is_empty() {
                        self.of_service.remove(&service);
                    }
                }
                services.insert(service);
            }
            let facts = shelf.find(name).map(|(facts, _)| facts);
            if let Some(now) = facts.and_then(|facts| facts.service.as_ref()) {
                let service = (Arc::clone(namespace), Arc::clone(now));
                let slices = self.of_service.entry(service.clone()).or_default();
                slices.insert(Arc::clone(own));
                self.service_of.insert(name.clone(), Arc::clone(now));
                services.insert(service);
            }
        }
    }

    /// The slices of a Service, by name; `None` if its endpoints are to be found by its selector.
    pub(super) fn of<'a>(
        &self,
        shelf: &'a Shelf<SliceFacts>,
        service: &Name,
    ) -> Option<Vec<&'a SliceFacts>> {
        let slices = self.of_service.get(service)?.iter();
        let facts = slices.filter_map(|name| shelf.get(&service.0, name));
        Some(facts.collect())
    }

    pub(super) fn has(&self, service: &Name) -> bool {
        self.of_service.contains_key(service)
    }
}

/// Adds the Services with an endpoint at one of `addresses`.
pub(super) fn with_addresses(
    shelf: &Shelf<SliceFacts>,
    addresses: &HashSet<IpAddr>,
    services: &mut HashSet<Name>,
) {
    // Compared one by one while that is cheaper than hashing what is mostly something else.
    let few: Vec<IpAddr> = addresses.iter().copied().take(5).collect();
    let is_one = |address: IpAddr| match few.len() {
        0..=4 => few.contains(&address),
        _ => addresses.contains(&address),
    };
    if few.is_empty() {
        return;
    }
    for (slice, _) in shelf.iter() {
        let Some(service) = &slice.service else {
            continue;
        };
        let sockets = slice.ports.iter().flat_map(|port| &port.sockets);
        if sockets.map(|(socket, _)| socket.ip()).any(is_one) {
            services.insert((Arc::clone(&slice.meta.namespace), Arc::clone(service)));
        }
    }
}
