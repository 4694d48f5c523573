// SPDX-License-Identifier: Apache-2.0

//! What matters of a Pod.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{Container, Pod, PodStatus, Probe},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};

use super::{
    enrol::Choice,
    facts::{Findings, Meta},
    intern::Interner,
    problem::{Severity, code},
    resolve,
};
use crate::model::{Labels, WorkloadUid};

/// Where named network namespaces are.
const NETNS_DIR: &str = "/run/netns";

/// The annotation that names a pod's network namespace.
const NETNS: &str = "mesh-agent.io/netns";

/// The annotation of a pod or its namespace that says how long connections older than the pod's
/// capture may live on. A label does, too.
pub(super) const CLOSE_EXISTING_AFTER: &str = "mesh-agent.io/close-existing-after";

/// What matters of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodFacts {
    pub(super) meta: Meta,
    pub(super) uid: WorkloadUid,
    pub(super) service_account: Arc<str>,
    /// Empty while it is not scheduled.
    pub(super) node: Arc<str>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) labels: Labels,
    pub(super) owner: Arc<str>,
    pub(super) choice: Choice,
    pub(super) netns: Option<PathBuf>,
    pub(super) host_network: bool,
    /// It has ended, well or badly.
    pub(super) over: bool,
    pub(super) ready: bool,
    pub(super) probe_ports: Vec<u16>,
    pub(super) close_existing_after: Option<Duration>,
    /// Container ports that have a name.
    pub(super) named_ports: Vec<(String, u16)>,
}

impl PodFacts {
    pub(super) fn new(pod: &Pod, findings: &mut Findings) -> Self {
        let meta = Meta::new(&pod.metadata);
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let containers: Vec<&Container> = spec
            .into_iter()
            .flat_map(|spec| {
                spec.init_containers
                    .iter()
                    .flatten()
                    .chain(&spec.containers)
            })
            .collect();
        let addresses = addresses(status, findings);
        Self {
            uid: uid(&pod.metadata, &meta, &addresses),
            service_account: spec
                .and_then(|spec| spec.service_account_name.as_deref())
                .filter(|name| !name.is_empty())
                .unwrap_or("default")
                .into(),
            node: spec
                .and_then(|spec| spec.node_name.as_deref())
                .unwrap_or_default()
                .into(),
            labels: Arc::new(pod.metadata.labels.clone().unwrap_or_default()),
            owner: owner(&pod.metadata, &meta),
            choice: Choice::read(
                pod.metadata.labels.as_ref(),
                pod.metadata.annotations.as_ref(),
            ),
            netns: netns(&pod.metadata),
            host_network: spec.and_then(|spec| spec.host_network).unwrap_or_default(),
            over: status
                .and_then(|status| status.phase.as_deref())
                .is_some_and(|phase| matches!(phase, "Succeeded" | "Failed")),
            ready: pod.metadata.deletion_timestamp.is_none() && ready(status),
            probe_ports: probe_ports(&containers, findings),
            close_existing_after: close_existing_after(&pod.metadata, findings),
            named_ports: named_ports(&containers),
            addresses,
            meta,
        }
    }

    /// Shares what other pods have too.
    pub(super) fn intern(&mut self, interner: &mut Interner) {
        interner.text(&mut self.meta.namespace);
        interner.text(&mut self.service_account);
        interner.text(&mut self.node);
        interner.text(&mut self.owner);
        interner.labels(&mut self.labels);
        self.addresses.shrink_to_fit();
        self.named_ports.shrink_to_fit();
    }

    /// The number of the container port called `name`.
    pub(super) fn port(&self, name: &str) -> Option<u16> {
        let is_it = |(known, _): &&(String, u16)| known == name;
        self.named_ports
            .iter()
            .find(is_it)
            .map(|(_, number)| *number)
    }
}

fn addresses(status: Option<&PodStatus>, findings: &mut Findings) -> Vec<IpAddr> {
    let Some(status) = status else {
        return Vec::new();
    };
    let listed = status
        .pod_ips
        .iter()
        .flatten()
        .map(|entry| entry.ip.as_str());
    let mut addresses = Vec::new();
    for text in listed.chain(status.pod_ip.as_deref()) {
        match text.parse::<IpAddr>() {
            Ok(address) if !addresses.contains(&address) => addresses.push(address),
            Ok(_) => {}
            Err(_) if text.is_empty() => {}
            Err(_) => findings.reject(
                "status.podIPs",
                format!("{text:?} is not an IP address"),
                "correct it",
            ),
        }
    }
    addresses
}

/// The pod's UID; for a manifest without one, a text that is the same whenever namespace, name and
/// address are.
fn uid(metadata: &ObjectMeta, meta: &Meta, addresses: &[IpAddr]) -> WorkloadUid {
    match metadata.uid.as_deref() {
        Some(uid) if !uid.is_empty() => WorkloadUid(uid.into()),
        _ => {
            let address = addresses
                .first()
                .map(ToString::to_string)
                .unwrap_or_default();
            let text = format!("{}/{}/{address}", meta.namespace, meta.name);
            let (high, low) = (fnv(&text, 0), fnv(&text, 1));
            WorkloadUid(
                format!(
                    "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
                    high >> 32,
                    high >> 16 & 0xffff,
                    high & 0xffff,
                    low >> 48,
                    low & 0xffff_ffff_ffff
                )
                .into(),
            )
        }
    }
}

/// FNV-1a, seeded: stable over versions of the toolchain, unlike the standard library's hasher.
fn fnv(text: &str, seed: u8) -> u64 {
    std::iter::once(seed)
        .chain(text.bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

/// The Deployment behind a ReplicaSet, else the direct owner, else the pod itself.
fn owner(metadata: &ObjectMeta, meta: &Meta) -> Arc<str> {
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    let controller = owners.iter().find(|owner| owner.controller == Some(true));
    match controller.or(owners.first()) {
        Some(owner) if owner.kind == "ReplicaSet" => {
            let hash = metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get("pod-template-hash"));
            hash.and_then(|hash| owner.name.strip_suffix(hash.as_str()))
                .and_then(|name| name.strip_suffix('-'))
                .unwrap_or(&owner.name)
                .into()
        }
        Some(owner) => owner.name.as_str().into(),
        None => Arc::clone(&meta.name),
    }
}

fn netns(metadata: &ObjectMeta) -> Option<PathBuf> {
    let name = metadata.annotations.as_ref()?.get(NETNS)?;
    (!name.is_empty()).then(|| Path::new(NETNS_DIR).join(name))
}

/// What a pod or a namespace says about older connections.
pub(super) fn close_existing_after(
    metadata: &ObjectMeta,
    findings: &mut Findings,
) -> Option<Duration> {
    let texts = [
        ("annotations", &metadata.annotations),
        ("labels", &metadata.labels),
    ];
    let (field, text) = texts.into_iter().find_map(|(field, texts)| {
        let text = texts.as_ref()?.get(CLOSE_EXISTING_AFTER)?;
        Some((field, text))
    })?;
    let limit = resolve::duration(text);
    if limit.is_none() {
        findings.add(
            Severity::Error,
            code::SCHEMA,
            format!("metadata.{field}[{CLOSE_EXISTING_AFTER}]"),
            format!("{text:?} is not a duration: older connections are kept as for other pods"),
            "write a duration such as 10m or 1h30m",
        );
    }
    limit
}

/// The condition `Ready`; a manifest without conditions counts as ready.
fn ready(status: Option<&PodStatus>) -> bool {
    let conditions = status
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    conditions.is_empty()
        || conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn named_ports(containers: &[&Container]) -> Vec<(String, u16)> {
    let ports = containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten());
    ports
        .filter(|port| {
            port.protocol
                .as_deref()
                .is_none_or(|protocol| protocol == "TCP")
        })
        .filter_map(|port| Some((port.name.clone()?, u16::try_from(port.container_port).ok()?)))
        .collect()
}

fn probe_ports(containers: &[&Container], findings: &mut Findings) -> Vec<u16> {
    let mut ports = BTreeSet::new();
    for container in containers {
        for (field, probe) in [
            ("livenessProbe", &container.liveness_probe),
            ("readinessProbe", &container.readiness_probe),
            ("startupProbe", &container.startup_probe),
        ] {
            let Some(port) = probe.as_ref().and_then(probe_port) else {
                continue;
            };
            match number(&port, container) {
                Some(number) => {
                    ports.insert(number);
                }
                None => findings.add(
                    Severity::Error,
                    code::REFERENCE,
                    format!("spec.containers[{}].{field}", container.name),
                    format!("the container has no TCP port {port:?}: the probe is judged like any other peer"),
                    "name a port of the container",
                ),
            }
        }
    }
    ports.into_iter().collect()
}

/// The port of a probe that connects to the pod, if it is one.
fn probe_port(probe: &Probe) -> Option<IntOrString> {
    let elsewhere = |host: &Option<String>| host.as_ref().is_some_and(|host| !host.is_empty());
    if let Some(http) = probe
        .http_get
        .as_ref()
        .filter(|http| !elsewhere(&http.host))
    {
        return Some(http.port.clone());
    }
    if let Some(tcp) = probe
        .tcp_socket
        .as_ref()
        .filter(|tcp| !elsewhere(&tcp.host))
    {
        return Some(tcp.port.clone());
    }
    probe.grpc.as_ref().map(|grpc| IntOrString::Int(grpc.port))
}

fn number(port: &IntOrString, container: &Container) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let named = named_ports(&[container]);
            let found = named.iter().find(|(known, _)| known == name);
            found
                .map(|(_, number)| *number)
                .or_else(|| name.parse().ok())
        }
    }
}
