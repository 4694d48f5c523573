// SPDX-License-Identifier: Apache-2.0

//! How an authority is read, and what is done with what nobody has.

use super::*;
use crate::model::{InboundPolicy, Scope, SpiffeId, WorkloadUid};

#[track_caller]
fn check(authority: &str, want: &str) {
    assert_eq!(host(authority), want, "{authority}");
}

#[test]
fn an_authority_is_a_host_and_perhaps_a_port() {
    check("api.example.com", "api.example.com");
    check("api.example.com:8080", "api.example.com");
    check("[2001:db8::1]:80", "[2001:db8::1]");
    check("", "");
}

fn client(policy: OutboundPolicy) -> Workload {
    Workload {
        uid: WorkloadUid("client".into()),
        name: "client".into(),
        namespace: "default".into(),
        identity: SpiffeId::new("cluster.local", "default", "client"),
        node: "node".into(),
        addresses: Vec::new(),
        labels: Arc::default(),
        owner: "client".into(),
        canonical_service: "client".into(),
        canonical_revision: "latest".into(),
        enrolled: true,
        netns: None,
        host_network: false,
        ready: true,
        probe_ports: Vec::new(),
        close_existing_after: None,
        inbound: InboundPolicy::default(),
        scope: Arc::new(Scope {
            policy,
            ..Scope::default()
        }),
    }
}

#[test]
fn what_nobody_has_goes_on_or_is_refused() {
    let to = "192.0.2.1:80".parse().expect("a socket");
    let snapshot = Snapshot::default();
    let port = snapshot.elsewhere(to, &client(OutboundPolicy::AllowAny), "api.example.com");
    assert_eq!(port.cluster.istio_name(), "PassthroughCluster");
    let found = port.cluster.original(to, || None);
    assert_eq!(found.map(|endpoint| endpoint.address), Some(to));
    let port = snapshot.elsewhere(to, &client(OutboundPolicy::RegistryOnly), "api.example.com");
    assert_eq!(port.cluster.istio_name(), "BlackHoleCluster");
    assert!(port.routes.is_some());
}
