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

/// How long others are waited for before a sample.
const QUIET_PATIENCE: Duration = Duration::from_secs(6);

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
            let cost = measure.cost(options.seconds, options.fixed_seconds);
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
                    if !self.has_time_for(0.0) {
                        failures.push(format!("{}: the budget is used up", measure.key));
                        return;
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

    /// Whether there is time for `more` seconds beside what is planned.
    fn has_time_for(&self, more: f64) -> bool {
        let Some(budget) = self.options.budget else {
            return true;
        };
        let used = self.progress.0.elapsed().as_secs_f64();
        let planned = if more > 0.0 { self.left } else { 0.0 };
        used + planned + more < budget.as_secs_f64()
    }

    fn take(&mut self, plane: &Plane, measure: &'static Measure, round: u32) -> Result<(), String> {
        let cost = measure.cost(self.options.seconds, self.options.fixed_seconds);
        self.left -= cost;
        let mut best: Option<Sample> = None;
        for attempt in 0..TRIES {
            if attempt > 0 && !self.has_time_for(cost) {
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
        let patience = match self.options.budget {
            _ if measure.is_memory() => Duration::ZERO,
            None => QUIET_PATIENCE,
            Some(budget) => {
                let spare = budget.as_secs_f64() - self.progress.0.elapsed().as_secs_f64();
                Duration::from_secs_f64((spare - self.left).clamp(0.0, 1.0))
            }
        };
        if !patience.is_zero() {
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
