// SPDX-License-Identifier: Apache-2.0

//! Steady load from a pod while something is done to the mesh.
//!
//! A few keep-alive connections, one request after the other on each. Knows nothing of what is
//! done meanwhile. Invariant: every request that was begun is counted, as answered or as failed;
//! a connection that the server closed cleanly between two requests is reopened, as HTTP allows.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::{Http1, Pod, Response, wait};

mod streams;

pub use self::streams::{Http2Load, Streams};

/// What became of the requests.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Requests answered with 200.
    pub answered: u64,
    /// Answers by the version in their body.
    pub versions: BTreeMap<String, u64>,
    /// What went wrong, and how often.
    pub failures: BTreeMap<String, u64>,
}

impl Tally {
    /// # Panics
    /// When anything failed.
    #[track_caller]
    pub fn assert_no_failures(&self) {
        let failed: u64 = self.failures.values().sum();
        assert!(
            failed == 0,
            "{failed} failed and {} answered: {:#?}",
            self.answered,
            self.failures
        );
    }
}

/// Load that is running.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    tally: Arc<Mutex<Tally>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts `connections` clients in `pod` that ask `address` for `path`.
    pub fn start(pod: &Pod, address: &str, host: &str, path: &str, connections: usize) -> Self {
        Self::run(pod, address, host, path, (connections, true))
    }

    /// The same with a connection of its own for each request.
    pub fn start_short(pod: &Pod, address: &str, host: &str, path: &str, clients: usize) -> Self {
        Self::run(pod, address, host, path, (clients, false))
    }

    fn run(
        pod: &Pod,
        address: &str,
        host: &str,
        path: &str,
        (connections, keep_alive): (usize, bool),
    ) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let tally = Arc::<Mutex<Tally>>::default();
        let threads = (0..connections).map(|_| {
            let client = Client {
                address: address.to_owned(),
                host: host.to_owned(),
                path: path.to_owned(),
                keep_alive,
                stop: Arc::clone(&stop),
                answered: Arc::clone(&answered),
                tally: Arc::clone(&tally),
            };
            pod.spawn(move || client.run())
        });
        let threads = threads.collect();
        Self {
            stop,
            answered,
            tally,
            threads,
        }
    }

    /// How many requests were answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until `count` more requests were answered.
    ///
    /// # Panics
    /// When they are not within a generous time.
    #[track_caller]
    pub fn wait_for(&self, count: u64) {
        let goal = self.answered() + count;
        wait::until(
            "requests under load to be answered",
            Duration::from_secs(30),
            || {
                let now = self.answered();
                if now >= goal {
                    Ok(())
                } else {
                    Err((now, self.failures()))
                }
            },
        );
    }

    fn failures(&self) -> BTreeMap<String, u64> {
        self.tally
            .lock()
            .map(|tally| tally.failures.clone())
            .unwrap_or_default()
    }

    /// Ends the load and says what became of it.
    #[track_caller]
    pub fn stop(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread
                .join()
                .expect("a client counts failures, it does not panic");
        }
        let mut tally = self.tally.lock().expect("no client panicked").clone();
        tally.answered = self.answered();
        tally
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Client {
    address: String,
    host: String,
    path: String,
    keep_alive: bool,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    tally: Arc<Mutex<Tally>>,
}

impl Client {
    fn run(&self) {
        let mut open: Option<Http1> = None;
        while !self.stop.load(Ordering::Relaxed) {
            match self.ask(&mut open) {
                Ok(answer) if answer.status == 200 => self.count(&answer),
                Ok(answer) => self.fail(format!("{}: {}", answer.status, answer.text())),
                Err(error) => {
                    open = None;
                    self.fail(format!("{error} ({:?})", error.kind()));
                }
            }
        }
    }

    fn ask(&self, open: &mut Option<Http1>) -> io::Result<Response> {
        let fresh = || Http1::connect(&self.address, &self.host);
        // A server may close an idle connection; whoever reuses it looks first.
        let mut http = match open.take() {
            Some(http) if !http.closed_by_peer() => http,
            _ => fresh()?,
        };
        let answer = http.get(&self.path)?;
        let last = answer
            .header("connection")
            .is_some_and(|value| value.contains("close"));
        if self.keep_alive && !last {
            *open = Some(http);
        }
        Ok(answer)
    }

    fn count(&self, answer: &Response) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        let version = serde_json::from_slice::<serde_json::Value>(&answer.body);
        let version = version
            .ok()
            .and_then(|body| body["version"].as_str().map(str::to_owned));
        if let (Some(version), Ok(mut tally)) = (version, self.tally.lock()) {
            *tally.versions.entry(version).or_default() += 1;
        }
    }

    fn fail(&self, what: String) {
        if let Ok(mut tally) = self.tally.lock() {
            *tally.failures.entry(what).or_default() += 1;
        }
        // A refusing peer must not become a busy loop.
        std::thread::sleep(Duration::from_millis(5));
    }
}
