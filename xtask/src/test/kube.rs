// SPDX-License-Identifier: Apache-2.0

//! `cargo xtask test kube`: the agent in a real Kubernetes; `test istiod`: with Istio's authority.
//!
//! Builds what the nodes get, starts a cluster of the tests' own, and runs `tests/cluster` against
//! it. Knows nothing of what is tested. Invariant: the cluster goes when the tests are over,
//! whatever they said, unless it was to be kept.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use super::may_run_agents;
use crate::{
    artefacts,
    cluster::Cluster,
    command::{self, Steps, cargo},
    image, pins, programs,
    setup::{self, Lacking, Scope},
};

/// What the cluster is called when the command line says nothing else.
const NAME: &str = "test";

/// Some of the tests, with what only they need.
#[derive(Debug)]
pub(super) struct Suite {
    images: fn() -> Result<Vec<PathBuf>>,
    /// How the names of its tests begin, if others have no place in it.
    prefix: Option<&'static str>,
}

/// How the names of those tests begin that Istio's control plane is built for.
const WITH_ISTIOD: &str = "istiod::";

/// All but those.
pub(super) const KUBE: Suite = Suite {
    images: image::for_tests,
    prefix: None,
};

/// Those.
pub(super) const ISTIOD: Suite = Suite {
    images: image::with_istiod,
    prefix: Some(WITH_ISTIOD),
};

impl Suite {
    /// What the test program is told so that it runs no others.
    fn choice(&self, filter: Option<&str>) -> Vec<String> {
        let filter = filter.unwrap_or_default();
        match self.prefix {
            Some(prefix) => vec![format!("{prefix}{filter}")],
            None => vec![
                "--skip".to_owned(),
                WITH_ISTIOD.to_owned(),
                filter.to_owned(),
            ],
        }
    }
}

/// The command itself.
pub(super) fn run(suite: &Suite, words: &[String]) -> Result<()> {
    let (mut cluster, rest) = Cluster::chosen(words)?;
    if rest.len() == words.len() {
        cluster = Cluster::new(None, Some(NAME))?;
    }
    let (keep, rest) = match rest {
        [first, rest @ ..] if first == "--keep" => (true, rest),
        rest => (false, rest),
    };
    let filter = match rest {
        [] => None,
        [filter] => Some(filter.as_str()),
        _ => {
            return Err(Lacking::usage(
                "test kube and test istiod take [--dir DIR] [--name NAME] [--keep] [FILTER]"
                    .to_owned(),
            ));
        }
    };
    may_run_agents()?;
    setup::ensure(&[Scope::Build, Scope::Cluster])?;
    against(suite, &cluster, keep, filter)
}

/// As a part of all tests.
pub(super) fn of_all(filter: Option<&str>) -> Result<()> {
    against(&KUBE, &Cluster::new(None, Some(NAME))?, false, filter)
}

fn against(suite: &Suite, cluster: &Cluster, keep: bool, filter: Option<&str>) -> Result<()> {
    let (mut images, mut digest) = (Vec::new(), String::new());
    let mut steps = Steps::new("test kube");
    steps.step("programs", || {
        programs::KUBERNETES.get()?;
        programs::COREDNS.get()?;
        images.extend((suite.images)()?);
        Ok(())
    });
    steps.step("agent", || {
        let image = image::agent(artefacts::PROFILE)?;
        digest = image::digest(&image)?;
        images.push(image);
        command::run(tests().arg("--no-run"))
    });
    if !steps.failed() {
        steps.step("cluster", || {
            cluster.up()?;
            cluster.load(&images)
        });
    }
    if !steps.failed() {
        steps.step("tests", || {
            let mut test = tests();
            test.args(["--no-fail-fast", "--", "--test-threads=1"]);
            test.args(suite.choice(filter));
            test.env("KUBECONFIG", cluster.kubeconfig());
            test.env("MESH_KUBE_DIR", cluster.directory());
            test.env("MESH_AGENT_BIN", agent());
            test.env("MESH_AGENT_IMAGE_DIGEST", &digest);
            command::run(&mut test)
        });
    }
    if steps.failed() {
        steps.step("logs", || keep_logs(cluster));
    }
    if !keep {
        steps.step("clean up", || cluster.down());
    }
    steps.finish()
}

/// Copies the components' logs to the build directory, since those of the cluster go with it.
fn keep_logs(cluster: &Cluster) -> Result<()> {
    let target = command::target().join("cluster-logs");
    fs::create_dir_all(&target).with_context(|| format!("make {}", target.display()))?;
    let Ok(logs) = fs::read_dir(cluster.directory().join("log")) else {
        return Ok(());
    };
    for log in logs.flatten() {
        let copy = target.join(log.file_name());
        fs::copy(log.path(), &copy).with_context(|| format!("write {}", copy.display()))?;
    }
    eprintln!("    logs of the components are in {}", target.display());
    Ok(())
}

/// Where the agent is that is in the image.
fn agent() -> PathBuf {
    let directory = command::target().join(artefacts::PROFILE.name());
    directory.join("mesh-agent")
}

fn tests() -> std::process::Command {
    let mut command = cargo(&pins::STABLE);
    command.args(["test", "--locked", "--profile", artefacts::PROFILE.name()]);
    command.args(["--package", "mesh-tests", "--test", "cluster"]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_with_istiod_run_where_it_was_built_and_nowhere_else() {
        assert_eq!(KUBE.choice(None), ["--skip", WITH_ISTIOD, ""]);
        assert_eq!(
            KUBE.choice(Some("strict")),
            ["--skip", WITH_ISTIOD, "strict"]
        );
        assert_eq!(ISTIOD.choice(None), [WITH_ISTIOD]);
        assert_eq!(ISTIOD.choice(Some("plugged")), ["istiod::plugged"]);
    }
}
