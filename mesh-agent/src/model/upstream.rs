// SPDX-License-Identifier: Apache-2.0

//! How a cluster's endpoints are used: which is next, how many requests at a time, which are left
//! out.
//!
//! Knows nothing of requests but their key. A cluster without this takes the less loaded of two
//! endpoints and knows no limit. Reference: Istio `DestinationRule.trafficPolicy`.

mod draw;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use self::draw::Draw;
use super::{
    balance::Position,
    client_tls::ClientTls,
    hashing::{HashPolicy, Table},
    locality::{Place, Spread},
    outlier::{Conduct, Outlier},
    plan::Plans,
    proxy_protocol::ProxyProtocol,
    service::{Cluster, Endpoint},
    warmup::Warmup,
    workload::Workload,
};

/// How endpoints are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamPolicy {
    /// Which endpoint is next.
    pub balancer: Balancer,
    /// How much a client may ask for at a time.
    pub limits: Limits,
    /// Which endpoints are left out, if any are.
    pub outlier: Option<Outlier>,
    /// How traffic is spread over places, if anything is said about it.
    pub spread: Option<Spread>,
    /// How endpoints that are new get less, if they do.
    pub warmup: Option<Warmup>,
    /// TLS towards them besides the mesh's own; what each endpoint has is what counts.
    pub tls: Option<Arc<ClientTls>>,
    /// How they are told of their client; what each endpoint has is what counts.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How connections to them are kept; what each endpoint has is what counts.
    pub upkeep: Option<Arc<Upkeep>>,
}

/// What is said about places where nothing is said.
static ANYWHERE: Spread = Spread::Anywhere;

/// Which endpoint is next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balancer {
    /// The less loaded of two that are drawn.
    #[default]
    LeastRequest,
    /// One after the other, over all threads of the node.
    RoundRobin,
    /// Any.
    Random,
    /// The one that the request's key belongs to.
    Hash(HashPolicy),
    /// Where the connection was opened to, whoever is there: see [`Cluster::original`].
    Original,
}

/// How much the requests of one client workload may take at a time; no limit if `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// HTTP/1.1 exchanges and TCP connections under way.
    pub connections: Option<u32>,
    /// Requests that wait for one.
    pub pending: Option<u32>,
    /// Requests under way.
    pub requests: Option<u32>,
    /// Retries under way.
    pub retries: Option<u32>,
    /// Requests on one HTTP/1.1 connection.
    pub requests_per_connection: Option<u32>,
    /// How long it may take to open a connection.
    pub connect_timeout: Option<Duration>,
    /// How many retries there may be beside requests; counts instead of `retries`.
    pub retry_budget: Option<RetryBudget>,
    /// How long a connection that is carried as bytes may carry none.
    pub idle: Option<Duration>,
    /// How long it may live.
    pub lifetime: Option<Duration>,
    /// Which version of HTTP endpoints are spoken to by.
    pub spoken: Spoken,
}

/// How connections to an endpoint are kept while nothing is sent over them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upkeep {
    /// How long one for HTTP/1.1 is kept for a further request, if not for as long as the others.
    pub idle: Option<Duration>,
    /// How the kernel asks whether the endpoint is still there, if it does.
    pub keepalive: Option<Keepalive>,
}

/// When the kernel asks; as it is set up to if `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// How often without an answer before the connection is given up.
    pub probes: Option<u32>,
    /// After how long in which nothing came.
    pub time: Option<Duration>,
    /// How long between one time and the next.
    pub interval: Option<Duration>,
}

/// Which version of HTTP an endpoint is spoken to by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spoken {
    /// What its Service's port declares; the client's, if that leaves it open.
    #[default]
    Declared,
    /// The client's.
    Clients,
    /// HTTP/2.
    Http2,
}

/// How many retries may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// For a million requests under way.
    pub per_million: u32,
    /// However few requests are under way.
    pub at_least: u32,
}

impl Limits {
    /// How many retries there may be while so many `requests` are under way.
    pub fn retries_beside(&self, requests: u32) -> Option<u32> {
        let Some(budget) = self.retry_budget else {
            return self.retries;
        };
        let share = u64::from(requests) * u64::from(budget.per_million) / 1_000_000;
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        Some(share.max(budget.at_least))
    }
}

/// A policy with what it takes to follow it.
#[derive(Clone, Debug, Default)]
pub struct UpstreamUse {
    /// What is wanted.
    pub policy: UpstreamPolicy,
    /// Where round robin stands; outlives snapshots.
    pub turn: Position,
    /// Endpoints by key, if the policy asks for that.
    pub table: Option<Table>,
    /// Which endpoints come first.
    pub plans: Arc<Plans>,
}

/// What is looked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    /// The request's key, if it has one.
    pub key: Option<u64>,
    /// The client's labels, if it is known.
    pub labels: Option<&'a BTreeMap<String, String>>,
    /// The time.
    pub now: Duration,
}

impl UpstreamUse {
    /// What it takes to follow `policy` with `endpoints`, for clients that are `here`.
    pub fn new(
        policy: UpstreamPolicy,
        turn: Position,
        endpoints: &[Endpoint],
        here: Option<Arc<Place>>,
    ) -> Self {
        let table = match &policy.balancer {
            Balancer::Hash(hash) => Some(Table::new(hash.table, endpoints)),
            Balancer::LeastRequest
            | Balancer::RoundRobin
            | Balancer::Random
            | Balancer::Original => None,
        };
        Self {
            policy,
            turn,
            table,
            plans: Arc::new(Plans::new(here)),
        }
    }
}

impl Cluster {
    /// What is the key of a request, if endpoints are found by key.
    pub fn hash(&self) -> Option<&HashPolicy> {
        match &self.upstream.as_ref()?.policy.balancer {
            Balancer::Hash(hash) => Some(hash),
            Balancer::LeastRequest
            | Balancer::RoundRobin
            | Balancer::Random
            | Balancer::Original => None,
        }
    }

    /// Whether connections go on to where they were opened to.
    pub fn is_original(&self) -> bool {
        let upstream = self.upstream.as_ref();
        upstream.is_some_and(|upstream| upstream.policy.balancer == Balancer::Original)
    }

    /// Where a connection that was opened to `address` goes on, if that is where it was opened to;
    /// `workload` is who has the address.
    pub fn original(
        &self,
        address: SocketAddr,
        workload: impl FnOnce() -> Option<Arc<Workload>>,
    ) -> Option<Endpoint> {
        let upstream = self.upstream.as_ref()?;
        self.is_original().then(|| {
            let workload = workload();
            let enrolled = workload.as_ref().is_some_and(|workload| workload.enrolled);
            let tls = upstream.policy.tls.as_ref();
            Endpoint {
                address,
                workload,
                place: None,
                load: Arc::default(),
                tls: tls
                    .and_then(|tls| tls.towards(&self.hostname, enrolled))
                    .map(Arc::new),
                proxy_protocol: upstream.policy.proxy_protocol,
                upkeep: upstream.policy.upkeep.clone(),
                weight: 1,
            }
        })
    }

    /// The limits of each client.
    pub fn limits(&self) -> Limits {
        let upstream = self.upstream.as_ref();
        upstream.map(|one| one.policy.limits).unwrap_or_default()
    }

    /// The endpoint for what `ask` says, leaving out `avoid` and what is ejected.
    ///
    /// `random(n)` gives a number below `n`. `None` if no endpoint is left.
    pub fn choose(
        &self,
        ask: &Ask<'_>,
        mut random: impl FnMut(usize) -> usize,
        avoid: &[SocketAddr],
    ) -> Option<&Endpoint> {
        let Some(upstream) = &self.upstream else {
            return self.pick(random, avoid);
        };
        let policy = &upstream.policy;
        let endpoints = self.endpoints.as_slice();
        let spread = policy.spread.as_ref().unwrap_or(&ANYWHERE);
        let plan = upstream.plans.plan(spread, ask.labels, endpoints);
        let outlier = policy.outlier.as_ref();
        // A key that finds its endpoint finds its tier, too.
        let key = ask.key.filter(|_| upstream.table.is_some());
        let chosen = plan.choose(outlier, endpoints, ask.now, |count| match key {
            Some(key) => below(key, count),
            None => random(count),
        })?;
        let draw = |tier| Draw {
            endpoints,
            plan,
            tier,
            ejecting: outlier.is_some() && !chosen.all,
            avoid,
            now: ask.now,
            warmup: policy.warmup.as_ref(),
        };
        // The one that was chosen; where nothing is left of it, the others in order.
        let others = (0..plan.len()).filter(|tier| *tier != chosen.tier);
        let mut tiers = std::iter::once(chosen.tier).chain(others).map(draw);
        match (&upstream.table, key) {
            (Some(table), Some(key)) => tiers.find_map(|draw| draw.owner(table.find(key))),
            _ => tiers.find_map(|draw| match policy.balancer {
                Balancer::RoundRobin => draw.next(&upstream.turn, &mut random),
                Balancer::Random | Balancer::Hash(_) | Balancer::Original => draw.one(&mut random),
                Balancer::LeastRequest => draw.less_loaded(&mut random),
            }),
        }
    }

    /// The endpoints that are as near as the one at `address` to a client with `labels`, where some are
    /// nearer than others.
    pub fn beside(
        &self,
        address: SocketAddr,
        labels: Option<&BTreeMap<String, String>>,
    ) -> impl Iterator<Item = SocketAddr> {
        let endpoints = self.endpoints.as_slice();
        let plan = self.upstream.as_ref().map(|upstream| {
            let spread = upstream.policy.spread.as_ref().unwrap_or(&ANYWHERE);
            upstream.plans.plan(spread, labels, endpoints)
        });
        let plan = plan.filter(|plan| plan.len() > 1);
        let known = endpoints.iter().position(|one| one.address == address);
        let tier = plan.zip(known).and_then(|(plan, index)| {
            let mut tiers = 0..plan.len();
            tiers.find(|tier| plan.is_in(index, *tier))
        });
        let beside = move |index: usize| {
            let near = plan.zip(tier);
            near.is_some_and(|(plan, tier)| plan.is_in(index, tier))
        };
        let all = endpoints.iter().enumerate();
        all.filter(move |(index, _)| beside(*index))
            .map(|(_, endpoint)| endpoint.address)
    }

    /// Takes in how a try at `endpoint` ended; leaves it out if that is due.
    pub fn note(&self, endpoint: &Endpoint, conduct: Conduct, now: Duration) {
        let upstream = self.upstream.as_ref();
        let Some(outlier) = upstream.and_then(|upstream| upstream.policy.outlier) else {
            return;
        };
        let health = endpoint.load.health();
        let due = health.note(&outlier, conduct);
        if due && outlier.allows(self.ejected(now), self.endpoints.len()) {
            health.eject(&outlier, now);
        }
    }

    /// How many endpoints are left out.
    pub fn ejected(&self, now: Duration) -> usize {
        let all = self.endpoints.iter();
        all.filter(|endpoint| endpoint.load.health().is_ejected(now))
            .count()
    }
}

/// A number below `count` that belongs to `key`.
fn below(key: u64, count: usize) -> usize {
    let count = u64::try_from(count.max(1)).expect("a length fits u64");
    usize::try_from(key % count).expect("less than a length")
}

#[cfg(test)]
mod tests;
