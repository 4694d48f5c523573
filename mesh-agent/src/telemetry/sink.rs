// SPDX-License-Identifier: Apache-2.0

//! A bounded queue of lines with a thread that writes them.
//!
//! Data threads only copy a line under a short lock. Knows nothing of what lines say.
//! Invariant: [`Sink::push`] never waits for the writer; what does not fit is dropped and counted,
//! and so is what could not be written.

use std::{
    fmt,
    io::{self, Write},
    mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// What may wait for the writer: some 10,000 lines.
const QUEUE_MAX_BYTES: usize = 4 << 20;

/// How long lines are gathered into one write.
const GATHER: Duration = Duration::from_millis(10);

/// How long a full pipe that does not block is left alone.
const FULL_PIPE_PAUSE: Duration = Duration::from_millis(10);

/// Takes lines; clones share one queue. The thread ends with the last clone.
#[derive(Clone)]
pub(super) struct Sink(Arc<Handle>);

/// Ends the thread when the last clone of the sink is dropped.
struct Handle(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// There is something to write, or the sink was closed.
    filled: Condvar,
    /// Everything has been written.
    emptied: Condvar,
    dropped: AtomicU64,
    max_bytes: usize,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    lines: u64,
    writing: bool,
    /// Somebody waits for everything to be written, or nothing more comes.
    hurry: bool,
    closed: bool,
}

impl Sink {
    /// Starts the thread, named `name`, that writes to `out`.
    pub(super) fn start(name: &str, out: impl Write + Send + 'static) -> io::Result<Self> {
        Self::with_limit(name, out, QUEUE_MAX_BYTES)
    }

    fn with_limit(
        name: &str,
        out: impl Write + Send + 'static,
        max_bytes: usize,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::default()),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            dropped: AtomicU64::new(0),
            max_bytes,
        });
        let writer = Arc::clone(&shared);
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || writer.write_all(out))?;
        Ok(Self(Arc::new(Handle(shared))))
    }

    /// Queues `line`, which ends in a line feed.
    pub(super) fn push(&self, line: &[u8]) {
        let shared = &self.0.0;
        let mut queue = shared.lock();
        let before = queue.bytes.len();
        if before + line.len() > shared.max_bytes {
            drop(queue);
            shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.bytes.extend_from_slice(line);
        queue.lines += 1;
        let half = shared.max_bytes / 2;
        let wake = before == 0 || (before < half && queue.bytes.len() >= half);
        drop(queue);
        if wake {
            shared.filled.notify_one();
        }
    }

    /// How many lines were dropped since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.0.0.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything queued has been written, at most for `deadline`.
    pub(super) fn flush(&self, deadline: Duration) {
        let shared = &self.0.0;
        let until = Instant::now() + deadline;
        let mut queue = shared.lock();
        while queue.writing || !queue.bytes.is_empty() {
            queue.hurry = true;
            shared.filled.notify_one();
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            queue = shared
                .emptied
                .wait_timeout(queue, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, mut out: impl Write) {
        let mut batch = Vec::new();
        while let Some(lines) = self.take(&mut batch) {
            if write_patiently(&mut out, &batch).is_err() {
                self.dropped.fetch_add(lines, Ordering::Relaxed);
            }
            batch.clear();
            let mut queue = self.lock();
            queue.writing = false;
            if queue.bytes.is_empty() {
                queue.hurry = false;
                self.emptied.notify_all();
            }
        }
    }

    /// Swaps what is queued into `batch`; `None` once the sink is closed and empty.
    fn take(&self, batch: &mut Vec<u8>) -> Option<u64> {
        let mut queue = self
            .filled
            .wait_while(self.lock(), |queue| queue.bytes.is_empty() && !queue.closed)
            .unwrap_or_else(PoisonError::into_inner);
        if !queue.closed {
            let half = self.max_bytes / 2;
            queue = self
                .filled
                .wait_timeout_while(queue, GATHER, |queue| {
                    !queue.hurry && !queue.closed && queue.bytes.len() < half
                })
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        if queue.bytes.is_empty() {
            return None;
        }
        mem::swap(batch, &mut queue.bytes);
        queue.writing = true;
        Some(mem::take(&mut queue.lines))
    }
}

/// Writes all of `bytes`, also to a pipe that somebody set to non-blocking.
fn write_patiently(out: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(FULL_PIPE_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
    out.flush()
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.filled.notify_one();
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sink({} dropped)", self.dropped())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    /// A writer that hands on what it gets, one message per write.
    struct Relay(mpsc::SyncSender<Vec<u8>>);

    impl Write for Relay {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0
                .send(bytes.to_vec())
                .map_err(|_gone| io::Error::from(io::ErrorKind::BrokenPipe))?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_arrive_in_order_and_a_flush_waits_for_them() {
        let (sender, receiver) = mpsc::sync_channel(100);
        let sink = Sink::start("test", Relay(sender)).unwrap();
        for line in [b"1\n", b"2\n", b"3\n"] {
            sink.push(line);
        }
        sink.flush(LONG);
        let written: Vec<u8> = receiver.try_iter().flatten().collect();
        assert_eq!(written, b"1\n2\n3\n");
        assert_eq!(sink.dropped(), 0);
    }

    #[test]
    fn a_writer_that_hangs_costs_lines_and_no_time() {
        let (sender, receiver) = mpsc::sync_channel(0);
        let sink = Sink::with_limit("test", Relay(sender), 100).unwrap();
        let started = Instant::now();
        for _ in 0..100_000 {
            sink.push(b"0123456789\n");
        }
        assert!(started.elapsed() < LONG, "pushing waits for nobody");
        assert!(sink.dropped() > 99_000, "{}", sink.dropped());
        drop(receiver);
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let (sender, receiver) = mpsc::sync_channel(0);
        drop(receiver);
        let sink = Sink::start("test", Relay(sender)).unwrap();
        sink.push(b"1\n");
        sink.push(b"2\n");
        sink.flush(LONG);
        assert_eq!(sink.dropped(), 2);
    }

    #[test]
    fn the_last_lines_are_written_when_the_sink_is_dropped() {
        let (sender, receiver) = mpsc::sync_channel(1);
        let sink = Sink::start("test", Relay(sender)).unwrap();
        sink.push(b"last\n");
        drop(sink);
        assert_eq!(receiver.recv_timeout(LONG).unwrap(), b"last\n");
        assert!(receiver.recv_timeout(LONG).is_err(), "the thread has ended");
    }
}
