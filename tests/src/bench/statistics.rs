// SPDX-License-Identifier: Apache-2.0

//! Samples, and what can be said about them: medians, spreads, ratios round by round.
//!
//! A ratio is the median of the ratios of single rounds: both halves of each were taken within
//! seconds. Knows nothing of what the figures mean. Invariant: a sample that others disturbed
//! counts only where its plane has no quieter one of the same measure.

use std::collections::BTreeMap;

/// Numbers by name.
pub(super) type Figures = BTreeMap<&'static str, f64>;

/// One measure of one plane in one round.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    pub(super) measure: &'static str,
    pub(super) plane: String,
    pub(super) round: u32,
    /// What part of the machine others used meanwhile.
    pub(super) foreign: f64,
    pub(super) figures: Figures,
}

/// A median, and how far apart the rounds are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
    pub(super) samples: usize,
}

/// All samples of a run.
#[derive(Debug)]
pub(super) struct Samples {
    all: Vec<Sample>,
    /// A sample with more foreign load than this is disturbed.
    quiet_below: f64,
}

impl Samples {
    /// None yet.
    pub(super) fn new(quiet_below: f64) -> Self {
        let all = Vec::new();
        Self { all, quiet_below }
    }

    /// Adds one.
    pub(super) fn push(&mut self, sample: Sample) {
        self.all.push(sample);
    }

    /// Every sample, kept or not.
    pub(super) fn all(&self) -> &[Sample] {
        &self.all
    }

    /// Whether others used so much of the machine that a sample says little.
    pub(super) fn is_disturbed(&self, foreign: f64) -> bool {
        foreign > self.quiet_below
    }

    /// The samples that count.
    pub(super) fn kept(&self, measure: &str, plane: &str) -> Vec<&Sample> {
        let own = |sample: &&Sample| sample.measure == measure && sample.plane == plane;
        let all: Vec<&Sample> = self.all.iter().filter(own).collect();
        let quiet = |sample: &&Sample| !self.is_disturbed(sample.foreign);
        let calm: Vec<&Sample> = all.iter().copied().filter(quiet).collect();
        if calm.is_empty() { all } else { calm }
    }

    /// Whether a plane has no quiet sample of a measure.
    pub(super) fn only_disturbed(&self, measure: &str, plane: &str) -> bool {
        let kept = self.kept(measure, plane);
        kept.iter().any(|sample| self.is_disturbed(sample.foreign))
    }

    /// Median and spread over the rounds.
    pub(super) fn spread(&self, measure: &str, plane: &str, figure: &str) -> Option<Spread> {
        let kept = self.kept(measure, plane);
        let values = kept.iter().filter_map(|sample| sample.figures.get(figure));
        spread(values.copied().collect())
    }

    /// The median over the rounds.
    pub(super) fn median(&self, measure: &str, plane: &str, figure: &str) -> Option<f64> {
        Some(self.spread(measure, plane, figure)?.median)
    }

    /// A figure of `plane` divided by that of `base`.
    pub(super) fn ratio(
        &self,
        measure: &str,
        figure: &str,
        plane: &str,
        base: &str,
    ) -> Option<f64> {
        let divide = |own: f64, other: f64| (other != 0.0).then(|| own / other);
        self.compare(measure, figure, plane, base, divide)
    }

    /// How much greater a figure of `plane` is than that of `base`.
    pub(super) fn added(
        &self,
        measure: &str,
        figure: &str,
        plane: &str,
        base: &str,
    ) -> Option<f64> {
        self.compare(measure, figure, plane, base, |own, other| Some(own - other))
    }

    /// Compares within rounds; where no round has both planes, their medians.
    fn compare(
        &self,
        measure: &str,
        figure: &str,
        plane: &str,
        base: &str,
        with: impl Fn(f64, f64) -> Option<f64>,
    ) -> Option<f64> {
        let others = self.kept(measure, base);
        let pairs = self.kept(measure, plane).into_iter().filter_map(|own| {
            let other = others.iter().find(|other| other.round == own.round)?;
            with(*own.figures.get(figure)?, *other.figures.get(figure)?)
        });
        if let Some(found) = spread(pairs.collect()) {
            return Some(found.median);
        }
        let medians = (
            self.median(measure, plane, figure)?,
            self.median(measure, base, figure)?,
        );
        with(medians.0, medians.1)
    }
}

/// Median, least and most of `values`.
pub(super) fn spread(mut values: Vec<f64>) -> Option<Spread> {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let median = match values.len() {
        0 => return None,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    };
    Some(Spread {
        median,
        least: values[0],
        most: values[values.len() - 1],
        samples: values.len(),
    })
}

/// The value below which `thousandths` of `sorted` are; 0 of nothing.
pub(super) fn quantile(sorted: &[u32], thousandths: usize) -> f64 {
    let index = sorted.len() * thousandths / 1000;
    let found = sorted.get(index.min(sorted.len().saturating_sub(1)));
    found.map_or(0.0, |value| f64::from(*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(plane: &str, round: u32, foreign: f64, rate: f64) -> Sample {
        Sample {
            measure: "h1",
            plane: plane.to_owned(),
            round,
            foreign,
            figures: Figures::from([("rps", rate)]),
        }
    }

    fn samples(all: &[Sample]) -> Samples {
        let mut samples = Samples::new(0.1);
        all.iter().cloned().for_each(|one| samples.push(one));
        samples
    }

    #[track_caller]
    fn check_median(values: &[f64], want: Option<f64>) {
        let found = spread(values.to_vec()).map(|spread| spread.median);
        assert_eq!(found, want, "{values:?}");
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middle_ones() {
        check_median(&[], None);
        check_median(&[3.0], Some(3.0));
        check_median(&[9.0, 1.0, 2.0], Some(2.0));
        check_median(&[4.0, 1.0, 2.0, 100.0], Some(3.0));
        check_median(&[f64::NAN, 5.0], Some(5.0));
    }

    #[test]
    fn a_quantile_of_few_values_is_one_of_them() {
        let sorted: Vec<u32> = (1..=1000).collect();
        assert!((quantile(&sorted, 500) - 501.0).abs() < 1e-9);
        assert!((quantile(&sorted, 999) - 1000.0).abs() < 1e-9);
        assert!((quantile(&[7], 999) - 7.0).abs() < 1e-9);
        assert!(quantile(&[], 500).abs() < 1e-9);
    }

    #[test]
    fn a_ratio_is_the_median_of_ratios_of_rounds() {
        let all = samples(&[
            sample("ours", 0, 0.0, 10.0),
            sample("theirs", 0, 0.0, 5.0),
            sample("ours", 1, 0.0, 100.0),
            sample("theirs", 1, 0.0, 25.0),
            sample("ours", 2, 0.0, 30.0),
            sample("theirs", 2, 0.0, 10.0),
        ]);
        assert_eq!(all.ratio("h1", "rps", "ours", "theirs"), Some(3.0));
        assert_eq!(all.added("h1", "rps", "ours", "theirs"), Some(20.0));
        assert_eq!(all.ratio("h1", "rps", "ours", "nobody"), None);
    }

    #[test]
    fn without_a_common_round_medians_are_compared() {
        let all = samples(&[sample("ours", 0, 0.0, 10.0), sample("theirs", 1, 0.0, 5.0)]);
        assert_eq!(all.ratio("h1", "rps", "ours", "theirs"), Some(2.0));
    }

    #[test]
    fn a_disturbed_sample_counts_only_when_there_is_no_other() {
        let mut all = samples(&[sample("ours", 0, 0.5, 1.0)]);
        assert_eq!(all.median("h1", "ours", "rps"), Some(1.0));
        assert!(all.only_disturbed("h1", "ours"));
        all.push(sample("ours", 1, 0.05, 3.0));
        assert_eq!(all.median("h1", "ours", "rps"), Some(3.0));
        assert!(!all.only_disturbed("h1", "ours"));
    }
}
