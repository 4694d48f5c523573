// SPDX-License-Identifier: Apache-2.0

//! Running other programs: every command is printed before it runs, and its time after it.
//!
//! Knows nothing of what the commands are for. Invariant: every child cargo gets its toolchain
//! by name in `RUSTUP_TOOLCHAIN`, because rustup's proxy hands the parent's on.

use std::{
    env,
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::pins::Toolchain;

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package
        .parent()
        .expect("the package lies in the workspace")
        .to_path_buf()
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => root().join(directory),
        None => root().join("target"),
    }
}

/// What outlives a checkout: built tools and downloaded kernels. May be deleted at any time.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(directory) = env::var_os("XDG_CACHE_HOME") {
        return Ok(PathBuf::from(directory).join("mesh-agent"));
    }
    Ok(home()?.join(".cache/mesh-agent"))
}

/// Where cargo keeps installed programs: rustup has it in `PATH`.
pub(crate) fn cargo_bin() -> Result<PathBuf> {
    match env::var_os("CARGO_HOME") {
        Some(directory) => Ok(PathBuf::from(directory).join("bin")),
        None => Ok(home()?.join(".cargo/bin")),
    }
}

fn home() -> Result<PathBuf> {
    env::home_dir().context("no home directory: set HOME")
}

/// A cargo of the given toolchain, in the root of the workspace.
pub(crate) fn cargo(toolchain: &Toolchain) -> Command {
    let mut command = Command::new("cargo");
    command
        .current_dir(root())
        .env("RUSTUP_TOOLCHAIN", toolchain.name);
    // What `cargo run` told xtask about itself would make the child rebuild crates that watch it.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let own = [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_BIN_",
            "CARGO_CRATE_",
        ];
        if text == "CARGO" || own.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command
}

/// Any other program, in the root of the workspace.
pub(crate) fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.current_dir(root());
    command
}

/// Runs `command` to its end; its output goes where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = line(command);
    eprintln!("$ {line}");
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` ended with {status}");
    }
    Ok(())
}

/// As [`run`], with all output on standard error: standard output may be somebody's JSON.
pub(crate) fn run_aside(command: &mut Command) -> Result<()> {
    run(command.stdout(io::stderr()))
}

/// What `command` prints, or `None` if it cannot be started or fails.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}

/// Whether `name` is a program of this machine.
pub(crate) fn installed(name: &str) -> bool {
    find(name).is_some()
}

/// Where `name` is in `PATH`, or under the places that only root has there.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = ["/usr/sbin", "/sbin", "/usr/local/go/bin"].map(PathBuf::from);
    let mut found = env::split_paths(&path)
        .chain(places)
        .map(|place| place.join(name));
    found.find(|path| path.is_file())
}

/// Whether we are root, who alone may install packages, mount and load kernel programs.
pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let identities = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    identities.and_then(|line| line.split_whitespace().nth(1)) == Some("0")
}

/// `1.2 s` or `3 min 04 s`.
pub(crate) fn spell(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 60.. => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

/// The steps of one command: all are run, the failed ones are listed at the end.
pub(crate) struct Steps {
    command: &'static str,
    started: Instant,
    failed: Vec<String>,
    done: usize,
}

impl Steps {
    /// Starts the clock.
    pub(crate) fn new(command: &'static str) -> Self {
        Self {
            command,
            started: Instant::now(),
            failed: Vec::new(),
            done: 0,
        }
    }

    /// Runs one step; a failure is kept for the end, so that one run shows them all.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> Result<()>) {
        eprintln!("--- {}: {name}", self.command);
        let started = Instant::now();
        let result = work();
        let time = spell(started.elapsed());
        self.done += 1;
        match result {
            Ok(()) => eprintln!("--- {}: {name}: ok, {time}", self.command),
            Err(error) => {
                eprintln!("--- {}: {name}: FAILED, {time}: {error:#}", self.command);
                self.failed.push(format!("{name}: {error:#}"));
            }
        }
    }

    /// Whether a step failed so far.
    pub(crate) fn failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Says how it went as a whole.
    pub(crate) fn finish(self) -> Result<()> {
        let time = spell(self.started.elapsed());
        if self.failed.is_empty() {
            eprintln!("--- {}: all {} steps ok, {time}", self.command, self.done);
            return Ok(());
        }
        eprintln!(
            "--- {}: {} of {} steps failed, {time}",
            self.command,
            self.failed.len(),
            self.done
        );
        for failure in &self.failed {
            eprintln!("    {failure}");
        }
        bail!("{} failed", self.command)
    }
}

fn line(command: &Command) -> String {
    let mut words = Vec::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            words.push(format!(
                "{}={}",
                name.to_string_lossy(),
                value.to_string_lossy()
            ));
        }
    }
    words.push(command.get_program().to_string_lossy().into_owned());
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_does_not_hide_the_next() {
        let mut steps = Steps::new("sample");
        let mut ran = false;
        steps.step("first", || bail!("broken"));
        steps.step("second", || {
            ran = true;
            Ok(())
        });
        assert!(ran);
        assert!(steps.finish().is_err());
    }

    #[test]
    fn a_printed_command_can_be_typed_again() {
        let mut command = Command::new("cargo");
        command
            .env("RUSTUP_TOOLCHAIN", "1.99.1")
            .args(["doc", "--no-deps"]);
        assert_eq!(
            line(&command),
            "RUSTUP_TOOLCHAIN=1.99.1 cargo doc --no-deps"
        );
    }

    #[test]
    fn times_are_spelled_for_people() {
        assert_eq!(spell(Duration::from_millis(1_240)), "1.2 s");
        assert_eq!(spell(Duration::from_secs(184)), "3 min 04 s");
    }
}
