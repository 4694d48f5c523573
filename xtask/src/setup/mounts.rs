// SPDX-License-Identifier: Apache-2.0

//! File systems that the agent needs and a container often lacks.
//!
//! Knows nothing of what is pinned there. Invariant: a file system of the right kind that is
//! mounted already is left alone, wherever it is.

use std::fs;

use anyhow::{Context, Result};

use super::{Fix, Need};
use crate::command::{self, program};

/// One file system.
#[derive(Debug)]
pub(super) struct Mount {
    kind: &'static str,
    /// Where it is mounted when it is nowhere.
    place: &'static str,
    /// Whether it has to be at `place`.
    fixed: bool,
    why: &'static str,
}

const MOUNTS: &[Mount] = &[
    Mount {
        kind: "bpf",
        place: "/sys/fs/bpf",
        fixed: true,
        why: "kernel programs and maps are pinned there, so that they outlive the agent",
    },
    Mount {
        kind: "cgroup2",
        place: "/run/mesh-agent/cgroup",
        fixed: false,
        why: "the socket notes are attached to it",
    },
];

/// Adds the file systems that are not mounted.
pub(super) fn survey(needs: &mut Vec<Need>) {
    let mounted = fs::read_to_string("/proc/mounts").unwrap_or_default();
    for mount in MOUNTS.iter().filter(|mount| !mount.is_in(&mounted)) {
        needs.push(Need {
            what: format!("file system {} at {}", mount.kind, mount.place),
            why: mount.why,
            how: format!(
                "mount -t {kind} {kind} {place}",
                kind = mount.kind,
                place = mount.place
            ),
            fix: Fix::Mount(mount),
        });
    }
}

impl Mount {
    /// Mounts it.
    pub(super) fn mount(&self) -> Result<()> {
        fs::create_dir_all(self.place).with_context(|| format!("make {}", self.place))?;
        command::run_aside(program("mount").args(["-t", self.kind, self.kind, self.place]))
    }

    fn is_in(&self, mounted: &str) -> bool {
        mounted.lines().any(|line| {
            let mut fields = line.split(' ').skip(1);
            let (place, kind) = (fields.next(), fields.next());
            kind == Some(self.kind) && (!self.fixed || place == Some(self.place))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "proc /proc proc rw 0 0\n\
                          cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
                          bpf /elsewhere bpf rw 0 0\n";

    #[test]
    fn cgroup2_may_be_anywhere_and_bpf_only_at_its_place() {
        let [bpf, cgroup] = MOUNTS else {
            panic!("two mounts")
        };
        assert!(cgroup.is_in(SAMPLE));
        assert!(!bpf.is_in(SAMPLE));
        assert!(bpf.is_in("bpf /sys/fs/bpf bpf rw 0 0\n"));
    }
}
