// SPDX-License-Identifier: Apache-2.0

//! Endpoints of Services without an address of their own: what is opened to one of them is opened to
//! the Service.
//!
//! Knows nothing of how endpoints are found. Of several Services with one endpoint the first by namespace
//! and name has it. Invariant: a change costs what it changes, and what is published is as if all
//! Services had been added anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use super::claims::Claims;
use crate::model::{Service, ServiceName, ServiceSocket, SharedMap};

/// The sockets of one Service.
type Sockets = BTreeMap<SocketAddr, ServiceSocket>;

/// Those of all of them.
#[derive(Debug, Default)]
pub(super) struct Headless {
    by_service: BTreeMap<ServiceName, Sockets>,
    same: Claims<SocketAddr, ServiceName>,
    pub(super) published: SharedMap<SocketAddr, ServiceSocket>,
}

impl Headless {
    /// A Service is this now; it has no sockets unless it is headless.
    pub(super) fn put(&mut self, service: &Service, is_headless: bool) {
        let fresh = match is_headless {
            true => sockets(service),
            false => Sockets::new(),
        };
        self.replace(&service.name, fresh);
    }

    /// There is no such Service any more.
    pub(super) fn remove(&mut self, name: &ServiceName) {
        self.replace(name, Sockets::new());
    }

    fn replace(&mut self, name: &ServiceName, fresh: Sockets) {
        let last = match fresh.is_empty() {
            true => self.by_service.remove(name),
            false => self.by_service.insert(name.clone(), fresh),
        };
        let last = last.unwrap_or_default();
        let empty = Sockets::new();
        let fresh = self.by_service.get(name).unwrap_or(&empty);
        let differing = |one: &Sockets, other: &Sockets| -> Vec<SocketAddr> {
            let differs =
                |(socket, what): &(&SocketAddr, &ServiceSocket)| other.get(socket) != Some(what);
            one.iter()
                .filter(differs)
                .map(|(socket, _)| *socket)
                .collect()
        };
        let (gone, new) = (differing(&last, fresh), differing(fresh, &last));
        for socket in gone {
            let left = self.same.remove(&socket, name);
            match left.as_ref().and_then(BTreeSet::first) {
                Some(winner) => self.win(winner, socket),
                None => drop(self.published.remove(&socket)),
            }
        }
        for socket in new {
            let holder = self.published.get(&socket).map(|one| one.service.clone());
            let several = self.same.add(&socket, holder.as_ref(), name);
            let winner = several.and_then(BTreeSet::first).unwrap_or(name).clone();
            self.win(&winner, socket);
        }
    }

    fn win(&mut self, name: &ServiceName, socket: SocketAddr) {
        let won = self.by_service.get(name).and_then(|all| all.get(&socket));
        if let Some(won) = won {
            self.published.insert(socket, won.clone());
        }
    }
}

/// All endpoints of a Service; of several ports with one endpoint the first has it.
fn sockets(service: &Service) -> Sockets {
    let mut sockets = Sockets::new();
    for port in &service.ports {
        for endpoint in &port.cluster.endpoints {
            let workload = endpoint.workload.as_ref();
            let enrolled = workload.is_some_and(|workload| workload.enrolled);
            let socket = || ServiceSocket {
                service: service.name.clone(),
                port: port.number,
                // Whatever is opened to an enrolled pod is captured anyway.
                captured: service.captured && !enrolled,
            };
            sockets.entry(endpoint.address).or_insert_with(socket);
        }
    }
    sockets
}
