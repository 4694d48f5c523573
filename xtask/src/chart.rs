// SPDX-License-Identifier: Apache-2.0

//! `cargo xtask test chart`: the Helm chart makes the same objects as the kustomization.
//!
//! Helm is a Go module and is built into the cache the first time. Both outputs go through `kubectl
//! kustomize`, which writes any YAML in one form, and are compared as text. Knows nothing of what
//! the objects say. Invariant: needs no cluster.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{
    command::{self, program},
    programs,
    setup::{self, Scope},
};

/// Where the chart is.
const CHART: &str = "deploy/chart";

/// Where it is installed. A Helm that is built without flags takes itself for one of Kubernetes 1.20.
const PLACE: &[&str] = &["--namespace", "mesh-system", "--kube-version", "1.36.0"];

/// What the chart leaves to the installer unless it is told otherwise.
const VALUES: &[&str] = &["--set", "namespace.create=true"];

/// The command itself.
pub(crate) fn run() -> Result<()> {
    setup::ensure(&[Scope::Build, Scope::Applications])?;
    let helm = helm()?;
    command::run(program(&helm).args(["lint", "--strict", CHART]).args(PLACE))?;
    let mut template = program(&helm);
    template.args(["template", "mesh-agent", CHART]).args(PLACE);
    let chart = command::output(template.args(VALUES)).context("helm renders nothing")?;
    let work = command::target().join("chart");
    fs::create_dir_all(&work).with_context(|| format!("make {}", work.display()))?;
    let form = |name: &str, resource: &str| -> Result<String> {
        let place = work.join(name);
        fs::create_dir_all(&place).with_context(|| format!("make {}", place.display()))?;
        write(&place.join("kustomization.yaml"), &kustomization(resource))?;
        if resource == RENDERED {
            write(&place.join(RENDERED), &chart)?;
        }
        let mut kustomize = kubectl()?;
        let text = command::output(kustomize.arg("kustomize").arg(&place))
            .with_context(|| format!("kubectl kustomize {} fails", place.display()))?;
        write(&place.join("objects.yaml"), &text)?;
        Ok(text)
    };
    let theirs = form("helm", RENDERED)?;
    let ours = form("kustomize", "../../../deploy")?;
    if let Some(difference) = first_difference(&ours, &theirs) {
        anyhow::bail!(
            "the chart and the kustomization differ, see {}/*/objects.yaml: {difference}",
            work.display()
        );
    }
    Ok(())
}

const RENDERED: &str = "rendered.yaml";

fn kustomization(resource: &str) -> String {
    format!("resources: [{resource}]\nsortOptions: {{order: legacy}}\n")
}

fn write(path: &std::path::Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// The machine's kubectl, or that of the test cluster.
fn kubectl() -> Result<Command> {
    if let Some(kubectl) = command::find("kubectl") {
        return Ok(program(kubectl));
    }
    let mut kubernetes = program(programs::KUBERNETES.get()?);
    kubernetes.arg("kubectl");
    Ok(kubernetes)
}

/// Builds Helm, unless it was built before.
fn helm() -> Result<PathBuf> {
    let go = setup::go_directory().context("Go vanished since set-up")?;
    let place = command::cache()?.join("helm");
    let mut build = program(go.join("go"));
    build.current_dir(command::root().join("tests/helm"));
    build.args(["build", "-mod=readonly", "-o"]).arg(&place);
    command::run_aside(build.arg("helm.sh/helm/v3/cmd/helm"))?;
    ensure!(place.is_file(), "go built no {}", place.display());
    Ok(place)
}

/// The first line that differs, with its neighbourhood.
fn first_difference(ours: &str, theirs: &str) -> Option<String> {
    if ours == theirs {
        return None;
    }
    let (mut left, mut right) = (ours.lines(), theirs.lines());
    let mut number = 0;
    loop {
        number += 1;
        match (left.next(), right.next()) {
            (None, None) => return Some("line ends only".to_owned()),
            (left, right) if left != right => {
                let text = |line: Option<&str>| line.unwrap_or("(nothing)").trim().to_owned();
                return Some(format!(
                    "line {number}: kustomization {:?}, chart {:?}",
                    text(left),
                    text(right)
                ));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_named_by_its_line() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(
            first_difference("a\nb\n", "a\n").as_deref(),
            Some("line 2: kustomization \"b\", chart \"(nothing)\"")
        );
    }
}
