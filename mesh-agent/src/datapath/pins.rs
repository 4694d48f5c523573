// SPDX-License-Identifier: Apache-2.0

//! The pin directory: what outlives the process, and who may touch it.
//!
//! Owns the layout (`v<ABI>/`, `v<ABI>/pods/<uid>/`) and the lock: the directory itself is locked,
//! so nothing is left behind that could be stale. One agent at a time changes what is pinned.
//!
//! Reference: bpf(2), BPF_OBJ_PIN; names on bpffs have no dots (`bpf_lookup`, kernel/bpf/inode.c).

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use mesh_common::ABI_VERSION;

use super::{DatapathError, sys};
use crate::model::WorkloadUid;

const BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC`, as `statfs` would say; used only through `/proc/mounts` here.
const BPFFS_KIND: &str = "bpf";

/// The pin directory, locked.
#[derive(Debug)]
pub(super) struct Pins {
    root: PathBuf,
    lock: File,
}

impl Pins {
    /// Mounts bpffs if it is not, makes the directories, takes the lock.
    pub(super) fn open(pin_dir: &Path) -> Result<Self, DatapathError> {
        ensure_bpffs()?;
        let root = without_dots(pin_dir);
        let failed = |source| DatapathError::Pins {
            path: root.clone(),
            source,
        };
        let lock = loop {
            fs::create_dir_all(&root).map_err(failed)?;
            let lock = File::open(&root).map_err(failed)?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => {
                    return Err(DatapathError::InUse { path: root });
                }
                Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
            }
            // An agent that stopped cleanly in between took the directory away.
            if is_same(&lock, &root) {
                break lock;
            }
        };
        let pins = Self { root, lock };
        fs::create_dir_all(pins.generation().join("pods")).map_err(|source| {
            DatapathError::Pins {
                path: pins.generation(),
                source,
            }
        })?;
        Ok(pins)
    }

    /// Takes the lock of what is there already; `None` if nothing is.
    pub(super) fn existing(pin_dir: &Path) -> Result<Option<Self>, DatapathError> {
        let root = without_dots(pin_dir);
        let failed = |source| DatapathError::Pins {
            path: root.clone(),
            source,
        };
        let lock = match File::open(&root) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed(source)),
        };
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { root, lock })),
            Err(fs::TryLockError::WouldBlock) => Err(DatapathError::InUse { path: root }),
            Err(fs::TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// The pods that any version pinned something for.
    pub(super) fn pods_of_all_generations(&self) -> Vec<PathBuf> {
        directories(&self.root)
            .iter()
            .flat_map(|generation| directories(&generation.join("pods")))
            .collect()
    }

    /// Lets another agent of the same node begin while this one still drains.
    pub(super) fn unlock(&self) -> io::Result<()> {
        self.lock.unlock()
    }

    /// Where this version's node maps and links are.
    pub(super) fn generation(&self) -> PathBuf {
        self.root.join(format!("v{ABI_VERSION}"))
    }

    /// A node map or link.
    pub(super) fn node(&self, name: &str) -> PathBuf {
        self.generation().join(name)
    }

    /// Where a pod's maps and links are.
    pub(super) fn pod(&self, uid: &WorkloadUid) -> PathBuf {
        self.generation().join("pods").join(encode(&uid.0))
    }

    /// Where earlier or later versions pinned, if they did.
    pub(super) fn other_generations(&self) -> Vec<PathBuf> {
        let own = self.generation();
        directories(&self.root)
            .into_iter()
            .filter(|path| *path != own)
            .collect()
    }

    /// The pods that something is pinned for.
    pub(super) fn pods(&self) -> Vec<PathBuf> {
        directories(&self.generation().join("pods"))
    }

    /// Where a link might be pinned: ours first, then other versions'.
    pub(super) fn link_candidates(&self, own: &Path) -> Vec<PathBuf> {
        let mut candidates = vec![own.to_owned()];
        if let Ok(relative) = own.strip_prefix(self.generation()) {
            for generation in self.other_generations() {
                candidates.push(generation.join(relative));
            }
        }
        candidates
    }

    /// Removes everything, and the directories.
    pub(super) fn remove(&self) {
        remove_tree(&self.root);
        if let Some(parent) = self.root.parent() {
            // Other nodes of this machine may still be in it.
            drop(fs::remove_dir(parent));
        }
    }
}

/// Removes a directory of pins. What cannot be removed is logged: a link that stays is attached.
pub(super) fn remove_tree(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove pins");
    }
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

fn is_same(open: &File, path: &Path) -> bool {
    match (open.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => open.ino() == named.ino() && open.dev() == named.dev(),
        _ => false,
    }
}

fn ensure_bpffs() -> Result<(), DatapathError> {
    let failed = |source| DatapathError::Pins {
        path: BPFFS.into(),
        source,
    };
    let mounts = fs::read_to_string("/proc/mounts").map_err(failed)?;
    if mount_points(&mounts, BPFFS_KIND).any(|path| path == BPFFS) {
        return Ok(());
    }
    sys::mount_bpffs(Path::new(BPFFS)).map_err(failed)
}

/// Where file systems of `kind` are mounted, in the order of `/proc/mounts`.
pub(super) fn mount_points<'a>(
    mounts: &'a str,
    kind: &'a str,
) -> impl Iterator<Item = &'a str> + 'a {
    mounts.lines().filter_map(move |line| {
        let mut fields = line.split(' ').skip(1);
        let path = fields.next()?;
        (fields.next()? == kind).then_some(path)
    })
}

/// bpffs refuses dots, and nodes are often called by their DNS names.
fn without_dots(path: &Path) -> PathBuf {
    match path.file_name() {
        Some(name) => path.with_file_name(encode(&name.to_string_lossy())),
        None => path.to_owned(),
    }
}

/// A name for bpffs: what is neither alphanumeric nor `-` or `_` as `%` and two hex digits.
fn encode(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02x}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_bpffs_have_no_dots() {
        assert_eq!(encode("6f1c-9a_B"), "6f1c-9a_B");
        assert_eq!(encode("a.b/c%"), "a%2eb%2fc%25");
        let node = Path::new("/sys/fs/bpf/mesh-agent/node1.example");
        assert_eq!(
            without_dots(node),
            Path::new("/sys/fs/bpf/mesh-agent/node1%2eexample")
        );
    }

    #[test]
    fn mount_points_are_found_by_kind() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
                      bpffs /sys/fs/bpf bpf rw 0 0\n";
        let found: Vec<_> = mount_points(mounts, "cgroup2").collect();
        assert_eq!(found, ["/sys/fs/cgroup/unified"]);
        assert_eq!(mount_points(mounts, "ext4").count(), 0);
    }
}
