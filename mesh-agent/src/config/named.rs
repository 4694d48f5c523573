// SPDX-License-Identifier: Apache-2.0

//! Hosts that no address of their own tells, by port.
//!
//! Knows nothing of how they are told apart. Invariant: after [`Named::settle`] what is published is as
//! if all had been added anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::service::{PortFacts, ServiceFacts};
use crate::model::{
    NamedPort, NamedPorts, Protocol, Service, ServicePort, SharedMap, Told, upstream::Balancer,
};

/// A host's ports that are told by names.
pub(super) type Ports = Vec<(u16, Arc<NamedPort>)>;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Named {
    by_port: BTreeMap<u16, BTreeMap<Arc<str>, Arc<NamedPort>>>,
    changed: BTreeSet<u16>,
    pub(super) published: SharedMap<u16, Arc<NamedPorts>>,
}

impl Named {
    pub(super) fn add(&mut self, host: &Arc<str>, ports: &Ports) {
        for (number, port) in ports {
            let hosts = self.by_port.entry(*number).or_default();
            hosts.insert(Arc::clone(host), Arc::clone(port));
            self.changed.insert(*number);
        }
    }

    pub(super) fn remove(&mut self, host: &Arc<str>, ports: &Ports) {
        for (number, _) in ports {
            if let Some(hosts) = self.by_port.get_mut(number) {
                hosts.remove(host);
                if hosts.is_empty() {
                    self.by_port.remove(number);
                }
            }
            self.changed.insert(*number);
        }
    }

    /// Publishes what changed.
    pub(super) fn settle(&mut self) {
        for number in std::mem::take(&mut self.changed) {
            match self.by_port.get(&number) {
                Some(hosts) => {
                    let ports = NamedPorts::new(hosts.values().map(Arc::clone));
                    self.published.insert(number, Arc::new(ports));
                }
                None => drop(self.published.remove(&number)),
            }
        }
    }
}

/// The ports of `service` that are told by names; `v4` and `v6` are all of its ports.
pub(super) fn ports(
    facts: &ServiceFacts,
    service: &Arc<Service>,
    v4: &[Arc<ServicePort>],
    v6: &[Arc<ServicePort>],
) -> Ports {
    let Some(reach) = &facts.reach else {
        return Ports::new();
    };
    let told = |port: &PortFacts| match port.protocol {
        _ if !reach.ranges.is_empty() => Some(Told::Ranges(reach.ranges.clone())),
        _ if !facts.vips.is_empty() => None,
        Protocol::Tls => Some(Told::ServerName),
        Protocol::Tcp => Some(Told::Port),
        Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Sniff => Some(Told::Host),
    };
    let mut ports = Ports::new();
    for port in &facts.ports {
        let of = |all: &[Arc<ServicePort>]| {
            let found = all.iter().find(|one| one.number == port.number);
            found.map(Arc::clone)
        };
        let (Some(told), Some(v4), Some(v6)) = (told(port), of(v4), of(v6)) else {
            continue;
        };
        let is_usable = |port: &Arc<ServicePort>| {
            let upstream = port.cluster.upstream.as_ref();
            let original = upstream.is_some_and(|one| one.policy.balancer == Balancer::Original);
            original || !port.cluster.endpoints.is_empty()
        };
        // Whoever is reached by one family only is so for clients of the other one, too.
        let named = NamedPort {
            service: Arc::clone(service),
            v4: Arc::clone(if is_usable(&v4) { &v4 } else { &v6 }),
            v6: Arc::clone(if is_usable(&v6) { &v6 } else { &v4 }),
            told,
        };
        ports.push((port.number, Arc::new(named)));
    }
    ports
}
