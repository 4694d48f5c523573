// SPDX-License-Identifier: Apache-2.0

//! Processes of pods as the machine sees them, which is the node of all of them.
//!
//! What needs them is what must work without the API server: kubectl does not then. Knows nothing
//! of kubectl. Invariant: a process is found by its pod's UID, so never in another pod.

use std::{fs, path::PathBuf, process::Command};

/// A process in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodProcess(u32);

impl PodProcess {
    /// Processes whose command line begins with `words` in the pod with this UID.
    #[track_caller]
    pub fn all(uid: &str, words: &str) -> Vec<Self> {
        let all = fs::read_dir("/proc").expect("/proc is mounted").flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid: &u32| {
                let read = |file: &str| {
                    let path = PathBuf::from(format!("/proc/{pid}/{file}"));
                    // It may have ended since it was listed.
                    fs::read_to_string(path).unwrap_or_default()
                };
                read("cmdline").replace('\0', " ").starts_with(words)
                    && read("cgroup").contains(uid)
            })
            .map(Self)
            .collect()
    }

    /// The server that is in the pod with this UID.
    ///
    /// # Panics
    /// When there is not exactly one.
    #[track_caller]
    pub fn application(uid: &str) -> Self {
        let found = Self::all(uid, "/applications serve ");
        let [only] = found[..] else {
            panic!("processes of the application in {uid}: {found:?}");
        };
        only
    }

    /// `program` beside it: in its network and its file system.
    pub fn beside(self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--target", &self.0.to_string()]);
        command.args(["--", program]);
        command
    }

    /// `program` of the machine in its network.
    pub fn network(self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.0.to_string(), "--", program]);
        command
    }

    /// The file system that it sees, as the machine sees it.
    pub fn root(self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.0))
    }

    /// Kills it.
    pub fn kill(self) {
        crate::command::run_ok(Command::new("kill").args(["-KILL", &self.0.to_string()]));
    }
}
