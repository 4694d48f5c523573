// SPDX-License-Identifier: Apache-2.0

//! What this node has under way at endpoints, kept as long as a Service has them.
//!
//! Invariant: an endpoint of one pod at one address has the same load in all Services and in all
//! snapshots, until no Service has it.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use super::endpoints::{Socket, Sockets};
use crate::model::{Endpoint, EndpointLoad, WorkloadUid};

/// The loads of all endpoints, and how many ports of Services have each.
#[derive(Debug, Default)]
pub(super) struct Loads(HashMap<(Option<WorkloadUid>, SocketAddr), (Arc<EndpointLoad>, usize)>);

impl Loads {
    /// The endpoints at `sockets`, in the order of their addresses, each once: the first if several
    /// have one address. To be released when they are no longer in use.
    pub(super) fn endpoints(&mut self, mut sockets: Sockets) -> Vec<Endpoint> {
        sockets.sort_by_key(|(address, ..)| *address);
        sockets.dedup_by_key(|(address, ..)| *address);
        let endpoint = |(address, workload, place, weight): Socket| {
            let uid = workload.as_ref().map(|workload| workload.uid.clone());
            let (load, uses) = self.0.entry((uid, address)).or_default();
            *uses += 1;
            Endpoint {
                address,
                load: Arc::clone(load),
                workload,
                place,
                tls: None,
                proxy_protocol: None,
                upkeep: None,
                weight,
            }
        };
        sockets.into_iter().map(endpoint).collect()
    }

    /// Counts the ports of one Service out.
    pub(super) fn release(&mut self, ports: &[Vec<Endpoint>]) {
        for endpoint in ports.iter().flatten() {
            let uid = endpoint.workload.as_ref();
            let key = (uid.map(|workload| workload.uid.clone()), endpoint.address);
            if let Some((_, uses)) = self.0.get_mut(&key) {
                *uses -= 1;
                if *uses == 0 {
                    self.0.remove(&key);
                }
            }
        }
    }
}
