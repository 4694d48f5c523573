// SPDX-License-Identifier: Apache-2.0

//! The TLS of rules in use: made when first asked for, made anew from time to time, kept while used.
//!
//! Whoever asks waits for a task that reads and makes; a data thread reads nothing. Knows nothing of
//! what is in files and Secrets. Invariant: what was made stays in use while its sources cannot be
//! read, and not a moment after they were found gone.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsConnector;

use super::{
    credentials::{self, CredentialSources},
    origination::{self, OriginationError},
};
use crate::{model::Origination, tasks::Tasks, telemetry::chain};

/// How long what was made is used before its sources are looked at again.
const FRESH: Duration = Duration::from_secs(60);

/// How long a failure stands before the next who asks has it tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How long what nobody asks for is kept.
const UNUSED: Duration = Duration::from_secs(600);

/// How long whoever asks first waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many may be asked for at once before more are refused.
const ASKED: usize = 1024;

type Key = (Origination, Option<&'static str>);

/// What came of making one.
type Made = Result<Arc<ClientConfig>, Arc<str>>;

struct Entry {
    made: Made,
    looked: Instant,
    used: Instant,
}

/// All of them.
pub(super) struct Originations {
    entries: Arc<Mutex<HashMap<Key, Entry>>>,
    ask: mpsc::Sender<Key>,
    /// Counts what was made, so that those who wait look again.
    rounds: watch::Receiver<u64>,
}

impl Originations {
    /// None so far. What makes them runs as a task of `tasks`.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub(super) fn new(sources: watch::Receiver<CredentialSources>, tasks: &Tasks) -> Self {
        let (ask, asked) = mpsc::channel(ASKED);
        let (rounds, made) = watch::channel(0);
        let entries = Arc::default();
        let maker = Maker {
            entries: Arc::clone(&entries),
            sources,
            rounds,
            under_way: Mutex::default(),
            tasks: tasks.clone(),
        };
        tasks.spawn("client tls", Arc::new(maker).run(asked));
        Self {
            entries,
            ask,
            rounds: made,
        }
    }

    /// TLS as it is `wanted`, offering one application protocol or none, and the name to ask for.
    /// Cancel-safe: what was asked for is made for the next who asks.
    pub(super) async fn connector(
        &self,
        wanted: &Origination,
        alpn: Option<&'static str>,
    ) -> Result<(TlsConnector, ServerName<'static>), OriginationError> {
        let name = origination::asked(wanted)?;
        if let Some((Ok(config), _)) = self.find(wanted, alpn) {
            return Ok((TlsConnector::from(config), name));
        }
        let mut rounds = self.rounds.clone();
        rounds.mark_unchanged();
        let asked = Instant::now();
        if self.ask.try_send((wanted.clone(), alpn)).is_err() {
            let text = "certificates are being read for too many others, or no longer";
            return Err(OriginationError::Unready(text.into()));
        }
        let made = async {
            loop {
                rounds.changed().await.ok()?;
                match self.find(wanted, alpn) {
                    Some((Err(_), looked)) if looked + RETRY < asked => {}
                    Some((made, _)) => return Some(made),
                    None => {}
                }
            }
        };
        // Cancel-safe: waiting changes nothing.
        match tokio::time::timeout(PATIENCE, made).await {
            Ok(Some(Ok(config))) => Ok((TlsConnector::from(config), name)),
            Ok(Some(Err(why))) => Err(OriginationError::Unready(why)),
            Ok(None) => Err(OriginationError::Unready("the agent is stopping".into())),
            Err(_elapsed) => {
                let text = "reading certificates took too long";
                Err(OriginationError::Unready(text.into()))
            }
        }
    }

    /// What was made, and when.
    fn find(&self, wanted: &Origination, alpn: Option<&'static str>) -> Option<(Made, Instant)> {
        let key = (wanted.clone(), alpn);
        let mut entries = lock(&self.entries);
        let entry = entries.get_mut(&key)?;
        entry.used = Instant::now();
        Some((entry.made.clone(), entry.looked))
    }
}

fn lock(entries: &Mutex<HashMap<Key, Entry>>) -> MutexGuard<'_, HashMap<Key, Entry>> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What reads and makes.
struct Maker {
    entries: Arc<Mutex<HashMap<Key, Entry>>>,
    sources: watch::Receiver<CredentialSources>,
    rounds: watch::Sender<u64>,
    under_way: Mutex<HashSet<Key>>,
    tasks: Tasks,
}

impl Maker {
    async fn run(self: Arc<Self>, mut asked: mpsc::Receiver<Key>) {
        let drain = self.tasks.drain();
        let mut tick = tokio::time::interval(FRESH / 4);
        loop {
            // Cancel-safe: all of them only wait.
            tokio::select! {
                key = asked.recv() => match key {
                    Some(key) => self.asked(key),
                    None => return,
                },
                _ = tick.tick() => self.look_again(),
                // What is made serves until the end of the drain.
                () = drain.requested() => return,
            }
        }
    }

    /// Somebody waits for it.
    fn asked(self: &Arc<Self>, key: Key) {
        let is_done = lock(&self.entries)
            .get(&key)
            .is_some_and(|entry| entry.made.is_ok() || entry.looked.elapsed() < RETRY);
        if is_done {
            self.rounds.send_modify(|rounds| *rounds += 1);
        } else {
            self.begin(key);
        }
    }

    /// Makes anew what is old, and forgets what nobody uses.
    fn look_again(self: &Arc<Self>) {
        let old: Vec<Key> = {
            let mut entries = lock(&self.entries);
            entries.retain(|_, entry| {
                let kept = if entry.made.is_ok() { UNUSED } else { FRESH };
                entry.used.elapsed() < kept
            });
            let old = entries
                .iter()
                .filter(|(_, entry)| entry.made.is_ok() && entry.looked.elapsed() >= FRESH);
            old.map(|(key, _)| key.clone()).collect()
        };
        for key in old {
            self.begin(key);
        }
    }

    /// Makes it in a task of its own, unless there is one.
    fn begin(self: &Arc<Self>, key: Key) {
        if !self.under_way().insert(key.clone()) {
            return;
        }
        let this = Arc::clone(self);
        self.tasks.spawn("read certificates", async move {
            // Cancel-safe: what is given up was read for nobody.
            if tokio::time::timeout(PATIENCE, this.make(&key))
                .await
                .is_err()
            {
                let text = "reading certificates took too long";
                this.note(&key, Err(Failure::new(text.into(), false)));
            }
            this.under_way().remove(&key);
            this.rounds.send_modify(|rounds| *rounds += 1);
        });
    }

    fn under_way(&self) -> MutexGuard<'_, HashSet<Key>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn make(&self, key: &Key) {
        let result = self.read(key).await;
        self.note(key, result);
    }

    fn note(&self, key: &Key, result: Result<Arc<ClientConfig>, Failure>) {
        let now = Instant::now();
        let mut entries = lock(&self.entries);
        match result {
            Ok(config) => {
                let entry = Entry {
                    made: Ok(config),
                    looked: now,
                    used: entries.get(key).map_or(now, |entry| entry.used),
                };
                entries.insert(key.clone(), entry);
            }
            Err(failure) => {
                let why = &*failure.why;
                let last = entries.get_mut(key).filter(|entry| entry.made.is_ok());
                if let Some(last) = last.filter(|_| !failure.gone) {
                    tracing::warn!(
                        why,
                        "TLS that a rule asks for cannot be renewed, what was read before stays"
                    );
                    last.looked = now;
                    return;
                }
                tracing::warn!(why, "no TLS that a rule asks for");
                let entry = Entry {
                    made: Err(failure.why),
                    looked: now,
                    used: now,
                };
                entries.insert(key.clone(), entry);
            }
        }
    }

    async fn read(&self, (wanted, alpn): &Key) -> Result<Arc<ClientConfig>, Failure> {
        let sources = self.sources.borrow().clone();
        let (of, dir) = (wanted.clone(), sources.files);
        let read = move || credentials::from_files(&of, dir.as_deref());
        let Some(read) = self.tasks.blocking("read certificates", read).await else {
            return Err(Failure::new("reading certificates panicked".into(), false));
        };
        let failed = |error: credentials::CredentialError| {
            let gone = error.is_gone();
            Failure::new(chain(&error), gone)
        };
        let mut material = read.map_err(failed)?;
        let secrets = sources.secrets.as_ref();
        let of_secret = credentials::from_secret(wanted, secrets, &mut material);
        of_secret.await.map_err(failed)?;
        let made = origination::configure(wanted, &material, *alpn);
        made.map(Arc::new)
            .map_err(|error| Failure::new(chain(&error), false))
    }
}

struct Failure {
    why: Arc<str>,
    /// See [`credentials::CredentialError::is_gone`].
    gone: bool,
}

impl Failure {
    fn new(why: String, gone: bool) -> Self {
        Self {
            why: why.into(),
            gone,
        }
    }
}
