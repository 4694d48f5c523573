// SPDX-License-Identifier: Apache-2.0

//! A smoke test of capture, mutual TLS and routing on the kernel that runs it.
//!
//! `cargo xtask test kernels` boots older kernels with this as their first program; as any other
//! program it tests the kernel of this machine. Knows nothing of programs and hooks but what the
//! agent's own status says. Invariant: the last line on standard output is `SMOKE OK text` or
//! `SMOKE FAILED text`.

use std::process::ExitCode;

mod checks;
mod machine;

fn main() -> ExitCode {
    let first = std::process::id() == 1;
    let verdict = std::panic::catch_unwind(|| {
        if first {
            machine::set_up();
        }
        checks::run()
    });
    let passed = verdict.is_ok();
    say(&match verdict {
        Ok(text) => format!("SMOKE OK {text}"),
        Err(panic) => format!("SMOKE FAILED {}", reason(panic.as_ref())),
    });
    if first {
        machine::power_off();
    }
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What a panic said, on one line.
fn reason(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words")
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[allow(clippy::print_stdout, reason = "the verdict goes to standard output")]
fn say(text: &str) {
    println!("{text}");
}
