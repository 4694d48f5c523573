// SPDX-License-Identifier: Apache-2.0

//! etcd, the API server, the controllers and the scheduler.
//!
//! Knows nothing of nodes. Invariant: the API server answers before anything that asks it starts.

use std::path::Path;

use anyhow::Result;

use super::{
    Cluster,
    certificates::{kubeconfig, path},
    daemon, network,
};
use crate::command;

/// The names of what runs here.
pub(super) const DAEMONS: &[&str] = &[
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

/// Starts them all.
pub(super) fn start(cluster: &Cluster) -> Result<()> {
    let data = cluster.directory().join("etcd");
    run(
        cluster,
        "etcd",
        &[
            flag("data-dir", &data),
            // Nothing here has to survive a power cut.
            "--unsafe-no-fsync".to_owned(),
            "--logger=zap".to_owned(),
            "--log-level=warn".to_owned(),
        ],
    )?;
    api_server(cluster)?;
    daemon::answers(cluster, "kube-apiserver", || is_ready(cluster))?;
    controllers(cluster)?;
    run(
        cluster,
        "kube-scheduler",
        &[
            flag("kubeconfig", &kubeconfig(cluster, "kube-scheduler")),
            "--leader-elect=false".to_owned(),
        ],
    )
}

/// Whether the API server says that it is ready.
pub(super) fn is_ready(cluster: &Cluster) -> bool {
    let said = command::output(cluster.kubectl().args(["get", "--raw", "/readyz"]));
    said.is_some_and(|said| said.trim() == "ok")
}

fn api_server(cluster: &Cluster) -> Result<()> {
    run(
        cluster,
        "kube-apiserver",
        &[
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            format!("--advertise-address={}", network::CONTROL_PLANE),
            "--secure-port=6443".to_owned(),
            flag("tls-cert-file", &path(cluster, "kube-apiserver.crt")),
            flag("tls-private-key-file", &path(cluster, "kube-apiserver.key")),
            flag("client-ca-file", &path(cluster, "ca.crt")),
            flag("service-account-key-file", &path(cluster, "tokens.key")),
            flag(
                "service-account-signing-key-file",
                &path(cluster, "tokens.key"),
            ),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-cluster-ip-range={}", network::SERVICES),
            "--authorization-mode=Node,RBAC".to_owned(),
            // A node agent is a privileged pod.
            "--allow-privileged".to_owned(),
            // For logs, exec and port-forward.
            flag("kubelet-client-certificate", &path(cluster, "admin.crt")),
            flag("kubelet-client-key", &path(cluster, "admin.key")),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
        ],
    )
}

fn controllers(cluster: &Cluster) -> Result<()> {
    run(
        cluster,
        "kube-controller-manager",
        &[
            flag(
                "kubeconfig",
                &kubeconfig(cluster, "kube-controller-manager"),
            ),
            flag(
                "service-account-private-key-file",
                &path(cluster, "tokens.key"),
            ),
            flag("root-ca-file", &path(cluster, "ca.crt")),
            flag("cluster-signing-cert-file", &path(cluster, "ca.crt")),
            flag("cluster-signing-key-file", &path(cluster, "ca.key")),
            "--use-service-account-credentials".to_owned(),
            "--leader-elect=false".to_owned(),
            // Each node's CNI configuration has its range.
            "--allocate-node-cidrs=false".to_owned(),
        ],
    )
}

fn run(cluster: &Cluster, component: &str, flags: &[String]) -> Result<()> {
    let mut command = cluster.inside(&cluster.control_plane(), cluster.bin(component));
    command.args(flags);
    daemon::start(cluster, component, &command)
}

/// `--name=path`.
pub(super) fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}
