// SPDX-License-Identifier: Apache-2.0

//! The agent in the cluster, installed and removed as a user would: by `deploy/`.
//!
//! Knows nothing of what the manifests say but the names they give. Invariant: when [`Mesh::on`]
//! returns, every node's agent is ready, and runs what is in the image now.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::Cluster;
use crate::command::{Ran, run, run_ok};

/// Where the installation is.
pub const NAMESPACE: &str = "mesh-system";

/// The agents' pods.
pub(super) const AGENTS: &str = "--selector=app.kubernetes.io/name=mesh-agent";

/// The mesh in a cluster. It stays installed for the next test.
pub struct Mesh {
    cluster: Cluster,
}

impl Mesh {
    /// Installs the mesh, or finds it installed.
    ///
    /// # Panics
    /// When an agent or the control plane does not become ready, with what they say.
    #[track_caller]
    pub fn on(cluster: &Cluster) -> Self {
        let mesh = Self {
            cluster: cluster.clone(),
        };
        mesh.apply();
        mesh
    }

    /// Makes the installation what the manifests say, whatever was changed, and waits for it.
    ///
    /// # Panics
    /// As [`Mesh::on`].
    #[track_caller]
    pub fn apply(&self) {
        self.apply_with("");
    }

    /// The same with further patches, a list in the YAML of a kustomization.
    ///
    /// # Panics
    /// As [`Mesh::on`].
    #[track_caller]
    pub fn apply_with(&self, patches: &str) {
        let mut apply = self.cluster.kubectl();
        apply.args(["apply", "--server-side", "--force-conflicts", "-k"]);
        run_ok(apply.arg(overlay(&self.cluster, patches)));
        self.wait();
    }

    /// Where it is installed.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Waits until all of it is as it was last applied.
    #[track_caller]
    pub fn wait(&self) {
        for workload in ["deployment/mesh-agent-control", "daemonset/mesh-agent"] {
            let ran = self.run(&["rollout", "status", workload, "--timeout=180s"]);
            assert!(ran.ok(), "{workload}: {}\n{}", ran.stderr, self.describe());
        }
    }

    /// Waits until agents that are not in `before` are ready on all nodes and the others have been
    /// told to go. `kubectl rollout status` waits until they are gone, too: as long as the oldest of
    /// their connections.
    #[track_caller]
    pub fn wait_for_successors(&self, before: &[String]) {
        let template = "--output=go-template={{range .items}}{{if not .metadata.deletionTimestamp}}\
                        pod/{{.metadata.name}}{{range .status.conditions}}{{if eq .type \"Ready\"}} \
                        {{.status}}{{end}}{{end}}{{\"\\n\"}}{{end}}{{end}}";
        let is_done = |listed: &str| {
            let is_new = |line: &str| {
                let (pod, ready) = line.split_once(' ').unwrap_or_default();
                ready == "True" && !before.iter().any(|old| old == pod)
            };
            listed.lines().count() == before.len() && listed.lines().all(is_new)
        };
        let words = ["--namespace", NAMESPACE, "get", "pods", AGENTS, template];
        self.cluster
            .until("the agents' successors to be ready", &words, is_done);
    }

    /// kubectl in the installation's namespace.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Ran {
        let mut kubectl = self.cluster.kubectl();
        run(kubectl.args(["--namespace", NAMESPACE]).args(words))
    }

    /// The same; it must succeed. Returns what it printed.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        let mut kubectl = self.cluster.kubectl();
        run_ok(kubectl.args(["--namespace", NAMESPACE]).args(words))
    }

    /// The name of the agent's pod on `node`: not of a predecessor whose connections are ending.
    #[track_caller]
    pub fn agent_on(&self, node: &str) -> String {
        let field = format!("--field-selector=spec.nodeName={node},status.phase=Running");
        let names = "--output=go-template={{range .items}}{{if not .metadata.deletionTimestamp}}\
                     pod/{{.metadata.name}}{{\"\\n\"}}{{end}}{{end}}";
        let ran = self.run(&["get", "pods", &field, AGENTS, names]);
        let pod = ran.stdout.lines().next();
        pod.unwrap_or_else(|| panic!("no agent on {node}: {ran:?}\n{}", self.describe()))
            .to_owned()
    }

    /// What the agent on `node` says of itself and its pods.
    #[track_caller]
    pub fn status(&self, node: &str) -> serde_json::Value {
        let ran = self.agent(node, &["status", "-o", "json"]);
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
    }

    /// What the admin socket of the agent on `node` answers, byte by byte. The API server is not needed:
    /// this machine is the node of all agents.
    ///
    /// # Errors
    /// What curl said: nobody answers, or not with 200.
    pub fn admin(&self, node: &str, method: &str, path: &str) -> Result<Vec<u8>, String> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "20"]);
        curl.args(["--request", method, "--unix-socket"]);
        curl.arg(format!("/run/mesh-agent/{node}.sock"));
        curl.arg(format!("http://agent{path}"));
        let ran = curl.output().map_err(|error| format!("curl: {error}"))?;
        if ran.status.success() {
            return Ok(ran.stdout);
        }
        let said = String::from_utf8_lossy(&ran.stderr);
        Err(format!("{method} {path} of {node}: {said}"))
    }

    /// Lines of the access log of the agent on `node` that name `address`.
    #[track_caller]
    pub fn access_log(&self, node: &str, address: &str) -> Vec<String> {
        let ran = self.run(&["logs", &self.agent_on(node), "--since=120s"]);
        let lines = ran
            .stdout
            .lines()
            .filter(|line| line.contains("\taccess\t"));
        let named = lines.filter(|line| line.contains(&format!("{address}:")));
        named.map(str::to_owned).collect()
    }

    /// Runs the agent's command line on `node`, in its pod.
    #[track_caller]
    pub fn agent(&self, node: &str, words: &[&str]) -> Ran {
        let pod = self.agent_on(node);
        let mut command = vec!["exec", pod.as_str(), "--", "/mesh-agent"];
        command.extend(words);
        self.run(&command)
    }

    /// Removes the mesh, and waits until it is gone.
    #[track_caller]
    pub fn uninstall(self) {
        let mut delete = self.cluster.kubectl();
        delete.args(["delete", "--ignore-not-found", "--wait", "-k"]);
        run_ok(delete.arg(manifests()));
    }

    /// What there is to see of it, for a failure.
    pub fn describe(&self) -> String {
        let looks: [&[&str]; 4] = [
            &["get", "pods", "--output=wide"],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &["logs", "daemonset/mesh-agent", "--tail=20"],
            &["logs", "deployment/mesh-agent-control", "--tail=20"],
        ];
        let mut text = String::new();
        for words in looks {
            let ran = self.run(words);
            text.push_str(&format!(
                "$ kubectl {}\n{}{}",
                words.join(" "),
                ran.stdout,
                ran.stderr
            ));
        }
        text
    }
}

/// The manifests, with a note in the pods of what is in their image: its name stays the same, so
/// another image would not be noticed.
#[track_caller]
fn overlay(cluster: &Cluster, patches: &str) -> PathBuf {
    let place = cluster.directory().join("install");
    fs::create_dir_all(&place).expect("the cluster's directory can be written to");
    let real = |path: &Path| path.canonicalize().expect("it is there");
    // A base has to be named by a relative path.
    let up = "../".repeat(real(&place).components().count() - 1);
    let base = real(&manifests());
    let base = base.strip_prefix("/").expect("a real path is absolute");
    let text = format!(
        "resources: [{up}{base}]
patches:
- target: {{kind: DaemonSet|Deployment}}
  patch: |-
    - op: add
      path: /spec/template/metadata/annotations
      value: {{mesh-agent.io/image-digest: \"{digest}\"}}
{patches}",
        base = base.display(),
        digest = image_digest(),
    );
    fs::write(place.join("kustomization.yaml"), text).expect("the directory was made");
    place
}

#[allow(
    clippy::disallowed_methods,
    reason = "the test command says by the environment what is in the image"
)]
fn image_digest() -> String {
    env::var("MESH_AGENT_IMAGE_DIGEST").unwrap_or_default()
}

fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}
