// SPDX-License-Identifier: Apache-2.0

//! The result as Markdown: figures of every plane, ratios to the two Envoys, and what to know.
//!
//! Knows nothing of how figures were taken. Invariant: what could not be measured is a dash, and
//! what was disturbed or failed is marked and said.

use std::{collections::BTreeMap, fs, process::Command};

use super::{
    account::processors,
    options::Options,
    plan::Measure,
    plane::SAME,
    ratios::{self, Better},
    sample::{PER_10K, PER_GIB},
    statistics::{Samples, Spread},
};
use crate::command::run;

/// What there is to say about a run besides its samples.
#[derive(Debug)]
pub(super) struct Facts {
    /// Names of the planes, in the order of the columns, and what they are.
    pub(super) planes: Vec<(String, String)>,
    pub(super) measures: Vec<&'static Measure>,
    /// What is to be read on each plane's wire.
    pub(super) wire: BTreeMap<String, String>,
    pub(super) failures: Vec<String>,
    pub(super) seconds: f64,
    pub(super) command: String,
    pub(super) date: String,
    pub(super) machine: String,
    pub(super) congestion_control: String,
    pub(super) programs: BTreeMap<&'static str, String>,
}

impl Facts {
    /// What is known before anything is measured.
    pub(super) fn new(options: &Options) -> Self {
        let planes = options.planes.iter();
        Self {
            planes: planes.map(|one| (one.name(), one.about())).collect(),
            measures: options.measures.clone(),
            wire: BTreeMap::new(),
            failures: Vec::new(),
            seconds: 0.0,
            command: format!("cargo xtask bench {}", options.words.join(" ")),
            date: said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
            machine: machine(),
            congestion_control: String::new(),
            programs: BTreeMap::from([
                ("agent", version("MESH_AGENT_BIN")),
                ("envoy", version("ENVOY_BIN")),
                (
                    "nginx",
                    run(Command::new("nginx").arg("-v"))
                        .stderr
                        .trim()
                        .to_owned(),
                ),
            ]),
        }
    }
}

fn said(program: &str, words: &[&str]) -> String {
    run(Command::new(program).args(words))
        .stdout
        .trim()
        .to_owned()
}

fn version(variable: &str) -> String {
    let Some(binary) = std::env::var_os(variable) else {
        return String::new();
    };
    let said = run(Command::new(binary).arg("--version")).stdout;
    // Envoy says its own path first.
    let version = said.rsplit("version:").next().unwrap_or_default();
    version.trim().to_owned()
}

/// Processors, their kind, and the kernel.
fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("", |rest| rest.trim_matches([' ', '\t', ':']));
    let release = said("uname", &["-r"]);
    format!("{} CPUs ({model}), Linux {release}", processors())
}

/// One line of the table for each measure that has its figure.
struct Row {
    figure: &'static str,
    unit: &'static str,
    digits: usize,
    /// Shown as what comes on top of no mesh.
    added: bool,
}

const ROWS: &[Row] = &[
    row("rps", "requests/s", 0),
    row("gbps", "Gbit/s", 2),
    latency("p50_us", "p50 us"),
    latency("p90_us", "p90 us"),
    latency("p99_us", "p99 us"),
    latency("p999_us", "p99.9 us"),
    row("p50_moved", "p50 beside the flood / alone", 2),
    row("p99_moved", "p99 beside the flood / alone", 2),
    row(PER_10K.proxies, "proxy CPU-s per 10,000", 3),
    row(PER_10K.all, "all CPU-s per 10,000", 3),
    row(PER_GIB.proxies, "proxy CPU-s per GiB", 3),
    row(PER_GIB.all, "all CPU-s per GiB", 3),
    row("rss_mib", "proxies' RSS MiB", 1),
    row("anon_mib", "of it anonymous MiB", 1),
    row("anon_kib_per_connection", "anonymous KiB per connection", 1),
];

const fn row(figure: &'static str, unit: &'static str, digits: usize) -> Row {
    Row {
        figure,
        unit,
        digits,
        added: false,
    }
}

const fn latency(figure: &'static str, unit: &'static str) -> Row {
    Row {
        figure,
        unit,
        digits: 0,
        added: true,
    }
}

/// The whole report.
pub(super) fn markdown(facts: &Facts, samples: &Samples) -> String {
    let mut text = figures(facts, samples);
    text.push_str(&ratio_table(facts, samples));
    text.push('\n');
    for (plane, wire) in &facts.wire {
        text.push_str(&format!("- wire of {plane}: {wire}\n"));
    }
    text.push_str(&format!(
        "- `{}`, {}, {}, TCP {}, {:.0} s in all\n",
        facts.command.trim(),
        facts.date,
        facts.machine,
        facts.congestion_control,
        facts.seconds
    ));
    for (program, version) in &facts.programs {
        text.push_str(&format!("- {program}: {version}\n"));
    }
    text.push_str(
        "- median of the rounds [least to most]; `~`: others used the machine during every \
         sample; (+): more than without a mesh, same number of nodes\n",
    );
    for failure in &facts.failures {
        text.push_str(&format!("- FAILED: {failure:.400}\n"));
    }
    text
}

fn figures(facts: &Facts, samples: &Samples) -> String {
    let names: Vec<&str> = facts.planes.iter().map(|(name, _)| name.as_str()).collect();
    let mut text = format!("| measure | unit | {} |\n", names.join(" | "));
    text.push_str(&format!("| --- | --- |{}\n", " ---: |".repeat(names.len())));
    for measure in &facts.measures {
        for row in ROWS {
            let cell = |name: &&str| row.cell(measure, name, samples);
            let cells: Vec<Option<String>> = names.iter().map(cell).collect();
            if cells.iter().all(Option::is_none) {
                continue;
            }
            let shown = cells.into_iter().map(|cell| cell.unwrap_or("–".to_owned()));
            let shown = shown.collect::<Vec<_>>().join(" | ");
            text.push_str(&format!("| {} | {} | {shown} |\n", measure.label, row.unit));
        }
        text.push_str(&errors(measure, &names, samples));
    }
    text
}

/// A line of its own where a tool counted failures.
fn errors(measure: &Measure, names: &[&str], samples: &Samples) -> String {
    let count = |name: &&str| {
        let kept = samples.kept(measure.key, name);
        kept.iter()
            .filter_map(|sample| sample.figures.get("errors"))
            .sum::<f64>()
    };
    let counts: Vec<f64> = names.iter().map(count).collect();
    if counts.iter().all(|count| *count == 0.0) {
        return String::new();
    }
    let shown: Vec<String> = counts.iter().map(|count| format!("{count:.0}")).collect();
    format!("| {} | errors | {} |\n", measure.label, shown.join(" | "))
}

impl Row {
    fn cell(&self, measure: &Measure, plane: &str, samples: &Samples) -> Option<String> {
        let spread = samples.spread(measure.key, plane, self.figure)?;
        let base = if plane.starts_with(SAME) {
            "same-direct"
        } else {
            "direct"
        };
        let mut cell = self.number(&spread);
        if self.added && plane != base {
            let added = samples.added(measure.key, self.figure, plane, base);
            cell.extend(added.map(|added| format!(" ({added:+.0})")));
        }
        if samples.only_disturbed(measure.key, plane) {
            cell.push_str(" ~");
        }
        Some(cell)
    }

    fn number(&self, spread: &Spread) -> String {
        let digits = self.digits;
        let median = format!("{:.digits$}", spread.median);
        if spread.samples < 2 {
            return median;
        }
        format!(
            "{median} [{:.digits$} to {:.digits$}]",
            spread.least, spread.most
        )
    }
}

fn ratio_table(facts: &Facts, samples: &Samples) -> String {
    let mut text = String::new();
    for name in compared(facts) {
        let ratios = ratios::of(samples, name);
        if ratios.is_empty() {
            continue;
        }
        text.push_str(&format!(
            "\n| {name} / two Envoys | ratio | better |\n| --- | ---: | --- |\n"
        ));
        for ratio in ratios {
            let better = match ratio.better {
                Better::Higher => "higher",
                Better::Lower => "lower",
            };
            text.push_str(&format!(
                "| {} | {:.3} | {better} |\n",
                ratio.key, ratio.value
            ));
        }
    }
    text
}

/// The planes that are compared with Envoy: ours and other people's.
pub(super) fn compared(facts: &Facts) -> impl Iterator<Item = &str> {
    const NOT: &[&str] = &["direct", "envoy-http", "envoy-tcp"];
    let names = facts.planes.iter().map(|(name, _)| name.as_str());
    names.filter(|name| !NOT.contains(name) && !name.starts_with(SAME))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bench::statistics::{Figures, Sample};

    /// A small run, for this and for the other forms of the result.
    pub(in crate::bench) fn example() -> (Facts, Samples) {
        let words = ["--planes", "direct,envoy-http,agent", "--only", "h1_c16"];
        let words = words.map(str::to_owned);
        let options = Options::parse(&words).expect("the example is well formed");
        let mut samples = Samples::new(0.1);
        for (plane, rate, errors) in [
            ("direct", 100_000.0, 0.0),
            ("envoy-http", 10_000.0, 3.0),
            ("agent", 50_000.0, 0.0),
        ] {
            for round in 0..2 {
                samples.push(Sample {
                    measure: "h1_c16",
                    plane: plane.to_owned(),
                    round,
                    foreign: if plane == "agent" { 0.5 } else { 0.0 },
                    figures: Figures::from([("rps", rate), ("errors", errors)]),
                });
            }
        }
        (Facts::new(&options), samples)
    }

    #[test]
    fn the_table_has_a_row_per_figure_and_marks_what_was_disturbed() {
        let (mut facts, samples) = example();
        facts.failures.push("agent, h2_c16: broken".to_owned());
        let text = markdown(&facts, &samples);
        let want = "| HTTP/1.1, 16 connections | requests/s | 100000 [100000 to 100000] \
                    | 10000 [10000 to 10000] | 50000 [50000 to 50000] ~ |";
        assert!(text.contains(want), "{text}");
        assert!(text.contains("| errors | 0 | 6 | 0 |"), "{text}");
        assert!(text.contains("| h1_c16_rps | 5.000 | higher |"), "{text}");
        assert!(text.contains("- FAILED: agent, h2_c16: broken"), "{text}");
        assert!(!text.contains("Gbit/s"), "{text}");
    }
}
