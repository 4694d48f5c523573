// SPDX-License-Identifier: Apache-2.0

//! A node: a network namespace that forwards, and the pods' side of their links.
//!
//! Knows nothing of the other node or of what runs in pods.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU8, Ordering},
};

use crate::{
    agent::{Agent, Start},
    netns::{Netns, veth},
};

/// A node of a lab.
pub struct Node {
    /// Its name in manifests and on the command line of its agent.
    pub name: String,
    /// Its network namespace.
    pub netns: Netns,
    tag: String,
    number: u8,
    next_pod: AtomicU8,
    directory: PathBuf,
}

impl Node {
    #[track_caller]
    pub(crate) fn new(tag: &str, name: &str, number: u8, directory: &Path) -> Self {
        let netns = Netns::create(&format!("{tag}-{name}"));
        for (key, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
        ] {
            netns.sysctl(key, value);
        }
        Self {
            name: name.to_owned(),
            netns,
            tag: tag.to_owned(),
            number,
            next_pod: AtomicU8::new(2),
            directory: directory.to_owned(),
        }
    }

    /// The node's own addresses, as the other node and all pods see them.
    pub fn addresses(&self) -> (String, String) {
        (
            format!("10.90.0.{}", self.number),
            format!("fd00:90::{}", self.number),
        )
    }

    /// Where its agent pins its programs.
    pub fn pin_directory(&self) -> PathBuf {
        Path::new(crate::leftovers::BPFFS).join(format!("{}-{}", self.tag, self.name))
    }

    /// Starts the agent of this node with further `flags`, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not get ready; its log is in the panic.
    #[track_caller]
    pub fn start_agent(&self, flags: &[&str]) -> Agent {
        let agent = self.launch_agent(flags);
        agent.wait_ready();
        agent
    }

    /// Starts the agent and does not wait.
    #[track_caller]
    pub fn launch_agent(&self, flags: &[&str]) -> Agent {
        Agent::launch(&Start {
            netns: &self.netns,
            node: &self.name,
            directory: &self.directory,
            pin_directory: &self.pin_directory(),
            flags,
        })
    }

    /// Gives `pod` the next free addresses and a link to this node, as a point-to-point CNI
    /// plugin does. Returns the addresses.
    #[track_caller]
    pub(crate) fn attach(&self, pod: &Netns) -> (String, String) {
        let index = self.next_pod.fetch_add(1, Ordering::Relaxed);
        assert!(index < 255, "a node of a lab has room for 253 pods");
        let number = self.number;
        let v4 = format!("10.244.{number}.{index}");
        let v6 = format!("fd00:244:{number}::{index:x}");
        let device = format!("pod{index}");
        veth((&self.netns, &device), (pod, "eth0"));
        self.netns.ip(&format!(
            "link set {device} up\n\
             addr add 10.244.{number}.1/32 dev {device}\n\
             addr add fe80::1/64 dev {device} nodad\n\
             route replace {v4}/32 dev {device}\n\
             route replace {v6}/128 dev {device}\n"
        ));
        pod.ip(&format!(
            "link set eth0 up\n\
             addr add {v4}/32 dev eth0\n\
             addr add {v6}/128 dev eth0 nodad\n\
             route add default via 10.244.{number}.1 dev eth0 onlink\n\
             route add default via fe80::1 dev eth0\n"
        ));
        (v4, v6)
    }
}
