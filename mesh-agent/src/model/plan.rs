// SPDX-License-Identifier: Apache-2.0

//! The tiers of a cluster's endpoints for one kind of client, and which tier is next.
//!
//! Knows nothing of where endpoints are. What is fit in each tier is counted again only after
//! something was left out anywhere on the node, or came back: choosing looks at no endpoint.
//! Invariant: as long as all of the first tier are fit, no other gets traffic.
//! Reference: Envoy, "priority levels", "locality weighted load balancing", "panic threshold".

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    balance,
    locality::{Place, Seeker, Spread, Tier},
    outlier::{self, Outlier},
    service::Endpoint,
};

/// A tier counts as whole as long as so many percent of what is fit in it are all of it.
const OVERPROVISIONED: u64 = 140;

/// In no tier.
const NONE: u16 = u16::MAX;

/// The plans of one cluster, made when they are first asked for.
#[derive(Default)]
pub struct Plans {
    here: Option<Arc<Place>>,
    first: OnceLock<Box<Kept>>,
}

/// A plan, for clients with these values of the labels that matter.
#[derive(Debug)]
struct Kept {
    values: Vec<String>,
    plan: Plan,
    /// There are as many as there are kinds of clients on this node: few.
    next: OnceLock<Box<Self>>,
}

/// The tiers for one kind of client.
#[derive(Debug, Default)]
pub struct Plan {
    /// One tier of all endpoints if empty and `whole`.
    tiers: Vec<Tier>,
    whole: bool,
    /// The tier of each endpoint, unless `whole`.
    of: Vec<u16>,
    /// The indices of each tier's endpoints, each as often as it weighs; empty if all weigh the same.
    turns: Vec<Box<[u32]>>,
    /// How many of each tier are fit, of the one tier if `whole`.
    fit: Vec<AtomicU32>,
    /// What `fit` holds for: this many were left out on the node so far, one more than is counted while
    /// nothing was,
    counted: AtomicU64,
    /// and the first of them is back by then, in milliseconds.
    until: AtomicU64,
}

/// The tier that was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) tier: usize,
    /// Too few are fit: all of them are used.
    pub(super) all: bool,
}

impl Plans {
    /// For clients that are `here`.
    pub fn new(here: Option<Arc<Place>>) -> Self {
        Self {
            here,
            first: OnceLock::new(),
        }
    }

    /// Where the clients are.
    pub fn here(&self) -> Option<&Arc<Place>> {
        self.here.as_ref()
    }

    /// The plan for a client with these labels.
    pub(super) fn plan(
        &self,
        spread: &Spread,
        labels: Option<&BTreeMap<String, String>>,
        endpoints: &[Endpoint],
    ) -> &Plan {
        let value = |key: &Arc<str>| {
            let value = labels.and_then(|labels| labels.get(&**key));
            value.map(String::as_str).unwrap_or_default()
        };
        let make = || {
            let nowhere = Place::default();
            let place = self.here.as_deref().unwrap_or(&nowhere);
            let seeker = Seeker { place, labels };
            Box::new(Kept {
                values: spread.of_client().map(value).map(str::to_owned).collect(),
                plan: Plan::new(spread.tiers(&seeker, endpoints), endpoints.len())
                    .weighing(endpoints),
                next: OnceLock::new(),
            })
        };
        let mut slot = &self.first;
        loop {
            let kept = slot.get_or_init(make);
            if kept
                .values
                .iter()
                .map(String::as_str)
                .eq(spread.of_client().map(value))
            {
                return &kept.plan;
            }
            slot = &kept.next;
        }
    }
}

/// Without what was made only because somebody asked.
impl fmt::Debug for Plans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Plans").field(&self.here).finish()
    }
}

impl Plan {
    /// A plan of these tiers of `count` endpoints, of one if `None`.
    pub(super) fn new(tiers: Option<Vec<Tier>>, count: usize) -> Self {
        let whole = tiers.is_none();
        let tiers = tiers.unwrap_or_default();
        let mut of = Vec::new();
        if !whole {
            of.resize(count, NONE);
            for (number, tier) in (0_u16..NONE).zip(&tiers) {
                for member in &tier.members {
                    of[*member as usize] = number;
                }
            }
        }
        let lengths = tiers.iter().map(|tier| tier.members.len());
        let lengths = lengths.chain(whole.then_some(count));
        let fit = lengths.map(|length| AtomicU32::new(u32::try_from(length).unwrap_or(u32::MAX)));
        Self {
            whole,
            of,
            fit: fit.collect(),
            turns: Vec::new(),
            tiers,
            counted: AtomicU64::new(u64::MAX),
            until: AtomicU64::new(0),
        }
    }

    /// The same, where endpoints of one tier may weigh differently.
    fn weighing(self, endpoints: &[Endpoint]) -> Self {
        let mut pairs = endpoints.windows(2);
        if !pairs.any(|pair| pair[0].weight != pair[1].weight) {
            return self;
        }
        let turns = (0..self.len()).map(|tier| {
            let members = (0..self.size(tier, endpoints.len())).map(|nth| self.member(tier, nth));
            let members: Vec<usize> = members.collect();
            let weights = members.iter().filter_map(|index| endpoints.get(*index));
            let weights: Vec<u32> = weights.map(|endpoint| endpoint.weight).collect();
            let turns = balance::table(&weights).into_iter();
            let index = |nth: u16| u32::try_from(members[usize::from(nth)]).unwrap_or(u32::MAX);
            turns.map(index).collect()
        });
        Self {
            turns: turns.collect(),
            ..self
        }
    }

    /// How many places tier `number` has to draw among, of `count` endpoints in all.
    pub(super) fn places(&self, number: usize, count: usize) -> usize {
        match self.turns.get(number) {
            Some(turns) => turns.len(),
            None => self.size(number, count),
        }
    }

    /// The index of the endpoint at a tier's `nth` place.
    pub(super) fn drawn(&self, number: usize, nth: usize) -> usize {
        match self.turns.get(number) {
            Some(turns) => turns.get(nth).map_or(usize::MAX, |index| *index as usize),
            None => self.member(number, nth),
        }
    }

    /// How many tiers there are.
    pub(super) fn len(&self) -> usize {
        self.fit.len()
    }

    /// How many endpoints tier `number` has, of `count` in all.
    fn size(&self, number: usize, count: usize) -> usize {
        match self.tiers.get(number) {
            Some(tier) => tier.members.len(),
            None => count,
        }
    }

    /// The index of a tier's `nth` endpoint.
    fn member(&self, number: usize, nth: usize) -> usize {
        match self.tiers.get(number) {
            Some(tier) => tier
                .members
                .get(nth)
                .map_or(usize::MAX, |index| *index as usize),
            None => nth,
        }
    }

    /// Whether the endpoint at `index` is in tier `number`.
    pub(super) fn is_in(&self, index: usize, number: usize) -> bool {
        self.whole
            || self
                .of
                .get(index)
                .is_some_and(|own| usize::from(*own) == number)
    }

    /// Whether an endpoint is left out now.
    pub(super) fn some_unfit(&self, endpoints: &[Endpoint], now: Duration) -> bool {
        self.count(endpoints, now);
        (0..self.len()).any(|tier| self.fit(tier) < self.size(tier, endpoints.len()))
    }

    fn fit(&self, tier: usize) -> usize {
        self.fit[tier].load(Ordering::Relaxed) as usize
    }

    /// Brings `fit` up to date.
    fn count(&self, endpoints: &[Endpoint], now: Duration) {
        let ejections = outlier::ejections();
        let now_millis = outlier::millis(now);
        if self.counted.load(Ordering::Acquire) == ejections
            && now_millis < self.until.load(Ordering::Relaxed)
        {
            return;
        }
        let mut until = u64::MAX;
        for tier in 0..self.len() {
            let members = (0..self.size(tier, endpoints.len())).map(|nth| self.member(tier, nth));
            let mut fit = 0;
            for endpoint in members.filter_map(|index| endpoints.get(index)) {
                match endpoint.load.health().ejected_until(now) {
                    None => fit += 1,
                    Some(back) => until = until.min(back),
                }
            }
            self.fit[tier].store(fit, Ordering::Relaxed);
        }
        self.until.store(until, Ordering::Relaxed);
        self.counted.store(ejections, Ordering::Release);
    }

    /// The tier for a request. `draw(n)` gives a number below `n`: by chance, or by the request's key.
    /// `None` if there is nothing fit.
    pub(super) fn choose(
        &self,
        outlier: Option<&Outlier>,
        endpoints: &[Endpoint],
        now: Duration,
        mut draw: impl FnMut(usize) -> usize,
    ) -> Option<Chosen> {
        let some = |tier| Some(Chosen { tier, all: false });
        let unfit = outlier.is_some() && self.some_unfit(endpoints, now);
        let weighted = self.tiers.iter().any(|tier| tier.weight > 0);
        if !unfit && !weighted {
            return if self.len() == 0 { None } else { some(0) };
        }
        let fit = |tier| match unfit {
            true => self.fit(tier),
            false => self.size(tier, endpoints.len()),
        };
        let tiers = || (0..self.len()).map(|tier| (fit(tier), self.size(tier, endpoints.len())));
        let min = outlier.map_or(0, |outlier| outlier.min_health_percent as usize);
        if weighted {
            let sums = tiers().fold((0, 0), |sum, tier| (sum.0 + tier.0, sum.1 + tier.1));
            if capacity(sums) < 100 && sums.0 * 100 < min * sums.1 {
                return self.any(endpoints, draw);
            }
            let weights = tiers().zip(&self.tiers);
            let weights = weights.map(|(tier, own)| own.weight as usize * capacity(tier));
            return pick(weights, draw).and_then(some);
        }
        let total = tiers().map(capacity).sum::<usize>().min(100);
        let panics = |(fit, size): (usize, usize)| total < 100 && fit * 100 < min * size;
        if tiers().all(panics) {
            return self.any(endpoints, draw);
        }
        if total == 0 {
            return None;
        }
        let mut left = 100;
        let mut shares = tiers().map(|tier| {
            let share = (capacity(tier) * 100 / total).min(left);
            left -= share;
            share
        });
        // What rounding leaves goes to the first that can take some.
        let mut drawn = draw(100);
        let found = shares.position(|share| {
            let hit = drawn < share;
            drawn = drawn.saturating_sub(share);
            hit
        });
        let tier = found.or_else(|| tiers().position(|tier| capacity(tier) > 0))?;
        Some(Chosen {
            tier,
            all: panics((fit(tier), self.size(tier, endpoints.len()))),
        })
    }

    /// A tier by its size, fit or not.
    fn any(&self, endpoints: &[Endpoint], draw: impl FnMut(usize) -> usize) -> Option<Chosen> {
        let sizes = (0..self.len()).map(|tier| self.size(tier, endpoints.len()));
        pick(sizes, draw).map(|tier| Chosen { tier, all: true })
    }
}

/// How many percent of what is meant for a tier it can take.
fn capacity((fit, size): (usize, usize)) -> usize {
    let percent = OVERPROVISIONED * fit as u64 / (size as u64).max(1);
    usize::try_from(percent.min(100)).unwrap_or(100)
}

/// Draws one of several weights.
fn pick(
    mut weights: impl Iterator<Item = usize> + Clone,
    mut draw: impl FnMut(usize) -> usize,
) -> Option<usize> {
    let sum = weights.clone().sum();
    if sum == 0 {
        return None;
    }
    let mut drawn = draw(sum);
    weights.position(|weight| {
        let hit = drawn < weight;
        drawn = drawn.saturating_sub(weight);
        hit
    })
}

#[cfg(test)]
mod tests;
