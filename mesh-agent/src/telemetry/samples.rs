// SPDX-License-Identifier: Apache-2.0

//! One flow and its records, for the tests of this folder.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::record::{ConnectionRecord, Flow, Reporter, RequestRecord};
use crate::model::{
    InboundPolicy, Service, ServiceName, SpiffeId, Visibility, Workload, WorkloadUid,
};

/// Two workloads and a Service.
pub(super) struct Sample {
    pub(super) source: Arc<Workload>,
    pub(super) destination: Arc<Workload>,
    pub(super) service: Service,
}

impl Sample {
    pub(super) fn new() -> Self {
        Self {
            source: workload("shop", "web-5d8-x2", "web", "web"),
            destination: workload(
                "default",
                "recommendations-v2-7c",
                "recommendations-v2",
                "recommendations",
            ),
            service: Service {
                name: ServiceName {
                    namespace: "default".into(),
                    name: "recommendations".into(),
                },
                hostname: "recommendations.default.svc.cluster.local".into(),
                vips: Vec::new(),
                ports: Vec::new(),
                captured: true,
                visibility: Visibility::Everyone,
            },
        }
    }

    pub(super) fn flow(&self) -> Flow<'_> {
        Flow {
            reporter: Reporter::Source,
            source: Some(&self.source),
            source_identity: Some(&self.source.identity),
            destination: Some(&self.destination),
            destination_identity: Some(&self.destination.identity),
            service: Some(&self.service),
            mutual_tls: true,
            peer: ([10, 1, 1, 3], 40312).into(),
            orig_dst: ([10, 96, 0, 7], 80).into(),
        }
    }

    pub(super) fn request(&self) -> RequestRecord<'_> {
        RequestRecord {
            flow: self.flow(),
            method: "GET",
            path: "/items?page=2",
            authority: "recommendations",
            protocol: "HTTP/1.1",
            grpc: None,
            is_grpc: false,
            status: 200,
            flags: "-",
            request_bytes: 7,
            response_bytes: 4096,
            duration: Duration::from_millis(12),
            upstream_duration: Some(Duration::from_millis(9)),
            route: "canary",
            cluster: "outbound|80|v2|recommendations.default.svc.cluster.local",
            endpoint: Some(([10, 1, 2, 4], 8080).into()),
            user_agent: "curl/8.5.0",
            request_id: Some("6f1c"),
            reason: None,
        }
    }

    pub(super) fn connection(&self) -> ConnectionRecord<'_> {
        ConnectionRecord {
            flow: self.flow(),
            bytes_sent: 4096,
            bytes_received: 7,
            duration: Duration::from_millis(12),
            flags: "-",
            error: None,
            endpoint: Some(([10, 1, 2, 4], 8080).into()),
        }
    }
}

/// A workload of service account `account`, owned by `owner`.
pub(super) fn workload(namespace: &str, name: &str, owner: &str, account: &str) -> Arc<Workload> {
    let labels = [("app", account), ("version", "v2")];
    Arc::new(Workload {
        uid: WorkloadUid(format!("uid-{name}").into()),
        name: name.into(),
        namespace: namespace.into(),
        identity: SpiffeId::new("cluster.local", namespace, account),
        node: "n1".into(),
        addresses: Vec::new(),
        labels: Arc::new(BTreeMap::from(
            labels.map(|(name, value)| (name.to_owned(), value.to_owned())),
        )),
        owner: owner.into(),
        canonical_service: account.into(),
        canonical_revision: "v2".into(),
        enrolled: true,
        netns: None,
        host_network: false,
        ready: true,
        probe_ports: Vec::new(),
        close_existing_after: None,
        inbound: InboundPolicy::default(),
        scope: Arc::default(),
    })
}
