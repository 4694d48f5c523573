// SPDX-License-Identifier: Apache-2.0

//! Prometheus' text format, version 0.0.4.
//!
//! Knows no metric by name. Invariant: `HELP` and `TYPE` stand before the first sample of a name,
//! and a name without samples is left out.

use std::{
    fmt::{self, Display, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::series::{BOUNDS, Histogram, Requests, Series};

/// The content type of the text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `name="value",...`
#[derive(Default)]
pub(super) struct Labels(String);

impl Labels {
    /// Appends one label.
    pub(super) fn add(&mut self, name: &str, value: impl Display) {
        let comma = if self.0.is_empty() { "" } else { "," };
        write!(self.0, "{comma}{name}=\"").expect("a string takes everything");
        write!(Escaped(&mut self.0), "{value}").expect("a string takes everything");
        self.0.push('"');
    }

    /// All of them: `name="value",...`.
    pub(super) fn into_string(self) -> String {
        self.0
    }
}

/// Escapes what may not stand in a label's value.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                plain => self.0.push(plain),
            }
        }
        Ok(())
    }
}

/// Metrics as text.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// The text written so far.
    pub fn into_string(self) -> String {
        self.0
    }

    pub(super) fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.0
            .push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    pub(super) fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let line = if labels.is_empty() {
            format!("{name} {value}\n")
        } else {
            format!("{name}{{{labels}}} {value}\n")
        };
        self.0.push_str(&line);
    }

    /// A metric whose samples have these labels.
    pub(super) fn list<const N: usize, V: Display>(
        &mut self,
        (name, kind, help): (&str, &str, &str),
        label_names: [&str; N],
        samples: impl IntoIterator<Item = ([String; N], V)>,
    ) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        self.head(name, kind, help);
        for (values, value) in samples {
            let mut labels = Labels::default();
            for (name, value) in label_names.iter().zip(values) {
                labels.add(name, value);
            }
            self.sample(name, &labels.0, value);
        }
    }

    pub(super) fn single(&mut self, (name, kind, help): (&str, &str, &str), value: impl Display) {
        self.head(name, kind, help);
        self.sample(name, "", value);
    }

    pub(super) fn counters<V>(
        &mut self,
        (name, help): (&str, &str),
        all: &[Arc<Series<V>>],
        read: impl Fn(&V) -> Option<&AtomicU64>,
    ) {
        let mut headed = false;
        for series in all {
            let Some(counter) = read(&series.values) else {
                continue;
            };
            if !headed {
                self.head(name, "counter", help);
                headed = true;
            }
            self.sample(name, &series.labels, counter.load(Ordering::Relaxed));
        }
    }

    pub(super) fn histograms(
        &mut self,
        (name, help): (&str, &str),
        all: &[Arc<Series<Requests>>],
        read: impl Fn(&Requests) -> &Histogram,
    ) {
        if all.is_empty() {
            return;
        }
        self.head(name, "histogram", help);
        for series in all {
            let (histogram, labels) = (read(&series.values), &series.labels);
            let counts = histogram.counts();
            let mut total = 0;
            for (count, bound) in counts.iter().zip(BOUNDS) {
                total += count;
                let le = Thousandths(bound);
                self.sample(
                    &format!("{name}_bucket"),
                    &format!("{labels},le=\"{le}\""),
                    total,
                );
            }
            total += counts[BOUNDS.len()];
            self.sample(
                &format!("{name}_bucket"),
                &format!("{labels},le=\"+Inf\""),
                total,
            );
            self.sample(&format!("{name}_sum"), labels, Thousandths(histogram.sum()));
            self.sample(&format!("{name}_count"), labels, total);
        }
    }
}

/// A number of thousandths, as a decimal.
struct Thousandths(u64);

impl Display for Thousandths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1_000, self.0 % 1_000);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{rest:03}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}
