// SPDX-License-Identifier: Apache-2.0

//! How a cluster's endpoints are used: which is next, how many requests at a time, which are left
//! out.
//!
//! Knows nothing of requests but their key. A cluster without this takes the less loaded of two
//! endpoints and knows no limit. Reference: Istio `DestinationRule.trafficPolicy`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{
    balance::Position,
    client_tls::ClientTls,
    hashing::{HashPolicy, Table},
    outlier::{Conduct, Outlier},
    service::{Cluster, Endpoint},
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
    /// TLS towards them besides the mesh's own; what each endpoint has is what counts.
    pub tls: Option<Arc<ClientTls>>,
}

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
}

impl UpstreamUse {
    /// What it takes to follow `policy` with `endpoints`.
    pub fn new(policy: UpstreamPolicy, turn: Position, endpoints: &[Endpoint]) -> Self {
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

    /// Where a connection that was opened to `address` goes on, if that is where it was opened to;
    /// `workload` is who has the address.
    pub fn original(
        &self,
        address: SocketAddr,
        workload: impl FnOnce() -> Option<Arc<Workload>>,
    ) -> Option<Endpoint> {
        let upstream = self.upstream.as_ref()?;
        (upstream.policy.balancer == Balancer::Original).then(|| {
            let workload = workload();
            let enrolled = workload.as_ref().is_some_and(|workload| workload.enrolled);
            let tls = upstream.policy.tls.as_ref();
            Endpoint {
                address,
                workload,
                load: Arc::default(),
                tls: tls
                    .and_then(|tls| tls.towards(&self.hostname, enrolled))
                    .map(Arc::new),
            }
        })
    }

    /// The limits of each client.
    pub fn limits(&self) -> Limits {
        let upstream = self.upstream.as_ref();
        upstream.map(|one| one.policy.limits).unwrap_or_default()
    }

    /// The endpoint for a request with `key`, leaving out `avoid` and what is ejected at `now`.
    ///
    /// `random(n)` gives a number below `n`. `None` if no endpoint is left.
    pub fn choose(
        &self,
        key: Option<u64>,
        now: Duration,
        mut random: impl FnMut(usize) -> usize,
        avoid: &[SocketAddr],
    ) -> Option<&Endpoint> {
        let Some(upstream) = &self.upstream else {
            return self.pick(random, avoid);
        };
        let ejecting = upstream.policy.outlier.filter(|outlier| {
            let ejected = self.ejected(now);
            ejected > 0 && !outlier.panics(ejected, self.endpoints.len())
        });
        let usable = |endpoint: &&Endpoint| {
            let out = ejecting.is_some() && endpoint.load.health().is_ejected(now);
            !out && !avoid.contains(&endpoint.address)
        };
        match (&upstream.policy.balancer, &upstream.table, key) {
            (Balancer::Hash(_), Some(table), Some(key)) => {
                let owners = table
                    .find(key)
                    .filter_map(|index| self.endpoints.get(index));
                return owners.into_iter().find(usable);
            }
            (Balancer::LeastRequest, ..) if ejecting.is_none() => return self.pick(random, avoid),
            _ => {}
        }
        let left: Vec<&Endpoint> = self.endpoints.iter().filter(usable).collect();
        if left.len() < 2 {
            return left.first().copied();
        }
        match &upstream.policy.balancer {
            Balancer::RoundRobin => left.get(upstream.turn.next(left.len())).copied(),
            Balancer::Random | Balancer::Hash(_) | Balancer::Original => {
                left.get(random(left.len())).copied()
            }
            Balancer::LeastRequest => {
                let first = random(left.len());
                let second = (first + 1 + random(left.len() - 1)) % left.len();
                let load = |index: usize| left[index].load.current();
                let less = if load(second) < load(first) {
                    second
                } else {
                    first
                };
                left.get(less).copied()
            }
        }
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

#[cfg(test)]
mod tests;
