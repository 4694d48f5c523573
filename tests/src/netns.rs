// SPDX-License-Identifier: Apache-2.0

//! A network namespace: made, and entered by threads and commands.
//!
//! Knows nothing of nodes and pods; removed by name, with its lab. Invariant: a namespace is only entered by threads made for
//! it and by commands: the caller's thread never changes its own. Entered by setns(2), not by
//! `ip netns exec`, which would put a new `/sys` over the one with cgroups and bpffs.

use std::{
    fs::File,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    thread::{self, JoinHandle},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::command::{feed, run, run_ok};

/// Where iproute2 keeps named namespaces.
pub const DIRECTORY: &str = "/run/netns";

/// A named network namespace.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    /// Makes a namespace with `lo` up.
    ///
    /// # Panics
    /// Without the privilege, or when the name is taken.
    #[track_caller]
    pub fn create(name: &str) -> Self {
        run_ok(Command::new("ip").args(["netns", "add", name]));
        let path = Path::new(DIRECTORY).join(name);
        let file = File::open(&path).expect("`ip netns add` made the file");
        let netns = Self {
            name: name.to_owned(),
            file,
        };
        netns.ip("link set lo up\n");
        netns
    }

    /// Takes its name away; it is gone when the last who is inside leaves.
    pub fn remove(&self) {
        run(Command::new("ip").args(["netns", "del", &self.name]));
    }

    /// Its name for `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that names it.
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Runs lines of `ip` in it, as one batch.
    ///
    /// # Panics
    /// When one of them fails.
    #[track_caller]
    pub fn ip(&self, batch: &str) {
        feed(
            Command::new("ip").args(["-n", &self.name, "-batch", "-"]),
            batch,
        );
    }

    /// Sets one sysctl below `net.`, written with slashes: `ipv4/ip_forward`.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[track_caller]
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/net/{key}");
        let wrote = self.run(|| std::fs::write(&path, value));
        wrote.unwrap_or_else(|error| panic!("{path} = {value}: {error}"));
    }

    /// A command that will run in it, and that is killed when the calling thread ends.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display()));
        command
            .args(["setpriv", "--pdeathsig", "KILL"])
            .arg(program);
        command
    }

    /// Runs `work` on a thread inside and waits for it; a panic in it goes on here.
    #[track_caller]
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let outcome = thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter();
                    work()
                })
                .join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs `work` on a thread inside that goes on by itself.
    ///
    /// # Panics
    /// When no thread can be started.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let file = self
            .file
            .try_clone()
            .expect("a namespace's file can be duplicated");
        let thread = thread::Builder::new().name(name.to_owned());
        let spawned = thread.spawn(move || {
            enter(&file);
            work()
        });
        spawned.expect("a thread can be started")
    }

    fn enter(&self) {
        enter(&self.file);
    }
}

fn enter(file: &File) {
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .unwrap_or_else(|error| panic!("a network namespace cannot be entered: {error}"));
}

/// Joins two namespaces by a veth pair; each end is `(namespace, device)`.
///
/// # Panics
/// When a device exists already or the privilege is missing.
#[track_caller]
pub fn veth(left: (&Netns, &str), right: (&Netns, &str)) {
    let (left, left_device) = left;
    let (right, right_device) = right;
    left.ip(&format!(
        "link add {left_device} type veth peer name {right_device} netns {}\n",
        right.name()
    ));
}
