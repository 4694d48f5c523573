// SPDX-License-Identifier: Apache-2.0

//! What matters of a WorkloadEntry, which is also what matters of an endpoint of a ServiceEntry.
//!
//! Knows nothing of who selects it. Invariant: an endpoint that asks for the mesh's own TLS is marked
//! as such, because only an enrolled pod can be talked to in that way: nothing of it is sent in plaintext.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    endpoints::Socket,
    facts::{Findings, Meta},
    gaps,
    istio::WorkloadEntrySpec,
    object::{Present, Resource},
};
use crate::model::{self, InboundPolicy, SpiffeId, Workload, WorkloadUid};

/// Labels that say that what is at the address expects the mesh's TLS.
const MESH_TLS: [(&str, &str); 2] = [
    ("security.istio.io/tlsMode", "istio"),
    ("networking.istio.io/tunnel", "http"),
];

/// What matters of a WorkloadEntry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WorkloadEntryFacts {
    pub(super) meta: Meta,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) endpoint: EntryEndpoint,
}

/// One place that traffic can go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EntryEndpoint {
    pub(super) place: Place,
    /// By the name of the ServiceEntry's port.
    ports: BTreeMap<String, u16>,
    /// Who is there, if something is known of him.
    workload: Option<Arc<Workload>>,
    /// Where that is, if it is written.
    locality: Option<Arc<model::Place>>,
    wants_mesh_tls: bool,
    /// How many parts of the traffic it gets.
    weight: u32,
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Address(IpAddr),
    /// A host name, to be resolved.
    Name(Arc<str>),
}

/// An endpoint's address and port, who is there, and where that is, as far as an entry says it; and its
/// weight.
pub(super) type EntrySocket = Socket;

impl WorkloadEntryFacts {
    pub(super) fn new(
        object: &Resource<WorkloadEntrySpec>,
        trust_domain: &str,
        findings: &mut Findings,
    ) -> Self {
        let meta = Meta::new(&object.metadata);
        // Those of the object itself count, too.
        let mut spec = object.spec.clone();
        for (key, value) in object.metadata.labels.iter().flatten() {
            let label = spec.labels.entry(key.clone());
            label.or_insert_with(|| value.clone());
        }
        let name = (&*meta.namespace, &*meta.name);
        let endpoint = EntryEndpoint::new(&spec, name, trust_domain, "spec", findings);
        Self {
            endpoint,
            labels: spec.labels,
            meta,
        }
    }
}

impl EntryEndpoint {
    /// Reads what stands at `path` of an object in `namespace`.
    pub(super) fn new(
        spec: &WorkloadEntrySpec,
        (namespace, name): (&str, &str),
        trust_domain: &str,
        path: &str,
        findings: &mut Findings,
    ) -> Self {
        let place = match spec.address.parse::<IpAddr>() {
            Ok(address) => Place::Address(address),
            Err(_) => Place::Name(spec.address.to_ascii_lowercase().into()),
        };
        if spec.address.is_empty() || spec.address.starts_with("unix:") {
            let text = format!(
                "{:?} is neither an IP address nor a host name",
                spec.address
            );
            findings.reject(format!("{path}.address"), text, "write one of them");
        }
        let ignored = [(gaps::ENTRY_NETWORK, Present(!spec.network.is_empty()))];
        findings.gaps(path, &ignored);
        let labelled = |(key, value): &(&str, &str)| {
            let found = spec.labels.get(*key);
            found.is_some_and(|found| found == value)
        };
        let wants_mesh_tls = MESH_TLS.iter().any(labelled);
        if wants_mesh_tls {
            findings.gap(&format!("{path}.labels"), &gaps::ENTRY_MESH_TLS);
        }
        Self {
            workload: workload(spec, &place, (namespace, name), trust_domain),
            place,
            locality: locality(&spec.locality),
            ports: spec.ports.clone(),
            wants_mesh_tls,
            // As in Istio, 0 is what is not written.
            weight: spec.weight.unwrap_or_default().max(1),
        }
    }

    /// The endpoint at `address` for the port called `port`, which is `number` unless it says
    /// otherwise; `pod` is who has the address. `None` if it must not be used.
    pub(super) fn at(
        &self,
        address: IpAddr,
        (port, number): (&str, u16),
        pod: Option<&Arc<Workload>>,
    ) -> Option<EntrySocket> {
        if self.wants_mesh_tls && !pod.is_some_and(|pod| pod.enrolled) {
            return None;
        }
        let number = self.ports.get(port).copied().unwrap_or(number);
        let workload = pod.or(self.workload.as_ref()).map(Arc::clone);
        let locality = self.locality.as_ref().map(Arc::clone);
        let address = SocketAddr::new(address, number);
        Some((address, workload, locality, self.weight))
    }
}

/// Where `region/zone/subzone` is, of which the end may be left out.
fn locality(text: &str) -> Option<Arc<model::Place>> {
    if text.is_empty() {
        return None;
    }
    let mut parts = text.splitn(3, '/').map(Arc::<str>::from);
    let mut next = || parts.next().unwrap_or_default();
    Some(Arc::new(model::Place {
        region: next(),
        zone: next(),
        subzone: next(),
        ..model::Place::default()
    }))
}

/// A workload that is no pod of the cluster; `None` if nothing is said of it but where it is.
fn workload(
    spec: &WorkloadEntrySpec,
    place: &Place,
    (namespace, name): (&str, &str),
    trust_domain: &str,
) -> Option<Arc<Workload>> {
    if spec.labels.is_empty() && spec.service_account.is_empty() {
        return None;
    }
    let label = |keys: &[&str]| {
        let found = keys.iter().find_map(|key| spec.labels.get(*key));
        found.map(|value| Arc::from(value.as_str()))
    };
    let account = match spec.service_account.as_str() {
        "" => "default",
        account => account,
    };
    Some(Arc::new(Workload {
        uid: WorkloadUid::of_entry(namespace, name),
        name: name.into(),
        namespace: namespace.into(),
        identity: SpiffeId::new(trust_domain, namespace, account),
        node: Arc::from(""),
        addresses: match place {
            Place::Address(address) => vec![*address],
            Place::Name(_) => Vec::new(),
        },
        labels: Arc::new(spec.labels.clone()),
        owner: name.into(),
        canonical_service: label(&[
            "service.istio.io/canonical-name",
            "app.kubernetes.io/name",
            "app",
        ])
        .unwrap_or_else(|| name.into()),
        canonical_revision: label(&[
            "service.istio.io/canonical-revision",
            "app.kubernetes.io/version",
            "version",
        ])
        .unwrap_or_else(|| "latest".into()),
        enrolled: false,
        netns: None,
        host_network: false,
        ready: true,
        probe_ports: Vec::new(),
        close_existing_after: None,
        inbound: InboundPolicy::default(),
        scope: Arc::default(),
    }))
}
