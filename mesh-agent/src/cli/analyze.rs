// SPDX-License-Identifier: Apache-2.0

//! `analyze`: what is wrong with a directory of manifests or with what the Kubernetes API has, in
//! the form of `istioctl analyze`.
//!
//! Asks no agent. Invariant: exit code 1 if and only if there is an error.

use std::{path::Path, process::ExitCode};

use serde_json::{Value, json};
use tokio::runtime::Builder;

use super::{CliError, print};
use crate::{
    config::{self, IndexSettings, Problem, Report},
    settings::{AnalyzeSettings, Output},
};

/// Prints what is wrong and says with what the program ends.
pub(super) fn run(settings: &AnalyzeSettings) -> Result<ExitCode, CliError> {
    let index = IndexSettings {
        cluster_domain: settings.cluster_domain.clone(),
        ..IndexSettings::default()
    };
    let report = match &settings.dir {
        Some(dir) => config::analyze(dir, index),
        None => of_server(settings.kubeconfig.as_deref(), index)?,
    };
    match settings.output {
        Output::Table => print::text(&lines(&report, settings))?,
        form => {
            let problems: Value = report.problems.iter().map(object).collect();
            print::output(form, &problems, |_| String::new())?;
        }
    }
    Ok(if report.errors() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn of_server(kubeconfig: Option<&Path>, index: IndexSettings) -> Result<Report, CliError> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(CliError::Runtime)?;
    let report = runtime.block_on(config::kube::analyze(kubeconfig, index));
    report.map_err(|source| CliError::Kubernetes(Box::new(source)))
}

/// One line per problem and a last one with the verdict.
fn lines(report: &Report, settings: &AnalyzeSettings) -> String {
    let dir = match &settings.dir {
        Some(dir) => dir.display().to_string(),
        None => "the Kubernetes API".to_owned(),
    };
    let mut text: String = report.problems.iter().map(|it| format!("{it}\n")).collect();
    text.push_str(&match (report.problems.len(), report.errors()) {
        (0, _) => format!("✔ No validation issues found when analyzing {dir}.\n"),
        (_, 0) => format!("✔ No errors found when analyzing {dir}.\n"),
        (_, 1) => format!("Error: 1 error found when analyzing {dir}.\n"),
        (_, errors) => format!("Error: {errors} errors found when analyzing {dir}.\n"),
    });
    text
}

fn object(problem: &Problem) -> Value {
    json!({
        "level": problem.severity.as_str(),
        "code": problem.code,
        "object": problem.object.as_ref().map(ToString::to_string),
        "origin": problem.origin.to_string(),
        "field": problem.field,
        "message": problem.text,
        "fix": problem.fix,
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    /// A directory with one manifest, removed at the end.
    struct Manifest(AnalyzeSettings);

    impl Manifest {
        fn new(name: &str, text: &str) -> Self {
            let name = format!("mesh-analyze-{name}-{}", std::process::id());
            let dir: PathBuf = std::env::temp_dir().join(name);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("all.yaml"), text).unwrap();
            Self(AnalyzeSettings {
                dir: Some(dir),
                kube: false,
                kubeconfig: None,
                cluster_domain: "cluster.local".to_owned(),
                output: Output::Table,
            })
        }

        fn dir(&self) -> &Path {
            self.0.dir.as_deref().unwrap()
        }

        fn lines(&self) -> String {
            let report = config::analyze(self.dir(), IndexSettings::default());
            lines(&report, &self.0)
        }
    }

    impl Drop for Manifest {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(self.dir()));
        }
    }

    #[test]
    fn what_is_right_is_said_to_be() {
        let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
        let manifest = Manifest::new("clean", namespace);
        assert!(manifest.lines().starts_with("✔ No validation issues found"));
        assert_eq!(run(&manifest.0).unwrap(), ExitCode::SUCCESS);
    }

    #[test]
    fn an_error_is_a_line_and_an_exit_code() {
        let manifest = Manifest::new("broken", "apiVersion: v1\nkind: [\n");
        let lines = manifest.lines();
        assert!(lines.starts_with("Error ["), "{lines}");
        assert!(lines.contains("all.yaml"), "{lines}");
        assert!(
            lines.ends_with(&format!("analyzing {}.\n", manifest.dir().display())),
            "{lines}"
        );
        assert_eq!(run(&manifest.0).unwrap(), ExitCode::FAILURE);
    }
}
