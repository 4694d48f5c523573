// SPDX-License-Identifier: Apache-2.0

//! The whole of what this node knows, at one moment.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
};

use super::{
    named::{NamedPorts, Strangers},
    service::{Service, ServiceName, ServicePort, ServiceSocket},
    shared_map::SharedMap,
    workload::{Workload, WorkloadUid},
};

/// One consistent state of the mesh. Cheap to share, never changed; shares with the state before
/// what is the same.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Grows by one with every snapshot.
    pub generation: u64,
    /// The name of this node.
    pub node: Arc<str>,
    /// All workloads, enrolled or not.
    pub workloads: SharedMap<WorkloadUid, Arc<Workload>>,
    /// The workload that owns an address (never a host-network one).
    pub by_address: SharedMap<IpAddr, Arc<Workload>>,
    /// All Services.
    pub services: SharedMap<ServiceName, Arc<Service>>,
    /// VIP and port to Service.
    pub by_vip: SharedMap<SocketAddr, (Arc<Service>, Arc<ServicePort>)>,
    /// Endpoints of Services that have no address of their own.
    pub by_endpoint: SharedMap<SocketAddr, ServiceSocket>,
    /// Hosts that no address of their own tells, by port.
    pub named: SharedMap<u16, Arc<NamedPorts>>,
    /// Endpoints that are no pods, once somebody asked for them.
    pub strangers: OnceLock<Strangers>,
    /// Other names of the own trust domain, in order.
    pub trust_domain_aliases: Arc<[Arc<str>]>,
    /// What [`local_enrolled`](Self::local_enrolled) is, for who knows it already.
    pub local: OnceLock<Vec<Arc<Workload>>>,
}

/// What a captured connection was opened to.
#[derive(Clone, Debug)]
pub enum Destination {
    /// A Service's VIP and port.
    Service(Arc<Service>, Arc<ServicePort>),
    /// A pod's address, directly.
    Workload(Arc<Workload>),
    /// Nothing the mesh knows (any more), or nothing that the client may reach.
    Unknown,
}

impl Snapshot {
    /// The Service port that `orig_dst` is to `client`.
    pub fn service(
        &self,
        orig_dst: SocketAddr,
        client: &Workload,
    ) -> Option<(&Arc<Service>, &Arc<ServicePort>)> {
        let by_vip = self.by_vip.get(&orig_dst);
        let seen = by_vip.filter(|(service, _)| client.sees(service));
        if let Some((service, port)) = seen {
            return Some((service, port));
        }
        if let Some(socket) = self.by_endpoint.get(&orig_dst)
            && let Some(service) = self.services.get(&socket.service)
            && let Some(port) = service.port(socket.port)
            && client.sees(service)
        {
            return Some((service, port));
        }
        let named = self.by_port(orig_dst, client)?;
        Some((&named.service, named.at(orig_dst.ip())))
    }

    /// What `orig_dst` is to `client`.
    pub fn destination(&self, orig_dst: SocketAddr, client: &Workload) -> Destination {
        if let Some((service, port)) = self.service(orig_dst, client) {
            return Destination::Service(Arc::clone(service), Arc::clone(port));
        }
        match self.by_address.get(&orig_dst.ip()) {
            Some(workload) if !self.refuses(orig_dst, client) => {
                Destination::Workload(Arc::clone(workload))
            }
            Some(_) | None => Destination::Unknown,
        }
    }

    /// The enrolled workloads of this node, whether their sandboxes exist yet or not.
    pub fn local_enrolled(&self) -> impl Iterator<Item = &Arc<Workload>> {
        let of_node = || {
            let all = self.workloads.values();
            all.filter(|workload| self.is_local_enrolled(workload))
                .map(Arc::clone)
                .collect()
        };
        self.local.get_or_init(of_node).iter()
    }

    fn is_local_enrolled(&self, workload: &Workload) -> bool {
        workload.enrolled && workload.node == self.node && !workload.host_network
    }
}
