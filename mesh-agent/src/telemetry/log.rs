// SPDX-License-Identifier: Apache-2.0

//! The agent's own log: text or JSON on standard error, its level changeable at run time.
//!
//! Written by a thread of its own, so that a log nobody reads cannot stop the agent.
//! Invariant: a level that is misspelt is refused, and the old one stays.

use std::{fmt, io, time::Duration};

use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt as format, fmt::MakeWriter, layer::SubscriberExt, registry,
    reload, util::SubscriberInitExt,
};

use super::sink::Sink;

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Changes and tells what is logged. Clones change the same log.
#[derive(Clone)]
pub struct LogLevel {
    filter: reload::Handle<EnvFilter, Registry>,
    sink: Sink,
}

/// The log could not be set up or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The text is no level and no list of levels by module.
    #[error(
        "{0:?} is no log level: use error, warn, info, debug, trace or off, also by module: \
         info,mesh_agent::proxy=debug"
    )]
    Level(String),
    /// The thread that writes could not be started.
    #[error("starting the log's thread")]
    Thread(#[source] io::Error),
    /// There is a log already.
    #[error("setting up the log")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Logs from now on to standard error.
pub fn start(form: LogFormat, level: &str) -> Result<LogLevel, LogError> {
    let (subscriber, handle) = build(form, level, io::stderr())?;
    subscriber.try_init().map_err(LogError::Twice)?;
    Ok(handle)
}

/// A log that is not the whole process's: writes to `out` what is logged with the subscriber.
pub fn build(
    form: LogFormat,
    level: &str,
    out: impl io::Write + Send + 'static,
) -> Result<(impl Subscriber + Send + Sync, LogLevel), LogError> {
    let (filter, handle) = reload::Layer::new(parse(level)?);
    let sink = Sink::start("log", out).map_err(LogError::Thread)?;
    let lines = format::layer()
        .with_ansi(false)
        .with_writer(Lines(sink.clone()));
    let lines: Box<dyn Layer<_> + Send + Sync> = match form {
        LogFormat::Text => Box::new(lines),
        LogFormat::Json => Box::new(lines.json().flatten_event(true)),
    };
    let subscriber = registry().with(filter).with(lines);
    Ok((
        subscriber,
        LogLevel {
            filter: handle,
            sink,
        },
    ))
}

impl LogLevel {
    /// Logs at `level` from now on.
    pub fn set(&self, level: &str) -> Result<(), LogError> {
        let filter = parse(level)?;
        // Fails only once the subscriber is gone, and then nothing is logged at any level.
        drop(self.filter.reload(filter));
        Ok(())
    }

    /// What is logged now, in the form that [`LogLevel::set`] takes.
    pub fn get(&self) -> String {
        self.filter
            .with_current(ToString::to_string)
            .unwrap_or_else(|_gone| LevelFilter::OFF.to_string())
    }

    /// Waits until everything logged so far is written, at most for `deadline`.
    pub fn flush(&self, deadline: Duration) {
        self.sink.flush(deadline);
    }

    /// How many lines were dropped because nobody read the log.
    pub fn dropped(&self) -> u64 {
        self.sink.dropped()
    }
}

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogLevel({})", self.get())
    }
}

/// Stricter than [`EnvFilter`], which takes a misspelt level for the name of a module.
fn parse(text: &str) -> Result<EnvFilter, LogError> {
    let wrong = || LogError::Level(text.to_owned());
    let all_known = text.split(',').all(|part| {
        let level = part.rsplit_once('=').map_or(
            part,
            |(module, level)| {
                if module.is_empty() { "" } else { level }
            },
        );
        level.trim().parse::<LevelFilter>().is_ok() && !level.trim().is_empty()
    });
    if !all_known {
        return Err(wrong());
    }
    EnvFilter::try_new(text).map_err(|_not_a_filter| wrong())
}

/// Gives the subscriber a buffer per line.
struct Lines(Sink);

/// One line, queued when it is complete.
struct Line<'a> {
    sink: &'a Sink,
    bytes: Vec<u8>,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line {
            sink: &self.0,
            bytes: Vec::new(),
        }
    }
}

impl io::Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        self.sink.push(&self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(form: LogFormat, write: impl FnOnce(&LogLevel)) -> String {
        let memory = Memory::default();
        let (subscriber, level) = build(form, "info", memory.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || write(&level));
        level.flush(Duration::from_secs(10));
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_level_can_be_changed_while_logging() {
        let text = logged(LogFormat::Text, |level| {
            tracing::debug!("unseen");
            level.set("debug").unwrap();
            tracing::debug!("seen");
            assert_eq!(level.get(), "debug");
            level.set("error").unwrap();
            tracing::info!("unseen again");
        });
        assert!(text.contains("seen") && !text.contains("unseen"), "{text}");
    }

    #[test]
    fn json_lines_are_json() {
        let text = logged(LogFormat::Json, |_| tracing::info!(pod = "a\"b", "ready"));
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "ready");
        assert_eq!(line["pod"], "a\"b");
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn a_misspelt_level_is_refused_and_the_old_one_stays() {
        logged(LogFormat::Text, |level| {
            for wrong in ["inof", "", "info,", "mesh_agent=loud", "=debug", "a=b=c"] {
                let error = level.set(wrong).expect_err(wrong).to_string();
                assert!(error.contains("use error, warn"), "{error}");
            }
            assert_eq!(level.get(), "info");
            level.set("info,mesh_agent::proxy=debug").unwrap();
        });
    }
}
