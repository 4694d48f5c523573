// SPDX-License-Identifier: Apache-2.0

//! The machines' network: a namespace for each, joined by a bridge in the control plane's.
//!
//! Owns all addresses. They exist in the cluster's namespaces only, so every cluster has the
//! same. Knows nothing of pods but where their addresses lead. Invariant: no interface of the
//! machine itself is touched.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Cluster, quietly};
use crate::command::{self, program};

/// Where the API server and cluster DNS listen.
pub(super) const CONTROL_PLANE: &str = "10.10.0.1";
/// What Services get their addresses from.
pub(super) const SERVICES: &str = "10.96.0.0/16";
/// The address of the API server's Service: the first of them.
pub(super) const API_SERVICE: &str = "10.96.0.1";
/// The address of cluster DNS's Service.
pub(super) const DNS_SERVICE: &str = "10.96.0.10";
/// What all pods get their addresses from.
pub(super) const PODS: &str = "10.244.0.0/16";

/// The address of a node.
pub(super) fn node(number: u8) -> String {
    format!("10.10.0.{}", 11 + number)
}

/// What a node's pods get their addresses from.
pub(super) fn pods_of(number: u8) -> String {
    format!("10.244.{}.0/24", 1 + number)
}

/// The file that stands for a network namespace.
pub(super) fn path(netns: &str) -> PathBuf {
    Path::new("/run/netns").join(netns)
}

/// Makes namespaces, links and routes.
pub(super) fn up(cluster: &Cluster) -> Result<()> {
    let hub = cluster.control_plane();
    ip(&format!("netns add {hub}"))?;
    ip(&format!("-n {hub} link set lo up"))?;
    ip(&format!("-n {hub} link add nodes type bridge"))?;
    ip(&format!("-n {hub} addr add {CONTROL_PLANE}/24 dev nodes"))?;
    ip(&format!("-n {hub} link set nodes up"))?;
    for number in 0..2 {
        join(cluster, &hub, number)?;
    }
    for number in 0..2 {
        let (pods, via) = (pods_of(number), node(number));
        ip(&format!("-n {hub} route add {pods} via {via}"))?;
        let other = cluster.nodes()[usize::from(1 - number)].name();
        ip(&format!("-n {other} route add {pods} via {via}"))?;
    }
    Ok(())
}

fn join(cluster: &Cluster, hub: &str, number: u8) -> Result<()> {
    let name = cluster.nodes()[usize::from(number)].name();
    ip(&format!("netns add {name}"))?;
    ip(&format!("-n {name} link set lo up"))?;
    ip(&format!(
        "link add eth0 netns {name} type veth peer name node{number} netns {hub}"
    ))?;
    ip(&format!("-n {hub} link set node{number} master nodes up"))?;
    ip(&format!("-n {name} addr add {}/24 dev eth0", node(number)))?;
    ip(&format!("-n {name} link set eth0 up"))?;
    ip(&format!("-n {name} route add default via {CONTROL_PLANE}"))?;
    set(cluster, &name, "net.ipv4.ip_forward=1")?;
    if Path::new("/proc/sys/net/bridge").exists() {
        // Pods of one node reach each other by a Service's address only with this.
        set(cluster, &name, "net.bridge.bridge-nf-call-iptables=1")?;
    }
    Ok(())
}

fn set(cluster: &Cluster, netns: &str, setting: &str) -> Result<()> {
    let sysctl = command::find("sysctl").context("no sysctl in PATH")?;
    quietly(cluster.inside(netns, sysctl).args(["-qw", setting]))
}

/// Removes the namespaces, with all that is in them.
pub(super) fn down(cluster: &Cluster) -> Result<()> {
    let nodes = cluster.nodes().map(|node| node.name());
    for netns in nodes.into_iter().chain([cluster.control_plane()]) {
        if path(&netns).exists() {
            ip(&format!("netns delete {netns}"))?;
        }
    }
    Ok(())
}

fn ip(words: &str) -> Result<()> {
    let ip = command::find("ip").context("no ip in PATH")?;
    quietly(program(ip).args(words.split(' ')))
}
