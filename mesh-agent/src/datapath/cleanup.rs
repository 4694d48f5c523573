// SPDX-License-Identifier: Apache-2.0

//! Removes what agents left on a node where none runs any more.
//!
//! All that is known is what is pinned: the link of the listener choice says in which namespace a
//! pod's programs are, and a process or a name leads there. A namespace that nobody is in and
//! nobody named is gone as far as anyone can tell, and took filters, rules and routes along.
//!
//! Invariant: a pin directory whose agent runs is left alone. Running it again changes nothing.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use aya::maps::{Array, Map, MapData};
use mesh_common::{PodConfig, names};

use super::{
    DatapathError, attach,
    netns::Netns,
    pins::{self, Pins},
    pod, sys,
};

/// Where namespaces have names: iproute2's and CNI plugins', Docker's.
const NAMED: [&str; 3] = ["/run/netns", "/var/run/netns", "/run/docker/netns"];

/// Removes everything pinned at `pin_dir` and what belongs to it in pods; says what that was.
///
/// # Errors
/// An agent runs ([`DatapathError::InUse`]), or the directory cannot be read.
pub fn cleanup(pin_dir: &Path) -> Result<Vec<String>, DatapathError> {
    let Some(pins) = Pins::existing(pin_dir)? else {
        return Ok(Vec::new());
    };
    let mut removed = Vec::new();
    for directory in pins.pods_of_all_generations() {
        removed.push(remove_pod(&directory));
    }
    pins.remove();
    removed.push(format!("kernel programs and maps in {}", pin_dir.display()));
    Ok(removed)
}

fn remove_pod(directory: &Path) -> String {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    let link = directory.join(attach::link_name(names::PICK_LISTENER));
    let inode = match sys::object_get(&link).and_then(|link| sys::link_netns(&link)) {
        Ok(inode) => inode,
        Err(error) => {
            tracing::debug!(link = %link.display(), %error, "no link to a namespace");
            0
        }
    };
    let accept_local_was_off = accept_local_was_off(&directory.join(names::POD));
    // Unpinning detaches all but clsact filters, before the routes that they need.
    pins::remove_tree(directory);
    let Some((path, netns)) = find(inode) else {
        return format!("pod {name}: programs; its network namespace is gone");
    };
    let undone = netns.within(|| pod::undo(accept_local_was_off));
    match undone.and_then(|inner| inner) {
        Ok(()) => format!(
            "pod {name}: programs, filters, rules and routes in {}",
            path.display()
        ),
        Err(error) => format!("pod {name}: programs; in {}: {error}", path.display()),
    }
}

/// What the agent that captured the pod noted; false where it cannot be read.
fn accept_local_was_off(pin: &Path) -> bool {
    let read = || {
        let map = Map::from_map_data(MapData::from_pin(pin).ok()?).ok()?;
        let config: Array<MapData, PodConfig> = Array::try_from(map).ok()?;
        config.get(&0, 0).ok()
    };
    read().is_some_and(|config| config.accept_local_was_off == 1)
}

/// A way to the namespace with this inode that is not our own.
fn find(inode: u64) -> Option<(PathBuf, Netns)> {
    let own = Netns::current().ok()?.id().0;
    if inode == 0 || inode == own {
        return None;
    }
    let processes = entries(Path::new("/proc"))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.bytes().all(|byte| byte.is_ascii_digit())
        })
        .map(|path| path.join("ns/net"));
    let named = NAMED.into_iter().flat_map(|path| entries(Path::new(path)));
    processes.chain(named).find_map(|path| {
        let is_it = fs::metadata(&path).is_ok_and(|metadata| metadata.ino() == inode);
        let netns = Netns::open(&path).ok().filter(|_| is_it)?;
        (netns.id().0 == inode).then_some((path, netns))
    })
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_pinned_is_nothing_to_remove() {
        let removed = cleanup(Path::new("/nonexistent/mesh-agent/n1"));
        assert_eq!(removed.expect("there is no agent"), Vec::<String>::new());
    }

    #[test]
    fn our_own_namespace_is_never_found() {
        let own = Netns::current().expect("proc is mounted").id().0;
        assert!(find(own).is_none());
        assert!(find(0).is_none());
    }
}
