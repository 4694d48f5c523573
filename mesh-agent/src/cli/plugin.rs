// SPDX-License-Identifier: Apache-2.0

//! `kubectl mesh-agent`: asks agents in the cluster, through kubectl.
//!
//! Finds the agent's pod on the right node and runs the command in it. Talks to the cluster with
//! `kubectl` alone, so that whatever makes kubectl work (context, proxies, logins) works here.
//! Invariant: the exit code is that of the command; of several, that of the first that failed.

use std::process::{Command, ExitCode, Stdio};

use super::CliError;
use crate::settings::PluginSettings;

const KUBECTL: &str = "kubectl";
const AGENTS: &str = "app.kubernetes.io/name=mesh-agent";
const PROGRAM: &str = "/mesh-agent";

/// An agent's pod.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Agent {
    node: String,
    pod: String,
}

/// Carries it out.
pub(super) fn run(settings: &PluginSettings) -> Result<ExitCode, CliError> {
    let node = match (&settings.node, pod(settings)) {
        (Some(node), _) => Some(node.clone()),
        (None, Some((pod, namespace))) => Some(node_of(settings, &pod, namespace.as_deref())?),
        (None, None) => None,
    };
    let agents = agents(settings, node.as_deref())?;
    let mut outcome = ExitCode::SUCCESS;
    for agent in &agents {
        if node.is_none() {
            super::print::text(&format!("# {}\n", agent.node))?;
        }
        let code = ask(settings, agent)?;
        if code != 0 && outcome == ExitCode::SUCCESS {
            outcome = ExitCode::from(code);
        }
    }
    Ok(outcome)
}

/// The pod whose node is meant, with its namespace: by flag, or as `proxy-config` names it.
fn pod(settings: &PluginSettings) -> Option<(String, Option<String>)> {
    if let Some(pod) = &settings.pod {
        return Some((pod.clone(), settings.namespace.clone()));
    }
    let words: Vec<&str> = settings.words.iter().map(String::as_str).collect();
    match words[..] {
        ["proxy-config" | "pc", _view, pod, ..] if !pod.starts_with('-') => {
            // A pod's name may have dots, a namespace's may not.
            Some(match pod.rsplit_once('.') {
                Some((name, namespace)) => (name.to_owned(), Some(namespace.to_owned())),
                None => (pod.to_owned(), Some("default".to_owned())),
            })
        }
        _ => None,
    }
}

fn node_of(
    settings: &PluginSettings,
    pod: &str,
    namespace: Option<&str>,
) -> Result<String, CliError> {
    let mut get = kubectl(settings);
    get.args(["get", "pod", pod, "-o", "jsonpath={.spec.nodeName}"]);
    if let Some(namespace) = namespace {
        get.args(["-n", namespace]);
    }
    let node = output(&mut get)?;
    if node.is_empty() {
        return Err(CliError::Cluster(format!("pod {pod} is on no node yet")));
    }
    Ok(node)
}

/// The agents of one node, or of all, one per node.
fn agents(settings: &PluginSettings, node: Option<&str>) -> Result<Vec<Agent>, CliError> {
    const PATH: &str =
        r#"jsonpath={range .items[*]}{.spec.nodeName}{" "}{.metadata.name}{"\n"}{end}"#;
    let mut get = kubectl(settings);
    get.args(["get", "pods", "-n", &settings.mesh_namespace, "-l", AGENTS]);
    // During an upgrade there are two on a node; both reach the one that is in charge.
    get.args(["--sort-by=.metadata.creationTimestamp", "-o", PATH]);
    let mut selector = "status.phase=Running".to_owned();
    if let Some(node) = node {
        selector.push_str(&format!(",spec.nodeName={node}"));
    }
    get.arg(format!("--field-selector={selector}"));
    let agents = read_agents(&output(&mut get)?);
    if agents.is_empty() {
        let place = node.map_or_else(String::new, |node| format!(" on node {node}"));
        return Err(CliError::Cluster(format!(
            "no agent runs{place} in namespace {}",
            settings.mesh_namespace
        )));
    }
    Ok(agents)
}

/// The newest of each node, in order of the nodes' names.
fn read_agents(listed: &str) -> Vec<Agent> {
    let mut agents: Vec<Agent> = Vec::new();
    for line in listed.lines() {
        let Some((node, pod)) = line.split_once(' ') else {
            continue;
        };
        agents.retain(|agent| agent.node != node);
        agents.push(Agent {
            node: node.to_owned(),
            pod: pod.to_owned(),
        });
    }
    agents.sort_by(|left, right| left.node.cmp(&right.node));
    agents
}

/// Runs the command in an agent's pod; its output goes where ours goes.
fn ask(settings: &PluginSettings, agent: &Agent) -> Result<u8, CliError> {
    let mut exec = kubectl(settings);
    exec.args(["exec", "-n", &settings.mesh_namespace, &agent.pod, "--"]);
    exec.arg(PROGRAM).args(&settings.words);
    let status = exec.status().map_err(CliError::Kubectl)?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.unwrap_or(1))
}

fn kubectl(settings: &PluginSettings) -> Command {
    let mut command = Command::new(KUBECTL);
    for (flag, value) in [
        ("--kubeconfig", &settings.kubeconfig),
        ("--context", &settings.context),
    ] {
        if let Some(value) = value {
            command.args([flag, value]);
        }
    }
    command
}

/// What kubectl prints; its complaints go to our standard error.
fn output(command: &mut Command) -> Result<String, CliError> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(CliError::Kubectl)?;
    if !output.status.success() {
        return Err(CliError::Cluster("kubectl could not tell".to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::settings::{self, Settings};

    #[track_caller]
    fn typed(words: &[&str]) -> PluginSettings {
        let words = ["/usr/local/bin/kubectl-mesh_agent"].iter().chain(words);
        match Settings::parse_from(settings::unmask(words.map(Into::into).collect())).command {
            settings::Command::Kubectl(settings) => settings,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn check(words: &[&str], want: Option<(&str, Option<&str>)>) {
        let own = |text: &str| text.to_owned();
        let want = want.map(|(pod, namespace)| (own(pod), namespace.map(own)));
        assert_eq!(pod(&typed(words)), want, "{words:?}");
    }

    #[test]
    fn the_pod_is_named_by_flag_or_by_the_command() {
        check(&["--pod", "web", "status"], Some(("web", None)));
        check(
            &["-n", "shop", "--pod", "web", "status"],
            Some(("web", Some("shop"))),
        );
        check(
            &["proxy-config", "routes", "web.1.shop", "--port", "80"],
            Some(("web.1", Some("shop"))),
        );
        check(&["pc", "routes", "web"], Some(("web", Some("default"))));
        check(&["proxy-status"], None);
    }

    #[test]
    fn what_stands_behind_the_command_is_the_commands() {
        let settings = typed(&["--node", "n1", "status", "-o", "json"]);
        assert_eq!(settings.words, ["status", "-o", "json"]);
        assert_eq!(settings.node.as_deref(), Some("n1"));
    }

    #[test]
    fn under_its_own_name_the_program_is_no_plugin() {
        let words = || vec!["mesh-agent".into(), "status".into()];
        assert_eq!(settings::unmask(words()), words());
    }

    #[test]
    fn of_two_agents_on_a_node_the_newer_is_asked() {
        let agent = |node: &str, pod: &str| Agent {
            node: node.to_owned(),
            pod: pod.to_owned(),
        };
        assert_eq!(
            read_agents("b mesh-agent-1\na mesh-agent-2\na mesh-agent-3\n"),
            [agent("a", "mesh-agent-3"), agent("b", "mesh-agent-1")]
        );
        assert_eq!(read_agents(""), []);
    }
}
