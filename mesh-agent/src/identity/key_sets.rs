// SPDX-License-Identifier: Apache-2.0

//! The key sets of issuers: fetched, fetched again, and kept when they cannot be.
//!
//! Only those that the policies of this node's workloads name. Data threads read what there is and may
//! ask for more; all fetching is elsewhere. Knows nothing of tokens. Invariant: a set stays until
//! a good one replaces it; one that says the same stays the same allocation, so that what was
//! verified with it still counts.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use ipnet::IpNet;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

use super::fetch::{FetchError, Fetcher};
use crate::{
    model::{
        Snapshot,
        token::{KeyPlace, KeySet, KeySource},
    },
    tasks::Tasks,
    telemetry::chain,
};

/// How often a set is fetched again.
const REFRESH: Duration = Duration::from_secs(300);

/// How soon after a fetch there may be another because a token names a key that is not there.
const ANEW: Duration = Duration::from_secs(10);

/// How soon one that could not be fetched is fetched again, at first and at most.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// How many are fetched at a time.
const AT_A_TIME: usize = 8;

/// How long there may be nothing to do.
const IDLE: Duration = Duration::from_secs(3600);

/// The key sets of issuers. Clones share everything.
#[derive(Clone, Default)]
pub struct KeySets(Arc<Shared>);

#[derive(Default)]
struct Shared {
    slots: RwLock<HashMap<KeyPlace, Arc<Slot>>>,
    /// Told when a slot is asked for anew.
    asked: Notify,
}

#[derive(Default)]
struct Slot {
    state: RwLock<State>,
    is_asked: AtomicBool,
}

#[derive(Clone, Default)]
struct State {
    keys: Option<Arc<KeySet>>,
    fetched: Option<SystemTime>,
    error: Option<Arc<str>>,
}

/// A key set, for people to look at.
#[derive(Clone, Debug)]
pub struct KeySetView {
    /// Where it is fetched.
    pub place: KeyPlace,
    /// How many keys there are; `None` if it was never fetched, so that its issuer's tokens are
    /// refused.
    pub keys: Option<usize>,
    /// When it was fetched last.
    pub fetched: Option<SystemTime>,
    /// Why the last attempt did not work.
    pub error: Option<Arc<str>>,
}

/// What the fetching task knows of a place.
struct Plan {
    due: Instant,
    last: Option<Instant>,
    retry: Duration,
    is_fetching: bool,
}

impl KeySets {
    /// Fetches what the policies of `snapshots` name, from now on, until drained; from the node itself, its
    /// link and metadata services only if they are in networks that are `allowed`.
    pub fn start(
        snapshots: watch::Receiver<Arc<Snapshot>>,
        allowed: Vec<IpNet>,
        tasks: &Tasks,
    ) -> Self {
        let sets = Self::default();
        let (own, drain) = (sets.clone(), tasks.drain());
        let fetcher = Arc::new(Fetcher::new(allowed, tasks.clone()));
        let fetch = move |place: KeyPlace| {
            let fetcher = Arc::clone(&fetcher);
            async move { fetcher.key_set(&place).await }
        };
        tasks.spawn("key sets", async move {
            // Cancel-safe: nothing is left to be done when the agent ends.
            tokio::select! {
                () = own.follow(snapshots, fetch) => {}
                () = drain.requested() => {}
            }
        });
        sets
    }

    /// The keys that are fetched from `place`, if they ever were.
    pub fn get(&self, place: &KeyPlace) -> Option<Arc<KeySet>> {
        self.slot(place)?.read().keys
    }

    /// A token names a key that is not there: perhaps it is by now.
    pub fn ask_anew(&self, place: &KeyPlace) {
        if let Some(slot) = self.slot(place)
            && !slot.is_asked.swap(true, Ordering::Relaxed)
        {
            self.0.asked.notify_one();
        }
    }

    /// All of them, in order.
    pub fn list(&self) -> Vec<KeySetView> {
        let slots = self.0.slots.read().unwrap_or_else(PoisonError::into_inner);
        let view = |(place, slot): (&KeyPlace, &Arc<Slot>)| {
            let state = slot.read();
            KeySetView {
                place: place.clone(),
                keys: state.keys.map(|keys| keys.len()),
                fetched: state.fetched,
                error: state.error,
            }
        };
        let mut all: Vec<KeySetView> = slots.iter().map(view).collect();
        all.sort_by(|a, b| a.place.cmp(&b.place));
        all
    }

    fn slot(&self, place: &KeyPlace) -> Option<Arc<Slot>> {
        let slots = self.0.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.get(place).map(Arc::clone)
    }

    /// Keeps the slots of `wanted`, and no others.
    fn want(&self, wanted: &BTreeMap<KeyPlace, Plan>) {
        let mut slots = self.0.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|place, _| wanted.contains_key(place));
        for place in wanted.keys() {
            slots.entry(place.clone()).or_default();
        }
    }

    /// Goes on until nobody publishes snapshots any more.
    async fn follow<Fetching>(
        self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        fetch: impl Fn(KeyPlace) -> Fetching,
    ) where
        Fetching: Future<Output = Result<KeySet, FetchError>>,
    {
        let mut plans: BTreeMap<KeyPlace, Plan> = BTreeMap::new();
        let mut fetching = FuturesUnordered::new();
        snapshots.mark_changed();
        loop {
            let now = Instant::now();
            for (place, plan) in &mut plans {
                if fetching.len() < AT_A_TIME && !plan.is_fetching && plan.due <= now {
                    plan.is_fetching = true;
                    plan.last = Some(now);
                    let (place, fetched) = (place.clone(), fetch(place.clone()));
                    fetching.push(async move { (place, fetched.await) });
                }
            }
            let waiting = plans.values().filter(|plan| !plan.is_fetching);
            let next = waiting.map(|plan| plan.due).min().unwrap_or(now + IDLE);
            let has_room = fetching.len() < AT_A_TIME;
            // Cancel-safe: all arms only wait; what they wait for stays.
            tokio::select! {
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let snapshot = Arc::clone(&snapshots.borrow_and_update());
                    if replan(&snapshot, &mut plans) {
                        self.want(&plans);
                    }
                }
                Some((place, fetched)) = fetching.next(), if !fetching.is_empty() => {
                    if let Some(plan) = plans.get_mut(&place) {
                        plan.is_fetching = false;
                        self.take(&place, fetched, plan);
                    }
                }
                () = self.0.asked.notified() => self.hurry(&mut plans),
                () = sleep_until(next), if has_room => {}
            }
        }
    }

    /// Fetches anew what was asked for, unless it was fetched just now.
    fn hurry(&self, plans: &mut BTreeMap<KeyPlace, Plan>) {
        for (place, plan) in plans {
            let asked = self.slot(place);
            let asked = asked.filter(|slot| slot.is_asked.load(Ordering::Relaxed));
            if let (Some(_), Some(last)) = (asked, plan.last) {
                plan.due = plan.due.min(last + ANEW);
            }
        }
    }

    fn take(&self, place: &KeyPlace, fetched: Result<KeySet, FetchError>, plan: &mut Plan) {
        let Some(slot) = self.slot(place) else {
            return;
        };
        slot.is_asked.store(false, Ordering::Relaxed);
        let mut state = slot.state.write().unwrap_or_else(PoisonError::into_inner);
        match fetched {
            Ok(keys) => {
                plan.due = Instant::now() + REFRESH;
                plan.retry = FIRST_RETRY;
                state.fetched = Some(SystemTime::now());
                state.error = None;
                if state.keys.as_deref() != Some(&keys) {
                    tracing::info!(url = %place.url, keys = keys.len(), "a key set is another");
                    state.keys = Some(Arc::new(keys));
                }
            }
            Err(error) => {
                let (why, stale) = (chain(&error), state.keys.is_some());
                tracing::warn!(url = %place.url, why, stale, "a key set cannot be fetched");
                state.error = Some(why.into());
                plan.due = Instant::now() + plan.retry;
                plan.retry = (plan.retry * 2).min(LAST_RETRY);
            }
        }
    }
}

impl Slot {
    fn read(&self) -> State {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.clone()
    }
}

impl fmt::Debug for KeySets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.list()).finish()
    }
}

/// Plans for what the snapshot names; whether that is something else than before.
fn replan(snapshot: &Snapshot, plans: &mut BTreeMap<KeyPlace, Plan>) -> bool {
    let mut wanted: BTreeMap<KeyPlace, Plan> = BTreeMap::new();
    for workload in snapshot.local_enrolled() {
        for rule in workload.inbound.authentication.rules() {
            if let KeySource::Remote(place) = &rule.keys {
                wanted.entry(place.clone()).or_insert_with(Plan::new);
            }
        }
    }
    let same = wanted.keys().eq(plans.keys());
    plans.retain(|place, _| wanted.contains_key(place));
    for (place, plan) in wanted {
        plans.entry(place).or_insert(plan);
    }
    !same
}

impl Plan {
    fn new() -> Self {
        Self {
            due: Instant::now(),
            last: None,
            retry: FIRST_RETRY,
            is_fetching: false,
        }
    }
}

#[cfg(test)]
mod tests;
