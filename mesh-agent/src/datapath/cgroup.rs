// SPDX-License-Identifier: Apache-2.0

//! The hook on sockets: which cgroup, and which of its namespaces is the node's.
//!
//! The cgroup must hold the agent and, for probes, whatever the node probes with. By default it is
//! the root of the cgroup2 hierarchy, wherever that is mounted (a unified host at
//! `/sys/fs/cgroup`, a hybrid one below it).

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use mesh_common::names;
use socket2::{Domain, Socket, Type};

use super::{
    DatapathError, attach,
    pins::{self, Pins},
    sys::{self, LinkTarget},
};

/// The cookie of the namespace that the calling thread is in.
pub(super) fn namespace_cookie() -> io::Result<u64> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    sys::netns_cookie(&socket)
}

/// Where sockets are noted: the `wanted` directory, else the root of the cgroup2 hierarchy that is
/// mounted at or below `root`, else anywhere.
pub(super) fn directory(wanted: &Path, root: &Path) -> Result<PathBuf, DatapathError> {
    if !wanted.as_os_str().is_empty() {
        return Ok(wanted.to_owned());
    }
    let failed = |source| DatapathError::Cgroup {
        path: "/proc/mounts".into(),
        source,
    };
    let mounts = fs::read_to_string("/proc/mounts").map_err(failed)?;
    // In a container `/sys/fs/cgroup` may be the container's own part of the hierarchy; the node's
    // is where it was mounted from outside.
    let given = |path: &&str| !root.as_os_str().is_empty() && Path::new(path).starts_with(root);
    pins::mount_points(&mounts, "cgroup2")
        .find(given)
        .or_else(|| pins::mount_points(&mounts, "cgroup2").next())
        .map(PathBuf::from)
        .ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
}

/// Puts `program` on the sockets of the cgroup at `path`, in place of an earlier agent's.
pub(super) fn attach(
    pins: &Pins,
    path: &Path,
    program: &OwnedFd,
) -> Result<OwnedFd, DatapathError> {
    let path = path.to_owned();
    let cgroup = File::open(&path).map_err(|source| DatapathError::Cgroup {
        path: path.clone(),
        source,
    })?;
    let pin = pins.node(&attach::link_name(names::NOTE_SOCKETS));
    attach::attach_link(pins, &pin, program, LinkTarget::SockOps(cgroup.as_fd()))
        .map_err(|source| DatapathError::Cgroup { path, source })
}
