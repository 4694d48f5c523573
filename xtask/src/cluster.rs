// SPDX-License-Identifier: Apache-2.0

//! `cargo xtask cluster`: a real Kubernetes of two nodes on this machine.
//!
//! Owns the command and what a cluster is: a directory for its state and a name for what has to
//! have one outside of it (network namespaces, nodes, cgroups). The control plane and each node
//! have a network namespace of their own and share everything else with the machine: two clusters
//! of different names know nothing of each other. Knows nothing of the mesh. Invariant: whatever
//! `up` started, mounted or made, `down` ends, unmounts and removes, even after half an `up`.

use std::{
    env, fs,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    command::{self, cache, spell},
    image, programs,
    setup::{self, Lacking, Scope},
};

mod certificates;
mod cgroups;
mod control_plane;
mod daemon;
mod dns;
mod network;
mod node;
mod remains;

use self::node::Node;

const USAGE: &str =
    "cluster up|down|load|kubectl [--dir DIR] [--name NAME] [IMAGE.tar... | ARGUMENTS...]";

/// How long a component may take to answer for the first time on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Sockets of containerd lie below the directory, and their paths have 108 bytes.
const MOST_PATH: usize = 70;

/// One cluster, running or not.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    directory: PathBuf,
    name: String,
}

/// The command itself.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let Some((verb, rest)) = words.split_first() else {
        return Err(Lacking::usage(USAGE.to_owned()));
    };
    let (cluster, rest) = Cluster::chosen(rest)?;
    match (verb.as_str(), rest) {
        ("up", []) => up(&cluster),
        ("down", []) => cluster.down(),
        ("load", images @ [_, ..]) => {
            let images: Vec<PathBuf> = images.iter().map(PathBuf::from).collect();
            cluster.load(&images)
        }
        ("kubectl", words) => {
            cluster.must_be_up()?;
            let mut kubectl = cluster.kubectl();
            Err(kubectl.args(words).exec()).context("start kubectl")
        }
        _ => Err(Lacking::usage(USAGE.to_owned())),
    }
}

#[allow(
    clippy::print_stdout,
    reason = "where the cluster is was asked for: it goes to standard output"
)]
fn up(cluster: &Cluster) -> Result<()> {
    let started = Instant::now();
    let was_up = cluster.up()?;
    let state = if was_up { "was up already" } else { "up" };
    println!(
        "cluster {} {state}, {}\n\
         kubeconfig: {}\n\
         kubectl:    cargo xtask cluster kubectl{} get nodes\n\
         or:         nsenter --net={} kubectl --kubeconfig {} get nodes\n\
         logs:       {}\n\
         end it:     cargo xtask cluster down{}",
        cluster.name,
        spell(started.elapsed()),
        cluster.kubeconfig().display(),
        cluster.options(),
        network::path(&cluster.control_plane()).display(),
        cluster.kubeconfig().display(),
        cluster.directory.join("log").display(),
        cluster.options(),
    );
    Ok(())
}

impl Cluster {
    /// The cluster that leading options of `words` choose, and the other words.
    pub(crate) fn chosen(words: &[String]) -> Result<(Self, &[String])> {
        let (mut directory, mut name, mut rest) = (None, None, words);
        while let [option, after @ ..] = rest {
            let slot = match option.as_str() {
                "--dir" => &mut directory,
                "--name" => &mut name,
                _ => break,
            };
            let [value, after @ ..] = after else {
                return Err(Lacking::usage(format!("{option} takes a value")));
            };
            *slot = Some(value.clone());
            rest = after;
        }
        Ok((Self::new(directory.as_deref(), name.as_deref())?, rest))
    }

    /// The cluster in `directory`, with what has to have a name called after `name`.
    pub(crate) fn new(directory: Option<&str>, name: Option<&str>) -> Result<Self> {
        let directory = match (directory, name) {
            (Some(directory), _) => env::current_dir()
                .context("no current directory")?
                .join(directory),
            (None, Some(name)) if name != "mesh" => cache()?.join(format!("cluster-{name}")),
            (None, _) => cache()?.join("cluster"),
        };
        let known = fs::read_to_string(directory.join("name")).ok();
        let name = name.or(known.as_deref()).unwrap_or("mesh").to_owned();
        let is_plain = name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if name.is_empty() || name.len() > 10 || !is_plain {
            return Err(Lacking::usage(format!(
                "a cluster's name is one to ten small letters and digits, not {name:?}"
            )));
        }
        if known.is_some_and(|known| known != name) {
            return Err(Lacking::usage(format!(
                "{} holds a cluster of another name",
                directory.display()
            )));
        }
        if directory.as_os_str().len() > MOST_PATH {
            return Err(Lacking::usage(format!(
                "{} is longer than {MOST_PATH} bytes: sockets below it would have no name",
                directory.display()
            )));
        }
        Ok(Self { directory, name })
    }

    /// Starts what does not run; returns whether all of it ran already.
    pub(crate) fn up(&self) -> Result<bool> {
        Lacking::unless_root("a cluster is made of network namespaces and containers")?;
        setup::ensure(&[Scope::Cluster])?;
        if self.is_up() {
            return Ok(true);
        }
        self.down()?;
        let kubernetes = programs::KUBERNETES.get()?;
        let dns = programs::COREDNS.get()?;
        let pause = image::pause()?;
        for directory in ["bin", "log", "pid", "pki"] {
            self.make(directory)?;
        }
        self.write("name", &self.name)?;
        self.install(&kubernetes)?;
        remains::note_settings(self)?;
        let result = self.start(&dns, &pause);
        if result.is_err() {
            eprintln!("--- logs are in {}", self.directory.join("log").display());
        }
        result.map(|()| false)
    }

    fn start(&self, dns: &Path, pause: &Path) -> Result<()> {
        step("certificates", || certificates::issue(self))?;
        step("network", || network::up(self))?;
        step("control plane", || control_plane::start(self))?;
        step("nodes", || {
            for node in self.nodes() {
                node.start(pause)?;
            }
            Ok(())
        })?;
        step("cluster DNS", || dns::start(self, dns))?;
        step("nodes are ready", || {
            self.wait_for("both nodes to be ready", |cluster| {
                cluster.ready_nodes() == 2
            })
        })
    }

    /// Ends it all and removes every trace; nothing to do is fine.
    pub(crate) fn down(&self) -> Result<()> {
        Lacking::unless_root("a cluster is made of network namespaces and containers")?;
        remains::remove(self)
    }

    /// Gives both nodes the images in the archives.
    pub(crate) fn load(&self, images: &[PathBuf]) -> Result<()> {
        self.must_be_up()?;
        for image in images {
            for node in self.nodes() {
                node.load(image)?;
            }
        }
        Ok(())
    }

    /// Applies manifests as the administrator.
    pub(crate) fn apply(&self, manifests: &str) -> Result<()> {
        let mut kubectl = self.kubectl();
        kubectl.args(["apply", "-f", "-"]);
        kubectl.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = kubectl.spawn().context("start kubectl")?;
        let mut input = child.stdin.take().context("kubectl takes no input")?;
        input
            .write_all(manifests.as_bytes())
            .context("give kubectl the manifests")?;
        drop(input);
        let status = child.wait().context("wait for kubectl")?;
        ensure!(status.success(), "kubectl apply ended with {status}");
        Ok(())
    }

    /// kubectl as the cluster's administrator, in the network of its control plane.
    pub(crate) fn kubectl(&self) -> Command {
        let mut kubectl = self.inside(&self.control_plane(), self.bin("kubectl"));
        kubectl.arg("--kubeconfig").arg(self.kubeconfig());
        kubectl
    }

    /// Where kubectl and others find the API server and their certificates.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// Where all state is.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Name of the network namespace of the control plane.
    pub(crate) fn control_plane(&self) -> String {
        format!("{}-cp", self.name)
    }

    /// `program`, to be run in a network namespace of the cluster and nothing else of it.
    pub(crate) fn inside(&self, netns: &str, program: impl AsRef<Path>) -> Command {
        // Not `ip netns exec`, which mounts another /sys: containerd must see the machine's.
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", network::path(netns).display()));
        command.arg("--").arg(program.as_ref());
        command
    }

    fn nodes(&self) -> [Node<'_>; 2] {
        [Node::new(self, 0), Node::new(self, 1)]
    }

    fn bin(&self, component: &str) -> PathBuf {
        self.directory.join("bin").join(component)
    }

    /// Puts the components where they are called by their names.
    fn install(&self, kubernetes: &Path) -> Result<()> {
        let place = self.bin("kubernetes");
        let linked = fs::hard_link(kubernetes, &place);
        if linked.is_err() {
            fs::copy(kubernetes, &place).with_context(|| format!("write {}", place.display()))?;
        }
        for component in COMPONENTS {
            let link = self.bin(component);
            std::os::unix::fs::symlink("kubernetes", &link)
                .with_context(|| format!("link {}", link.display()))?;
        }
        Ok(())
    }

    fn is_up(&self) -> bool {
        let nodes = self.nodes();
        let of_nodes = nodes.iter().flat_map(Node::daemons);
        let all = control_plane::DAEMONS.iter().map(|&name| name.to_owned());
        all.chain(of_nodes)
            .chain([dns::DAEMON.to_owned()])
            .all(|name| daemon::runs(self, &name))
            && self.ready_nodes() == 2
    }

    fn must_be_up(&self) -> Result<()> {
        ensure!(
            daemon::runs(self, "kube-apiserver"),
            "no cluster runs in {}: cargo xtask cluster up{}",
            self.directory.display(),
            self.options()
        );
        Ok(())
    }

    fn ready_nodes(&self) -> usize {
        let listed = command::output(self.kubectl().args(["get", "nodes", "--no-headers"]));
        let text = listed.unwrap_or_default();
        let state = |line: &str| line.split_whitespace().nth(1) == Some("Ready");
        text.lines().filter(|line| state(line)).count()
    }

    /// Looks until `look` says yes.
    fn wait_for(&self, what: &str, look: impl Fn(&Self) -> bool) -> Result<()> {
        let started = Instant::now();
        while !look(self) {
            if started.elapsed() > PATIENCE {
                bail!("waited {} for {what}", spell(PATIENCE));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// What has to be typed to mean this cluster.
    fn options(&self) -> String {
        let usual = cache().is_ok_and(|cache| cache.join("cluster") == self.directory);
        if usual {
            return String::new();
        }
        format!(" --dir {}", self.directory.display())
    }

    fn make(&self, directory: &str) -> Result<()> {
        let path = self.directory.join(directory);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.directory.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }
}

/// What the one program of Kubernetes is called by.
const COMPONENTS: &[&str] = &[
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
];

/// Does one thing, and says how long it took.
fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    work().with_context(|| name.to_owned())?;
    eprintln!("--- cluster: {name}: ok, {}", spell(started.elapsed()));
    Ok(())
}

/// Runs `command`, which is expected to say nothing of interest unless it fails.
fn quietly(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn options_end_where_the_words_for_kubectl_begin() {
        let typed = words("--dir /tmp/c --name two get pods --name x");
        let (cluster, rest) = Cluster::chosen(&typed).expect("that is how it is typed");
        assert_eq!(cluster.directory, Path::new("/tmp/c"));
        assert_eq!(cluster.control_plane(), "two-cp");
        assert_eq!(rest, words("get pods --name x"));
    }

    #[test]
    fn names_and_directories_that_cannot_work_are_refused() {
        assert!(Cluster::new(Some("/tmp/c"), Some("Two")).is_err());
        assert!(Cluster::new(Some("/tmp/c"), Some("")).is_err());
        assert!(Cluster::new(Some(&format!("/tmp/{}", "c".repeat(99))), None).is_err());
        assert!(Cluster::chosen(&words("--dir")).is_err());
    }
}
