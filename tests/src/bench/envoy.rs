// SPDX-License-Identifier: Apache-2.0

//! Two Envoys in the place of Istio's sidecars: one in each pod, traffic led to them by iptables.
//!
//! As in Istio they run as the group 1337, whose own connections are not led back, listen on
//! 15001 for what leaves the pod and on 15006 for what comes in. Knows nothing of what they are
//! told (`config`). Invariant: traffic is led to them only when they listen.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use super::{certificates, stage::Stage};
use crate::{
    Pod,
    command::{self, run_ok},
    foreign, wait,
};

mod config;

pub(super) use self::config::{INBOUND, OUTBOUND};

/// Istio's name for its proxy, as a number.
const GROUP: &str = "1337";

/// Worker threads of each, as Istio's default gives a sidecar.
const WORKERS: &str = "2";

/// What to lead where, in the pod of the client.
const LEAD_OUT: &[&str] = &[
    "-t nat -A OUTPUT -p tcp -m owner --gid-owner 1337 -j RETURN",
    "-t nat -A OUTPUT -p tcp -d 127.0.0.1/32 -j RETURN",
    "-t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 15001",
];

/// And in that of the server.
const LEAD_IN: &[&str] = &["-t nat -A PREROUTING -p tcp -j REDIRECT --to-ports 15006"];

/// Both Envoys.
pub(super) struct Pair {
    running: Vec<Envoy>,
}

struct Envoy {
    child: Child,
    log: PathBuf,
}

/// The binary: `ENVOY_BIN`, else what `PATH` has.
fn binary() -> PathBuf {
    let named = std::env::var_os("ENVOY_BIN");
    named.map_or_else(|| PathBuf::from("envoy"), PathBuf::from)
}

impl Pair {
    /// Starts both and leads the pods' traffic to them; `http` says whether they read HTTP.
    ///
    /// # Panics
    /// When there is no Envoy, or one does not start.
    #[track_caller]
    pub(super) fn start(stage: &Stage, http: bool) -> Self {
        let directory = stage.lab.directory();
        let certificates = certificates::make(directory, &["client", "server"]);
        let sides = [
            (
                &stage.client,
                OUTBOUND,
                config::outbound(stage, &certificates, http),
            ),
            (&stage.server, INBOUND, config::inbound(&certificates, http)),
        ];
        let mut running = Vec::new();
        for (pod, port, text) in sides {
            let name = format!("envoy-{}", pod.name);
            let path = directory.join(format!("{name}.json"));
            fs::write(&path, text.to_string()).expect("the lab's directory can be written");
            let mut envoy = Envoy::start(pod, &path, directory.join(format!("{name}.log")));
            envoy.wait(pod, port);
            running.push(envoy);
        }
        for (pod, rules) in [(&stage.client, LEAD_OUT), (&stage.server, LEAD_IN)] {
            for rule in rules {
                let mut iptables = pod.netns.command("iptables");
                run_ok(iptables.arg("-w").args(rule.split(' ')));
            }
        }
        Self { running }
    }

    /// Their process ids.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.running.iter().map(|envoy| envoy.child.id()).collect()
    }

    /// The ends of their logs.
    pub(super) fn last_words(&self) -> String {
        self.running.iter().map(Envoy::last_words).collect()
    }
}

impl Envoy {
    #[track_caller]
    fn start(pod: &Pod, configuration: &Path, log: PathBuf) -> Self {
        let output = File::create(&log).expect("the lab's directory can be written");
        let errors = output.try_clone().expect("a file can be duplicated");
        let mut command = pod.netns.command("setpriv");
        command.args([&format!("--regid={GROUP}"), "--clear-groups"]);
        command.args(["--pdeathsig", "KILL"]);
        command.arg(binary()).arg("-c").arg(configuration);
        command.args(["--concurrency", WORKERS, "--disable-hot-restart"]);
        command.args(["--log-level", "warning"]);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        Self { child, log }
    }

    #[track_caller]
    fn wait(&mut self, pod: &Pod, port: u16) {
        let what = format!("Envoy on {port} of {}", pod.name);
        wait::until(&what, wait::PATIENCE, || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("Envoy ended with {status}: {}", self.last_words());
            }
            if foreign::listens(pod, port) {
                Ok(())
            } else {
                Err(self.last_words())
            }
        });
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        command::stop(&mut self.child, Duration::from_secs(2));
    }
}
