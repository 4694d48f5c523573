// SPDX-License-Identifier: Apache-2.0

//! One rule: who (`from`), what (`to`), under which conditions (`when`).
//!
//! Sources are alternatives, and so are operations; all conditions must be met. Within one of them
//! all fields must be met, by any of their values.
//!
//! Invariant: what cannot be known counts against the caller.

use std::net::IpAddr;

use http::HeaderName;
use ipnet::IpNet;

use super::{Caller, Clause, HostPattern, Known, PathPattern, Pattern, RequestReading};
use crate::model::{spiffe::SpiffeId, token::TokenPart};

/// What one entry of `from` asks of the caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Of the whole identity, without `spiffe://`.
    pub principals: Clause<Pattern>,
    /// Of its namespace.
    pub namespaces: Clause<Pattern>,
    /// `<namespace>/<service account>`, whole.
    pub service_accounts: Clause<String>,
    /// Of its trust domain.
    pub trust_domains: Clause<Pattern>,
    /// Of the address: that of the connection, also where the one behind proxies is asked for, as
    /// none of them is trusted to tell it.
    pub addresses: Vec<Clause<IpNet>>,
    /// Of the token's issuer and subject.
    pub request_principals: Clause<Pattern>,
}

/// What one entry of `to` asks of the request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// Of `Host` or `:authority`.
    pub hosts: Clause<HostPattern>,
    /// Of the workload's port.
    pub ports: Clause<u16>,
    /// Of the method.
    pub methods: Clause<Pattern>,
    /// Of the path, without query.
    pub paths: Clause<PathPattern>,
}

/// One entry of `when`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// On the caller.
    Source(Source),
    /// `destination.ip`.
    DestinationAddress(Clause<IpNet>),
    /// `destination.port`.
    DestinationPort(Clause<u16>),
    /// `request.headers[name]`.
    Header(HeaderName, Clause<Pattern>),
    /// `request.auth.*`.
    Token(TokenPart, Clause<Pattern>),
    /// On something that nobody here knows.
    Unknowable,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Alternatives; anybody if there are none.
    pub sources: Vec<Source>,
    /// Alternatives; anything if there are none.
    pub operations: Vec<Operation>,
    /// All of these.
    pub conditions: Vec<Condition>,
}

impl Source {
    /// Whether it asks for what only a request can tell.
    fn needs_request(&self) -> bool {
        !self.request_principals.is_empty()
    }

    fn matches(&self, caller: &Caller<'_>, known: Known<'_>, against: bool) -> bool {
        let of_request = |request: &RequestReading<'_>| {
            request.says(&TokenPart::Principal, &self.request_principals)
        };
        let identity = caller.identity;
        let part = |read: fn(&SpiffeId) -> &str| identity.map(read);
        let pattern = |want: &Pattern, text: &str| want.matches(text);
        let is_there = |clause: &Clause<IpNet>| match caller.address {
            Some(address) => clause.met(Some(address), contains),
            None => against || clause.is_empty(),
        };
        (!self.needs_request() || known.judge(against, of_request))
            && self.principals.met(part(SpiffeId::principal), pattern)
            && self.namespaces.met(part(SpiffeId::namespace), pattern)
            && self
                .trust_domains
                .met(part(SpiffeId::trust_domain), pattern)
            && self
                .service_accounts
                .met(identity, |want, identity| is_account(want, identity))
            && self.addresses.iter().all(is_there)
    }
}

fn is_account(want: &str, identity: &SpiffeId) -> bool {
    want.split_once('/') == Some((identity.namespace(), identity.service_account()))
}

fn contains(network: &IpNet, address: IpAddr) -> bool {
    network.contains(&address.to_canonical())
}

impl Operation {
    /// Whether it asks for what only a request can tell.
    pub fn needs_request(&self) -> bool {
        !(self.hosts.is_empty() && self.methods.is_empty() && self.paths.is_empty())
    }

    fn matches(&self, caller: &Caller<'_>, known: Known<'_>, against: bool) -> bool {
        let of_request = |request: &RequestReading<'_>| {
            let method = |want: &Pattern, is: &str| want.matches(is);
            self.methods.met(Some(request.method), method)
                && self
                    .hosts
                    .met_by(|| request.hosts(), against, HostPattern::matches)
                && self
                    .paths
                    .met_by(|| request.paths(), against, PathPattern::matches)
        };
        self.ports
            .met(Some(caller.to.port()), |want, is| *want == is)
            && (!self.needs_request() || known.judge(against, of_request))
    }
}

impl Known<'_> {
    /// What `of_request` says, or what counts while there is no request.
    fn judge(self, against: bool, of_request: impl FnOnce(&RequestReading<'_>) -> bool) -> bool {
        match self {
            Known::Request(request) => of_request(request),
            Known::Nothing => against,
            Known::Anything => !against,
        }
    }
}

impl Condition {
    fn matches(&self, caller: &Caller<'_>, known: Known<'_>, against: bool) -> bool {
        match self {
            Self::Source(source) => source.matches(caller, known, against),
            Self::DestinationAddress(clause) => clause.met(Some(caller.to.ip()), contains),
            Self::DestinationPort(clause) => {
                clause.met(Some(caller.to.port()), |want, is| *want == is)
            }
            Self::Header(name, clause) => known.judge(against, |request| {
                request.with_header(name, |values| {
                    clause.met_by(|| values.iter().copied(), against, Pattern::matches)
                })
            }),
            Self::Token(part, clause) => known.judge(against, |request| request.says(part, clause)),
            Self::Unknowable => against,
        }
    }

    fn needs_request(&self) -> bool {
        match self {
            Self::Source(source) => source.needs_request(),
            Self::Header(..) | Self::Token(..) => true,
            Self::DestinationAddress(_) | Self::DestinationPort(_) | Self::Unknowable => false,
        }
    }
}

impl Rule {
    /// Whether it asks for what only a request can tell.
    pub fn needs_request(&self) -> bool {
        self.sources.iter().any(Source::needs_request)
            || self.operations.iter().any(Operation::needs_request)
            || self.conditions.iter().any(Condition::needs_request)
    }

    /// Whether it asks for something that nobody here knows.
    pub fn is_unknowable(&self) -> bool {
        let mut conditions = self.conditions.iter();
        conditions.any(|one| matches!(one, Condition::Unknowable))
    }

    /// Whether it matches. If that speaks `against` the caller, what is not known is left out of
    /// it, else a rule that asks for it does not match at all.
    pub(super) fn matches(&self, caller: &Caller<'_>, known: Known<'_>, against: bool) -> bool {
        if !against {
            let blind = matches!(known, Known::Nothing) && self.needs_request();
            if blind || self.is_unknowable() {
                return false;
            }
        }
        let source = |one: &Source| one.matches(caller, known, against);
        let operation = |one: &Operation| one.matches(caller, known, against);
        let condition = |one: &Condition| one.matches(caller, known, against);
        (self.sources.is_empty() || self.sources.iter().any(source))
            && (self.operations.is_empty() || self.operations.iter().any(operation))
            && self.conditions.iter().all(condition)
    }
}
