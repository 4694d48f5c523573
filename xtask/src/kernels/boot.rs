// SPDX-License-Identifier: Apache-2.0

//! Boots a kernel under qemu and reads its serial console.
//!
//! Knows nothing of what runs there but the form of its last line: `SMOKE OK text` or
//! `SMOKE FAILED text`. Invariant: qemu is gone when [`boot`] returns, whatever happened.

use std::{
    fmt, fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::command;

/// A boot and the smoke test take a minute or two without KVM, more on a busy machine.
const DEADLINE: Duration = Duration::from_secs(400);

/// How much of the console is shown when a test fails.
const SHOWN_LINES: usize = 80;

/// What a passed smoke test says, and how long it took.
#[derive(Debug)]
pub(super) struct Verdict {
    text: String,
    time: Duration,
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}; {}", self.text, command::spell(self.time))
    }
}

/// Boots `kernel` with the files of `initial`; the console is also written to `log`.
pub(super) fn boot(kernel: &Path, initial: &Path, log: &Path) -> Result<Verdict> {
    let started = Instant::now();
    let mut machine = Machine::start(kernel, initial)?;
    let (text, ended) = machine.console(started + DEADLINE)?;
    fs::write(log, &text).with_context(|| format!("write {}", log.display()))?;
    match last_word(&text) {
        Some(Ok(word)) => Ok(Verdict {
            text: word.to_owned(),
            time: started.elapsed(),
        }),
        Some(Err(word)) => bail!("{word}\n{}", tail(&text, log)),
        None if ended => bail!(
            "the machine went off without a verdict\n{}",
            tail(&text, log)
        ),
        None => bail!(
            "no verdict within {}\n{}",
            command::spell(DEADLINE),
            tail(&text, log)
        ),
    }
}

struct Machine(Child);

impl Machine {
    fn start(kernel: &Path, initial: &Path) -> Result<Self> {
        let mut qemu = Command::new("qemu-system-x86_64");
        // Not KVM, which may be there and yet fail in a machine that is itself virtual.
        qemu.args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "1024"]);
        qemu.args([
            "-nodefaults",
            "-nographic",
            "-serial",
            "stdio",
            "-no-reboot",
        ]);
        qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initial);
        // What the kernel does not know becomes the environment of its first program.
        qemu.arg("-append").arg(
            "console=ttyS0 quiet panic=-1 PATH=/bin RUST_BACKTRACE=1 MESH_AGENT_BIN=/bin/mesh-agent",
        );
        qemu.stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(Self(qemu.spawn().context("start qemu-system-x86_64")?))
    }

    /// Everything on the console, and whether the machine went off by itself before `deadline`.
    fn console(&mut self, deadline: Instant) -> Result<(String, bool)> {
        let (lines, received) = mpsc::channel();
        let output = self
            .0
            .stdout
            .take()
            .context("qemu's output was taken already")?;
        thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while output
                .read_until(b'\n', &mut line)
                .is_ok_and(|length| length > 0)
            {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if lines.send(text).is_err() {
                    break;
                }
                line.clear();
            }
        });
        let mut text = String::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match received.recv_timeout(left) {
                Ok(line) => {
                    text.push_str(&line);
                    text.push('\n');
                }
                Err(RecvTimeoutError::Timeout) => return Ok((text, false)),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if let Some(mut errors) = self.0.stderr.take() {
            // Only of interest when qemu itself failed; a broken pipe says nothing more.
            errors.read_to_string(&mut text).unwrap_or(0);
        }
        Ok((text, true))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Gone already, as a rule.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn last_word(text: &str) -> Option<Result<&str, &str>> {
    text.lines().rev().find_map(|line| {
        let (_, word) = line.split_once("SMOKE ")?;
        let passed = word.strip_prefix("OK").map(|rest| Ok(rest.trim()));
        passed.or_else(|| word.strip_prefix("FAILED").map(|rest| Err(rest.trim())))
    })
}

fn tail(text: &str, log: &Path) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let shown = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
    format!("{shown}\n(whole console: {})", log.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_verdict_counts() {
        assert_eq!(
            last_word("boot\nSMOKE OK 7 checks\nreboot: Power down\n"),
            Some(Ok("7 checks"))
        );
        assert_eq!(
            last_word("SMOKE OK\nSMOKE FAILED split\n"),
            Some(Err("split"))
        );
        assert_eq!(last_word("kernel panic"), None);
    }
}
