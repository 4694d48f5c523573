// SPDX-License-Identifier: Apache-2.0

//! `istioctl proxy-status`: which node agent has applied what, in Istio's words.
//!
//! An istioctl of today asks by Istio's discovery service, older ones by `/debug/syncz`; both get
//! the same rows. A row is an agent; what Envoy would be sent as clusters, listeners and routes are
//! the kinds of objects that have the same effect. Knows nothing of connections.
//!
//! Invariant: an agent is called synced only if its last report is fresh and has every object.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    authorize::Account,
    nodes::{NodeView, Nodes},
    pods::Pods,
};
use crate::{
    config::ObjectStatus,
    grpc::{
        discovery::{
            Any, ClientConfig, ControlPlane, DiscoveryRequest, DiscoveryResponse, GenericXdsConfig,
            Node,
        },
        messages::Struct,
    },
    settings::ControlSettings,
};

/// What istioctl asks for.
pub(super) const TYPE: &str = "istio.io/debug/syncz";

/// How Istio calls the cluster it runs in if nobody named it.
const CLUSTER: &str = "Kubernetes";

const CLIENT_CONFIG: &str = "type.googleapis.com/envoy.service.status.v3.ClientConfig";

/// What objects would make of an Envoy: its name in `/debug/syncz`, its type, the kinds.
const PARTS: [(&str, &str, &[&str]); 3] = [
    (
        "cluster",
        "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        &["DestinationRule"],
    ),
    (
        "listener",
        "type.googleapis.com/envoy.config.listener.v3.Listener",
        &["PeerAuthentication", "Policy", "MeshPolicy"],
    ),
    (
        "route",
        "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        &["VirtualService", "HTTPRoute", "GRPCRoute"],
    ),
];

/// How an agent stands to one part; the numbers are those of `envoy.service.status.v3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Synced,
    NotSent,
    Stale,
}

impl State {
    fn number(self) -> i32 {
        match self {
            Self::Synced => 1,
            Self::NotSent => 2,
            Self::Stale => 3,
        }
    }
}

/// What rows are made of. Clones share it.
#[derive(Clone)]
pub(super) struct Syncz {
    nodes: Nodes,
    pods: Pods,
    /// Whose pods are agents.
    accounts: Arc<[Account]>,
    statuses: watch::Receiver<Arc<Vec<ObjectStatus>>>,
    /// Where and as what we run.
    namespace: Arc<str>,
    pod_name: Arc<str>,
}

/// An agent.
struct Row {
    proxy: String,
    namespace: String,
    version: String,
    /// By part: what there is, how far the agent is, and what that means.
    parts: [(u64, u64, State); PARTS.len()],
}

impl Syncz {
    /// Pods of `accounts` are the agents.
    pub(super) fn new(
        nodes: &Nodes,
        pods: &Pods,
        accounts: &[Account],
        statuses: watch::Receiver<Arc<Vec<ObjectStatus>>>,
        settings: &ControlSettings,
    ) -> Self {
        Self {
            nodes: nodes.clone(),
            pods: pods.clone(),
            accounts: accounts.into(),
            statuses,
            namespace: settings.namespace.as_str().into(),
            pod_name: settings.pod_name.as_str().into(),
        }
    }

    /// Whose accounts istioctl may use to ask.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// `/debug/syncz`.
    pub(super) fn json(&self) -> Value {
        self.rows().iter().map(Row::json).collect()
    }

    /// The answer to istioctl's request.
    pub(super) fn answer(&self, request: DiscoveryRequest) -> DiscoveryResponse {
        let identifier = json!({
            "Component": "mesh-agent-control",
            "ID": &*self.pod_name,
            "Info": { "version": env!("CARGO_PKG_VERSION") },
        });
        let rows = self.rows();
        DiscoveryResponse {
            resources: rows.iter().map(Row::resource).collect(),
            type_url: request.type_url,
            control_plane: Some(ControlPlane {
                identifier: identifier.to_string(),
            }),
        }
    }

    /// Reports come to the leader: other replicas know of no agent.
    fn rows(&self) -> Vec<Row> {
        let latest = latest(&self.statuses.borrow());
        let agents = self.pods.agents(&self.accounts);
        let nodes = self.nodes.list().into_iter();
        nodes
            .filter(|node| node.age.is_some())
            .map(|node| row(&node, agents.get(&node.name), &latest))
            .collect()
    }
}

/// The newest version of each kind.
fn latest(statuses: &[ObjectStatus]) -> BTreeMap<&'static str, u64> {
    let mut latest = BTreeMap::new();
    for status in statuses {
        let kind = status.key.kind.as_str();
        if let Ok(version) = status.revision.resource_version.parse::<u64>() {
            let newest = latest.entry(kind).or_insert(version);
            *newest = version.max(*newest);
        }
    }
    latest
}

fn row(node: &NodeView, pod: Option<&(String, String)>, latest: &BTreeMap<&str, u64>) -> Row {
    let (proxy, namespace) = match pod {
        Some((namespace, name)) => (format!("{name}.{namespace}"), namespace.clone()),
        None => (node.name.clone(), String::new()),
    };
    Row {
        proxy,
        namespace,
        version: node.report.agent_version.clone(),
        parts: PARTS.map(|(_, _, kinds)| part(node, kinds, latest)),
    }
}

fn part(node: &NodeView, kinds: &[&str], latest: &BTreeMap<&str, u64>) -> (u64, u64, State) {
    let frontier = |kind: &str| node.report.frontier.get(kind).copied().unwrap_or(0);
    let there = kinds
        .iter()
        .filter_map(|kind| Some((*kind, *latest.get(kind)?)));
    let sent = there.clone().map(|(_, version)| version).max();
    let Some(sent) = sent else {
        return (0, 0, State::NotSent);
    };
    let behind = there.filter(|(kind, version)| frontier(kind) < *version);
    match behind.map(|(kind, _)| frontier(kind)).min() {
        None if node.is_fresh() => (sent, sent, State::Synced),
        None => (sent, 0, State::Stale),
        Some(acked) => (sent, acked, State::Stale),
    }
}

impl Row {
    fn json(&self) -> Value {
        let mut row = json!({
            "proxy": self.proxy,
            "cluster_id": CLUSTER,
            "proxy_version": self.version,
            "istio_version": self.version,
        });
        // What was never sent or applied is an empty text there.
        let text = |version: u64| match version {
            0 => String::new(),
            _ => version.to_string(),
        };
        for ((name, ..), (sent, acked, _)) in PARTS.iter().zip(self.parts) {
            row[format!("{name}_sent")] = text(sent).into();
            row[format!("{name}_acked")] = text(acked).into();
        }
        row
    }

    fn resource(&self) -> Any {
        let metadata = [
            ("NAMESPACE", self.namespace.as_str()),
            ("ISTIO_VERSION", &self.version),
            ("CLUSTER_ID", CLUSTER),
        ];
        let fields: HashMap<String, _> = metadata
            .into_iter()
            .map(|(name, text)| (name.to_owned(), text.into()))
            .collect();
        let parts = PARTS.iter().zip(self.parts);
        let configs = parts.map(|((_, type_url, _), (_, _, state))| GenericXdsConfig {
            type_url: (*type_url).to_owned(),
            config_status: state.number(),
        });
        let config = ClientConfig {
            node: Some(Node {
                id: self.proxy.clone(),
                metadata: Some(Struct { fields }),
            }),
            generic_xds_configs: configs.collect(),
        };
        Any::pack(CLIENT_CONFIG, &config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::messages::ReportRequest;

    fn node(age: u64, frontier: &[(&str, u64)]) -> NodeView {
        NodeView {
            name: "n1".to_owned(),
            age: Some(age),
            report: ReportRequest {
                agent_version: "1.2.3".to_owned(),
                frontier: frontier
                    .iter()
                    .map(|(kind, version)| ((*kind).to_owned(), *version))
                    .collect(),
                ..ReportRequest::default()
            },
        }
    }

    #[track_caller]
    fn check(age: u64, frontier: &[(&str, u64)], want: (u64, u64, State)) {
        let latest = BTreeMap::from([("VirtualService", 7), ("HTTPRoute", 9)]);
        let kinds = ["VirtualService", "HTTPRoute", "GRPCRoute"];
        assert_eq!(part(&node(age, frontier), &kinds, &latest), want);
    }

    #[test]
    fn an_agent_is_synced_when_it_has_every_object() {
        let all = [("VirtualService", 7), ("HTTPRoute", 12)];
        check(1, &all, (9, 9, State::Synced));
        check(10_000, &all, (9, 0, State::Stale));
        let some = [("VirtualService", 7), ("HTTPRoute", 8)];
        check(1, &some, (9, 8, State::Stale));
        check(1, &[], (9, 0, State::Stale));
        let nothing = part(&node(1, &[]), &["DestinationRule"], &BTreeMap::new());
        assert_eq!(nothing, (0, 0, State::NotSent));
    }

    #[test]
    fn a_row_is_what_istioctl_reads() {
        let latest = BTreeMap::from([("HTTPRoute", 9), ("DestinationRule", 5)]);
        let pod = ("mesh-system".to_owned(), "mesh-agent-x".to_owned());
        let node = node(1, &[("HTTPRoute", 9), ("DestinationRule", 4)]);
        let row = row(&node, Some(&pod), &latest);
        assert_eq!(
            row.json(),
            json!({
                "proxy": "mesh-agent-x.mesh-system",
                "cluster_id": "Kubernetes",
                "proxy_version": "1.2.3",
                "istio_version": "1.2.3",
                "cluster_sent": "5",
                "cluster_acked": "4",
                "listener_sent": "",
                "listener_acked": "",
                "route_sent": "9",
                "route_acked": "9",
            })
        );
        let resource: ClientConfig = row.resource().unpack().unwrap();
        let states: Vec<i32> = resource
            .generic_xds_configs
            .iter()
            .map(|config| config.config_status)
            .collect();
        assert_eq!(states, [3, 2, 1]);
        assert_eq!(resource.node.unwrap().id, "mesh-agent-x.mesh-system");
    }
}
