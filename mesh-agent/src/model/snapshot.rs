// SPDX-License-Identifier: Apache-2.0

//! The whole of what this node knows, at one moment.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
};

use super::{
    service::{Service, ServiceName, ServicePort},
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
    /// Nothing the mesh knows (any more).
    Unknown,
}

impl Snapshot {
    /// The Service port that `orig_dst` is to clients in `namespace`.
    pub fn service(
        &self,
        orig_dst: SocketAddr,
        namespace: &str,
    ) -> Option<&(Arc<Service>, Arc<ServicePort>)> {
        let found = self.by_vip.get(&orig_dst)?;
        found.0.visibility.allows(Some(namespace)).then_some(found)
    }

    /// What `orig_dst` is to clients in `namespace`.
    pub fn destination(&self, orig_dst: SocketAddr, namespace: &str) -> Destination {
        if let Some((service, port)) = self.service(orig_dst, namespace) {
            return Destination::Service(Arc::clone(service), Arc::clone(port));
        }
        match self.by_address.get(&orig_dst.ip()) {
            Some(workload) => Destination::Workload(Arc::clone(workload)),
            None => Destination::Unknown,
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
