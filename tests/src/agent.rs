// SPDX-License-Identifier: Apache-2.0

//! A real `mesh-agent` process on a node, looked at as a user would: by its command line, its
//! admin socket, its log and `/proc`.
//!
//! Knows nothing of its insides. Invariant: an agent that is dropped is stopped cleanly; when a
//! test fails, the end of its log is printed.

use std::{
    fs::{self, File},
    io::{BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    client::Response,
    command::{self, Ran},
    netns::Netns,
    wait,
};

/// How long an agent may take to be ready: certificates and programs included.
const START: Duration = Duration::from_secs(20);

/// Nothing is being loaded any more when so many looks, about a second's, see as many files.
const LOOKS_AT_REST: u32 = 200;

/// How long a clean stop may take; above the agent's own drain deadline.
const STOP: Duration = Duration::from_secs(15);

/// What an agent is started with.
pub(crate) struct Start<'a> {
    pub(crate) netns: &'a Netns,
    pub(crate) node: &'a str,
    pub(crate) directory: &'a Path,
    pub(crate) pin_directory: &'a Path,
    pub(crate) flags: &'a [&'a str],
}

/// A running agent.
pub struct Agent {
    node: String,
    child: Child,
    log: PathBuf,
    socket: PathBuf,
    enter: String,
}

/// The agent's binary: `MESH_AGENT_BIN`, else the one beside this program.
///
/// # Panics
/// When there is none.
#[track_caller]
pub fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("MESH_AGENT_BIN") {
        return PathBuf::from(named);
    }
    let own = std::env::current_exe().expect("a program knows its own path");
    let beside = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("mesh-agent"));
    let found = beside.into_iter().find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "no mesh-agent beside {}: build it first (`cargo build -p mesh-agent`, or let \
             `cargo xtask test` do all of it), or name it in MESH_AGENT_BIN",
            own.display()
        )
    })
}

impl Agent {
    #[track_caller]
    pub(crate) fn launch(start: &Start<'_>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let log = start.directory.join(format!("{}-{number}.log", start.node));
        let socket = start.directory.join(format!("{}.sock", start.node));
        let output = File::create(&log).expect("the lab's directory can be written");
        let errors = output.try_clone().expect("a file can be duplicated");
        let mut command = start.netns.command(binary());
        command.args(["run", "--node", start.node]);
        for (flag, path) in [
            ("--config-dir", &start.directory.join("manifests")),
            ("--ca-dir", &start.directory.join("ca")),
            ("--admin-socket", &socket),
            ("--pin-dir", &start.pin_directory.to_owned()),
        ] {
            command.arg(flag).arg(path);
        }
        command.args(start.flags);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        Self {
            node: start.node.to_owned(),
            child,
            log,
            socket,
            enter: start.netns.path().display().to_string(),
        }
    }

    /// Waits until the agent says that it is ready.
    ///
    /// # Panics
    /// When it ends or does not get ready; its log is in the panic.
    #[track_caller]
    pub fn wait_ready(&self) {
        wait::until(
            &format!("the agent of {} to be ready", self.node),
            START,
            || {
                if self.ended() {
                    panic!("the agent of {} ended:\n{}", self.node, self.log_tail());
                }
                match self.try_admin("GET", "/ready") {
                    Ok(answer) if answer.status == 200 => Ok(()),
                    Ok(answer) => Err(format!("{}\n{}", answer.text(), self.log_tail())),
                    Err(error) => Err(format!("{error}\n{}", self.log_tail())),
                }
            },
        );
    }

    /// Whether the process is gone.
    pub fn ended(&self) -> bool {
        let state = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        let state = state
            .rsplit(") ")
            .next()
            .map(str::to_owned)
            .unwrap_or_default();
        state.is_empty() || state.starts_with('Z')
    }

    /// Waits until this very process says in its log that it is ready: the admin socket may be
    /// answered by its predecessor for a while.
    ///
    /// # Panics
    /// When it ends or does not get ready.
    #[track_caller]
    pub fn wait_log_ready(&self) {
        wait::until(
            &format!("the new agent of {} to be ready", self.node),
            START,
            || {
                assert!(!self.ended(), "it ended:\n{}", self.log_tail());
                let log = self.log();
                if log.lines().any(|line| line.contains("ready node=")) {
                    Ok(())
                } else {
                    Err(self.log_tail())
                }
            },
        );
    }

    /// The exit code of an agent that ends by itself.
    #[track_caller]
    pub fn wait_exit(&mut self) -> i32 {
        let node = self.node.clone();
        wait::until(
            &format!("the agent of {node} to end"),
            START,
            || match self.child.try_wait() {
                Ok(Some(status)) => Ok(status.code().unwrap_or(-1)),
                other => Err(format!("{other:?}")),
            },
        )
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its admin socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its whole log.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until `text` is in its log, and returns the log.
    ///
    /// # Panics
    /// When it does not come.
    #[track_caller]
    pub fn wait_log(&self, text: &str) -> String {
        wait::until(&format!("{text} in the log"), wait::PATIENCE, || {
            let log = self.log();
            if log.contains(text) {
                Ok(log)
            } else {
                Err(self.log_tail())
            }
        })
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Asks the admin socket.
    ///
    /// # Panics
    /// When it does not answer.
    #[track_caller]
    pub fn admin(&self, path: &str) -> Response {
        self.try_admin("GET", path)
            .unwrap_or_else(|error| panic!("GET {path} of {}: {error}", self.node))
    }

    /// Asks the admin socket for JSON.
    ///
    /// # Panics
    /// When the answer is not JSON.
    #[track_caller]
    pub fn admin_json(&self, path: &str) -> Value {
        let answer = self.admin(path);
        serde_json::from_slice(&answer.body)
            .unwrap_or_else(|error| panic!("GET {path}: {error}: {}", answer.text()))
    }

    fn try_admin(&self, method: &str, path: &str) -> std::io::Result<Response> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(wait::PATIENCE))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n"
        )?;
        Response::read(&mut BufReader::new(stream), method)
    }

    /// Runs another command of the agent's binary against this agent.
    #[track_caller]
    pub fn cli(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(binary());
        command.args(arguments).arg("--socket").arg(&self.socket);
        command::run(&mut command)
    }

    /// Runs `mesh-agent analyze` over a directory; needs no running agent.
    #[track_caller]
    pub fn analyze(&self, directory: &str) -> Ran {
        command::run(Command::new(binary()).args(["analyze", directory]))
    }

    /// The sum of a metric's samples that carry all of `labels`.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.admin("/metrics").text();
        let samples = text.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels
                    .iter()
                    .all(|(key, value)| line.contains(&format!("{key}=\"{value}\"")))
        });
        samples
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Memory in use, in bytes (resident set).
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    }

    /// How many files it has open.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// The same once programs are loaded ahead for pods to come, one after the other: as soon as nothing
    /// changes for a while.
    ///
    /// # Panics
    /// If that does not come.
    #[track_caller]
    pub fn open_files_at_rest(&self) -> usize {
        let (mut last, mut same) = (0, 0);
        wait::until("programs to be loaded ahead", wait::PATIENCE * 2, || {
            let now = self.open_files();
            same = if now == last { same + 1 } else { 0 };
            last = now;
            if same >= LOOKS_AT_REST {
                Ok(now)
            } else {
                Err(now)
            }
        })
    }

    /// CPU time used so far by all its threads.
    pub fn cpu_time(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid()));
        let nanoseconds = tasks.into_iter().flatten().flatten().filter_map(|task| {
            let schedstat = fs::read_to_string(task.path().join("schedstat")).ok()?;
            schedstat.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanoseconds.sum())
    }

    /// Stops it as a service manager would. Returns whether it ended by itself in time.
    pub fn stop(&mut self) -> bool {
        command::stop(&mut self.child, STOP)
    }

    /// Sends SIGTERM and does not wait.
    pub fn terminate(&self) {
        command::signal(&self.child, Signal::TERM);
    }

    /// Has it stand still, or go on.
    pub fn freeze(&self, still: bool) {
        let signal = if still { Signal::STOP } else { Signal::CONT };
        command::signal(&self.child, signal);
    }

    /// Kills it: no clean-up of its own.
    #[track_caller]
    pub fn kill(&mut self) {
        self.child.kill().expect("an own child can be killed");
        self.child.wait().expect("a killed child can be waited for");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("agent of {} (nsenter --net={}):", self.node, self.enter);
            eprintln!("{}", self.log_tail());
        }
        self.stop();
    }
}
