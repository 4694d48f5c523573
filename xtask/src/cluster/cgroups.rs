// SPDX-License-Identifier: Apache-2.0

//! The cgroups that a node's pods are put below, in every hierarchy of the machine.
//!
//! Works with version 1, version 2 and both side by side. Knows nothing of pods. Invariant: only
//! cgroups of the given name, and what is below them, are made or removed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Settings without which a cgroup of version 1 takes nobody in.
const CPUSET: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// Makes the cgroup `name` in every hierarchy.
pub(super) fn make(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let cgroup = hierarchy.join(name);
        fs::create_dir_all(&cgroup).with_context(|| format!("make {}", cgroup.display()))?;
        for setting in CPUSET {
            if let Ok(value) = fs::read_to_string(hierarchy.join(setting)) {
                fs::write(cgroup.join(setting), value)
                    .with_context(|| format!("set {setting} of {}", cgroup.display()))?;
            }
        }
        delegate(&hierarchy)?;
        delegate(&cgroup)?;
    }
    Ok(())
}

/// Lets cgroups below `cgroup` use every controller it has; version 2 asks for that.
fn delegate(cgroup: &Path) -> Result<()> {
    let controllers = fs::read_to_string(cgroup.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        fs::write(
            cgroup.join("cgroup.subtree_control"),
            format!("+{controller}"),
        )
        .with_context(|| format!("let cgroups below {} use {controller}", cgroup.display()))?;
    }
    Ok(())
}

/// Everybody in the cgroup `name` or below.
pub(super) fn members(name: &str) -> Result<Vec<u32>> {
    let mut pids = BTreeSet::new();
    for hierarchy in hierarchies()? {
        walk(&hierarchy.join(name), &mut |cgroup| {
            let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            Ok(())
        })?;
    }
    Ok(pids.into_iter().collect())
}

/// Removes the cgroup `name` from every hierarchy; nobody may be in it.
pub(super) fn remove(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        walk(&hierarchy.join(name), &mut |cgroup| {
            fs::remove_dir(cgroup).with_context(|| format!("remove {}", cgroup.display()))
        })?;
    }
    Ok(())
}

/// Visits `cgroup` and all below it, from the leaves up; one that is not there has none.
fn walk(cgroup: &Path, visit: &mut impl FnMut(&Path) -> Result<()>) -> Result<()> {
    let Ok(entries) = fs::read_dir(cgroup) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), visit)?;
        }
    }
    visit(cgroup)
}

fn hierarchies() -> Result<Vec<PathBuf>> {
    let mounted = fs::read_to_string("/proc/mounts").context("read what is mounted")?;
    Ok(parse(&mounted))
}

/// The places of cgroup file systems where container runtimes look for them.
fn parse(mounted: &str) -> Vec<PathBuf> {
    let places = mounted.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (fields.next()?, fields.next()?);
        let usual = place == "/sys/fs/cgroup" || place.starts_with("/sys/fs/cgroup/");
        (kind.starts_with("cgroup") && usual).then(|| PathBuf::from(place))
    });
    places.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_those_of_the_usual_place() {
        let mounted = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                       cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                       cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
                       cgroup2 /run/mesh-agent/cgroup cgroup2 rw 0 0\n";
        let want = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/unified"];
        assert_eq!(parse(mounted), want.map(PathBuf::from));
        let unified = parse("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n");
        assert_eq!(unified, [PathBuf::from("/sys/fs/cgroup")]);
    }

    #[test]
    fn a_cgroup_that_is_not_there_has_no_members() {
        let none = members("xtask-no-such-cgroup").expect("hierarchies can be read");
        assert_eq!(none, Vec::<u32>::new());
    }
}
