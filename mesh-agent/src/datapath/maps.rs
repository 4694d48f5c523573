// SPDX-License-Identifier: Apache-2.0

//! The maps, typed, and kept equal to what is wanted by differences.
//!
//! Owns the translation from model values to map entries. Knows nothing of hooks.
//!
//! Invariant: the agent is the only writer of a [`Mirror`]'s map, so after reading it once it need
//! not be read again.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    net::{IpAddr, SocketAddr},
};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap as KernelHashMap, MapData, MapError, PerCpuArray, RingBuf, SockMap},
};
use mesh_common::{
    Address, AddressKind, Counter, Endpoint, FlowRecord, InboundMode, NodeConfig, PodConfig, Tuple,
    names,
};

use super::{
    load::{LoadError, take_map},
    mesh::MeshEntries,
};
use crate::model::{InboundPolicy, MtlsMode, Snapshot, Workload, WorkloadUid};

/// The node's maps.
pub(super) struct NodeMaps {
    pub(super) mesh: Mirror<Endpoint>,
    pub(super) probes: Mirror<Endpoint>,
    pub(super) expect: KernelHashMap<MapData, Tuple, u32>,
    pub(super) flows: RingBuf<MapData>,
    counters: PerCpuArray<MapData, u64>,
    wanted: MeshEntries,
    /// `mesh` is as the last snapshot wanted it.
    is_followed: bool,
}

/// The node's maps that are the gate's.
pub(super) struct GateMaps {
    pub(super) held: KernelHashMap<MapData, u64, u64>,
    pub(super) decided: KernelHashMap<MapData, u64, u32>,
    pub(super) node: Array<MapData, NodeConfig>,
}

/// A pod's maps.
pub(super) struct PodMaps {
    pub(super) listeners: SockMap<MapData>,
    pub(super) port_modes: Mirror<u32>,
    pub(super) addresses: Mirror<Address>,
    config: Array<MapData, PodConfig>,
    counters: PerCpuArray<MapData, u64>,
}

/// A hash map in the kernel with a copy of what is in it.
pub(super) struct Mirror<K: Pod> {
    name: &'static str,
    kernel: KernelHashMap<MapData, K, u32>,
    entries: HashMap<K, u32>,
}

impl NodeMaps {
    /// Takes them out of the node's instance, with what earlier agents left in them.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        Ok(Self {
            mesh: Mirror::take(ebpf, names::MESH)?,
            probes: Mirror::take(ebpf, names::PROBES)?,
            expect: take_map(ebpf, names::EXPECT)?,
            flows: take_map(ebpf, names::FLOWS)?,
            counters: take_map(ebpf, names::COUNTERS)?,
            wanted: MeshEntries::default(),
            is_followed: false,
        })
    }

    /// Captures what `snapshot` says. What the kernel refuses is logged, and tried again with the
    /// next snapshot.
    pub(super) fn follow(&mut self, snapshot: &Snapshot) {
        let (touched, wanted) = (self.wanted.follow(snapshot), &self.wanted);
        let done = match self.is_followed {
            true => self.mesh.update(&touched, |key| wanted.wanted(key)),
            false => self.mesh.set(&wanted.all()),
        };
        self.is_followed = done.is_ok();
    }

    pub(super) fn counters(&self) -> BTreeMap<&'static str, u64> {
        read_counters(&self.counters)
    }

    /// The tuples that are expected at this moment.
    pub(super) fn expected(&self) -> Vec<Tuple> {
        self.expect.keys().filter_map(Result::ok).collect()
    }

    /// Reads the records of closed flows that have come in.
    pub(super) fn read_flows(&mut self, mut each: impl FnMut(FlowRecord)) {
        while let Some(item) = self.flows.next() {
            if let Some(record) = read_record(&item) {
                each(record);
            }
        }
    }
}

impl GateMaps {
    /// Takes them out of the node's instance.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        Ok(Self {
            held: take_map(ebpf, names::HELD)?,
            decided: take_map(ebpf, names::DECIDED)?,
            node: take_map(ebpf, names::NODE)?,
        })
    }
}

impl PodMaps {
    /// Takes them out of a pod's instance.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        Ok(Self {
            listeners: take_map(ebpf, names::LISTENERS)?,
            port_modes: Mirror::take(ebpf, names::PORT_MODES)?,
            addresses: Mirror::take(ebpf, names::ADDRESSES)?,
            config: take_map(ebpf, names::POD)?,
            counters: take_map(ebpf, names::POD_COUNTERS)?,
        })
    }

    pub(super) fn config(&self) -> Result<PodConfig, MapError> {
        self.config.get(&0, 0)
    }

    pub(super) fn set_config(&mut self, config: PodConfig) -> Result<(), MapError> {
        self.config.set(0, &config, 0)
    }

    pub(super) fn counters(&self) -> BTreeMap<&'static str, u64> {
        read_counters(&self.counters)
    }
}

impl<K: Pod + Eq + Hash> Mirror<K> {
    fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, LoadError> {
        let kernel: KernelHashMap<MapData, K, u32> = take_map(ebpf, name)?;
        let entries = kernel
            .iter()
            .collect::<Result<_, _>>()
            .map_err(|source| LoadError::Map { name, source })?;
        Ok(Self {
            name,
            kernel,
            entries,
        })
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Makes the map equal to `wanted`, removing before adding. What the kernel refuses is logged
    /// and tried again at the next call.
    pub(super) fn set(&mut self, wanted: &HashMap<K, u32>) -> Result<(), MapError> {
        let mut failure = Ok(());
        let gone: Vec<K> = self
            .entries
            .keys()
            .filter(|key| !wanted.contains_key(key))
            .copied()
            .collect();
        for key in gone {
            if let Err(error) = self.remove(&key) {
                failure = Err(error);
            }
        }
        for (key, value) in wanted {
            if let Err(error) = self.insert(*key, *value) {
                failure = Err(error);
            }
        }
        self.complain(&failure);
        failure
    }

    /// Gives some keys the value that is wanted of each, if there is one, removing before adding. What
    /// the kernel refuses is logged; [`Mirror::set`] tries it again.
    pub(super) fn update(
        &mut self,
        keys: &[K],
        wanted: impl Fn(&K) -> Option<u32>,
    ) -> Result<(), MapError> {
        let mut failure = Ok(());
        for key in keys.iter().filter(|key| wanted(key).is_none()) {
            if let Err(error) = self.remove(key) {
                failure = Err(error);
            }
        }
        for key in keys {
            if let Some(Err(error)) = wanted(key).map(|value| self.insert(*key, value)) {
                failure = Err(error);
            }
        }
        self.complain(&failure);
        failure
    }

    fn remove(&mut self, key: &K) -> Result<(), MapError> {
        if !self.entries.contains_key(key) {
            return Ok(());
        }
        match self.kernel.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => drop(self.entries.remove(key)),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn insert(&mut self, key: K, value: u32) -> Result<(), MapError> {
        if self.entries.get(&key) != Some(&value) {
            self.kernel.insert(&key, &value, 0)?;
            self.entries.insert(key, value);
        }
        Ok(())
    }

    /// Adds keys, with 1 as their value, until the next [`Mirror::set`].
    pub(super) fn add(&mut self, keys: Vec<K>) -> Result<(), MapError> {
        let mut added = Ok(());
        for key in keys {
            match self.kernel.insert(&key, &1, 0) {
                Ok(()) => drop(self.entries.insert(key, 1)),
                Err(error) => added = Err(error),
            }
        }
        self.complain(&added);
        added
    }

    fn complain(&self, result: &Result<(), MapError>) {
        if let Err(error) = result {
            let error: &dyn std::error::Error = error;
            tracing::error!(
                map = self.name,
                error,
                "a map does not match the configuration"
            );
        }
    }
}

/// What probes use, on this node's enrolled workloads, at their addresses or, where those are not
/// known yet, at those that were `found` on their interfaces.
pub(super) fn probe_entries(
    snapshot: &Snapshot,
    found: &HashMap<&WorkloadUid, &[IpAddr]>,
) -> HashMap<Endpoint, u32> {
    snapshot
        .local_enrolled()
        .flat_map(|workload| {
            let found = found.get(&workload.uid).copied().unwrap_or_default();
            probe_endpoints(workload, found)
        })
        .map(|endpoint| (endpoint, 1))
        .collect()
}

/// What probes of one workload use; see [`probe_entries`].
pub(super) fn probe_endpoints(workload: &Workload, found: &[IpAddr]) -> Vec<Endpoint> {
    let addresses = match workload.addresses.as_slice() {
        [] => found,
        known => known,
    };
    let of = |address: &IpAddr| {
        let ports = workload.probe_ports.iter();
        ports
            .map(|port| Endpoint::new(*address, *port))
            .collect::<Vec<_>>()
    };
    addresses.iter().flat_map(of).collect()
}

/// The modes of ports that have one of their own.
pub(super) fn port_mode_entries(policy: &InboundPolicy) -> HashMap<u32, u32> {
    policy
        .ports
        .iter()
        .map(|(port, mode)| (u32::from(*port), u32::from(inbound_mode(*mode).0)))
        .collect()
}

/// A mode, as the programs know it.
pub(super) fn inbound_mode(mode: MtlsMode) -> InboundMode {
    match mode {
        MtlsMode::Permissive => InboundMode::PERMISSIVE,
        MtlsMode::Strict => InboundMode::STRICT,
    }
}

/// The local end of a tuple.
pub(super) fn source_of(tuple: &Tuple) -> SocketAddr {
    let port = u16::try_from(tuple.source.port).unwrap_or_default();
    SocketAddr::new(IpAddr::from(tuple.source.address), port)
}

/// Whose the local addresses of a namespace are.
pub(super) fn address_entries(pod: &[IpAddr], others: &[IpAddr]) -> HashMap<Address, u32> {
    let others = others.iter().map(|address| (address, AddressKind::OTHER));
    let pod = pod.iter().map(|address| (address, AddressKind::POD));
    others
        .chain(pod)
        .map(|(address, kind)| (Address::from(*address), u32::from(kind.0)))
        .collect()
}

fn read_counters(map: &PerCpuArray<MapData, u64>) -> BTreeMap<&'static str, u64> {
    Counter::ALL
        .iter()
        .filter_map(|counter| {
            let values = map.get(&counter.index(), 0).ok()?;
            Some((counter.name(), values.iter().sum()))
        })
        .collect()
}

/// A record from the ring, whose items are plain bytes.
pub(super) fn read_record(bytes: &[u8]) -> Option<FlowRecord> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let endpoint = |at: usize| {
        Some(Endpoint {
            address: Address {
                words_be: [word(at)?, word(at + 4)?, word(at + 8)?, word(at + 12)?],
            },
            port: word(at + 16)?,
        })
    };
    Some(FlowRecord {
        tuple: Tuple {
            source: endpoint(0)?,
            destination: endpoint(20)?,
        },
        srtt_us: word(40)?,
        total_retrans: word(44)?,
        bytes_acked: long(48)?,
        bytes_received: long(56)?,
        kind: *bytes.get(64)?,
        reserved: [0; 7],
    })
}

/// Where [`read_record`] finds each field, so that a change of the layout fails to compile.
const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(FlowRecord, srtt_us) == 40);
    assert!(offset_of!(FlowRecord, total_retrans) == 44);
    assert!(offset_of!(FlowRecord, bytes_acked) == 48);
    assert!(offset_of!(FlowRecord, bytes_received) == 56);
    assert!(offset_of!(FlowRecord, kind) == 64);
};
