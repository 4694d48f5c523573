// SPDX-License-Identifier: Apache-2.0

//! How kubelets and container runtimes lay out the cgroups of pods.
//!
//! | driver | pod | container |
//! | --- | --- | --- |
//! | cgroupfs | `kubepods[/burstable\|/besteffort]/pod<UID>` | `<id>`, `crio-<id>` |
//! | systemd | `kubepods[-burstable\|-besteffort]-pod<UID with _>.slice` | `cri-containerd-<id>.scope`, `crio-<id>.scope` |
//!
//! All of it may be below a kubelet's cgroupRoot, which systemd puts before the names, too
//! (`kubelet-kubepods-pod...`). On version 1 every controller has such a tree; on a hybrid node
//! version 2's may have none. Knows nothing of processes.
//!
//! Invariant: only a directory at a pod's level is taken for a pod: what a pod makes below its
//! own, however called, stays its own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::model::WorkloadUid;

/// How deep below a hierarchy a kubelet's cgroupRoot may be.
const ROOT_DEPTH: usize = 4;

/// A UID is a UUID, or a hash for pods from files; anything much shorter is something else.
const UID_MIN: usize = 8;

/// Which controllers' trees of version 1 are looked at first: every pod has them.
const PREFERRED: [&str; 4] = ["pids", "memory", "cpu", "systemd"];

/// What a directory below a kubelet's root is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// A pod's.
    Pod(WorkloadUid),
    /// That of a class of pods, which are in it.
    Class,
    /// Something else.
    Other,
}

/// What a directory called `name` is, in the root of all pods or in a class.
pub(super) fn level(name: &str) -> Level {
    if let Some(uid) = pod_uid(name) {
        return Level::Pod(uid);
    }
    let stem = name.strip_suffix(".slice").unwrap_or(name);
    let class = stem.rsplit('-').next().unwrap_or(stem);
    match class {
        "burstable" | "besteffort" | "guaranteed" => Level::Class,
        _ => Level::Other,
    }
}

/// The pod that a process with this `/proc/PID/cgroup` belongs to.
pub(super) fn pod_of(cgroups: &str) -> Option<WorkloadUid> {
    cgroups.lines().find_map(|line| {
        let path = line.splitn(3, ':').nth(2)?;
        // The outermost: those below were named by the pod.
        path.split('/').find_map(pod_uid)
    })
}

fn pod_uid(name: &str) -> Option<WorkloadUid> {
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => {
            let (parents, uid) = slice.rsplit_once("-pod")?;
            parents
                .contains("kubepods")
                .then(|| uid.replace('_', "-"))?
        }
        None => name.strip_prefix("pod")?.to_owned(),
    };
    let is_of_uid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    (uid.len() >= UID_MIN && uid.bytes().all(is_of_uid)).then(|| WorkloadUid(uid.into()))
}

/// The roots of all pods, one for each kubelet, in the first hierarchy below `cgroups` that has
/// any.
pub(super) fn pod_roots(cgroups: &Path) -> Vec<PathBuf> {
    for hierarchy in hierarchies(cgroups) {
        let mut roots = Vec::new();
        find_roots(&hierarchy, ROOT_DEPTH, &mut roots);
        if !roots.is_empty() {
            return roots;
        }
    }
    Vec::new()
}

/// One for version 2, one for each controller of version 1; on a hybrid node version 2's last.
fn hierarchies(cgroups: &Path) -> Vec<PathBuf> {
    if cgroups.join("cgroup.controllers").exists() {
        return vec![cgroups.to_owned()];
    }
    let mut found = directories(cgroups);
    found.sort_by_key(|path| {
        let name = name_of(path);
        let place = PREFERRED.iter().position(|preferred| *preferred == name);
        let is_v2 = path.join("cgroup.controllers").exists();
        (is_v2, place.unwrap_or(PREFERRED.len()), name)
    });
    found
}

fn find_roots(directory: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    for path in directories(directory) {
        let name = name_of(&path);
        if name == "kubepods" || name == "kubepods.slice" || name.ends_with("-kubepods.slice") {
            found.push(path);
        } else if depth > 1 {
            find_roots(&path, depth - 1, found);
        }
    }
}

/// The directories in `path`, which may be gone.
pub(super) fn directories(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// The last part of a path.
pub(super) fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";

    #[track_caller]
    fn check(name: &str, want: Level) {
        assert_eq!(level(name), want, "{name}");
    }

    fn pod() -> Level {
        Level::Pod(WorkloadUid(UID.into()))
    }

    #[test]
    fn a_pods_directory_carries_its_uid_under_either_driver() {
        let underscored = UID.replace('-', "_");
        check(&format!("pod{UID}"), pod());
        check(&format!("kubepods-pod{underscored}.slice"), pod());
        check(&format!("kubepods-burstable-pod{underscored}.slice"), pod());
        check(
            &format!("kubelet-kubepods-besteffort-pod{underscored}.slice"),
            pod(),
        );
        let hash = "5c4ca382a7ae83d4ee32d1a3d0ab5a3c";
        check(&format!("pod{hash}"), Level::Pod(WorkloadUid(hash.into())));
    }

    #[test]
    fn what_is_no_pod_is_not_taken_for_one() {
        check("burstable", Level::Class);
        check("kubepods-besteffort.slice", Level::Class);
        check("kubelet-kubepods-burstable.slice", Level::Class);
        check("pods", Level::Other);
        check("podman-machine/..", Level::Other);
        check("system-pod_of_peas_and_beans.slice", Level::Other);
        check("cri-containerd-0123456789abcdef.scope", Level::Other);
    }

    #[track_caller]
    fn check_process(cgroups: &str, want: Option<&str>) {
        let want = want.map(|uid| WorkloadUid(uid.into()));
        assert_eq!(pod_of(cgroups), want, "{cgroups}");
    }

    #[test]
    fn a_process_says_its_pod_on_every_version() {
        let slice = UID.replace('-', "_");
        check_process(
            &format!("0::/kubepods.slice/kubepods-pod{slice}.slice/cri-containerd-ab12.scope\n"),
            Some(UID),
        );
        check_process(
            &format!("5:pids:/lab-a/kubepods/burstable/pod{UID}/ab12\n0::/\n"),
            Some(UID),
        );
        // As an agent in a cgroup namespace of its own sees it.
        check_process(&format!("0::/../../pod{UID}/ab12\n"), Some(UID));
        check_process(
            &format!("0::/kubepods/pod{UID}/ab12/pod11111111-2222-3333\n"),
            Some(UID),
        );
        check_process("0::/system.slice/containerd.service\n", None);
    }

    /// A cgroup file system of directories, removed when dropped.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, directories: &[&str], files: &[&str]) -> Self {
            let root = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            for directory in directories {
                fs::create_dir_all(root.join(directory)).unwrap();
            }
            for file in files {
                fs::write(root.join(file), "").unwrap();
            }
            Self(root)
        }

        #[track_caller]
        fn check(&self, want: &[&str]) {
            let mut roots = pod_roots(&self.0);
            roots.sort();
            let want: Vec<_> = want.iter().map(|path| self.0.join(path)).collect();
            assert_eq!(roots, want);
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn pods_are_found_on_version_2() {
        let directories = ["kubepods.slice/kubepods-burstable.slice", "system.slice"];
        let tree = Tree::new("layout-v2", &directories, &["cgroup.controllers"]);
        tree.check(&["kubepods.slice"]);
    }

    #[test]
    fn pods_are_found_on_version_1_below_every_cgroup_root() {
        let directories = [
            "cpuset/lab-a/kubepods",
            "pids/lab-a/kubepods/burstable",
            "pids/lab-b/kubepods",
            "unified/lab-a",
        ];
        let tree = Tree::new("layout-v1", &directories, &["unified/cgroup.controllers"]);
        tree.check(&["pids/lab-a/kubepods", "pids/lab-b/kubepods"]);
    }

    #[test]
    fn pods_are_found_on_a_hybrid_node_that_uses_version_2() {
        let directories = [
            "pids/system.slice",
            "unified/kubelet.slice/kubelet-kubepods.slice",
        ];
        let tree = Tree::new(
            "layout-hybrid",
            &directories,
            &["unified/cgroup.controllers"],
        );
        tree.check(&["unified/kubelet.slice/kubelet-kubepods.slice"]);
    }

    #[test]
    fn a_node_without_pods_has_no_root() {
        let tree = Tree::new("layout-none", &["pids/user.slice"], &[]);
        tree.check(&[]);
    }
}
