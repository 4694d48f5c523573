// SPDX-License-Identifier: Apache-2.0

//! What becomes of what nobody has.

use std::sync::Arc;

use super::fixture::{Mesh, canary, client_in, service};
use crate::model::{OutboundPolicy, Scope, Workload};

#[test]
fn what_nobody_has_passes_or_is_refused_by_the_outbound_policy() {
    let text = [
        canary("web"),
        service("kubernetes", "10.0.0.9").replace("selector: {app: kubernetes}, ", ""),
        "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubernetes, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
endpoints: [{addresses: [172.16.0.1]}]
ports: [{name: http, port: 6443}]
"
        .to_owned(),
    ]
    .concat();
    let snapshot = Mesh::new(&text).snapshot();
    let mut client = client_in("default");
    let refuses = |client: &Workload, to: &str| snapshot.refuses(to.parse().unwrap(), client);
    assert!(!refuses(&client, "192.0.2.1:443"));
    client.scope = Arc::new(Scope {
        policy: OutboundPolicy::RegistryOnly,
        ..Scope::default()
    });
    assert!(refuses(&client, "192.0.2.1:443"));
    assert!(refuses(&client, "172.16.0.1:10250"));
    // An endpoint of a Service, which some networks put in place of its VIP, and a pod.
    assert!(!refuses(&client, "172.16.0.1:6443"));
    assert!(!refuses(&client, "10.1.0.1:9999"));
}
