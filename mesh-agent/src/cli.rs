// SPDX-License-Identifier: Apache-2.0

//! The commands that look into a running agent, and `analyze`.
//!
//! A command asks the admin socket for JSON and prints it as a table, as JSON or as YAML. Knows
//! nothing of how the agent works. Invariant: what a table shows is in the JSON too.

mod analyze;
mod client;
mod plugin;
mod print;
mod table;
mod verify;

use std::{io, path::PathBuf, process::ExitCode};

use serde_json::{Value, json};

use self::client::Client;
use crate::{
    config::{self, kube::KubeError},
    settings::{
        ClientSettings, Command, ConfigCommand, DumpFormat, DumpSettings, LogSettings, Output,
        ProxyConfigSettings, ProxyConfigView, ReadySettings, RehearseSettings,
    },
};

/// A command could not be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// No socket was named and there is none.
    #[error(
        "no admin socket in {dir}: is the agent running on this node? (--socket names another place)"
    )]
    NoSocket {
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// No socket was named and there are several.
    #[error("several agents run here: choose one with --socket: {}", list(found))]
    SeveralSockets {
        /// All of them.
        found: Vec<PathBuf>,
    },
    /// Nobody answers at the socket.
    #[error("nobody answers at {path}: is the agent running?")]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The socket belongs to another user.
    #[error("no permission for {path}: run this as the agent's user (usually with sudo)")]
    Permission {
        /// The socket or its directory.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("talking to the agent at {path}")]
    Exchange {
        /// The socket.
        path: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// What answered does not speak as an agent does.
    #[error("{path} does not answer like a mesh-agent: {reason}")]
    NotAnAgent {
        /// The socket.
        path: PathBuf,
        /// What is wrong with the answer.
        reason: String,
    },
    /// Who answers is the agent of another container: the predecessor of an upgrade.
    #[error("{path} is answered by process {agent}, an agent of another container")]
    NotOurs {
        /// The socket.
        path: PathBuf,
        /// Who answers.
        agent: i32,
    },
    /// The agent refused.
    #[error("{0}")]
    Refused(String),
    /// The Kubernetes API could not be read.
    #[error("reading the Kubernetes API")]
    Kubernetes(#[source] Box<KubeError>),
    /// The system gives no thread or file.
    #[error("starting to read")]
    Runtime(#[source] io::Error),
    /// kubectl is missing.
    #[error("starting kubectl")]
    Kubectl(#[source] io::Error),
    /// What is asked for is not in the cluster.
    #[error("{0}")]
    Cluster(String),
    /// The output could not be written.
    #[error("writing the output")]
    Output(#[source] io::Error),
    /// The answer has no form of this kind.
    #[error("the answer cannot be written as YAML")]
    Yaml(#[source] serde_yaml_ng::Error),
    /// `run`, `control` and `cleanup` are no questions to an agent.
    #[error("not a command of the command line client")]
    NotHere,
}

fn list(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    paths.join(", ")
}

/// Carries out `command` and says with what the program ends.
pub fn run(command: Command) -> Result<ExitCode, CliError> {
    match command {
        Command::Run(_) | Command::Control(_) | Command::Cleanup(_) => {
            return Err(CliError::NotHere);
        }
        Command::Analyze(settings) => return analyze::run(&settings),
        Command::Status(client) => show(&client, "/status", print::status)?,
        Command::ProxyStatus(client) => show(&client, "/proxy-status", print::proxy_status)?,
        Command::ProxyConfig(settings) => proxy_config(&settings)?,
        Command::Config {
            command: ConfigCommand::Dump(settings),
        } => dump(&settings)?,
        Command::Rehearse(settings) => return rehearse(&settings),
        Command::Log(settings) => log(&settings)?,
        Command::Metrics(client) => metrics(&client)?,
        Command::Ready(settings) => return ready(&settings),
        Command::Verify(client) => return verify::run(&client),
        Command::Kubectl(settings) => return plugin::run(&settings),
        Command::Crds => print::text(&config::crds::yaml())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn ready(settings: &ReadySettings) -> Result<ExitCode, CliError> {
    let client = Client::find(&settings.client)?;
    if settings.own {
        client.is_of_our_container()?;
    }
    let missing = client.missing()?;
    let answer = json!({ "ready": missing.is_empty(), "missing": missing });
    let form = settings.client.output.unwrap_or(Output::Table);
    print::output(form, &answer, print::ready)?;
    Ok(if missing.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn rehearse(settings: &RehearseSettings) -> Result<ExitCode, CliError> {
    let root = client::query_value(&settings.drop_root);
    let client = Client::find(&settings.client)?;
    let answer = client.get_json(&format!("/rehearse?drop-root={root}"))?;
    let form = settings.client.output.unwrap_or(Output::Table);
    print::output(form, &answer, print::rehearsal)?;
    let nobody = answer["failing"].as_array().is_some_and(Vec::is_empty);
    Ok(if nobody {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn show(
    client: &ClientSettings,
    path: &str,
    as_table: fn(&Value) -> String,
) -> Result<(), CliError> {
    let answer = Client::find(client)?.get_json(path)?;
    print::output(client.output.unwrap_or(Output::Table), &answer, as_table)
}

fn proxy_config(settings: &ProxyConfigSettings) -> Result<(), CliError> {
    let (view, as_table): (_, fn(&Value) -> String) = match settings.view {
        ProxyConfigView::Listeners => ("listeners", print::listeners),
        ProxyConfigView::Clusters => ("clusters", print::clusters),
        ProxyConfigView::Routes => ("routes", print::routes),
        ProxyConfigView::Endpoints => ("endpoints", print::endpoints),
    };
    let port = settings
        .port
        .map(|port| format!("&port={port}"))
        .unwrap_or_default();
    let pod = client::query_value(&settings.pod);
    show(
        &settings.client,
        &format!("/proxy-config/{view}?pod={pod}{port}"),
        as_table,
    )
}

fn dump(settings: &DumpSettings) -> Result<(), CliError> {
    let (path, as_table): (_, fn(&Value) -> String) = match settings.format {
        DumpFormat::Agent => ("/config", print::config),
        // It has no table of its own: `istioctl` makes them.
        DumpFormat::Ztunnel => ("/config_dump", |answer| format!("{answer:#}\n")),
    };
    let answer = Client::find(&settings.client)?.get_json(path)?;
    let form = settings.client.output.unwrap_or(Output::Json);
    print::output(form, &answer, as_table)
}

fn log(settings: &LogSettings) -> Result<(), CliError> {
    let client = Client::find(&settings.client)?;
    let answer = match &settings.level {
        Some(level) => client.put_json(&format!("/log?level={}", client::query_value(level)))?,
        None => client.get_json("/log")?,
    };
    let form = settings.client.output.unwrap_or(Output::Table);
    print::output(form, &answer, print::log)
}

fn metrics(settings: &ClientSettings) -> Result<(), CliError> {
    let text = Client::find(settings)?.get_text("/metrics")?;
    match settings.output.unwrap_or(Output::Table) {
        Output::Table => print::text(&text),
        form => print::output(form, &print::metrics(&text), |_| String::new()),
    }
}

#[cfg(test)]
mod tests;
