// SPDX-License-Identifier: Apache-2.0

//! Fixtures for tests in a real cluster: kubectl, namespaces, workloads, the agent's installation.
//!
//! The cluster is started by `cargo xtask test kube`, which says where it is; everything is done
//! through kubectl, as a user would. Knows nothing of how the cluster is made but where its state
//! is. Invariants: a namespace that a test makes is gone when the test is over; a wait has a
//! deadline and says what it saw last.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    command::{self, Ran, feed, run, run_ok},
    wait,
};

pub mod forward;
pub mod install;
pub mod istiod;
pub mod load;
pub mod namespace;
pub mod pod_pid;
pub mod workload;

pub use self::{
    forward::Forward,
    install::Mesh,
    istiod::Istiod,
    load::PodLoad,
    namespace::{Namespace, all_by},
    pod_pid::PodProcess,
    workload::Workload,
};

/// How long something in a cluster may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A running cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    directory: PathBuf,
    name: String,
}

impl Cluster {
    /// The cluster that the test command has started.
    ///
    /// # Panics
    /// When it has started none.
    #[allow(
        clippy::disallowed_methods,
        reason = "the test command says by the environment where its cluster is"
    )]
    #[track_caller]
    pub fn here() -> Self {
        let directory = env::var("MESH_KUBE_DIR")
            .expect("MESH_KUBE_DIR is set: `cargo xtask test kube` starts a cluster and sets it");
        let directory = PathBuf::from(directory);
        let name = fs::read_to_string(directory.join("name")).unwrap_or_else(|error| {
            panic!("no cluster in {}: {error}", directory.display());
        });
        Self { directory, name }
    }

    /// Where its state is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// kubectl as the administrator.
    pub fn kubectl(&self) -> Command {
        let mut kubectl = self.inside(&self.directory.join("bin/kubectl"));
        kubectl
            .arg("--kubeconfig")
            .arg(self.directory.join("kubeconfig"));
        kubectl
    }

    /// A program in the network of the control plane, ended with the calling thread.
    pub fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}-cp", self.name));
        command
            .args(["setpriv", "--pdeathsig", "KILL"])
            .arg(program);
        command
    }

    /// Runs kubectl with `words`, whatever comes of it.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Ran {
        run(self.kubectl().args(words))
    }

    /// Runs kubectl with `words`, which must succeed, and returns what it printed.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        run_ok(self.kubectl().args(words))
    }

    /// Applies manifests to their own namespaces, or `default`.
    #[track_caller]
    pub fn apply(&self, manifests: &str) {
        feed(self.kubectl().args(["apply", "-f", "-"]), manifests);
    }

    /// Deletes what manifests name, if it is there.
    #[track_caller]
    pub fn delete(&self, manifests: &str) {
        let words = ["delete", "--ignore-not-found", "-f", "-"];
        feed(self.kubectl().args(words), manifests);
    }

    /// The names of the nodes, in order.
    #[track_caller]
    pub fn nodes(&self) -> Vec<String> {
        let listed = self.ok(&["get", "nodes", "--output", "name"]);
        let names = listed.lines().map(|line| line.trim_start_matches("node/"));
        names.map(str::to_owned).collect()
    }

    /// Waits until kubectl with `words` prints something that `is_it` is content with.
    #[track_caller]
    pub fn until(&self, what: &str, words: &[&str], is_it: impl Fn(&str) -> bool) -> String {
        wait::until(what, PATIENCE, || {
            let ran = self.run(words);
            if ran.ok() && is_it(&ran.stdout) {
                return Ok(ran.stdout);
            }
            // Each look is a program that starts: no need to look all the time.
            std::thread::sleep(Duration::from_millis(200));
            Err(format!("{}{}", ran.stdout, ran.stderr))
        })
    }
}

/// Ends a child that runs beside a test.
fn end(child: &mut std::process::Child) {
    command::stop(child, Duration::from_secs(5));
}
