// SPDX-License-Identifier: Apache-2.0

//! One endpoint of a tier.
//!
//! Knows nothing of why a tier was chosen. Nothing is allocated, and of many endpoints only a few are
//! looked at, unless most of them cannot be used. Invariant: all that can be used are as likely as they
//! weigh.

use std::{cell::RefCell, net::SocketAddr, time::Duration};

use super::super::{balance::Position, plan::Plan, service::Endpoint, warmup::Warmup};

/// How often a place is drawn before all are looked at.
const DRAWS: usize = 32;

/// A tier, and what of it cannot be used.
pub(super) struct Draw<'a, 't> {
    pub(super) endpoints: &'a [Endpoint],
    pub(super) plan: &'a Plan,
    pub(super) tier: usize,
    /// What is ejected is left out.
    pub(super) ejecting: bool,
    pub(super) avoid: &'t [SocketAddr],
    pub(super) now: Duration,
    /// New ones get less.
    pub(super) warmup: Option<&'a Warmup>,
}

impl<'a> Draw<'a, '_> {
    fn is_usable(&self, endpoint: &Endpoint) -> bool {
        let out = self.ejecting && endpoint.load.health().is_ejected(self.now);
        !out && !self.avoid.contains(&endpoint.address)
    }

    fn size(&self) -> usize {
        self.plan.places(self.tier, self.endpoints.len())
    }

    /// The endpoint at a place in the tier, if it can be used.
    fn at(&self, place: usize) -> Option<&'a Endpoint> {
        let endpoint = self.endpoints.get(self.plan.drawn(self.tier, place))?;
        self.is_usable(endpoint).then_some(endpoint)
    }

    /// The first of a key's owners that is in the tier and can be used.
    pub(super) fn owner(&self, mut owners: impl Iterator<Item = usize>) -> Option<&'a Endpoint> {
        owners.find_map(|index| {
            let endpoint = self.endpoints.get(index)?;
            let fits = self.plan.is_in(index, self.tier) && self.is_usable(endpoint);
            fits.then_some(endpoint)
        })
    }

    /// Whether it is the turn of an endpoint that is drawn: not always of one that is new.
    fn accepts(&self, endpoint: &Endpoint, random: impl Fn(usize) -> usize) -> bool {
        let Some(warmup) = self.warmup else {
            return true;
        };
        let share = warmup.share(endpoint.load.age().at(self.now));
        share >= 1_000 || random(1_000) < share as usize
    }

    /// A place that `turn` gives, and the endpoint there, if `accepts` has it.
    fn place(
        &self,
        turn: impl Fn(usize) -> usize,
        random: impl Fn(usize) -> usize,
        accepts: impl Fn(&Endpoint) -> bool,
    ) -> Option<(usize, &'a Endpoint)> {
        let size = self.size();
        if size == 0 {
            return None;
        }
        let mut draws = (0..DRAWS).map(|_| turn(size));
        let found = draws.find_map(|place| {
            let endpoint = self.at(place)?;
            accepts(endpoint).then_some((place, endpoint))
        });
        found.or_else(|| {
            // Few can be used: they are counted. By chance, lest the same places come again.
            let usable = || (0..size).filter_map(|place| Some((place, self.at(place)?)));
            match usable().count() {
                0 => None,
                count => usable().nth(random(count)),
            }
        })
    }

    /// Any that can be used.
    pub(super) fn one(&self, random: impl FnMut(usize) -> usize) -> Option<&'a Endpoint> {
        let random = shared(random);
        let found = self.place(&random, &random, |_| true);
        found.map(|(_, endpoint)| endpoint)
    }

    /// The next that can be used.
    pub(super) fn next(
        &self,
        position: &Position,
        random: impl FnMut(usize) -> usize,
    ) -> Option<&'a Endpoint> {
        let random = shared(random);
        let accepts = |endpoint: &Endpoint| self.accepts(endpoint, &random);
        let found = self.place(|count| position.next(count), &random, accepts);
        found.map(|(_, endpoint)| endpoint)
    }

    /// The less loaded of two; one that is new only sometimes.
    pub(super) fn less_loaded(&self, random: impl FnMut(usize) -> usize) -> Option<&'a Endpoint> {
        let random = shared(random);
        let accepts = |endpoint: &Endpoint| self.accepts(endpoint, &random);
        let (place, first) = self.place(&random, &random, accepts)?;
        let size = self.size();
        if size < 2 {
            return Some(first);
        }
        let another = |other: usize| if other < place { other } else { other + 1 };
        let mut draws = (0..DRAWS).map(|_| another(random(size - 1)));
        let second = draws.find_map(|place| self.at(place)).or_else(|| {
            let mut others = (place + 1..size).chain(0..place);
            others.find_map(|place| self.at(place))
        });
        // For what each is meant to carry.
        let share = |load: u32, weight: u32| u64::from(load) * u64::from(weight);
        let less = |second: &&Endpoint| {
            share(second.load.current(), first.weight) < share(first.load.current(), second.weight)
        };
        let second = second.filter(less).filter(|second| accepts(second));
        Some(second.unwrap_or(first))
    }
}

/// Chance that several may ask.
fn shared(random: impl FnMut(usize) -> usize) -> impl Fn(usize) -> usize {
    let random = RefCell::new(random);
    move |count| (random.borrow_mut())(count)
}
