// SPDX-License-Identifier: Apache-2.0

//! Running other programs to their end, and stopping those that stay.
//!
//! Knows nothing of namespaces. Invariant: a program that fails is never overlooked: its command
//! line and what it wrote are in the panic.

use std::{
    io::Write,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// What a program wrote, and whether it was content.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    fn new(output: &Output) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        let status = output.status;
        Self {
            code: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or_default()),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Whether the program ended with 0.
    pub fn ok(&self) -> bool {
        self.code == 0
    }
}

/// Runs `command` to its end, whatever that is.
///
/// # Panics
/// When the program cannot be started.
#[track_caller]
pub fn run(command: &mut Command) -> Ran {
    let output = command.stdin(Stdio::null()).output();
    Ran::new(&output.unwrap_or_else(|error| panic!("{command:?} does not start: {error}")))
}

/// Runs `command`, which must succeed, and returns what it printed.
///
/// # Panics
/// When it cannot be started or fails.
#[track_caller]
pub fn run_ok(command: &mut Command) -> String {
    let ran = run(command);
    assert!(
        ran.ok(),
        "{command:?} ended with {}: {}{}",
        ran.code,
        ran.stderr,
        ran.stdout
    );
    ran.stdout
}

/// Runs `command` with `input` on its standard input; it must succeed.
///
/// # Panics
/// When it cannot be started or fails.
#[track_caller]
pub fn feed(command: &mut Command, input: &str) -> String {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let mut stdin = child.stdin.take().expect("standard input was piped");
    // A program that ends early says why on its standard error, which is checked below.
    drop(stdin.write_all(input.as_bytes()));
    drop(stdin);
    let ran = Ran::new(
        &child
            .wait_with_output()
            .expect("a child that was started can be waited for"),
    );
    assert!(
        ran.ok(),
        "{command:?} ended with {}: {}\n{input}",
        ran.code,
        ran.stderr
    );
    ran.stdout
}

/// Sends `signal` to a child; one that is gone already is no error.
pub fn signal(child: &Child, signal: Signal) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // The child is not yet waited for, so its pid cannot be another's; it may be dead.
        kill_process(pid, signal).unwrap_or(());
    }
}

/// Asks `child` to stop, and kills it when it does not within `deadline`. Returns whether it
/// stopped by itself.
pub fn stop(child: &mut Child, deadline: Duration) -> bool {
    signal(child, Signal::TERM);
    let start = std::time::Instant::now();
    while start.elapsed() < deadline {
        if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    signal(child, Signal::KILL);
    wait::until("a killed child to end", wait::PATIENCE, || {
        match child.try_wait() {
            Ok(None) => Err("still running"),
            _ => Ok(()),
        }
    });
    false
}
