// SPDX-License-Identifier: Apache-2.0

//! The order of samples: measure by measure, round by round, plane after plane.
//!
//! Every round begins with another plane. A sample that others disturbed is taken again, as long
//! as there is time for it. Knows nothing of how a sample is taken. Invariant: no sample begins
//! after the budget is used up.

use std::time::{Duration, Instant};

use super::{
    Progress, measure,
    options::Options,
    plan::Measure,
    plane::Plane,
    sample::guarded,
    statistics::{Sample, Samples},
};

/// How often a sample is taken, at most, for a quiet one.
const TRIES: usize = 3;

/// How many seconds others are waited for before a sample, where there is time.
const QUIET_PATIENCE: f64 = 3.0;

/// A run under way.
pub(super) struct Rounds<'a> {
    options: &'a Options,
    planes: &'a [Plane],
    progress: &'a Progress,
    samples: Samples,
    /// Seconds that what is still to be done takes, about.
    left: f64,
}

impl<'a> Rounds<'a> {
    /// Nothing measured yet.
    pub(super) fn new(options: &'a Options, planes: &'a [Plane], progress: &'a Progress) -> Self {
        let mut rounds = Self {
            options,
            planes,
            progress,
            samples: Samples::new(options.quiet_below),
            left: 0.0,
        };
        for measure in &options.measures {
            let cost = rounds.cost(measure);
            for _ in rounds.suited(measure, 0) {
                rounds.left += cost * f64::from(rounds.count(measure));
            }
        }
        rounds
    }

    /// What was measured.
    pub(super) fn into_samples(self) -> Samples {
        self.samples
    }

    /// Takes all samples that there is time for.
    pub(super) fn take_all(&mut self, failures: &mut Vec<String>) {
        let about = self.left;
        self.progress
            .say(&format!("about {about:.0} s of measures to come"));
        for measure in &self.options.measures {
            for round in 0..self.count(measure) {
                for plane in self.suited(measure, round) {
                    let cost = self.cost(measure);
                    if !self.has_time_for(cost) {
                        let plane = &plane.name;
                        failures.push(format!("{plane}, {}: no time left", measure.key));
                        self.left -= cost;
                        continue;
                    }
                    if let Err(error) = self.take(plane, measure, round) {
                        let name = &plane.name;
                        let words = plane.last_words();
                        eprintln!("{name}, {}: {error}\n{words}", measure.key);
                        failures.push(format!("{name}, {}: {error}", measure.key));
                    }
                }
            }
            self.progress.say(&format!("{}: done", measure.key));
        }
    }

    /// How many rounds a measure has.
    fn count(&self, measure: &Measure) -> u32 {
        if measure.is_memory() {
            1
        } else {
            self.options.rounds
        }
    }

    /// The planes that a measure is for, each round another one first.
    fn suited(&self, measure: &Measure, round: u32) -> Vec<&'a Plane> {
        let quick = self.options.quick;
        let suits = |plane: &&Plane| measure.suits(&plane.wanted, quick);
        let mut planes: Vec<&Plane> = self.planes.iter().filter(suits).collect();
        if !planes.is_empty() {
            for _ in 0..round {
                planes.rotate_left(1);
            }
        }
        planes
    }

    /// How long one sample takes, about.
    fn cost(&self, measure: &Measure) -> f64 {
        measure.cost(self.options.seconds, self.options.fixed_seconds)
    }

    /// Seconds until the budget is used up; for ever when there is none.
    fn budget_left(&self) -> f64 {
        let budget = self
            .options
            .budget
            .map_or(f64::INFINITY, |all| all.as_secs_f64());
        budget - self.progress.0.elapsed().as_secs_f64()
    }

    fn has_time_for(&self, seconds: f64) -> bool {
        self.budget_left() > seconds
    }

    fn take(&mut self, plane: &Plane, measure: &'static Measure, round: u32) -> Result<(), String> {
        let cost = self.cost(measure);
        self.left -= cost;
        let mut best: Option<Sample> = None;
        for attempt in 0..TRIES {
            // What is planned comes first.
            if attempt > 0 && !self.has_time_for(self.left + cost) {
                break;
            }
            self.wait_quiet(measure);
            let start = Instant::now();
            let taken = guarded(|| measure::take(plane, measure, self.options));
            let (figures, foreign) = match taken {
                Ok(taken) => taken,
                // Load tools stumble now and then; what is broken stumbles twice.
                Err(error) if attempt == 0 => {
                    self.progress
                        .say(&format!("{}: once more: {error}", plane.name));
                    continue;
                }
                Err(error) if best.is_none() => return Err(error),
                Err(_) => break,
            };
            let sample = Sample {
                measure: measure.key,
                plane: plane.name.clone(),
                round,
                foreign,
                figures,
            };
            tell(self.progress, &sample, start.elapsed());
            if best.as_ref().is_none_or(|best| foreign < best.foreign) {
                best = Some(sample);
            }
            if !self.samples.is_disturbed(foreign) {
                break;
            }
        }
        best.into_iter().for_each(|best| self.samples.push(best));
        Ok(())
    }

    fn wait_quiet(&self, measure: &Measure) {
        let spare = self.budget_left() - self.left - self.cost(measure);
        let patience = spare.clamp(0.0, QUIET_PATIENCE);
        if patience > 0.0 && !measure.is_memory() {
            let patience = Duration::from_secs_f64(patience);
            super::wait_quiet(self.options.quiet_below, patience);
        }
    }
}

fn tell(progress: &Progress, sample: &Sample, took: Duration) {
    let shown = ["rps", "gbps", "p50_us", "p99_us", "rss_mib", "errors"];
    let figures = shown.iter().filter_map(|name| {
        let value = sample.figures.get(name)?;
        Some(format!("{name} {value:.1}"))
    });
    progress.say(&format!(
        "{} {} round {}: {} (others {:.0} %, {:.1} s)",
        sample.measure,
        sample.plane,
        sample.round + 1,
        figures.collect::<Vec<_>>().join(", "),
        sample.foreign * 100.0,
        took.as_secs_f64()
    ));
}
