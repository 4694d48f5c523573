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

/// Metrics as text: the small ones composed at once, those with many series when they are read,
/// so that a scrape never holds more than a piece of its text.
#[derive(Default)]
pub struct Exposition {
    parts: Vec<Part>,
    /// What comes after the parts.
    text: String,
}

/// Composes one series at a time.
type Part = Box<dyn Iterator<Item = String> + Send>;

/// A piece is at least this long, unless it is the last.
const PIECE_BYTES: usize = 64 * 1024;

impl Exposition {
    /// The text in pieces of bounded size, composed as they are taken.
    pub fn pieces(self) -> impl Iterator<Item = String> + Send {
        let text = std::iter::once(self.text);
        let mut rest = self.parts.into_iter().flatten().chain(text);
        std::iter::from_fn(move || {
            let mut piece = rest.next()?;
            while piece.len() < PIECE_BYTES {
                match rest.next() {
                    Some(more) => piece.push_str(&more),
                    None => break,
                }
            }
            Some(piece)
        })
    }

    /// The whole text.
    pub fn into_string(self) -> String {
        self.pieces().collect()
    }

    fn part(&mut self, part: impl Iterator<Item = String> + Send + 'static) {
        let before = std::mem::take(&mut self.text);
        self.parts.push(Box::new(std::iter::once(before)));
        self.parts.push(Box::new(part));
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
        head(&mut self.text, name, kind, help);
        for (values, value) in samples {
            let mut labels = Labels::default();
            for (name, value) in label_names.iter().zip(values) {
                labels.add(name, value);
            }
            sample(&mut self.text, name, &labels.0, value);
        }
    }

    /// A metric of one sample without labels.
    pub(super) fn single(&mut self, (name, kind, help): (&str, &str, &str), value: impl Display) {
        head(&mut self.text, name, kind, help);
        sample(&mut self.text, name, "", value);
    }

    /// One counter of every series that `read` finds one in.
    pub(super) fn counters<V: Send + Sync + 'static>(
        &mut self,
        (name, help): (&'static str, &'static str),
        all: &All<V>,
        read: fn(&V) -> Option<&AtomicU64>,
    ) {
        let mut headed = false;
        let (mut index, all) = (0, Arc::clone(all));
        self.part(std::iter::from_fn(move || {
            loop {
                let series = all.get(index)?;
                index += 1;
                let Some(counter) = read(&series.values) else {
                    continue;
                };
                let mut text = String::new();
                if !headed {
                    head(&mut text, name, "counter", help);
                    headed = true;
                }
                let count = counter.load(Ordering::Relaxed);
                sample(&mut text, name, &series.labels, count);
                return Some(text);
            }
        }));
    }

    /// One histogram of every series.
    pub(super) fn histograms(
        &mut self,
        (name, help): (&'static str, &'static str),
        all: &All<Requests>,
        read: fn(&Requests) -> &Histogram,
    ) {
        let (mut index, all) = (0, Arc::clone(all));
        self.part(std::iter::from_fn(move || {
            let series = all.get(index)?;
            let mut text = String::new();
            if index == 0 {
                head(&mut text, name, "histogram", help);
            }
            index += 1;
            histogram(&mut text, name, &series.labels, read(&series.values));
            Some(text)
        }));
    }
}

impl fmt::Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Exposition({} parts)", self.parts.len())
    }
}

/// All series of a family at one moment.
pub(super) type All<V> = Arc<[Arc<Series<V>>]>;

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
}

fn sample(text: &mut String, name: &str, labels: &str, value: impl Display) {
    let line = if labels.is_empty() {
        format!("{name} {value}\n")
    } else {
        format!("{name}{{{labels}}} {value}\n")
    };
    text.push_str(&line);
}

fn histogram(text: &mut String, name: &str, labels: &str, histogram: &Histogram) {
    let counts = histogram.counts();
    let bucket = format!("{name}_bucket");
    let mut total = 0;
    for (count, bound) in counts.iter().zip(BOUNDS) {
        total += count;
        let le = Thousandths(bound);
        sample(text, &bucket, &format!("{labels},le=\"{le}\""), total);
    }
    total += counts[BOUNDS.len()];
    sample(text, &bucket, &format!("{labels},le=\"+Inf\""), total);
    let sum = Thousandths(histogram.sum());
    sample(text, &format!("{name}_sum"), labels, sum);
    sample(text, &format!("{name}_count"), labels, total);
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
