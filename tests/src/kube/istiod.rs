// SPDX-License-Identifier: Apache-2.0

//! Istio's own control plane in the cluster, as the certificate authority of the agents.
//!
//! It is the published program with all that it does for sidecars turned off: what is left signs, and
//! publishes its roots in every namespace. Knows nothing of what is asked of it. Invariant: it is gone when
//! its value is.

use super::{Cluster, Namespace, PATIENCE, install};
use crate::wait;

/// The image that the test command gives the nodes.
const IMAGE: &str = "mesh-agent.local/istiod:dev";

/// Where Istio is installed, which its certificates name.
const NAMESPACE: &str = "istio-system";

/// Where agents ask it.
pub const ADDRESS: &str = "istiod.istio-system.svc:15012";

/// The ConfigMap that it keeps in every namespace.
const ROOTS: &str = "istio-ca-root-cert";

/// The account that nodes ask with.
pub const AGENT: &str = "mesh-system/mesh-agent";

const PODS: &str = "--selector=app=istiod";

/// It may do all that it likes: what Istio's own manifests allow it is not what is tried here.
const ACCOUNT: &str = "\
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: tests-istiod}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: default, namespace: istio-system}]
";

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: istiod}
spec: {selector: {app: istiod}, ports: [{name: tls, port: 15012}]}
";

/// Istio's control plane.
pub struct Istiod {
    namespace: Namespace,
}

impl Istiod {
    /// Starts it; it makes a root of its own.
    ///
    /// # Panics
    /// When it does not become ready.
    #[track_caller]
    pub fn start(cluster: &Cluster) -> Self {
        Self::with(cluster, |_| {})
    }

    /// Starts it after `prepare` has put something into its namespace.
    ///
    /// # Panics
    /// As [`Istiod::start`].
    #[track_caller]
    pub fn with(cluster: &Cluster, prepare: impl FnOnce(&Namespace)) -> Self {
        forget(cluster);
        let istiod = Self {
            namespace: Namespace::create(cluster, NAMESPACE),
        };
        prepare(&istiod.namespace);
        cluster.apply(ACCOUNT);
        istiod.namespace.apply(SERVICE);
        istiod.trust(AGENT);
        istiod
    }

    /// Starts it anew so that only `account` may ask for others: `NAMESPACE/NAME`.
    ///
    /// # Panics
    /// As [`Istiod::start`].
    #[track_caller]
    pub fn trust(&self, account: &str) {
        self.namespace.apply(&deployment(account));
        self.namespace.wait_for_rollout("deployment/istiod");
    }

    /// Ends it, so that nobody answers any more.
    #[track_caller]
    pub fn stop(&self) {
        self.namespace
            .ok(&["scale", "deployment/istiod", "--replicas=0"]);
        wait::until("istiod to end", PATIENCE, || {
            let left = self.namespace.ok(&["get", "pods", PODS, "--output=name"]);
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
    }

    /// What it says is to be trusted, as the agents get it.
    #[track_caller]
    pub fn roots(&self) -> String {
        let output = "--output=go-template={{index .data \"root-cert.pem\"}}";
        let words = ["--namespace", install::NAMESPACE, "get", "configmap", ROOTS];
        self.namespace.cluster().until(
            "istiod to publish its roots",
            &[&words[..], &[output]].concat(),
            |roots| roots.contains("BEGIN CERTIFICATE"),
        )
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Has the kubelets look at the volumes of its pods and the agents': they would after a minute or two.
    #[track_caller]
    pub fn deliver(&self) {
        for (namespace, selector) in [(NAMESPACE, PODS), (install::NAMESPACE, install::AGENTS)] {
            let mut words = vec!["--namespace", namespace, "annotate", "--overwrite", "pods"];
            let note = format!("tests/looked={:016x}", std::process::id());
            let other = format!("{note}-");
            words.push(selector);
            self.namespace
                .cluster()
                .ok(&[&words[..], &[&note]].concat());
            self.namespace
                .cluster()
                .ok(&[&words[..], &[&other]].concat());
        }
    }
}

impl Drop for Istiod {
    fn drop(&mut self) {
        forget(self.namespace.cluster());
    }
}

/// Removes what is outside of its namespace and would be taken for the next one's.
fn forget(cluster: &Cluster) {
    for words in [
        &["delete", "clusterrolebinding", "tests-istiod"][..],
        &[
            "--namespace",
            install::NAMESPACE,
            "delete",
            "configmap",
            ROOTS,
        ],
    ] {
        cluster.run(&[words, &["--ignore-not-found"]].concat());
    }
}

/// What makes the agents ask it, with `arguments` besides: patches for
/// [`Mesh::apply_with`](super::Mesh::apply_with).
pub fn patches(arguments: &[&str]) -> String {
    let container = "/spec/template/spec/containers/0";
    let more: String = arguments
        .iter()
        .map(|argument| {
            format!("    - {{op: add, path: {container}/args/-, value: \"{argument}\"}}\n")
        })
        .collect();
    format!(
        "- target: {{kind: DaemonSet, name: mesh-agent}}
  patch: |-
    - {{op: test, path: {container}/args/2, value: '--ca-address=mesh-agent-ca.mesh-system.svc:15012'}}
    - {{op: replace, path: {container}/args/2, value: '--ca-address={ADDRESS}'}}
    - {{op: add, path: {container}/args/-, value: --ca-roots=/var/run/secrets/ca-roots/root-cert.pem}}
    - {{op: add, path: {container}/volumeMounts/-,
       value: {{name: ca-roots, mountPath: /var/run/secrets/ca-roots, readOnly: true}}}}
    - {{op: add, path: /spec/template/spec/volumes/-, value: {{name: ca-roots, configMap: {{name: {ROOTS}}}}}}}
{more}"
    )
}

fn deployment(account: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: istiod}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: istiod}}}}
  strategy: {{type: Recreate}}
  template:
    metadata: {{labels: {{app: istiod}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: discovery
        image: {IMAGE}
        imagePullPolicy: Never
        # It hangs up after half an hour where Istio's own manifests are used; here, before every renewal.
        args: [discovery, --keepaliveMaxServerConnectionAge=20s]
        env:
        - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
        - {{name: POD_NAMESPACE, valueFrom: {{fieldRef: {{fieldPath: metadata.namespace}}}}}}
        - {{name: CA_TRUSTED_NODE_ACCOUNTS, value: {account}}}
        # So that a bundle of roots may be changed while it runs.
        - {{name: ISTIO_MULTIROOT_MESH, value: 'true'}}
        - {{name: ENABLE_LEADER_ELECTION, value: 'false'}}
        - {{name: INJECT_ENABLED, value: 'false'}}
        - {{name: PILOT_ENABLE_GATEWAY_API, value: 'false'}}
        - {{name: PILOT_ENABLE_IP_AUTOALLOCATE, value: 'false'}}
        readinessProbe: {{httpGet: {{path: /ready, port: 8080}}, periodSeconds: 1, timeoutSeconds: 5}}
        volumeMounts: [{{name: cacerts, mountPath: /etc/cacerts, readOnly: true}}]
      volumes: [{{name: cacerts, secret: {{secretName: cacerts, optional: true}}}}]
"
    )
}
