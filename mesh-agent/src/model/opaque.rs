// SPDX-License-Identifier: Apache-2.0

//! Where a connection goes that is carried as bytes: by who opened it, to which address, and the
//! server name that its TLS client asks for.
//!
//! Knows nothing of sockets or of how a server name is found. One weighted draw per connection.
//! Invariant: where a rule about TLS names is for this client, TLS that no rule matches is refused:
//! it never goes where another name was meant to go. Reference: Istio `VirtualService.tls` and
//! `.tcp`, `pilot/pkg/networking/core/tls.go`; Gateway API TLSRoute and TCPRoute.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{
    balance::Schedule,
    route::{Client, Refusal, ResponseFlag},
    service::{Cluster, ObjectRef, Protocol, ServicePort},
    workload::Workload,
};

/// How connections to one port are routed that are carried as bytes.
#[derive(Clone, Debug, Default)]
pub struct OpaquePort {
    /// By client namespace or [view](super::scope::View); these win over those for everybody.
    pub consumers: Vec<(Arc<str>, Arc<OpaqueRoutes>)>,
    /// For every other client, if any are attached.
    pub routes: Option<Arc<OpaqueRoutes>>,
}

/// The rules that decide about connections to one port.
#[derive(Clone, Debug)]
pub struct OpaqueRoutes {
    /// In the order in which they are tried: the first that matches decides.
    pub rules: Vec<OpaqueRule>,
    /// Where to if no rule matches and none is about the name of a TLS client.
    pub otherwise: Arc<Cluster>,
    /// Whether they decide about whatever is spoken, HTTP among it, where no protocol is declared.
    pub whole: bool,
    /// The object the rules come from (the first, if several).
    pub origin: ObjectRef,
}

/// One rule.
#[derive(Clone, Debug)]
pub struct OpaqueRule {
    /// `<object>#<index>`, or its name.
    pub name: Arc<str>,
    /// The object that the rule is written in.
    pub origin: ObjectRef,
    /// Any of these suffices; none at all matches every connection.
    pub matches: Vec<OpaqueMatch>,
    /// Weighted backends.
    pub backends: Vec<OpaqueBackend>,
    /// What each of `backends` weighs, for `proxy-config`.
    pub weights: Vec<u32>,
    /// Draws one of `backends`.
    pub schedule: Schedule,
}

/// Conditions on a connection, all of which must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpaqueMatch {
    /// The client speaks TLS, and asks for one of these names.
    pub names: Option<Vec<NamePattern>>,
    /// One of these holds the address that was connected to; any does if empty.
    pub destinations: Vec<IpNet>,
    /// Labels that the client must carry.
    pub source_labels: Vec<(String, String)>,
    /// The client's namespace.
    pub source_namespace: Option<String>,
}

/// Which server names are meant. The greater, the more specific.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamePattern {
    /// All, and TLS clients that ask for none.
    Any,
    /// `*.x`: the length, and `.x`, in lower case.
    Suffix(usize, Box<str>),
    /// One name, in lower case.
    Exact(Box<str>),
}

/// Where a share of a rule's connections goes.
#[derive(Clone, Debug)]
pub enum OpaqueBackend {
    /// To an endpoint of this cluster.
    Cluster(Arc<Cluster>),
    /// Nowhere: the connection is reset.
    Refused(Refusal),
}

/// What a client's first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening<'a> {
    /// They are not TLS, or nobody asked.
    Other,
    /// TLS, with the server name that is asked for, in lower case.
    Tls(Option<&'a str>),
}

/// What to do with one connection.
#[derive(Clone, Debug)]
pub enum OpaqueDecision {
    /// Carry it to an endpoint of this cluster.
    Forward(Arc<Cluster>),
    /// Reset it.
    Refuse(Refusal),
}

impl Protocol {
    /// Whether it is declared that connections are carried as bytes.
    pub fn is_opaque(self) -> bool {
        match self {
            Self::Tcp | Self::Tls => true,
            Self::Http | Self::Http2 | Self::Grpc | Self::Sniff => false,
        }
    }
}

impl OpaquePort {
    /// The rules for `client`, if any are attached.
    pub fn routes_for(&self, client: &Workload) -> Option<&Arc<OpaqueRoutes>> {
        client.own(&self.consumers).or(self.routes.as_ref())
    }

    /// Whether every connection goes to the Service.
    pub fn is_empty(&self) -> bool {
        self.routes.is_none() && self.consumers.is_empty()
    }

    /// All rules, whoever they are for.
    pub fn all(&self) -> impl Iterator<Item = &Arc<OpaqueRoutes>> {
        let consumers = self.consumers.iter().map(|(_, routes)| routes);
        self.routes.iter().chain(consumers)
    }
}

impl ServicePort {
    /// Whether it takes the client's first bytes to decide where its connection goes.
    pub fn awaits_hello(&self, client: &Client<'_>) -> bool {
        let routes = self.opaque.routes_for(client.workload);
        routes.is_some_and(|routes| routes.names(client).next().is_some())
    }

    /// Whether what HTTP clients say is carried as bytes, too, though no protocol is declared.
    pub fn is_opaque_for(&self, client: &Workload) -> bool {
        let routes = self.opaque.routes_for(client);
        self.protocol.is_opaque() || routes.is_some_and(|routes| routes.whole)
    }

    /// Decides about one connection of `client` to `destination`; draws from the weight schedule, so
    /// call it once.
    pub fn decide_bytes(
        &self,
        client: &Client<'_>,
        destination: IpAddr,
        opening: Opening<'_>,
    ) -> OpaqueDecision {
        match self.opaque.routes_for(client.workload) {
            Some(routes) => {
                // A port that is declared to be for TLS has no other clients.
                let tls_only = routes.whole || self.protocol != Protocol::Sniff;
                routes.decide(client, destination, opening, tls_only)
            }
            None => OpaqueDecision::Forward(Arc::clone(&self.cluster)),
        }
    }
}

impl OpaqueRoutes {
    /// The conditions on TLS names that are for this client.
    fn names(&self, client: &Client<'_>) -> impl Iterator<Item = &OpaqueMatch> {
        let all = self.rules.iter().flat_map(|rule| &rule.matches);
        all.filter(|one| one.names.is_some() && one.is_for(client))
    }

    fn decide(
        &self,
        client: &Client<'_>,
        destination: IpAddr,
        opening: Opening<'_>,
        tls_only: bool,
    ) -> OpaqueDecision {
        let applies = |rule: &&OpaqueRule| {
            let mut matches = rule.matches.iter();
            rule.matches.is_empty() || matches.any(|one| one.matches(client, destination, opening))
        };
        if let Some(rule) = self.rules.iter().find(applies) {
            return rule.draw();
        }
        let asked = tls_only || matches!(opening, Opening::Tls(_));
        if !asked || self.names(client).next().is_none() {
            return OpaqueDecision::Forward(Arc::clone(&self.otherwise));
        }
        let asked_for = match opening {
            Opening::Tls(Some(name)) => format!("the server name {name}"),
            Opening::Tls(None) => "TLS without a server name".to_owned(),
            Opening::Other => "what is not TLS".to_owned(),
        };
        OpaqueDecision::Refuse(Refusal {
            status: 404,
            flag: ResponseFlag::NoRoute,
            reason: format!("no rule of {} matches {asked_for}", self.origin).into(),
            route: "-".into(),
        })
    }
}

impl OpaqueRule {
    fn draw(&self) -> OpaqueDecision {
        let Some(index) = self.schedule.next() else {
            let origin = &self.origin;
            return OpaqueDecision::Refuse(Refusal {
                status: 500,
                flag: ResponseFlag::NoCluster,
                reason: format!("{origin}: no backend of the rule has a weight above 0").into(),
                route: Arc::clone(&self.name),
            });
        };
        match &self.backends[index] {
            OpaqueBackend::Cluster(cluster) => OpaqueDecision::Forward(Arc::clone(cluster)),
            OpaqueBackend::Refused(refusal) => OpaqueDecision::Refuse(refusal.clone()),
        }
    }
}

impl OpaqueMatch {
    /// Whether all conditions hold.
    pub fn matches(&self, client: &Client<'_>, destination: IpAddr, opening: Opening<'_>) -> bool {
        let named = match (&self.names, opening) {
            (None, _) => true,
            (Some(_), Opening::Other) => false,
            (Some(names), Opening::Tls(name)) => names.iter().any(|one| one.matches(name)),
        };
        let mut nets = self.destinations.iter();
        let there = self.destinations.is_empty() || nets.any(|net| net.contains(&destination));
        named && there && self.is_for(client)
    }

    /// Whether the conditions on the client hold.
    fn is_for(&self, client: &Client<'_>) -> bool {
        let workload = client.workload;
        let namespace = self.source_namespace.as_deref();
        let mut labels = self.source_labels.iter();
        namespace.is_none_or(|namespace| namespace == &*workload.namespace)
            && labels.all(|(key, value)| workload.labels.get(key) == Some(value))
    }

    /// Whether every connection matches, whoever opens it.
    pub fn is_catch_all(&self) -> bool {
        *self == Self::default()
    }
}

impl NamePattern {
    /// Reads a name, `*.x` or `*`.
    pub fn new(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        match text.strip_prefix('*') {
            Some("") => Self::Any,
            Some(suffix) => Self::Suffix(suffix.len(), suffix.into()),
            None => Self::Exact(text.into()),
        }
    }

    /// Whether `name`, in lower case, is meant. A wildcard stands for one label or more.
    pub fn matches(&self, name: Option<&str>) -> bool {
        match (self, name) {
            (Self::Any, _) => true,
            (_, None) => false,
            (Self::Suffix(length, suffix), Some(name)) => {
                name.len() > *length && name.ends_with(&**suffix)
            }
            (Self::Exact(own), Some(name)) => **own == *name,
        }
    }

    /// Whether all names that `other` means are meant.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (_, Self::Any) => false,
            (Self::Suffix(_, own), Self::Suffix(_, suffix)) => suffix.ends_with(&**own),
            (own, Self::Exact(name)) => own.matches(Some(name)),
            (Self::Exact(_), Self::Suffix(..)) => false,
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Suffix(_, suffix) => write!(f, "*{suffix}"),
            Self::Exact(name) => f.write_str(name),
        }
    }
}

/// One line for `proxy-config`.
impl fmt::Display for OpaqueMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |all: Vec<String>| all.join(",");
        let mut parts = Vec::new();
        if let Some(names) = &self.names {
            let names = names.iter().map(ToString::to_string);
            parts.push(format!("SNI: {}", list(names.collect())));
        }
        if !self.destinations.is_empty() {
            let nets = self.destinations.iter().map(ToString::to_string);
            parts.push(format!("Addr: {}", list(nets.collect())));
        }
        for (key, value) in &self.source_labels {
            parts.push(format!("from {key}={value}"));
        }
        if let Some(namespace) = &self.source_namespace {
            parts.push(format!("from namespace {namespace}"));
        }
        match parts.as_slice() {
            [] => f.write_str("ALL"),
            parts => f.write_str(&parts.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, name: Option<&str>, want: bool) {
        let is = NamePattern::new(pattern).matches(name);
        assert_eq!(is, want, "{pattern} against {name:?}");
    }

    #[test]
    fn a_wildcard_stands_for_one_label_or_more() {
        check("*.example.com", Some("a.example.com"), true);
        check("*.example.com", Some("a.b.example.com"), true);
        check("*.example.com", Some("example.com"), false);
        check("*.example.com", Some(".example.com"), false);
        check("*.example.com", None, false);
        check("A.example.com", Some("a.example.com"), true);
        check("a.example.com", Some("b.example.com"), false);
    }

    #[test]
    fn a_star_means_every_tls_client_one_without_a_name_among_them() {
        check("*", Some("a"), true);
        check("*", None, true);
    }

    #[test]
    fn a_pattern_covers_what_is_more_specific() {
        let covers =
            |one: &str, other: &str| NamePattern::new(one).covers(&NamePattern::new(other));
        assert!(covers("*", "*.a") && covers("*.a", "*.b.a") && covers("*.a", "b.a"));
        assert!(covers("a", "a") && covers("*.a", "*.a"));
        assert!(!covers("*.a", "*") && !covers("*.b.a", "*.a") && !covers("a", "*.a"));
    }
}
