// SPDX-License-Identifier: Apache-2.0

//! A node: containerd, kubelet and kube-proxy in a network namespace, with a cgroup for its pods.
//!
//! Owns their configuration. Knows nothing of the control plane but its address. Invariant: a
//! node keeps its state below its own directory, so that two of them share nothing but the kernel.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::{
    Cluster, certificates, cgroups, control_plane::flag, daemon, network, quietly, remains,
};
use crate::{command, image};

/// Where Debian has the CNI plugins.
const CNI: &str = "/usr/lib/cni";

/// One of the two.
pub(super) struct Node<'a> {
    cluster: &'a Cluster,
    number: u8,
}

impl<'a> Node<'a> {
    /// The node with this number.
    pub(super) fn new(cluster: &'a Cluster, number: u8) -> Self {
        Self { cluster, number }
    }

    /// Its name for Kubernetes, of its network namespace, and of its cgroup.
    pub(super) fn name(&self) -> String {
        let letter = char::from(b'a' + self.number);
        format!("{}-{letter}", self.cluster.name)
    }

    /// Where its state is.
    pub(super) fn directory(&self) -> PathBuf {
        self.cluster.directory().join(self.name())
    }

    /// The names of what runs here.
    pub(super) fn daemons(&self) -> [String; 3] {
        ["containerd", "kubelet", "kube-proxy"].map(|daemon| self.daemon(daemon))
    }

    /// Starts it.
    pub(super) fn start(&self, pause: &Path) -> Result<()> {
        self.cluster.make(&format!("{}/cni", self.name()))?;
        self.write("cni/10-bridge.conflist", &self.cni())?;
        self.write("containerd.toml", &self.containerd())?;
        self.write("kubelet.yaml", &self.kubelet())?;
        cgroups::make(&self.name())?;
        let mut containerd = self.inside("/usr/bin/containerd");
        containerd.arg("--config").arg(self.file("containerd.toml"));
        let name = self.daemon("containerd");
        daemon::start(self.cluster, &name, &containerd)?;
        daemon::answers(self.cluster, &name, || {
            command::output(self.ctr().arg("version")).is_some()
        })?;
        self.load(pause)?;
        self.start_kubelet()?;
        self.start_proxy()
    }

    /// Imports the images in an archive.
    pub(super) fn load(&self, archive: &Path) -> Result<()> {
        let mut import = self.ctr();
        import.args(["--namespace", "k8s.io", "images", "import"]);
        import.args(["--snapshotter", self.snapshotter()]);
        quietly(import.arg(archive))
    }

    /// containerd's own command line.
    pub(super) fn ctr(&self) -> Command {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(self.socket());
        ctr
    }

    /// The socket that kubelet and `ctr` talk to containerd by.
    pub(super) fn socket(&self) -> PathBuf {
        self.file("containerd.sock")
    }

    /// The name of its network for CNI, which keeps notes by that name for the whole machine.
    fn network(&self) -> String {
        format!("xtask-{}", self.name())
    }

    /// What containerd calls one of `daemon` here.
    fn daemon(&self, daemon: &str) -> String {
        format!("{daemon}-{}", self.name())
    }

    fn start_kubelet(&self) -> Result<()> {
        let mut kubelet = self.inside(self.cluster.bin("kubelet"));
        kubelet.args([
            flag("config", &self.file("kubelet.yaml")),
            flag(
                "kubeconfig",
                &certificates::kubeconfig(self.cluster, &self.name()),
            ),
            flag("root-dir", &self.file("kubelet")),
            flag("cert-dir", &self.file("kubelet-pki")),
            format!("--hostname-override={}", self.name()),
            format!("--node-ip={}", network::node(self.number)),
        ]);
        daemon::start(self.cluster, &self.daemon("kubelet"), &kubelet)
    }

    fn start_proxy(&self) -> Result<()> {
        let mut proxy = self.inside(self.cluster.bin("kube-proxy"));
        proxy.args([
            flag(
                "kubeconfig",
                &certificates::kubeconfig(self.cluster, "kube-proxy"),
            ),
            "--proxy-mode=iptables".to_owned(),
            format!("--hostname-override={}", self.name()),
            format!("--cluster-cidr={}", network::PODS),
            // Limits of the machine, which are not ours to change.
            "--conntrack-max-per-core=0".to_owned(),
            "--conntrack-tcp-timeout-established=0".to_owned(),
            "--conntrack-tcp-timeout-close-wait=0".to_owned(),
        ]);
        // It calls programs that only root has in PATH.
        proxy.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        daemon::start(self.cluster, &self.daemon("kube-proxy"), &proxy)
    }

    fn cni(&self) -> String {
        format!(
            r#"{{"cniVersion": "1.0.0", "name": "{name}", "plugins": [
  {{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {{"type": "host-local", "dataDir": "{addresses}",
            "ranges": [[{{"subnet": "{pods}"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}
]}}
"#,
            name = self.network(),
            addresses = self.file("addresses").display(),
            pods = network::pods_of(self.number),
        )
    }

    fn containerd(&self) -> String {
        format!(
            r#"version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{optional}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # In a container there may be no right to lower a score.
  restrict_oom_score_adj = true
  # Pods' namespaces go with the node's directory.
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI}"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
"#,
            root = self.file("containerd").display(),
            state = self.file("run").display(),
            socket = self.socket().display(),
            optional = self.file("optional").display(),
            pause = image::PAUSE,
            cni = self.file("cni").display(),
            snapshotter = self.snapshotter(),
        )
    }

    fn kubelet(&self) -> String {
        format!(
            r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
# The nodes share the machine's cgroups, so each has a root of its own.
cgroupRoot: /{name}
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix://{socket}
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: {authority}}}
authorization: {{mode: Webhook}}
clusterDNS: [{dns}]
clusterDomain: cluster.local
# What the machine asks is not what pods ask.
resolvConf: /dev/null
podLogsDir: {logs}
volumePluginDir: {plugins}
enforceNodeAllocatable: [none]
evictionHard: {{memory.available: 100Mi}}
imageGCHighThresholdPercent: 100
localStorageCapacityIsolation: false
makeIPTablesUtilChains: false
"#,
            name = self.name(),
            socket = self.socket().display(),
            authority = certificates::path(self.cluster, "ca.crt").display(),
            dns = network::DNS_SERVICE,
            logs = self.file("pod-logs").display(),
            plugins = self.file("volume-plugins").display(),
        )
    }

    /// Layers are stacked where the file system of the directory allows it, else copied.
    fn snapshotter(&self) -> &'static str {
        if remains::overlays_work(self.cluster) {
            "overlayfs"
        } else {
            "native"
        }
    }

    fn inside(&self, program: impl AsRef<Path>) -> Command {
        self.cluster.inside(&self.name(), program)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        self.cluster.write(&format!("{}/{name}", self.name()), text)
    }
}
