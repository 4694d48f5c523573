// SPDX-License-Identifier: Apache-2.0

//! Steady load from a pod while something is done to the mesh or the workload.
//!
//! The client is in the pod (`tests/go/load.go`); it goes on until its standard input ends. Knows
//! nothing of what is done meanwhile. Invariant: a load that never got an answer proves nothing,
//! so its end is a failure.

use std::{
    collections::BTreeMap,
    process::{Child, Command, Stdio},
};

use super::{Namespace, PodProcess, end};

/// Load that is running.
pub struct PodLoad {
    child: Option<Child>,
    what: String,
}

/// What became of the requests.
#[derive(Clone, Debug, Default)]
pub struct PodTally {
    /// How often each answer came, as `STATUS BODY` without the peer.
    pub answers: BTreeMap<String, u64>,
    /// How often each failure came.
    pub failures: BTreeMap<String, u64>,
}

impl PodTally {
    /// How many requests were answered with 200.
    pub fn answered(&self) -> u64 {
        let good = self
            .answers
            .iter()
            .filter(|(answer, _)| answer.starts_with("200 "));
        good.map(|(_, count)| count).sum()
    }

    /// # Panics
    /// When anything failed, or fewer than `least` were answered.
    #[track_caller]
    pub fn assert_all_answered(&self, least: u64) {
        let all: u64 = self.answers.values().sum();
        assert!(
            self.failures.is_empty() && all == self.answered(),
            "not all were answered: {self:#?}"
        );
        assert!(all >= least, "{all} requests are too few to say something");
    }
}

impl PodLoad {
    /// Starts `connections` clients in a pod of `target` that ask for `url`.
    #[track_caller]
    pub fn start(namespace: &Namespace, target: &str, url: &str, connections: u32) -> Self {
        Self::of(namespace, target, "load", url, connections)
    }

    /// The same with another kind of client than `load`: `short` or `hold`.
    #[track_caller]
    pub fn of(ns: &Namespace, target: &str, kind: &str, url: &str, connections: u32) -> Self {
        let mut kubectl = ns.kubectl();
        kubectl.args(["exec", "--stdin", target, "--"]);
        kubectl.args(["/applications", kind, url, &connections.to_string()]);
        Self::spawn(kubectl, format!("{kind} on {url} from {target}"))
    }

    /// Starts it beside a process of a pod, so that it needs no API server.
    #[track_caller]
    pub fn beside(process: PodProcess, url: &str, connections: u32) -> Self {
        let mut command = process.beside("/applications");
        command.args(["load", url, &connections.to_string()]);
        Self::spawn(command, format!("load on {url} beside {process:?}"))
    }

    #[track_caller]
    fn spawn(mut command: Command, what: String) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command.stderr(Stdio::piped()).spawn();
        Self {
            child: Some(child.expect("kubectl and nsenter start")),
            what,
        }
    }

    /// Ends it and says what became of the requests.
    ///
    /// # Panics
    /// When it ended by itself before.
    #[track_caller]
    pub fn stop(mut self) -> PodTally {
        let mut child = self.child.take().expect("it is only stopped once");
        drop(child.stdin.take());
        let output = child.wait_with_output().expect("it is our child");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}: {errors}{text}", self.what);
        let mut tally = PodTally::default();
        for line in text.lines() {
            let (count, rest) = line.split_once(' ').unwrap_or_default();
            let count: u64 = count.parse().unwrap_or_default();
            match rest.strip_prefix("failed: ") {
                Some(failure) => tally.failures.insert(failure.to_owned(), count),
                None => tally.answers.insert(rest.to_owned(), count),
            };
        }
        assert!(
            !tally.answers.is_empty(),
            "{}: no answer at all: {tally:?}",
            self.what
        );
        tally
    }
}

impl Drop for PodLoad {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            end(child);
        }
    }
}
