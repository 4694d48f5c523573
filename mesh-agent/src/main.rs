// SPDX-License-Identifier: Apache-2.0

//! The `mesh-agent` command: from what was typed to an exit code.
//!
//! Exit codes: 0 done, 1 an error (printed once, as a chain), 2 wrong usage.

use std::process::ExitCode;

use mesh_agent::{
    agent, cli, control,
    settings::{Command, Settings},
};

fn main() -> ExitCode {
    let outcome = match Settings::read().command {
        Command::Run(settings) => agent::run(*settings).map(|()| ExitCode::SUCCESS),
        Command::Control(settings) => control::run(&settings).map(|()| ExitCode::SUCCESS),
        Command::Cleanup(settings) => agent::cleanup(&settings).map(|()| ExitCode::SUCCESS),
        command => cli::run(command).map_err(anyhow::Error::from),
    };
    outcome.unwrap_or_else(|error| {
        // The last word of a command that fails; nothing can be done if nobody reads it.
        drop(std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("mesh-agent: {error:#}\n"),
        ));
        ExitCode::FAILURE
    })
}
