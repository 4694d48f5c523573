// SPDX-License-Identifier: Apache-2.0

//! Being the first program of a kernel that was just booted.
//!
//! Knows nothing of the smoke test. Invariant: what the kernel cannot do panics with the name of
//! what it cannot do; the caller turns that into the verdict.

use std::{ffi::CStr, fs, path::Path};

use rustix::{
    mount::{MountFlags, mount},
    system::{RebootCommand, finit_module, reboot},
};

/// Kind and place of the file systems that any system has.
const FILE_SYSTEMS: &[(&str, &str)] = &[
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("bpf", "/sys/fs/bpf"),
    ("cgroup2", "/sys/fs/cgroup"),
];

/// Where the kernel modules are, in the order of their names.
const MODULES: &str = "/modules";

/// Mounts file systems and loads modules.
///
/// # Panics
/// When the kernel refuses.
pub(crate) fn set_up() {
    for (kind, place) in FILE_SYSTEMS {
        let mounted = mount(*kind, *place, *kind, MountFlags::empty(), None::<&CStr>);
        mounted.unwrap_or_else(|error| panic!("mount {kind} at {place}: {error}"));
    }
    let entries = fs::read_dir(MODULES).expect("the archive holds the modules");
    let mut modules: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    modules.sort();
    for module in &modules {
        load(module);
    }
}

fn load(module: &Path) {
    let file = fs::File::open(module).expect("the archive's files can be read");
    finit_module(&file, c"", 0)
        .unwrap_or_else(|error| panic!("load {}: {error}", module.display()));
}

/// Switches the machine off.
pub(crate) fn power_off() {
    let error = reboot(RebootCommand::PowerOff).expect_err("a machine that is off runs nothing");
    // The kernel panics when its first program ends, which ends the machine as well.
    eprintln!("power off: {error}");
}
