// SPDX-License-Identifier: Apache-2.0

//! The benchmark as a program: `cargo xtask bench` sets the machine up, builds and runs this.
//!
//! It is its own load tool and gRPC application too, in processes of their own. Knows nothing of
//! what is measured. Exit code: 0 everything was measured, 1 something was not, 2 the machine or
//! the command line lacks something.

use std::{io, process::ExitCode};

use mesh_tests::bench::{
    self, Options, application,
    load::{self, Task},
    options::USAGE,
};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["load", ..] => task(&words[1..]),
        ["application", port] => match port.parse() {
            Ok(port) => finish(application::serve(port)),
            Err(error) => usage(&format!("port {port:?}: {error}")),
        },
        ["--help" | "-h" | "help"] => answer(USAGE),
        _ => benchmark(&words),
    }
}

fn benchmark(words: &[&str]) -> ExitCode {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let options = match Options::parse(&words) {
        Ok(options) => options,
        Err(error) => return usage(&error),
    };
    if options.list {
        return answer(&options.listing());
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("error: nodes are network namespaces, which only root can make: use sudo");
        return ExitCode::from(2);
    }
    if let Err(error) = bench::check_files(&options) {
        return usage(&error);
    }
    // A panic is printed where it happens; unwinding has cleaned up.
    match std::panic::catch_unwind(|| bench::run(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

fn task(words: &[&str]) -> ExitCode {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let task: Result<Task, String> = load::parse(&words);
    match task {
        Ok(task) => finish(load::run(&task)),
        Err(error) => usage(&error),
    }
}

fn finish(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout, reason = "it is what was asked for")]
fn answer(text: &str) -> ExitCode {
    println!("{text}");
    ExitCode::SUCCESS
}

fn usage(error: &str) -> ExitCode {
    eprintln!("error: {error}\n\n{USAGE}");
    ExitCode::from(2)
}
