// SPDX-License-Identifier: Apache-2.0

//! What of all destinations is captured: VIPs and ports of captured Services, every port of enrolled
//! workloads, endpoints of Services that have no address, and ports of hosts that none tells.
//!
//! Follows snapshots by their differences, so that a change costs what it changes. Knows nothing of
//! the map in the kernel. Invariant: what is wanted is what the last snapshot alone says.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

use mesh_common::{Address, Endpoint, MeshEntry};

use crate::model::{
    NamedPorts, Service, ServiceName, ServiceSocket, SharedMap, Snapshot, Workload, WorkloadUid,
};

/// What is captured, as the last snapshot says.
#[derive(Default)]
pub(super) struct MeshEntries {
    asked: HashMap<Endpoint, Asked>,
    services: SharedMap<ServiceName, Arc<Service>>,
    workloads: SharedMap<WorkloadUid, Arc<Workload>>,
    named: SharedMap<u16, Arc<NamedPorts>>,
    endpoints: SharedMap<SocketAddr, ServiceSocket>,
}

/// How many Services and workloads ask for an entry.
#[derive(Default)]
struct Asked {
    address: usize,
    capture: usize,
}

impl Asked {
    fn count(&mut self, entry: MeshEntry) -> &mut usize {
        match entry {
            MeshEntry::CAPTURE => &mut self.capture,
            _ => &mut self.address,
        }
    }

    /// A port that is captured wins: the address is known by it.
    fn entry(&self) -> MeshEntry {
        match self.capture {
            0 => MeshEntry::ADDRESS,
            _ => MeshEntry::CAPTURE,
        }
    }
}

impl MeshEntries {
    /// Takes over a snapshot; the keys whose entries may be others than before.
    pub(super) fn follow(&mut self, snapshot: &Snapshot) -> Vec<Endpoint> {
        let mut touched = HashSet::new();
        let services = std::mem::replace(&mut self.services, snapshot.services.clone());
        for one in snapshot.services.differences(&services, Arc::ptr_eq) {
            let before = one.before.map(|service| of_service(service));
            let after = one.after.map(|service| of_service(service));
            self.replace(before, after, &mut touched);
        }
        let workloads = std::mem::replace(&mut self.workloads, snapshot.workloads.clone());
        for one in snapshot.workloads.differences(&workloads, Arc::ptr_eq) {
            let before = one.before.map(|workload| of_workload(workload));
            let after = one.after.map(|workload| of_workload(workload));
            self.replace(before, after, &mut touched);
        }
        let named = std::mem::replace(&mut self.named, snapshot.named.clone());
        for one in snapshot.named.differences(&named, |_, _| true) {
            let entry = || Some(vec![(anywhere(*one.key), MeshEntry::CAPTURE)]);
            let before = one.before.and_then(|_| entry());
            let after = one.after.and_then(|_| entry());
            self.replace(before, after, &mut touched);
        }
        let endpoints = std::mem::replace(&mut self.endpoints, snapshot.by_endpoint.clone());
        for one in snapshot.by_endpoint.differences(&endpoints, PartialEq::eq) {
            let before = one.before.map(|socket| of_endpoint(*one.key, socket));
            let after = one.after.map(|socket| of_endpoint(*one.key, socket));
            self.replace(before, after, &mut touched);
        }
        touched.into_iter().collect()
    }

    /// What is wanted at `key`.
    pub(super) fn wanted(&self, key: &Endpoint) -> Option<u32> {
        Some(self.asked.get(key)?.entry().0.into())
    }

    /// Everything that is wanted.
    pub(super) fn all(&self) -> HashMap<Endpoint, u32> {
        let asked = self.asked.iter();
        asked
            .map(|(key, asked)| (*key, asked.entry().0.into()))
            .collect()
    }

    fn replace(
        &mut self,
        before: Option<Vec<(Endpoint, MeshEntry)>>,
        after: Option<Vec<(Endpoint, MeshEntry)>>,
        touched: &mut HashSet<Endpoint>,
    ) {
        if before == after {
            return;
        }
        for (key, entry) in after.into_iter().flatten() {
            *self.asked.entry(key).or_default().count(entry) += 1;
            touched.insert(key);
        }
        for (key, entry) in before.into_iter().flatten() {
            if let Some(asked) = self.asked.get_mut(&key) {
                let count = asked.count(entry);
                *count = count.saturating_sub(1);
                if asked.address == 0 && asked.capture == 0 {
                    self.asked.remove(&key);
                }
            }
            touched.insert(key);
        }
    }
}

/// A port at every address.
fn anywhere(port: u16) -> Endpoint {
    Endpoint {
        address: Address::NONE,
        port: port.into(),
    }
}

fn of_service(service: &Service) -> Vec<(Endpoint, MeshEntry)> {
    let mut entries = Vec::new();
    for vip in service.vips.iter().filter(|_| service.captured) {
        entries.push((Endpoint::new(*vip, 0), MeshEntry::ADDRESS));
        for port in &service.ports {
            entries.push((Endpoint::new(*vip, port.number), MeshEntry::CAPTURE));
        }
    }
    entries
}

fn of_endpoint(address: SocketAddr, socket: &ServiceSocket) -> Vec<(Endpoint, MeshEntry)> {
    let (ip, port) = (address.ip(), address.port());
    match socket.captured {
        true => vec![
            (Endpoint::new(ip, 0), MeshEntry::ADDRESS),
            (Endpoint::new(ip, port), MeshEntry::CAPTURE),
        ],
        false => Vec::new(),
    }
}

fn of_workload(workload: &Workload) -> Vec<(Endpoint, MeshEntry)> {
    let addresses = workload.addresses.iter();
    addresses
        .filter(|_| workload.enrolled && !workload.host_network)
        .map(|address| (Endpoint::new(*address, 0), MeshEntry::CAPTURE))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{InboundPolicy, SpiffeId, Visibility};

    fn workload(name: &str, address: &str, enrolled: bool) -> Workload {
        Workload {
            uid: WorkloadUid(name.into()),
            name: name.into(),
            namespace: "default".into(),
            identity: SpiffeId::new("cluster.local", "default", name),
            node: "n1".into(),
            addresses: vec![address.parse().unwrap()],
            labels: Arc::default(),
            owner: name.into(),
            canonical_service: name.into(),
            canonical_revision: "latest".into(),
            enrolled,
            netns: None,
            host_network: false,
            ready: true,
            probe_ports: Vec::new(),
            close_existing_after: None,
            inbound: InboundPolicy::default(),
            scope: Arc::default(),
        }
    }

    fn service(name: &str, vip: &str, captured: bool) -> Service {
        Service {
            name: ServiceName::new("default", name),
            hostname: name.into(),
            vips: vec![vip.parse().unwrap()],
            ports: Vec::new(),
            captured,
            visibility: Visibility::Everyone,
        }
    }

    fn snapshot(workloads: Vec<Workload>, services: Vec<Service>) -> Snapshot {
        let services = services.into_iter().map(Arc::new);
        let workloads = workloads.into_iter().map(Arc::new);
        Snapshot {
            workloads: workloads.map(|one| (one.uid.clone(), one)).collect(),
            services: services.map(|one| (one.name.clone(), one)).collect(),
            ..Snapshot::default()
        }
    }

    #[track_caller]
    fn check(entries: &mut MeshEntries, snapshot: &Snapshot, touched: usize) {
        let before = entries.all();
        let keys = entries.follow(snapshot);
        assert_eq!(keys.len(), touched, "{keys:?}");
        let mut anew = MeshEntries::default();
        anew.follow(snapshot);
        assert_eq!(entries.all(), anew.all());
        // A map that is brought up to date by these keys alone is what is wanted.
        let mut map = before;
        for key in keys {
            match entries.wanted(&key) {
                Some(value) => drop(map.insert(key, value)),
                None => drop(map.remove(&key)),
            }
        }
        assert_eq!(map, anew.all());
    }

    #[test]
    fn only_what_changed_is_touched() {
        let mut entries = MeshEntries::default();
        let (a, b) = (
            || workload("a", "10.1.0.1", true),
            || workload("b", "10.1.0.2", true),
        );
        check(&mut entries, &snapshot(vec![a(), b()], vec![]), 2);
        check(&mut entries, &snapshot(vec![a(), b()], vec![]), 0);
        let moved = workload("b", "10.1.0.3", true);
        check(&mut entries, &snapshot(vec![a(), moved], vec![]), 2);
        let left = workload("a", "10.1.0.1", false);
        check(&mut entries, &snapshot(vec![left], vec![]), 2);
        assert_eq!(entries.all(), HashMap::new());
    }

    #[test]
    fn what_two_ask_for_stays_until_neither_does() {
        let mut entries = MeshEntries::default();
        let pod = || workload("a", "10.0.0.1", true);
        let (one, two) = (
            || service("one", "10.0.0.1", true),
            || service("two", "10.0.0.1", true),
        );
        check(&mut entries, &snapshot(vec![pod()], vec![one(), two()]), 1);
        let key = Endpoint::new("10.0.0.1".parse().unwrap(), 0);
        assert_eq!(entries.wanted(&key), Some(MeshEntry::CAPTURE.0.into()));
        check(&mut entries, &snapshot(vec![], vec![one(), two()]), 1);
        assert_eq!(entries.wanted(&key), Some(MeshEntry::ADDRESS.0.into()));
        let idle = service("one", "10.0.0.1", false);
        check(&mut entries, &snapshot(vec![], vec![idle, two()]), 1);
        assert_eq!(entries.wanted(&key), Some(MeshEntry::ADDRESS.0.into()));
        check(&mut entries, &snapshot(vec![], vec![]), 1);
        assert_eq!(entries.wanted(&key), None);
    }

    #[test]
    fn endpoints_and_ports_without_addresses_come_and_go() {
        let mut entries = MeshEntries::default();
        let socket = |captured| ServiceSocket {
            service: ServiceName::new("default", "db"),
            port: 80,
            captured,
        };
        let address: SocketAddr = "192.0.2.1:8080".parse().unwrap();
        let with = |captured, ports: &[u16]| Snapshot {
            by_endpoint: [(address, socket(captured))].into_iter().collect(),
            named: ports.iter().map(|port| (*port, Arc::default())).collect(),
            ..Snapshot::default()
        };
        check(&mut entries, &with(false, &[]), 0);
        check(&mut entries, &with(true, &[]), 2);
        check(&mut entries, &with(true, &[443]), 1);
        // Another state of the same port asks for nothing else.
        check(&mut entries, &with(true, &[443, 80]), 1);
        let key = Endpoint::new(address.ip(), address.port());
        assert_eq!(entries.wanted(&key), Some(MeshEntry::CAPTURE.0.into()));
        assert_eq!(
            entries.wanted(&anywhere(443)),
            Some(MeshEntry::CAPTURE.0.into())
        );
        check(&mut entries, &with(false, &[80]), 3);
        check(&mut entries, &Snapshot::default(), 1);
        assert_eq!(entries.all(), HashMap::new());
    }
}
