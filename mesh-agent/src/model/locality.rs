// SPDX-License-Identifier: Apache-2.0

//! Where endpoints are, and which of them are near to a client.
//!
//! Knows nothing of health or load: endpoints are put into tiers, and what becomes of a tier is for
//! [`Plan`](super::plan::Plan). Invariant: the same endpoints, client and wish give the same tiers.
//! Reference: Istio `LocalityLoadBalancerSetting`, `pilot/pkg/networking/core/loadbalancer`; Kubernetes
//! `Service.spec.trafficDistribution`, `EndpointSlice.endpoints[].hints`.

use std::{collections::BTreeMap, sync::Arc};

use super::service::Endpoint;

/// Labels that are said of a place, not of a pod.
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const SUBZONE: &str = "topology.istio.io/subzone";
const HOST: &str = "kubernetes.io/hostname";

/// Where something runs; what is not known is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// The node's name.
    pub node: Arc<str>,
    /// The region.
    pub region: Arc<str>,
    /// The zone in it.
    pub zone: Arc<str>,
    /// The part of the zone.
    pub subzone: Arc<str>,
    /// The zones whose clients an EndpointSlice means an endpoint for.
    pub meant_for: Vec<Arc<str>>,
}

/// How traffic is spread over places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Endpoints near and far are used alike.
    Anywhere,
    /// The nearest; farther ones as those become unfit.
    Nearest(Nearness),
    /// In these shares, for clients whose place the first one that counts is for.
    Shares(Arc<[Sharing]>),
    /// Those that EndpointSlices mean for the client's zone, if all say whom they are meant for.
    Hinted,
}

/// What makes an endpoint near.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nearness {
    /// The more of these the two have in common, counted from the first, the nearer.
    pub labels: Vec<NearLabel>,
    /// Among those that are equally near by labels, the same subzone is nearest, then the same zone,
    /// then the same region.
    pub by_place: bool,
    /// Where clients of a region go when they leave it; other regions come after that.
    pub beyond: Vec<(Arc<str>, Arc<str>)>,
}

/// A label that client and endpoint should have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearLabel {
    /// Its key.
    pub key: Arc<str>,
    /// What the endpoint should have, if not what the client has.
    pub value: Option<Arc<str>>,
}

/// Shares of the traffic of some clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// Whose.
    pub from: PlacePattern,
    /// Where it goes, the most specific place first, and how many parts of it.
    pub to: Vec<(PlacePattern, u32)>,
}

/// Some places: `region/zone/subzone`, each a name or anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlacePattern {
    /// By name; any if `None`.
    parts: [Option<Arc<str>>; 3],
}

/// Who looks for an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Seeker<'a> {
    /// Where it is.
    pub place: &'a Place,
    /// Its labels, if it is a pod that is known.
    pub labels: Option<&'a BTreeMap<String, String>>,
}

/// Endpoints that are as good as each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// How many parts of the traffic they get; 0 where tiers are taken in order.
    pub weight: u32,
    /// Their indices, in order.
    pub members: Vec<u32>,
}

impl PlacePattern {
    /// Reads `region/zone/subzone`, `region/*` and so on; `None` if that is no such text.
    pub fn parse(text: &str) -> Option<Self> {
        let mut pattern = Self::default();
        let mut open = false;
        let mut parts = text.split('/');
        for slot in &mut pattern.parts {
            let Some(part) = parts.next() else { break };
            // What is named must not be below something that is not.
            if part.is_empty() || open && part != "*" || part != "*" && part.contains('*') {
                return None;
            }
            open |= part == "*";
            *slot = (part != "*").then(|| part.into());
        }
        parts.next().is_none().then_some(pattern)
    }

    /// Whether `place` is one of them.
    pub fn includes(&self, place: &Place) -> bool {
        let real = [&place.region, &place.zone, &place.subzone];
        let mut parts = self.parts.iter().zip(real);
        parts.all(|(wanted, real)| wanted.as_ref().is_none_or(|wanted| wanted == real))
    }

    /// Whether some place may be in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let mut parts = self.parts.iter().zip(&other.parts);
        parts.all(|(a, b)| a.is_none() || b.is_none() || a == b)
    }

    /// How many of its parts are named.
    pub fn depth(&self) -> usize {
        self.parts.iter().flatten().count()
    }
}

impl Nearness {
    /// The same subzone, else the same zone, else the same region.
    pub fn by_place() -> Self {
        Self {
            by_place: true,
            ..Self::default()
        }
    }

    /// The same zone, else the same region.
    pub fn by_zone() -> Self {
        Self::by_labels(&[REGION, ZONE])
    }

    /// The same node, else the same zone, else the same region.
    pub fn by_node() -> Self {
        Self::by_labels(&[REGION, ZONE, HOST])
    }

    fn by_labels(keys: &[&str]) -> Self {
        let keys = keys.iter().copied().map(Arc::from);
        Self {
            labels: keys.map(|key| NearLabel { key, value: None }).collect(),
            ..Self::default()
        }
    }

    /// The labels of the client that matter, besides where it is.
    fn of_client(&self) -> impl Iterator<Item = &Arc<str>> {
        let open = self.labels.iter().filter(|label| label.value.is_none());
        let keys = open.map(|label| &label.key);
        keys.filter(|key| !is_of_place(key))
    }

    /// How far an endpoint is; the nearest is 0.
    fn distance(&self, seeker: &Seeker<'_>, endpoint: &Endpoint) -> usize {
        let nowhere = Place::default();
        let place = endpoint.place.as_deref().unwrap_or(&nowhere);
        let labels = endpoint.workload.as_ref().map(|workload| &*workload.labels);
        let there = Seeker { place, labels };
        let common = |label: &&NearLabel| {
            let wanted = label.value.as_deref();
            let wanted = wanted.unwrap_or_else(|| seeker.label(&label.key));
            let unknown = wanted.is_empty() && is_of_place(&label.key);
            unknown || wanted == there.label(&label.key)
        };
        let apart = self.labels.len() - self.labels.iter().take_while(common).count();
        let steps = if self.by_place {
            self.steps(seeker.place, place)
        } else {
            0
        };
        // There are five values of the second.
        apart * 5 + steps
    }

    fn steps(&self, from: &Place, to: &Place) -> usize {
        // Who is nowhere is near to nobody.
        if from.region.is_empty() && from.zone.is_empty() {
            0
        } else if from.region != to.region {
            let beyond = self.beyond.iter();
            let mut beyond = beyond.filter(|(region, _)| *region == from.region);
            let elsewhere = beyond.next().is_some_and(|(_, next)| *next != to.region);
            3 + usize::from(elsewhere)
        } else if from.zone != to.zone {
            2
        } else {
            usize::from(from.subzone != to.subzone)
        }
    }
}

impl Seeker<'_> {
    fn label(&self, key: &str) -> &str {
        match key {
            REGION => &self.place.region,
            ZONE => &self.place.zone,
            SUBZONE => &self.place.subzone,
            HOST => &self.place.node,
            other => {
                let value = self.labels.and_then(|labels| labels.get(other));
                value.map(String::as_str).unwrap_or_default()
            }
        }
    }
}

impl Spread {
    /// The labels of a client on which its tiers depend, besides where it is.
    pub fn of_client(&self) -> impl Iterator<Item = &Arc<str>> {
        let nearness = match self {
            Self::Nearest(nearness) => Some(nearness),
            Self::Anywhere | Self::Shares(_) | Self::Hinted => None,
        };
        nearness.into_iter().flat_map(Nearness::of_client)
    }

    /// The tiers of `endpoints` for `seeker`, none of them empty; `None` if all are as good as each other.
    /// An endpoint that is in no tier is not to be used.
    pub fn tiers(&self, seeker: &Seeker<'_>, endpoints: &[Endpoint]) -> Option<Vec<Tier>> {
        let nowhere = Place::default();
        match self {
            Self::Anywhere => None,
            Self::Nearest(nearness) => {
                let distance = |endpoint: &Endpoint| Some((nearness.distance(seeker, endpoint), 0));
                let tiers = collect(endpoints, distance);
                (tiers.len() > 1).then_some(tiers)
            }
            Self::Shares(sharings) => {
                let mut sharings = sharings.iter();
                let own = sharings.find(|sharing| sharing.from.includes(seeker.place))?;
                let share = |endpoint: &Endpoint| {
                    let place = endpoint.place.as_deref().unwrap_or(&nowhere);
                    let mut to = own.to.iter().enumerate();
                    let found = to.find(|(_, (pattern, _))| pattern.includes(place));
                    found.map(|(index, (_, weight))| (index, *weight))
                };
                Some(collect(endpoints, share))
            }
            Self::Hinted => {
                let zone = &seeker.place.zone;
                let hinted = |endpoint: &Endpoint| {
                    endpoint
                        .place
                        .as_ref()
                        .is_some_and(|place| !place.meant_for.is_empty())
                };
                let ours = |endpoint: &Endpoint| {
                    endpoint
                        .place
                        .as_ref()
                        .is_some_and(|place| place.meant_for.contains(zone))
                };
                let told = !zone.is_empty() && endpoints.iter().all(hinted);
                let tier = |endpoint: &Endpoint| Some((usize::from(!ours(endpoint)), 0));
                let tiers = collect(endpoints, tier);
                (told && tiers.len() > 1).then_some(tiers)
            }
        }
    }
}

fn is_of_place(key: &str) -> bool {
    matches!(key, REGION | ZONE | SUBZONE | HOST)
}

/// Puts endpoints into tiers by number, each with its weight.
fn collect(endpoints: &[Endpoint], tier: impl Fn(&Endpoint) -> Option<(usize, u32)>) -> Vec<Tier> {
    let mut tiers: BTreeMap<usize, Tier> = BTreeMap::new();
    for (index, endpoint) in (0_u32..).zip(endpoints) {
        let Some((number, weight)) = tier(endpoint) else {
            continue;
        };
        let empty = || Tier {
            weight,
            members: Vec::new(),
        };
        let members = &mut tiers.entry(number).or_insert_with(empty).members;
        members.push(index);
    }
    tiers.into_values().collect()
}

#[cfg(test)]
mod tests;
