// SPDX-License-Identifier: Apache-2.0

//! Who is who in the cluster: a certificate authority and a kubeconfig for each component.
//!
//! Knows nothing of what they may do: Kubernetes' own roles go by these names. Invariant: nothing
//! here outlives the cluster.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use super::{Cluster, network, quietly};
use crate::command::program;

/// Days that certificates are good for: longer than anybody keeps a test cluster.
const DAYS: &str = "365";
const CURVE: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];

/// A file of the cluster's certificates.
pub(super) fn path(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.directory().join("pki").join(name)
}

/// The kubeconfig of a component.
pub(super) fn kubeconfig(cluster: &Cluster, component: &str) -> PathBuf {
    path(cluster, &format!("{component}.kubeconfig"))
}

/// Makes them all.
pub(super) fn issue(cluster: &Cluster) -> Result<()> {
    let mut root = program("openssl");
    root.args([
        "req",
        "-x509",
        "-nodes",
        "-days",
        DAYS,
        "-subj",
        "/CN=kubernetes",
    ]);
    root.args(CURVE);
    root.arg("-keyout").arg(path(cluster, "ca.key"));
    quietly(root.arg("-out").arg(path(cluster, "ca.crt")))?;
    let mut tokens = program("openssl");
    quietly(
        tokens
            .args(["genrsa", "-out"])
            .arg(path(cluster, "tokens.key"))
            .arg("2048"),
    )?;
    let names = format!(
        "subjectAltName=IP:{},IP:{},IP:127.0.0.1,DNS:localhost,DNS:kubernetes,\
         DNS:kubernetes.default,DNS:kubernetes.default.svc,\
         DNS:kubernetes.default.svc.cluster.local",
        network::CONTROL_PLANE,
        network::API_SERVICE
    );
    certificate(cluster, "kube-apiserver", "/CN=kube-apiserver", &names)?;
    for (component, subject) in [
        ("admin", "/O=system:masters/CN=admin"),
        (
            "kube-controller-manager",
            "/CN=system:kube-controller-manager",
        ),
        ("kube-scheduler", "/CN=system:kube-scheduler"),
        ("kube-proxy", "/CN=system:kube-proxy"),
    ] {
        client(cluster, component, subject)?;
    }
    for node in cluster.nodes() {
        let name = node.name();
        client(
            cluster,
            &name,
            &format!("/O=system:nodes/CN=system:node:{name}"),
        )?;
    }
    fs::copy(kubeconfig(cluster, "admin"), cluster.kubeconfig())
        .context("write the administrator's kubeconfig")?;
    Ok(())
}

fn certificate(cluster: &Cluster, name: &str, subject: &str, extension: &str) -> Result<()> {
    let file = |ending: &str| path(cluster, &format!("{name}.{ending}"));
    let mut request = program("openssl");
    request
        .args(["req", "-nodes", "-subj", subject])
        .args(CURVE);
    request.arg("-keyout").arg(file("key"));
    quietly(request.arg("-out").arg(file("csr")))?;
    cluster.write(&format!("pki/{name}.ext"), extension)?;
    let mut sign = program("openssl");
    sign.args(["x509", "-req", "-days", DAYS, "-CAcreateserial"]);
    sign.arg("-CA").arg(path(cluster, "ca.crt"));
    sign.arg("-CAkey").arg(path(cluster, "ca.key"));
    sign.arg("-in")
        .arg(file("csr"))
        .arg("-out")
        .arg(file("crt"));
    quietly(sign.arg("-extfile").arg(file("ext")))
}

fn client(cluster: &Cluster, name: &str, subject: &str) -> Result<()> {
    certificate(cluster, name, subject, "extendedKeyUsage=clientAuth")?;
    let text = format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters: [{{name: mesh, cluster: {{server: \"https://{}:6443\", \
         certificate-authority: {}}}}}]\n\
         users: [{{name: {name}, user: {{client-certificate: {}, client-key: {}}}}}]\n\
         contexts: [{{name: mesh, context: {{cluster: mesh, user: {name}}}}}]\n\
         current-context: mesh\n",
        network::CONTROL_PLANE,
        path(cluster, "ca.crt").display(),
        path(cluster, &format!("{name}.crt")).display(),
        path(cluster, &format!("{name}.key")).display(),
    );
    cluster.write(&format!("pki/{name}.kubeconfig"), &text)
}
