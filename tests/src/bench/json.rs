// SPDX-License-Identifier: Apache-2.0

//! The result as JSON: everything that was measured, for programs.
//!
//! The form is described in `mesh-agent/docs/benchmarks.md`. Knows nothing of how figures were
//! taken. Invariant: names in it are added and never change their meaning.

use serde_json::{Map, Value, json};

use super::{
    ratios::{self, Ratio},
    report::{self, Facts},
    statistics::{Sample, Samples},
};

/// The document.
pub(super) fn document(facts: &Facts, samples: &Samples) -> String {
    let planes: Map<String, Value> = facts
        .planes
        .iter()
        .map(|(name, about)| {
            let wire = facts.wire.get(name);
            (name.clone(), json!({"about": about, "wire": wire}))
        })
        .collect();
    let measures: Map<String, Value> = facts
        .measures
        .iter()
        .map(|measure| {
            let figures = by_plane(facts, samples, measure.key);
            let value = json!({"label": measure.label, "planes": figures});
            (measure.key.to_owned(), value)
        })
        .collect();
    let others: Map<String, Value> = report::compared(facts)
        .filter(|name| *name != ratios::OURS)
        .map(|name| (name.to_owned(), object(&ratios::of(samples, name))))
        .collect();
    let document = json!({
        "command": facts.command, "date": facts.date, "machine": facts.machine,
        "congestion_control": facts.congestion_control,
        "programs": facts.programs, "seconds": facts.seconds, "failures": facts.failures,
        "planes": planes, "measures": measures,
        "ratios_to_envoy_http": object(&ratios::all(samples)),
        "peer_ratios_to_envoy_http": others,
        "samples": samples.all().iter().map(sample).collect::<Vec<_>>(),
    });
    format!("{document:#}\n")
}

fn object(ratios: &[Ratio]) -> Value {
    let pairs = ratios
        .iter()
        .map(|ratio| (ratio.key.to_owned(), json!(ratio.value)));
    Value::Object(pairs.collect())
}

/// Median and spread of every figure of every plane.
fn by_plane(facts: &Facts, samples: &Samples, measure: &str) -> Map<String, Value> {
    let mut planes = Map::new();
    for (name, _) in &facts.planes {
        let kept = samples.kept(measure, name);
        let Some(first) = kept.first() else {
            continue;
        };
        let mut figures = Map::new();
        for figure in first.figures.keys() {
            if let Some(spread) = samples.spread(measure, name, figure) {
                figures.insert(
                    (*figure).to_owned(),
                    json!({
                        "median": spread.median, "min": spread.least, "max": spread.most,
                        "samples": spread.samples,
                    }),
                );
            }
        }
        let disturbed = samples.only_disturbed(measure, name);
        planes.insert(
            name.clone(),
            json!({"figures": figures, "disturbed": disturbed}),
        );
    }
    planes
}

fn sample(sample: &Sample) -> Value {
    json!({
        "measure": sample.measure, "plane": sample.plane, "round": sample.round,
        "foreign": sample.foreign, "figures": sample.figures,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_planes_measures_samples_and_ratios() {
        let (facts, samples) = report::tests::example();
        let text = document(&facts, &samples);
        let read: Value = serde_json::from_str(&text).expect("it is JSON");
        assert_eq!(read["ratios_to_envoy_http"], json!({"h1_c16_rps": 5.0}));
        assert_eq!(read["samples"].as_array().map(Vec::len), Some(6));
        let agent = &read["measures"]["h1_c16"]["planes"]["agent"];
        assert_eq!(agent["figures"]["rps"]["median"], 50_000.0);
        assert_eq!(agent["disturbed"], true);
        assert!(read["planes"]["direct"]["about"].is_string());
    }
}
