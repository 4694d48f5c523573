// SPDX-License-Identifier: Apache-2.0

//! Cluster DNS: CoreDNS beside the control plane, behind the address that pods are given.
//!
//! Not a pod, so that names resolve whatever is done to pods. Knows nothing of who asks.
//! Invariant: the Service has no selector, so nothing but us says where it leads.

use std::path::Path;

use anyhow::Result;

use super::{Cluster, daemon, network};

/// Its name as a program that runs.
pub(super) const DAEMON: &str = "coredns";

/// Starts CoreDNS and makes its Service.
pub(super) fn start(cluster: &Cluster, program: &Path) -> Result<()> {
    cluster.write(
        "Corefile",
        &format!(
            ".:53 {{\n\
             \x20 errors\n\
             \x20 bind {}\n\
             \x20 kubernetes cluster.local in-addr.arpa ip6.arpa {{\n\
             \x20   kubeconfig {} mesh\n\
             \x20 }}\n\
             \x20 cache 5\n\
             }}\n",
            network::CONTROL_PLANE,
            cluster.kubeconfig().display()
        ),
    )?;
    let mut command = cluster.inside(&cluster.control_plane(), program);
    command
        .arg("-conf")
        .arg(cluster.directory().join("Corefile"));
    daemon::start(cluster, DAEMON, &command)?;
    cluster.apply(&service())
}

fn service() -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: kube-dns, namespace: kube-system}}
spec:
  clusterIP: {service}
  ports:
  - {{name: dns, port: 53, protocol: UDP}}
  - {{name: dns-tcp, port: 53, protocol: TCP}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: kube-dns
  namespace: kube-system
  labels: {{kubernetes.io/service-name: kube-dns}}
addressType: IPv4
endpoints: [{{addresses: [{address}]}}]
ports:
- {{name: dns, port: 53, protocol: UDP}}
- {{name: dns-tcp, port: 53, protocol: TCP}}
",
        service = network::DNS_SERVICE,
        address = network::CONTROL_PLANE,
    )
}
