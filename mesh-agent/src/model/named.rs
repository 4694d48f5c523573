// SPDX-License-Identifier: Apache-2.0

//! Hosts that are told by what a client says, not by the address that it opens a connection to; and
//! what is done with what nobody has.
//!
//! A ServiceEntry without single addresses is found at its ports, whatever the address: by the range
//! that the address is in, by the `Host` of a request, by the server name of a TLS handshake, or, where
//! bytes are carried, by the port alone. Knows nothing of how a name is read from a connection.
//! Invariant: of several hosts the most specific decides; addresses come before names.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
};

use ipnet::IpNet;

use super::{
    balance::{Position, Schedule},
    opaque::OpaquePort,
    route::{Backend, HttpRoutes, HttpRule, Refusal, ResponseFlag},
    scope::OutboundPolicy,
    service::{Cluster, ObjectRef, Protocol, Service, ServicePort},
    snapshot::Snapshot,
    upstream::{Balancer, UpstreamPolicy, UpstreamUse},
    workload::Workload,
};

/// Endpoints, and the Services that have them.
pub type Strangers = HashMap<SocketAddr, Vec<Arc<Service>>>;

/// What tells that a connection is for a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The range that its address is in.
    Ranges(Vec<IpNet>),
    /// The `Host` of each request.
    Host,
    /// The server name of a TLS handshake.
    ServerName,
    /// Its port alone.
    Port,
}

/// A host at one of its ports.
#[derive(Clone, Debug)]
pub struct NamedPort {
    /// The host.
    pub service: Arc<Service>,
    /// The port, for those who opened a connection to an address of IPv4.
    pub v4: Arc<ServicePort>,
    /// The same for IPv6.
    pub v6: Arc<ServicePort>,
    /// What tells it.
    pub told: Told,
}

/// All hosts at one port, by name.
#[derive(Clone, Debug, Default)]
pub struct NamedPorts {
    exact: BTreeMap<Arc<str>, Arc<NamedPort>>,
    /// By what follows the `*`, the longest first.
    wild: Vec<(Arc<str>, Arc<NamedPort>)>,
    by_address: Vec<Arc<NamedPort>>,
}

impl NamedPort {
    /// The port for a connection that was opened to `to`.
    pub fn at(&self, to: IpAddr) -> &Arc<ServicePort> {
        match to {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        }
    }

    fn is_for(&self, to: IpAddr, client: &Workload) -> bool {
        let told = match &self.told {
            Told::Ranges(ranges) => ranges.iter().any(|range| range.contains(&to)),
            Told::Port => true,
            Told::Host | Told::ServerName => false,
        };
        told && client.sees(&self.service)
    }
}

impl NamedPorts {
    /// All of `ports`, which have one number and come in order.
    pub fn new(ports: impl IntoIterator<Item = Arc<NamedPort>>) -> Self {
        let mut all = Self::default();
        for port in ports {
            let host = Arc::clone(&port.service.hostname);
            match (&port.told, host.strip_prefix('*')) {
                (Told::Ranges(_) | Told::Port, _) => all.by_address.push(port),
                (_, Some(suffix)) => all.wild.push((suffix.into(), port)),
                (_, None) => drop(all.exact.insert(host, port)),
            }
        }
        let length = |(suffix, _): &(Arc<str>, _)| std::cmp::Reverse(suffix.len());
        all.wild.sort_by_key(length);
        all.by_address.sort_by_key(|port| port.told == Told::Port);
        all
    }

    /// Whether a name could tell anything to `client`.
    pub fn asks_names(&self, client: &Workload) -> bool {
        let exact = self.exact.values();
        let wild = self.wild.iter().map(|(_, port)| port);
        exact.chain(wild).any(|port| client.sees(&port.service))
    }

    /// The host called `name`, as `told` says, for `client`.
    pub fn find(&self, name: &str, told: &Told, client: &Workload) -> Option<&Arc<NamedPort>> {
        let name = name.to_ascii_lowercase();
        let fits = |port: &&Arc<NamedPort>| port.told == *told && client.sees(&port.service);
        let exact = self.exact.get(&*name).filter(fits);
        exact.or_else(|| {
            let wild = self.wild.iter();
            wild.filter(|(suffix, _)| name.ends_with(&**suffix))
                .map(|(_, port)| port)
                .find(fits)
        })
    }
}

impl Snapshot {
    /// The host that everything that is opened to `to` is for.
    pub(super) fn by_port(&self, to: SocketAddr, client: &Workload) -> Option<&Arc<NamedPort>> {
        let ports = self.named.get(&to.port())?;
        // A pod's address is the pod's, whatever its port.
        if self.by_address.contains_key(&to.ip()) {
            return None;
        }
        let mut ports = ports.by_address.iter();
        ports.find(|port| port.is_for(to.ip(), client))
    }

    /// What decides about a request with this `Host` or `:authority`, on a connection to `to`, which
    /// nobody has.
    pub fn elsewhere(
        &self,
        to: SocketAddr,
        client: &Workload,
        authority: &str,
    ) -> Arc<ServicePort> {
        let ports = self.named.get(&to.port());
        let found = ports.and_then(|ports| ports.find(host(authority), &Told::Host, client));
        match found {
            Some(port) => Arc::clone(port.at(to.ip())),
            None if self.refuses(to, client) => block_all(),
            None => passthrough(),
        }
    }

    /// Whether connections of `client` to `to`, which is no Service's that it sees, are refused.
    pub fn refuses(&self, to: SocketAddr, client: &Workload) -> bool {
        let scope = &client.scope;
        if scope.policy == OutboundPolicy::AllowAny {
            return false;
        }
        let pod = self.by_address.get(&to.ip());
        let is_pods =
            pod.is_some_and(|pod| scope.sees_namespace(&client.namespace, &pod.namespace));
        let services = || self.strangers().get(&to).into_iter().flatten();
        !is_pods && !services().any(|service| client.sees(service))
    }

    /// The endpoints that are no pods, and whose they are: some networks rewrite a VIP to one of them
    /// before we see it.
    fn strangers(&self) -> &Strangers {
        self.strangers.get_or_init(|| {
            let mut strangers = Strangers::new();
            for service in self.services.values() {
                let endpoints = service
                    .ports
                    .iter()
                    .flat_map(|port| &port.cluster.endpoints);
                for endpoint in endpoints.filter(|endpoint| endpoint.workload.is_none()) {
                    let services = strangers.entry(endpoint.address).or_default();
                    services.push(Arc::clone(service));
                }
            }
            strangers
        })
    }
}

/// An authority's host.
fn host(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// Requests to what nobody has go on to where they were sent.
fn passthrough() -> Arc<ServicePort> {
    static PORT: OnceLock<Arc<ServicePort>> = OnceLock::new();
    Arc::clone(PORT.get_or_init(|| Arc::new(port("PassthroughCluster", None))))
}

/// Requests to what nobody has are refused.
fn block_all() -> Arc<ServicePort> {
    static PORT: OnceLock<Arc<ServicePort>> = OnceLock::new();
    let make = || {
        let refusal = Refusal {
            status: 502,
            flag: ResponseFlag::None,
            reason: "nobody has the host, and the outbound policy is registry-only".into(),
            route: "block_all".into(),
        };
        let origin = ObjectRef {
            kind: "Mesh".into(),
            namespace: "".into(),
            name: "outbound-policy".into(),
        };
        let rule = HttpRule {
            name: "block_all".into(),
            origin: origin.clone(),
            matches: Vec::new(),
            backends: vec![Backend::Refused(refusal)],
            schedule: Schedule::new(&[1], Position::default()),
            weights: vec![1],
            timeout: None,
            treatment: None,
        };
        let routes = HttpRoutes {
            rules: vec![rule].into(),
            origin,
        };
        Arc::new(port("BlackHoleCluster", Some(Arc::new(routes))))
    };
    Arc::clone(PORT.get_or_init(make))
}

fn port(name: &str, routes: Option<Arc<HttpRoutes>>) -> ServicePort {
    let original = UpstreamUse {
        policy: UpstreamPolicy {
            balancer: Balancer::Original,
            ..UpstreamPolicy::default()
        },
        ..UpstreamUse::default()
    };
    let cluster = Cluster::called(name).used(Some(Arc::new(original)));
    ServicePort {
        number: 0,
        name: "".into(),
        protocol: Protocol::Sniff,
        cluster: Arc::new(cluster),
        subsets: Vec::new(),
        consumer_routes: Vec::new(),
        routes,
        opaque: OpaquePort::default(),
    }
}

#[cfg(test)]
mod tests;
