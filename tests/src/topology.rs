// SPDX-License-Identifier: Apache-2.0

//! A lab: two nodes, the link between them, one directory of manifests, and the names pods know.
//!
//! ```text
//!   pods 10.244.1.0/24                                    pods 10.244.2.0/24
//!   fd00:244:1::/64        10.90.0.1        10.90.0.2     fd00:244:2::/64
//!   [pod]--veth--[ node-a ]--link0--------link0--[ node-b ]--veth--[pod]
//!                          fd00:90::1       fd00:90::2
//! ```
//! Addresses are the same in every lab: namespaces keep labs apart. Knows nothing of agents but
//! where their files go. Invariant: pods are routed as a point-to-point CNI plugin does it, so a
//! node forwards, and never bridges, what pods say.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
};

use crate::{
    agent::Agent,
    leftovers,
    manifest::{Manifests, ServiceSpec},
    netns::{Netns, veth},
    node::Node,
    pod::PodSpec,
    wait,
};

/// The device that joins the nodes, on either.
pub const LINK: &str = "link0";

/// The namespace most pods are in: enrolled.
pub const DEFAULT_NAMESPACE: &str = "default";

/// A namespace without any label: its pods are not in the mesh.
pub const OUTSIDE_NAMESPACE: &str = "outside";

/// Two nodes and what is told to their agents. Dropped last: pods and agents borrow nothing from
/// it, but what they need is removed with it.
pub struct Lab {
    /// The first node; clients are usually here.
    pub a: Node,
    /// The second node; servers are usually here.
    pub b: Node,
    /// The manifests both agents read.
    pub manifests: Manifests,
    hosts: Mutex<BTreeMap<String, String>>,
    services: AtomicU8,
    settled: AtomicU32,
    directory: PathBuf,
    tag: Tag,
}

/// The tag in every name a lab gives; dropped last, it removes all that carries it.
struct Tag {
    name: String,
    keep: bool,
}

impl Drop for Tag {
    fn drop(&mut self) {
        if !self.keep {
            leftovers::remove(&self.name);
        }
    }
}

impl Lab {
    /// Makes two nodes; `name` is only for people.
    ///
    /// # Panics
    /// Without root, or when the kernel cannot do it.
    #[track_caller]
    pub fn new(name: &str) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "nodes are network namespaces: run this as root, as `cargo xtask test` says"
        );
        leftovers::require_bpffs();
        let tag = Tag {
            name: leftovers::fresh_tag(),
            keep: false,
        };
        let directory = leftovers::directory(&tag.name);
        fs::create_dir_all(&directory).expect("the temporary directory can be written");
        fs::write(directory.join("name"), name).expect("the lab's directory was just made");
        let a = Node::new(&tag.name, "node-a", 1, &directory);
        let b = Node::new(&tag.name, "node-b", 2, &directory);
        join(&a.netns, &b.netns);
        let manifests = Manifests::new(&directory);
        manifests.namespace(DEFAULT_NAMESPACE, &[("istio-injection", "enabled")]);
        manifests.namespace(OUTSIDE_NAMESPACE, &[]);
        manifests.node("node-a", "10.90.0.1");
        manifests.node("node-b", "10.90.0.2");
        let lab = Self {
            a,
            b,
            manifests,
            hosts: Mutex::default(),
            services: AtomicU8::new(10),
            settled: AtomicU32::new(0),
            directory,
            tag,
        };
        lab.write_hosts();
        lab
    }

    /// The directory of manifests.
    pub fn config_directory(&self) -> &Path {
        self.manifests.directory()
    }

    /// The lab's own directory: logs, sockets, the certificate authority.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts to describe a pod; [`PodSpec::start`] makes it.
    pub fn pod(&self, name: &str) -> PodSpec<'_> {
        PodSpec::new(self, name)
    }

    /// Starts to describe a Service; [`ServiceSpec::create`] writes it.
    pub fn service(&self, name: &str) -> ServiceSpec<'_> {
        ServiceSpec::new(self, name)
    }

    /// Writes manifests; see [`Manifests::apply`].
    #[track_caller]
    pub fn apply(&self, yaml: &str) {
        self.manifests.apply(yaml);
    }

    /// Removes an object; see [`Manifests::delete`].
    #[track_caller]
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        self.manifests.delete(kind, namespace, name);
    }

    /// Waits until `agents` work with the manifests as they are now.
    ///
    /// A marker is written after everything else; an agent that knows it has read what came
    /// before, and says itself which pods are not yet served by it.
    ///
    /// # Panics
    /// When an agent does not get there.
    #[track_caller]
    pub fn settle(&self, agents: &[&Agent]) {
        let number = self.settled.fetch_add(1, Ordering::Relaxed);
        let marker = format!("settled-{number}");
        self.manifests.write("settled.yaml", &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {marker}, namespace: {OUTSIDE_NAMESPACE}}}\n\
             spec: {{clusterIP: 10.96.255.1, ports: [{{port: 1}}]}}\n"
        ));
        for agent in agents {
            wait::until(
                "the agent to work with the manifests",
                wait::PATIENCE,
                || settled(agent, &marker),
            );
        }
    }

    /// Makes `name` resolve to `address` in all pods of the lab.
    pub fn resolve(&self, name: &str, address: &str) {
        self.names().insert(name.to_owned(), address.to_owned());
        self.write_hosts();
    }

    /// What `name` resolves to in the lab's pods.
    ///
    /// # Panics
    /// When nothing has that name.
    #[track_caller]
    pub fn address(&self, name: &str) -> String {
        let found = self.names().get(name).cloned();
        found.unwrap_or_else(|| panic!("nothing in the lab is named {name}"))
    }

    /// The next free ClusterIPs.
    pub(crate) fn next_service_address(&self) -> (String, String) {
        let index = self.services.fetch_add(1, Ordering::Relaxed);
        (format!("10.96.0.{index}"), format!("fd00:96::{index:x}"))
    }

    /// The hosts file of all pods of the lab.
    pub(crate) fn hosts_file(&self) -> PathBuf {
        self.directory.join("hosts")
    }

    /// The tag in every name this lab gives.
    pub(crate) fn tag(&self) -> &str {
        &self.tag.name
    }

    fn names(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.hosts
            .lock()
            .expect("nobody panics while holding the names")
    }

    /// Written in place: pods hold a bind mount of this very file.
    fn write_hosts(&self) {
        let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
        for (name, address) in self.names().iter() {
            text.push_str(&format!("{address} {name}\n"));
        }
        fs::write(self.hosts_file(), text).expect("the lab's directory can be written");
    }

    /// Leaves everything in place when the program ends.
    pub fn keep(&mut self) {
        self.tag.keep = true;
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in [&self.a, &self.b] {
                let path = node.netns.path();
                eprintln!("{}: nsenter --net={} bash", node.name, path.display());
            }
        }
    }
}

/// What `agent` still lacks to work with manifests that hold `marker`.
fn settled(agent: &Agent, marker: &str) -> Result<(), String> {
    if !agent.admin("/config").text().contains(marker) {
        return Err("the last manifest is not read".to_owned());
    }
    let status = agent.admin("/proxy-status").text();
    if status.contains("STALE") || status.contains("NOT SENT") {
        return Err(status);
    }
    let status = agent.admin_json("/status");
    let pods = status["pods"].as_array().into_iter().flatten();
    let mut waiting = pods.filter(|pod| pod["captured"] != pod["enrolled"]);
    waiting.next().map_or(Ok(()), |pod| Err(pod.to_string()))
}

/// Joins two nodes and tells each the way to the other's pods.
fn join(a: &Netns, b: &Netns) {
    veth((a, LINK), (b, LINK));
    for (netns, own, other) in [(a, 1, 2), (b, 2, 1)] {
        netns.ip(&format!(
            "link set {LINK} up\n\
             addr add 10.90.0.{own}/24 dev {LINK}\n\
             addr add fd00:90::{own}/64 dev {LINK} nodad\n\
             route add 10.244.{other}.0/24 via 10.90.0.{other}\n\
             route add fd00:244:{other}::/64 via fd00:90::{other}\n"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_leaves_nothing_behind() {
        let lab = Lab::new("leaves nothing");
        let (tag, directory) = (lab.tag.name.clone(), lab.directory.clone());
        assert!(lab.a.netns.path().exists());
        drop(lab);
        assert!(!directory.exists());
        let namespaces = fs::read_dir(crate::netns::DIRECTORY).expect("namespaces were made");
        let left = namespaces.flatten().filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with(&format!("{tag}-"))
        });
        assert_eq!(left.count(), 0);
    }
}
