// SPDX-License-Identifier: Apache-2.0

//! What a cluster leaves on the machine, and how it goes.
//!
//! Owns everything outside the cluster's directory that one of its programs makes: containers and
//! their shims, mounts, cgroups, notes of CNI, links to logs, settings of the kernel, the state of
//! node agents. Knows nothing of how they came. Invariants: only what bears the cluster's names or
//! its directory is touched; every step tolerates that there is nothing to do, so half a cluster
//! goes as well as a whole one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{Cluster, cgroups, daemon, network, node::Node, quietly};
use crate::command::program;

/// Settings that kubelet changes for the whole machine.
const SETTINGS: &[&str] = &[
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
];

/// Where node agents keep state, by the name of the node.
const AGENTS: &[&str] = &[
    "/sys/fs/bpf/mesh-agent",
    "/run/mesh-agent",
    "/var/lib/mesh-agent",
];

/// Ends everything and removes it.
pub(super) fn remove(cluster: &Cluster) -> Result<()> {
    let nodes = cluster.nodes();
    // First who would start things again, last who knows what is left.
    let mut names = daemon::names(cluster);
    names.sort_by_key(|name| {
        (
            name.starts_with("containerd-"),
            !name.starts_with("kubelet-"),
        )
    });
    let (containerds, others): (Vec<_>, Vec<_>) = names
        .iter()
        .partition(|name| name.starts_with("containerd-"));
    for name in others {
        daemon::stop(cluster, name)?;
    }
    for node in &nodes {
        end_containers(node)?;
    }
    for name in containerds {
        daemon::stop(cluster, name)?;
    }
    for node in &nodes {
        end_shims(node)?;
        cgroups::remove(&node.name())?;
        for place in AGENTS {
            let place = Path::new(place).join(node.name());
            remove_all(&place)?;
            remove_all(&place.with_extension("sock"))?;
            remove_all(&place.with_extension("sock.lock"))?;
        }
    }
    for place in AGENTS {
        // It is not empty while another cluster is up.
        drop(fs::remove_dir(place));
    }
    forget_network(cluster)?;
    unmount(cluster)?;
    network::down(cluster)?;
    forget_logs(cluster)?;
    restore_settings(cluster)?;
    remove_all(cluster.directory())
}

/// Writes down what the kernel's settings were.
pub(super) fn note_settings(cluster: &Cluster) -> Result<()> {
    let mut text = String::new();
    for setting in SETTINGS {
        if let Ok(value) = fs::read_to_string(Path::new("/proc/sys").join(setting)) {
            text.push_str(&format!("{setting} {}\n", value.trim()));
        }
    }
    cluster.write("settings", &text)
}

fn restore_settings(cluster: &Cluster) -> Result<()> {
    let text = fs::read_to_string(cluster.directory().join("settings")).unwrap_or_default();
    for (setting, value) in text.lines().filter_map(|line| line.split_once(' ')) {
        let path = Path::new("/proc/sys").join(setting);
        fs::write(&path, value).with_context(|| format!("restore {}", path.display()))?;
    }
    Ok(())
}

/// Whether layers can be stacked on the file system of the cluster's directory.
pub(super) fn overlays_work(cluster: &Cluster) -> bool {
    let place = cluster.directory().join("overlay");
    let path = |name: &str| place.join(name);
    let made = ["lower", "upper", "work", "merged"]
        .iter()
        .all(|name| fs::create_dir_all(path(name)).is_ok());
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        path("lower").display(),
        path("upper").display(),
        path("work").display()
    );
    let mut mount = program("mount");
    mount.args(["-t", "overlay", "overlay", "-o", &options]);
    let works = made
        && quietly(mount.arg(path("merged"))).is_ok()
        && quietly(program("umount").arg(path("merged"))).is_ok();
    works && fs::remove_dir_all(&place).is_ok()
}

/// Kills every program in the node's pods.
fn end_containers(node: &Node<'_>) -> Result<()> {
    loop {
        let pids = cgroups::members(&node.name())?;
        if pids.is_empty() {
            return Ok(());
        }
        daemon::end(&pids)?;
    }
}

/// Ends the programs that stand between containerd and its containers, and removes their sockets,
/// which lie in a place that all of them share.
fn end_shims(node: &Node<'_>) -> Result<()> {
    let tasks = node.directory().join("run/io.containerd.runtime.v2.task");
    let mut sockets = Vec::new();
    for namespace in entries(&tasks) {
        for task in entries(&namespace) {
            let address = fs::read_to_string(task.join("address")).unwrap_or_default();
            if let Some(path) = address.trim().strip_prefix("unix://") {
                sockets.push(PathBuf::from(path));
            }
        }
    }
    let socket = node.socket().to_string_lossy().into_owned();
    let shims = entries(Path::new("/proc")).into_iter().filter_map(|path| {
        let pid = path.file_name()?.to_str()?.parse::<u32>().ok()?;
        let line = fs::read(path.join("cmdline")).ok()?;
        is_shim_of(&String::from_utf8_lossy(&line), &socket).then_some(pid)
    });
    daemon::end(&shims.collect::<Vec<_>>())?;
    for socket in sockets {
        remove_all(&socket)?;
    }
    Ok(())
}

/// Whether a command line, its words ended by zeros, is that of a shim of this containerd.
fn is_shim_of(line: &str, socket: &str) -> bool {
    let mut words = line.split('\0');
    let program = words.next().unwrap_or_default();
    program.contains("containerd-shim") && words.any(|word| word == socket)
}

/// Removes what CNI remembers of our pods for the whole machine: what names a network namespace
/// below the cluster's directory.
fn forget_network(cluster: &Cluster) -> Result<()> {
    let ours = format!("{}/", cluster.directory().display());
    for path in entries(Path::new("/var/lib/cni/results")) {
        if fs::read_to_string(&path).is_ok_and(|text| text.contains(&ours)) {
            remove_all(&path)?;
        }
    }
    Ok(())
}

/// Unmounts everything below the cluster's directory, the last first.
fn unmount(cluster: &Cluster) -> Result<()> {
    let mounted = fs::read_to_string("/proc/mounts").context("read what is mounted")?;
    let below = format!("{}/", cluster.directory().display());
    let places = mounted.lines().filter_map(|line| line.split(' ').nth(1));
    let ours: Vec<&str> = places.filter(|place| place.starts_with(&below)).collect();
    for place in ours.iter().rev() {
        quietly(program("umount").args(["--lazy", place]))?;
    }
    Ok(())
}

/// Removes the links to the logs of our pods.
fn forget_logs(cluster: &Cluster) -> Result<()> {
    for path in entries(Path::new("/var/log/containers")) {
        if fs::read_link(&path).is_ok_and(|target| target.starts_with(cluster.directory())) {
            remove_all(&path)?;
        }
    }
    Ok(())
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Removes a file, a link or a directory with all that is in it; nothing is there is fine.
fn remove_all(path: &Path) -> Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let removed = if metadata.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.with_context(|| format!("remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_is_known_by_the_socket_of_its_containerd() {
        let line = "/usr/bin/containerd-shim-runc-v2\0-namespace\0k8s.io\0-address\0/a/b.sock\0";
        assert!(is_shim_of(line, "/a/b.sock"));
        assert!(!is_shim_of(line, "/a/c.sock"));
        assert!(!is_shim_of("vi\0/a/b.sock\0", "/a/b.sock"));
    }
}
