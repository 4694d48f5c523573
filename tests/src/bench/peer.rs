// SPDX-License-Identifier: Apache-2.0

//! Other data planes, brought up by an adapter: a program that is told where the pods are.
//!
//! The contract is in `mesh-agent/docs/benchmarks.md`: `ADAPTER up` starts proxies in the
//! namespaces it is told, leads the pods' traffic to them and prints a line `pid N` for each;
//! `ADAPTER down` removes what lives outside of processes and namespaces. Knows nothing of any
//! data plane. Invariant: whatever the adapter left running in the lab's namespaces ends with the
//! lab.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::stage::{GRPC, HOST, HTTP1, HTTP2, Stage, TCP};
use crate::netns::Netns;

/// How long `up` and `down` may take, for `timeout`.
const PATIENCE: &str = "60";

/// A plane that an adapter brought up.
pub(super) struct Peer {
    adapter: PathBuf,
    environment: Vec<(&'static str, String)>,
    directory: PathBuf,
    pids: Vec<u32>,
}

impl Peer {
    /// Brings it up.
    ///
    /// # Panics
    /// When the adapter fails, or says what nobody understands.
    #[track_caller]
    pub(super) fn up(stage: &mut Stage, adapter: &Path) -> Self {
        let directory = stage.lab.directory().join("peer");
        fs::create_dir_all(&directory).expect("the lab's directory can be written");
        // It is called in a directory of its own.
        let whole = adapter.canonicalize();
        let mut peer = Self {
            adapter: whole.unwrap_or_else(|error| panic!("{}: {error}", adapter.display())),
            environment: environment(stage, &directory),
            directory,
            pids: Vec::new(),
        };
        let said = peer.call("up").unwrap_or_else(|error| panic!("{error}"));
        for line in said.lines().filter(|line| !line.trim().is_empty()) {
            match understand(line) {
                Ok(Line::Pid(pid)) => peer.pids.push(pid),
                Ok(Line::Target(address)) => {
                    stage.lab.resolve(HOST, &address);
                    stage.target = address;
                }
                Err(error) => panic!("{} up: {error}", adapter.display()),
            }
        }
        peer
    }

    /// The processes it named.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.pids.clone()
    }

    /// Calls the adapter and returns what it printed. Its output goes to files: a proxy that
    /// keeps a pipe open must not be waited for.
    fn call(&self, verb: &str) -> Result<String, String> {
        let path = |kind| self.directory.join(format!("{verb}.{kind}"));
        let create = |kind| File::create(path(kind)).map_err(|error| error.to_string());
        let mut command = Command::new("timeout");
        command.args(["-k", "5", PATIENCE]).arg(&self.adapter);
        command.arg(verb).current_dir(&self.directory);
        command.envs(self.environment.iter().cloned());
        command.stdin(Stdio::null());
        command.stdout(create("out")?).stderr(create("err")?);
        let status = command.status();
        let said = |kind| fs::read_to_string(path(kind)).unwrap_or_default();
        match status {
            Ok(status) if status.success() => Ok(said("out")),
            other => Err(format!(
                "{} {verb}: {other:?}: {}",
                self.adapter.display(),
                said("err")
            )),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Err(error) = self.call("down") {
            eprintln!("error: {error}");
        }
    }
}

fn environment(stage: &Stage, directory: &Path) -> Vec<(&'static str, String)> {
    let lab = &stage.lab;
    let server_node = if stage.one_node { &lab.a } else { &lab.b };
    let named = |netns: &Netns| netns.name().to_owned();
    vec![
        ("MESH_BENCH_CLIENT_POD", named(&stage.client.netns)),
        ("MESH_BENCH_SERVER_POD", named(&stage.server.netns)),
        ("MESH_BENCH_CLIENT_NODE", named(&lab.a.netns)),
        ("MESH_BENCH_SERVER_NODE", named(&server_node.netns)),
        ("MESH_BENCH_CLIENT_POD_ADDRESS", stage.client.v4.clone()),
        ("MESH_BENCH_SERVER_POD_ADDRESS", stage.server.v4.clone()),
        ("MESH_BENCH_CLIENT_NODE_ADDRESS", lab.a.addresses().0),
        ("MESH_BENCH_SERVER_NODE_ADDRESS", server_node.addresses().0),
        ("MESH_BENCH_SERVICE_ADDRESS", service_address(stage)),
        ("MESH_BENCH_HOST", HOST.to_owned()),
        ("MESH_BENCH_HTTP1_PORT", HTTP1.to_string()),
        ("MESH_BENCH_HTTP2_PORT", HTTP2.to_string()),
        ("MESH_BENCH_GRPC_PORT", GRPC.to_string()),
        ("MESH_BENCH_TCP_PORT", TCP.to_string()),
        ("MESH_BENCH_DIRECTORY", directory.display().to_string()),
    ]
}

fn service_address(stage: &Stage) -> String {
    stage.lab.address(&format!("{HOST}.default"))
}

/// What an adapter may say.
#[derive(Debug, PartialEq)]
enum Line {
    /// A process that belongs to the data plane; its children do too.
    Pid(u32),
    /// Where clients send requests, if not to the pod's own address.
    Target(String),
}

fn understand(line: &str) -> Result<Line, String> {
    let wrong = || format!("{line:?} is neither `pid NUMBER` nor `target IPV4`");
    match line.split_once(' ').ok_or_else(wrong)? {
        ("pid", number) => number.trim().parse().map(Line::Pid).or(Err(wrong())),
        ("target", text) => {
            let address: std::net::Ipv4Addr = text.trim().parse().or(Err(wrong()))?;
            Ok(Line::Target(address.to_string()))
        }
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_names_processes_and_where_to_send() {
        assert_eq!(understand("pid 42"), Ok(Line::Pid(42)));
        let target = Line::Target("10.96.0.10".to_owned());
        assert_eq!(understand("target 10.96.0.10"), Ok(target));
        for wrong in ["pid", "pid x", "target here", "hello world"] {
            let error = understand(wrong).expect_err(wrong);
            assert!(error.contains("neither"), "{error}");
        }
    }
}
