// SPDX-License-Identifier: Apache-2.0

//! A pod: a network namespace on a node, an object in the manifests, and a way to run things in it.
//!
//! Knows nothing of what it runs. Invariant: the object is written after the namespace is ready,
//! as a kubelet reports an address after the CNI plugin is done.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread::JoinHandle,
};

use serde_json::{Value, json};

use crate::{
    command::{Ran, run},
    manifest::Manifests,
    netns::Netns,
    topology::{DEFAULT_NAMESPACE, Lab, OUTSIDE_NAMESPACE},
};

/// A running pod.
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its IPv4 address.
    pub v4: String,
    /// Its IPv6 address.
    pub v6: String,
    /// Its network namespace.
    pub netns: Netns,
    object: Value,
    manifests: Manifests,
    hosts: PathBuf,
}

/// A pod being described: on node a, in `default`, with the service account of its own name,
/// unless it is told otherwise.
pub struct PodSpec<'a> {
    lab: &'a Lab,
    name: String,
    namespace: String,
    account: Option<String>,
    on_b: bool,
    ready: bool,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    probe: Option<Value>,
}

impl<'a> PodSpec<'a> {
    pub(crate) fn new(lab: &'a Lab, name: &str) -> Self {
        Self {
            lab,
            name: name.to_owned(),
            namespace: DEFAULT_NAMESPACE.to_owned(),
            account: None,
            on_b: false,
            ready: true,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            probe: None,
        }
    }

    /// On node b.
    #[must_use]
    pub fn on_b(mut self) -> Self {
        self.on_b = true;
        self
    }

    /// In another namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// In the namespace that is not in the mesh.
    #[must_use]
    pub fn outside(self) -> Self {
        self.namespace(OUTSIDE_NAMESPACE)
    }

    /// With another service account.
    #[must_use]
    pub fn account(mut self, account: &str) -> Self {
        self.account = Some(account.to_owned());
        self
    }

    /// With a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Not ready to serve.
    #[must_use]
    pub fn not_ready(mut self) -> Self {
        self.ready = false;
        self
    }

    /// With a readiness probe by HTTP on `port`.
    #[must_use]
    pub fn probe(mut self, port: u16) -> Self {
        self.probe = Some(json!({"httpGet": {"path": "/healthz", "port": port}}));
        self
    }

    /// Makes the pod.
    ///
    /// # Panics
    /// When the kernel does not play along.
    #[track_caller]
    pub fn start(self) -> Pod {
        static UID: AtomicU32 = AtomicU32::new(1);
        let node = if self.on_b { &self.lab.b } else { &self.lab.a };
        let uid = UID.fetch_add(1, Ordering::Relaxed);
        let netns = Netns::create(&format!("{}-{}-{uid}", self.lab.tag(), self.name));
        let (v4, v6) = node.attach(&netns);
        let account = self.account.clone().unwrap_or_else(|| self.name.clone());
        let mut annotations = self.annotations.clone();
        annotations.insert(
            "mesh-agent.io/netns".to_owned(),
            netns.path().to_string_lossy().into_owned(),
        );
        let ready = if self.ready { "True" } else { "False" };
        let mut container = json!({"name": "app", "image": "app"});
        if let Some(probe) = &self.probe {
            container["readinessProbe"] = probe.clone();
        }
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": self.name, "namespace": self.namespace, "labels": self.labels,
                "annotations": annotations,
                "uid": format!("{:08x}-0000-4000-8000-{uid:012x}", std::process::id()),
            },
            "spec": {
                "nodeName": node.name, "serviceAccountName": account, "containers": [container],
            },
            "status": {
                "phase": "Running", "podIP": v4, "podIPs": [{"ip": v4}, {"ip": v6}],
                "conditions": [{"type": "Ready", "status": ready}],
            },
        });
        self.lab
            .manifests
            .service_account(&self.namespace, &account);
        self.lab.manifests.object(&object);
        Pod {
            name: self.name,
            namespace: self.namespace,
            v4,
            v6,
            netns,
            object,
            manifests: self.lab.manifests.clone(),
            hosts: self.lab.hosts_file(),
        }
    }
}

impl Pod {
    /// Its name as `proxy-config` and `proxy-status` know it.
    pub fn dotted_name(&self) -> String {
        format!("{}.{}", self.name, self.namespace)
    }

    /// The value of one of its labels; empty when it has none such.
    pub fn label(&self, key: &str) -> String {
        self.object["metadata"]["labels"][key]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// A command that runs in the pod: its network, and the lab's names in `/etc/hosts`. It is
    /// killed when the calling thread ends.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.netns.command("unshare");
        command.args(["--mount", "sh", "-c"]);
        command
            .arg("mount --bind \"$0\" /etc/hosts && exec \"$@\"")
            .arg(&self.hosts)
            .arg(program);
        command
    }

    /// Runs a program in the pod to its end.
    #[track_caller]
    pub fn exec(&self, program: &str, arguments: &[&str]) -> Ran {
        run(self.command(program).args(arguments))
    }

    /// Runs `curl`, silent but for errors and with a deadline.
    #[track_caller]
    pub fn curl(&self, arguments: &[&str]) -> Ran {
        run(self
            .command("curl")
            .args([
                "--silent",
                "--show-error",
                "--noproxy",
                "*",
                "--max-time",
                "10",
            ])
            .args(arguments))
    }

    /// Runs `work` in the pod's network and waits for it.
    #[track_caller]
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.netns.run(work)
    }

    /// Runs `work` in the pod's network beside the caller.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.netns.spawn(&self.name, work)
    }

    /// Changes the pod's object by a JSON merge of `patch`.
    #[track_caller]
    pub fn patch(&mut self, patch: &Value) {
        merge(&mut self.object, patch);
        self.manifests.object(&self.object);
    }

    /// Says whether the pod is ready to serve.
    #[track_caller]
    pub fn set_ready(&mut self, ready: bool) {
        let status = if ready { "True" } else { "False" };
        self.patch(&json!({"status": {"conditions": [{"type": "Ready", "status": status}]}}));
    }

    /// Takes the object away, then the network.
    #[track_caller]
    pub fn delete(self) {
        self.manifests.delete("Pod", &self.namespace, &self.name);
        self.netns.remove();
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, change) in changes {
        if change.is_null() {
            target
                .as_object_mut()
                .expect("made an object above")
                .remove(key);
        } else {
            merge(&mut target[key], change);
        }
    }
}
