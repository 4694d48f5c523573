// SPDX-License-Identifier: Apache-2.0

//! What the conformance suite says: its log, test by test, and the report it writes.
//!
//! Knows nothing of how it is run. Invariant: what is not said to have passed has not: a profile
//! without a verdict is a failure.

use std::{collections::BTreeMap, fmt};

/// How the tests of one run went.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tests {
    /// Names of those that passed.
    pub(super) passed: Vec<String>,
    /// Names of those that failed.
    pub(super) failed: Vec<String>,
    /// How many were not for the features that were asked for.
    pub(super) skipped: usize,
}

impl Tests {
    /// Reads them from the log of a Go test.
    pub(super) fn in_log(log: &str) -> Self {
        let mut tests = Self::default();
        for line in log.lines() {
            let Some((verdict, name)) = top_level(line) else {
                continue;
            };
            match verdict {
                "PASS" => tests.passed.push(name.to_owned()),
                "FAIL" => tests.failed.push(name.to_owned()),
                _ => tests.skipped += 1,
            }
        }
        tests.passed.sort();
        tests.failed.sort();
        tests
    }
}

impl fmt::Display for Tests {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (verdict, names) in [("passed", &self.passed), ("FAILED", &self.failed)] {
            for name in names {
                writeln!(out, "{verdict} {name}")?;
            }
        }
        Ok(())
    }
}

/// The verdict and name of a test of the suite; not of its parts.
fn top_level(line: &str) -> Option<(&str, &str)> {
    let (verdict, rest) = line.trim_start().strip_prefix("--- ")?.split_once(": ")?;
    let name = rest.split(' ').next()?.strip_prefix("TestConformance/")?;
    (!name.contains('/')).then_some((verdict, name))
}

/// The verdict on the core tests of each profile, from the YAML of the report.
pub(super) fn core_verdicts(report: &str) -> BTreeMap<String, String> {
    let mut verdicts = BTreeMap::new();
    let (mut section, mut core) = ("", "none".to_owned());
    let profiles = report
        .lines()
        .skip_while(|line| *line != "profiles:")
        .skip(1);
    for line in profiles {
        if !line.starts_with(['-', ' ']) {
            break;
        }
        if line.starts_with("- ") {
            core = "none".to_owned();
        }
        // A profile's own fields are indented by two, those of its sections by four.
        match (
            line.strip_prefix("- ").or(line.strip_prefix("  ")),
            line.starts_with("    "),
        ) {
            (Some(field), false) => {
                section = field.split(':').next().unwrap_or_default();
                if let Some(name) = field.strip_prefix("name: ") {
                    verdicts.insert(name.to_owned(), core.clone());
                }
            }
            (Some(field), true) if section == "core" => {
                if let Some(result) = field.trim().strip_prefix("result: ") {
                    core = result.to_owned();
                }
            }
            _ => {}
        }
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: ConformanceReport
profiles:
- core:
    failedTests:
    - MeshPorts
    result: failure
    statistics:
      Failed: 1
      Passed: 6
      Skipped: 0
  extended:
    result: success
  name: MESH-HTTP
  summary: Core tests failed with 1 test failures.
- core:
    result: success
    statistics:
      Failed: 0
      Passed: 2
      Skipped: 0
  name: MESH-GRPC
  summary: Core tests succeeded.
succeededProvisionalTests:
- MeshX
";

    #[test]
    fn a_profile_is_judged_by_its_core_tests() {
        let verdicts = core_verdicts(REPORT);
        assert_eq!(verdicts["MESH-HTTP"], "failure");
        assert_eq!(verdicts["MESH-GRPC"], "success");
        assert_eq!(verdicts.len(), 2);
    }

    #[test]
    fn no_report_is_no_verdict() {
        assert_eq!(core_verdicts(""), BTreeMap::new());
    }

    #[test]
    fn parts_of_a_test_are_not_counted() {
        let log = "=== RUN   TestConformance\n\
                   --- FAIL: TestConformance (9.00s)\n\
                   \x20   --- PASS: TestConformance/MeshBasic (0.50s)\n\
                   \x20       --- PASS: TestConformance/MeshBasic/part (0.50s)\n\
                   \x20   --- FAIL: TestConformance/MeshPorts (8.00s)\n\
                   \x20   --- SKIP: TestConformance/HTTPRouteSimple (0.00s)\n";
        let tests = Tests::in_log(log);
        assert_eq!(tests.passed, ["MeshBasic"]);
        assert_eq!(tests.failed, ["MeshPorts"]);
        assert_eq!(tests.skipped, 1);
    }
}
