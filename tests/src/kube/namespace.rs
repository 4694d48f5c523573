// SPDX-License-Identifier: Apache-2.0

//! A namespace of the cluster that a test has for itself.
//!
//! Knows nothing of what runs in it. Invariant: it is new when the test begins, and gone when it
//! ends, however it ends; `default` is cleared instead.

use super::{Cluster, Workload};
use crate::command::{Ran, feed, run, run_ok};

/// What tests make in `default`, where nothing can be deleted as a whole.
const KINDS: &str = "deployments,statefulsets,daemonsets,jobs,pods,services";

/// One namespace.
pub struct Namespace {
    cluster: Cluster,
    name: String,
}

impl Namespace {
    /// Makes a namespace, without labels.
    #[track_caller]
    pub fn create(cluster: &Cluster, name: &str) -> Self {
        cluster.ok(&["delete", "namespace", name, "--ignore-not-found"]);
        cluster.ok(&["create", "namespace", name]);
        let namespace = Self {
            cluster: cluster.clone(),
            name: name.to_owned(),
        };
        namespace.wait_for_account();
        namespace
    }

    /// The namespace that manifests without one mean.
    #[track_caller]
    pub fn default(cluster: &Cluster) -> Self {
        let namespace = Self {
            cluster: cluster.clone(),
            name: "default".to_owned(),
        };
        namespace.clear();
        namespace.wait_for_account();
        namespace
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster it is in.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Labels it; `key-` takes a label away.
    #[track_caller]
    pub fn label(&self, label: &str) {
        let words = ["label", "--overwrite", "namespace", &self.name, label];
        self.cluster.ok(&words);
    }

    /// kubectl in this namespace.
    pub fn kubectl(&self) -> std::process::Command {
        let mut kubectl = self.cluster.kubectl();
        kubectl.args(["--namespace", &self.name]);
        kubectl
    }

    /// Runs kubectl here, whatever comes of it.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Ran {
        run(self.kubectl().args(words))
    }

    /// Runs kubectl here; it must succeed.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        run_ok(self.kubectl().args(words))
    }

    /// Applies manifests here.
    #[track_caller]
    pub fn apply(&self, manifests: &str) {
        feed(self.kubectl().args(["apply", "-f", "-"]), manifests);
    }

    /// Makes a ServiceAccount.
    #[track_caller]
    pub fn account(&self, name: &str) {
        self.ok(&["create", "serviceaccount", name]);
    }

    /// A field of the first pod of `app`, as `kubectl --output=jsonpath` names it.
    #[track_caller]
    pub fn field_of(&self, app: &str, field: &str) -> String {
        let selector = format!("--selector=app={app}");
        let output = format!("--output=jsonpath={{.items[0].{field}}}");
        self.ok(&["get", "pods", &selector, &output])
    }

    /// The address of a Service.
    #[track_caller]
    pub fn address_of(&self, service: &str) -> String {
        let output = "--output=jsonpath={.spec.clusterIP}";
        self.ok(&["get", "service", service, output])
    }

    /// Starts workloads and waits until they are ready.
    #[track_caller]
    pub fn start(&self, workloads: &[&Workload]) {
        let manifests: Vec<String> = workloads.iter().map(|one| one.manifest()).collect();
        self.apply(&manifests.join("---\n"));
        for workload in workloads {
            self.wait_for_rollout(&format!("deployment/{}", workload.name()));
        }
    }

    /// Waits until a workload runs as it was last applied.
    #[track_caller]
    pub fn wait_for_rollout(&self, workload: &str) {
        let ran = self.run(&["rollout", "status", workload, "--timeout=120s"]);
        assert!(
            ran.ok(),
            "{workload}: {}{}\n{}",
            ran.stdout,
            ran.stderr,
            self.describe()
        );
    }

    /// Runs a program in a pod or a workload's pod, whatever comes of it.
    #[track_caller]
    pub fn exec(&self, target: &str, words: &[&str]) -> Ran {
        let mut kubectl = self.kubectl();
        run(kubectl.args(["exec", target, "--"]).args(words))
    }

    /// Asks `url` `count` times on one connection from a workload's pod: lines `COUNT STATUS BODY`.
    #[track_caller]
    pub fn get(&self, target: &str, url: &str, count: u32) -> Ran {
        let count = count.to_string();
        self.exec(target, &["/applications", "get", url, &count])
    }

    /// Asks `url` `count` times and returns what came, which must be as many answers with 200 of
    /// a server whose name begins with `by`.
    ///
    /// # Errors
    /// What came instead.
    #[track_caller]
    pub fn answers(&self, target: &str, url: &str, count: u32, by: &str) -> Result<String, String> {
        all_by(&self.get(target, url, count), count, by)
    }

    /// What pods here are doing, for a failure.
    pub fn describe(&self) -> String {
        let pods = self.run(&["get", "pods", "--output", "wide"]);
        let events = self.run(&["get", "events", "--sort-by=.lastTimestamp"]);
        format!("{}{}", pods.stdout, events.stdout)
    }

    /// Deletes it now, with all that is in it.
    pub fn delete(self) {}

    /// Pods cannot be made before their account is there.
    #[track_caller]
    fn wait_for_account(&self) {
        let words = [
            "--namespace",
            &self.name,
            "get",
            "serviceaccount",
            "default",
        ];
        self.cluster
            .until("the namespace's account", &words, |_| true);
    }

    fn clear(&self) {
        let selector = "component!=apiserver";
        self.run(&[
            "delete",
            KINDS,
            "--selector",
            selector,
            "--ignore-not-found",
        ]);
        for label in [
            "istio-injection-",
            "istio.io/dataplane-mode-",
            "mesh-agent.io/enrolled-",
        ] {
            self.run(&["label", "namespace", &self.name, label]);
        }
    }
}

/// What `ran` printed, if it is `count` answers with 200 of a server whose name begins with `by`.
///
/// # Errors
/// What came instead.
pub fn all_by(ran: &Ran, count: u32, by: &str) -> Result<String, String> {
    let good = format!("200 {by}");
    let answers = ran.stdout.lines().filter_map(|line| line.split_once(' '));
    let answered: u32 = answers
        .filter(|(_, answer)| answer.starts_with(&good))
        .filter_map(|(number, _)| number.parse::<u32>().ok())
        .sum();
    if ran.ok() && answered == count {
        return Ok(ran.stdout.clone());
    }
    Err(format!("{answered} of {count} answered by {by}: {ran:?}"))
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.name == "default" {
            self.clear();
            return;
        }
        // A panic here would hide the one that ended the test: the next test to make it says so.
        let words = ["delete", "namespace", &self.name, "--ignore-not-found"];
        self.cluster.run(&words);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(code: i32, printed: &str, want: bool) {
        let ran = Ran {
            code,
            stdout: printed.to_owned(),
            stderr: String::new(),
        };
        assert_eq!(all_by(&ran, 3, "server-").is_ok(), want, "{printed}");
    }

    #[test]
    fn answers_count_if_they_are_good_and_by_whom_they_must() {
        check(0, "3 200 server-v1 HTTP/1.1 10.0.0.1 0\n", true);
        check(0, "1 200 server-v1 x\n2 200 server-v2 x\n", true);
        check(1, "3 200 server-v1 x\n", false);
        check(0, "2 200 server-v1 x\n", false);
        check(0, "2 200 server-v1 x\n1 503 no\n", false);
        check(0, "3 200 other x\n", false);
        check(0, "", false);
    }
}
