// SPDX-License-Identifier: Apache-2.0

//! The demo as a program: `cargo xtask demo` sets the machine up, builds the agent and runs this.
//!
//! Knows nothing of the demo. Exit code: 0 all promises kept, 1 one was not, 2 the machine or the
//! command line lacks something.

use std::process::ExitCode;

use mesh_tests::demo::{self, Choice};

const USAGE: &str = "usage: mesh-demo [--keep] [--json]

  --keep   leave everything running until Ctrl-C, and print commands to look around
  --json   print one JSON object on standard output instead of the table";

fn main() -> ExitCode {
    let mut choice = Choice::default();
    for word in std::env::args().skip(1) {
        match word.as_str() {
            "--keep" => choice.keep = true,
            "--json" => choice.json = true,
            _ => {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("error: nodes are network namespaces, which only root can make: use sudo");
        return ExitCode::from(2);
    }
    // A panic is printed where it happens; unwinding has cleaned up.
    match std::panic::catch_unwind(|| demo::run(choice)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}
