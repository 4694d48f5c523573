// SPDX-License-Identifier: Apache-2.0

//! What a kubelet and a runtime leave of pods on a node: cgroups with processes in them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use mesh_agent::{
    datapath::OnAgentDeath,
    model::{Workload, WorkloadUid},
};

use super::{
    Neighbours, Node,
    pods::{Pod, eventually},
};

static NEXT: AtomicU32 = AtomicU32::new(1);

/// A kubelet's tree of cgroups in one hierarchy, and the processes that were put into it.
pub(crate) struct Kubelet {
    root: PathBuf,
    pause: PathBuf,
}

/// A pod's cgroup, with the processes in it.
pub(crate) struct Sandbox<'a> {
    kubelet: &'a Kubelet,
    directory: PathBuf,
    pub(crate) uid: WorkloadUid,
    processes: Vec<Child>,
}

impl Kubelet {
    pub(crate) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mesh-agent-{}-{number}", std::process::id());
        // Version 1 has a tree for each controller; version 2 has one.
        let hierarchies = [
            "/sys/fs/cgroup/pids",
            "/sys/fs/cgroup/unified",
            "/sys/fs/cgroup",
        ];
        let found = hierarchies
            .iter()
            .find(|path| Path::new(path).join("cgroup.procs").exists());
        let root = Path::new(found.expect("cgroups are mounted")).join(&name);
        fs::create_dir_all(root.join("node/kubepods/burstable")).expect("tests run as root");
        let pause = std::env::temp_dir().join(name);
        fs::create_dir_all(&pause).expect("it is ours");
        let pause = pause.join("pause");
        let sleep = Command::new("sh").args(["-c", "command -v sleep"]).output();
        let sleep = String::from_utf8(sleep.expect("there is a shell").stdout).expect("a path");
        fs::copy(sleep.trim(), &pause).expect("sleep is a program");
        Self { root, pause }
    }

    /// A node whose pods are here.
    pub(crate) fn node(&self) -> Node {
        let mut node = Node::stopped(OnAgentDeath::Closed, Neighbours::none());
        node.settings.cgroup_root = self.root.clone();
        node.start();
        node
    }

    /// A pod's cgroup, without a process.
    pub(crate) fn sandbox(&self) -> Sandbox<'_> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let uid = format!(
            "0a1b2c3d-4e5f-6071-8293-{:06x}{number:06x}",
            std::process::id()
        );
        let directory = self.root.join(format!("node/kubepods/burstable/pod{uid}"));
        fs::create_dir(&directory).expect("the kubelet's cgroup exists");
        Sandbox {
            kubelet: self,
            directory,
            uid: WorkloadUid(uid.into()),
            processes: Vec::new(),
        }
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        for directory in ["node/kubepods/burstable", "node/kubepods", "node", ""] {
            fs::remove_dir(self.root.join(directory)).expect("its pods are gone");
        }
        let directory = self.pause.parent().expect("it is in a directory");
        fs::remove_dir_all(directory).expect("it is ours");
    }
}

impl Sandbox<'_> {
    /// Starts a process in a container of the pod; in the node's namespace without `pod`.
    pub(crate) fn run(&mut self, container: &str, program: &Path, pod: Option<&Pod>) {
        let spawn = || Command::new(program).arg("1000").spawn();
        let child = match pod {
            Some(pod) => pod.within(spawn),
            None => spawn(),
        };
        let child = child.expect("it is a program");
        let cgroup = self.directory.join(container);
        fs::create_dir_all(&cgroup).expect("the pod's cgroup exists");
        fs::write(cgroup.join("cgroup.procs"), child.id().to_string()).expect("it lives");
        self.processes.push(child);
    }

    /// Starts the process that keeps the sandbox.
    pub(crate) fn begin(&mut self, pod: &Pod) {
        let pause = self.kubelet.pause.clone();
        self.run("sandbox", &pause, Some(pod));
    }

    /// Starts a container.
    pub(crate) fn app(&mut self, pod: &Pod) {
        self.run("app", Path::new("sleep"), Some(pod));
    }

    pub(crate) fn kill(&mut self) {
        for mut process in self.processes.drain(..) {
            process.kill().expect("it is ours");
            process.wait().expect("it is ours");
        }
    }

    /// The pod as the API knows it before it has run: without an address.
    pub(crate) fn workload(&self, pod: &Pod) -> Workload {
        Workload {
            uid: self.uid.clone(),
            netns: None,
            addresses: Vec::new(),
            ..pod.workload()
        }
    }
}

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        self.kill();
        for container in ["sandbox", "app", ""] {
            let path = self.directory.join(container);
            // The kernel takes a moment to let go of processes that have ended.
            eventually("a cgroup is removed", || {
                fs::remove_dir(&path).is_ok() || !path.exists()
            });
        }
    }
}
