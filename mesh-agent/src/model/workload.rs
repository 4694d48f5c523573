// SPDX-License-Identifier: Apache-2.0

//! A workload: a pod and its identity, as the mesh sees it.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use super::{policy::InboundPolicy, scope::Scope, spiffe::SpiffeId};

/// The UID of a pod: unlike its name or address, never used twice.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadUid(pub Arc<str>);

/// Begins what stands in for a UID where there is no pod.
const NO_POD: &str = "WorkloadEntry ";

impl WorkloadUid {
    /// What stands in for a UID of a workload that is no pod.
    pub fn of_entry(namespace: &str, name: &str) -> Self {
        Self(format!("{NO_POD}{namespace}/{name}").into())
    }

    /// Whether it is a pod's.
    pub fn is_pods(&self) -> bool {
        !self.0.starts_with(NO_POD)
    }
}

impl fmt::Display for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A pod's labels; pods of one owner share them.
pub type Labels = Arc<BTreeMap<String, String>>;

/// A pod and its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The pod's UID.
    pub uid: WorkloadUid,
    /// The pod's name.
    pub name: Arc<str>,
    /// The pod's namespace.
    pub namespace: Arc<str>,
    /// Whom its certificate names.
    pub identity: SpiffeId,
    /// The node it is scheduled to; empty while it is not.
    pub node: Arc<str>,
    /// Its addresses, IPv4 and IPv6; none before its status says them.
    pub addresses: Vec<IpAddr>,
    /// Its labels.
    pub labels: Labels,
    /// What owns it, for telemetry: the Deployment's, StatefulSet's or pod's name.
    pub owner: Arc<str>,
    /// `service.istio.io/canonical-name`, else `app.kubernetes.io/name`, else `app`, else the owner.
    pub canonical_service: Arc<str>,
    /// `service.istio.io/canonical-revision`, else `app.kubernetes.io/version`, else `version`, else `latest`.
    pub canonical_revision: Arc<str>,
    /// Whether its traffic is taken into the mesh (namespace label and pod opt-outs).
    pub enrolled: bool,
    /// Where its network namespace is, if its manifest says so; else it is found by the UID.
    pub netns: Option<PathBuf>,
    /// Shares the node's network, so it is never enrolled.
    pub host_network: bool,
    /// Ready to serve (pod condition `Ready`).
    pub ready: bool,
    /// TCP ports that its liveness, readiness and startup probes use.
    pub probe_ports: Vec<u16>,
    /// How long connections that it had before it was captured may live on, if it says so itself.
    pub close_existing_after: Option<Duration>,
    /// What it accepts.
    pub inbound: InboundPolicy,
    /// What its clients see. Said of enrolled pods of this node only.
    pub scope: Arc<Scope>,
}

impl Workload {
    /// The name Istio's tools use for a pod: `<name>.<namespace>`.
    pub fn dotted_name(&self) -> String {
        format!("{}.{}", self.name, self.namespace)
    }
}
