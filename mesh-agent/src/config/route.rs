// SPDX-License-Identifier: Apache-2.0

//! What matters of a Gateway API route with a Service as parent: checked, compiled, not yet
//! resolved.
//!
//! Knows nothing of what tells an HTTPRoute from a GRPCRoute but the answer to what cannot be
//! honoured: 500 in one, UNAVAILABLE in the other, as the specification asks.
//! Reference: Gateway API `apis/v1/shared_types.go` and GEP-1294.

use std::{sync::Arc, time::Duration};

use http::HeaderName;

use super::{
    facts::{Findings, Meta},
    filters::{FilterReader, Filters, RedirectFacts},
    gaps,
    gateway::{BackendRef, NamedCondition, ParentRef, SessionPersistence, TextKind},
    object::Present,
    problem::{Severity, code},
    session,
    treatment::TreatmentFacts,
};
use crate::model::{
    Cors, HeaderEdits, HttpMatch, NamePattern, ServiceName, Session, Share, TextMatch, UrlRewrite,
    path::PathRank, text::FullRegex,
};

/// Which kind of route it is. The greater wins where both are attached to one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum RouteKind {
    Tcp,
    Tls,
    Http,
    Grpc,
}

impl RouteKind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCPRoute",
            Self::Tls => "TLSRoute",
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
        }
    }

    /// Whether it is about connections, whatever is said on them.
    pub(super) fn is_opaque(self) -> bool {
        match self {
            Self::Tcp | Self::Tls => true,
            Self::Http | Self::Grpc => false,
        }
    }

    /// How requests are answered that a route has no usable backend for; connections are reset.
    pub(super) fn broken_status(self) -> u16 {
        match self {
            Self::Http => 500,
            // UNAVAILABLE.
            Self::Tcp | Self::Tls | Self::Grpc => 503,
        }
    }

    /// What becomes of a broken backend's share.
    pub(super) fn loss(self) -> String {
        match self {
            Self::Tcp | Self::Tls => "its share of connections is reset".to_owned(),
            Self::Http | Self::Grpc => {
                let status = self.broken_status();
                format!("its share of requests is answered with {status}")
            }
        }
    }
}

/// What matters of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RouteFacts {
    pub(super) kind: RouteKind,
    pub(super) meta: Meta,
    pub(super) parents: Vec<ParentFacts>,
    /// The server names that a TLSRoute is about; none for other kinds.
    pub(super) names: Vec<NamePattern>,
    pub(super) rules: Vec<RouteRuleFacts>,
}

/// A Service that the route is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ParentFacts {
    pub(super) service: ServiceName,
    /// Any port if `None`.
    pub(super) port: Option<u16>,
    /// The name of a port; any if `None`.
    pub(super) section: Option<String>,
    pub(super) field: String,
    /// As it is written.
    pub(super) reference: ParentRef,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RouteRuleFacts {
    pub(super) name: Arc<str>,
    /// At least one, unless the route is about connections.
    pub(super) matches: Vec<(Precedence, HttpMatch)>,
    pub(super) backends: Vec<BackendFacts>,
    /// Where clients are sent instead of a backend.
    pub(super) redirect: Option<RedirectFacts>,
    pub(super) timeout: Option<Duration>,
    pub(super) treatment: TreatmentFacts,
    pub(super) mirrors: Vec<(BackendFacts, Share)>,
    /// Why the rule's requests are refused, if they are.
    pub(super) refused: Option<Arc<str>>,
}

impl RouteRuleFacts {
    /// All that requests may be sent to, copies included.
    pub(super) fn all_backends(&self) -> impl Iterator<Item = &BackendFacts> {
        let copies = self.backends.iter().flat_map(|one| &one.mirrors);
        let copies = self.mirrors.iter().chain(copies);
        self.backends
            .iter()
            .chain(copies.map(|(backend, _)| backend))
    }
}

/// How a match stands against others of all routes of its kind; the greater wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Precedence {
    Http {
        path: PathRank,
        method: bool,
        headers: usize,
        query: usize,
    },
    /// Lengths of what is named exactly.
    Grpc {
        service: usize,
        method: usize,
        headers: usize,
    },
}

/// Where a share of a rule's requests goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BackendFacts {
    /// The Service and port, or why there is none.
    pub(super) target: Result<(ServiceName, u16), Unusable>,
    pub(super) weight: u32,
    pub(super) edits: Option<Arc<HeaderEdits>>,
    pub(super) rewrite: Option<Arc<UrlRewrite>>,
    /// Where copies of its own requests go.
    pub(super) mirrors: Vec<(BackendFacts, Share)>,
    /// What it says to pages of other origins, if the rule says nothing.
    pub(super) cors: Option<Cors>,
    pub(super) field: String,
}

/// Why a backend cannot be used, whatever Services there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// It is no Service.
    Kind(Arc<str>),
    /// It names no port.
    NoPort,
    /// One of its filters cannot be honoured.
    Filter(Arc<str>),
}

impl Unusable {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Kind(kind) => format!("{kind} is not a Service"),
            Self::NoPort => "no port is named".to_owned(),
            Self::Filter(reason) => reason.to_string(),
        }
    }
}

/// The parents that are Services; what else is named is reported.
pub(super) fn parents(
    refs: &[ParentRef],
    meta: &Meta,
    findings: &mut Findings,
) -> Vec<ParentFacts> {
    let mut parents = Vec::new();
    for (index, parent) in refs.iter().enumerate() {
        let field = format!("spec.parentRefs[{index}]");
        let group = parent
            .group
            .as_deref()
            .unwrap_or("gateway.networking.k8s.io");
        let kind = parent.kind.as_deref().unwrap_or("Gateway");
        if kind != "Service" || !matches!(group, "" | "core") {
            findings.add(
                Severity::Warning,
                code::UNSUPPORTED,
                field,
                format!("a route is not attached to a {kind} by the mesh: this has no effect"),
                "name a Service with group \"\" and kind Service",
            );
            continue;
        }
        let namespace = parent
            .namespace
            .as_deref()
            .map_or_else(|| Arc::clone(&meta.namespace), Into::into);
        parents.push(ParentFacts {
            service: ServiceName::new(namespace, parent.name.as_str()),
            port: parent.port,
            section: parent.section_name.clone().filter(|name| !name.is_empty()),
            field,
            reference: parent.clone(),
        });
    }
    findings.parents.clone_from(&parents);
    parents
}

/// Says that host names decide nothing in the mesh.
pub(super) fn unheeded(hostnames: &[String], gateways: Present, findings: &mut Findings) {
    let fields = [
        (gaps::HOSTNAMES, Present(!hostnames.is_empty())),
        (gaps::DEFAULT_GATEWAYS, gateways),
    ];
    findings.gaps("spec", &fields);
}

/// Reads what rules of both kinds have in common.
pub(super) struct RuleReader<'a> {
    pub(super) kind: RouteKind,
    pub(super) meta: &'a Meta,
    /// Where the rule stands.
    pub(super) path: String,
    pub(super) findings: &'a mut Findings,
}

impl RuleReader<'_> {
    /// The rule's name, else one made of its place.
    pub(super) fn name(&self, index: usize, written: Option<&str>) -> Arc<str> {
        let written = written.filter(|name| !name.is_empty());
        written.map_or_else(|| format!("{}#{index}", self.meta.name).into(), Into::into)
    }

    /// By what the rule's sessions are told.
    pub(super) fn session(
        &mut self,
        written: Option<&SessionPersistence>,
        index: usize,
    ) -> Option<Arc<Session>> {
        let of = (self.meta, index);
        session::read(written?, of, &self.path, self.findings).map(Arc::new)
    }

    pub(super) fn filters(&mut self, prefixes: bool, of_backend: bool) -> FilterReader<'_> {
        FilterReader {
            kind: self.kind,
            route: self.meta.to_ref(self.kind.as_str()).to_string(),
            prefixes,
            of_backend,
            findings: self.findings,
        }
    }

    pub(super) fn backends(
        &mut self,
        refs: &[BackendRef],
        of_rule: &Filters,
        prefixes: bool,
    ) -> Vec<BackendFacts> {
        let read = |(at, backend)| {
            let field = format!("{}.backendRefs[{at}]", self.path);
            self.backend(backend, of_rule, prefixes, field)
        };
        refs.iter().enumerate().map(read).collect()
    }

    /// Where copies of the rule's requests go.
    pub(super) fn mirrors(&mut self, of_rule: &Filters) -> Vec<(BackendFacts, Share)> {
        let read = |(backend, share, field): &(BackendRef, Share, String)| {
            let alone = Filters::default();
            let facts = self.backend(backend, &alone, false, field.clone());
            (facts, *share)
        };
        of_rule.mirrors.iter().map(read).collect()
    }

    fn backend(
        &mut self,
        backend: &BackendRef,
        of_rule: &Filters,
        prefixes: bool,
        field: String,
    ) -> BackendFacts {
        let mut filters = Filters {
            refused: None,
            mirrors: Vec::new(),
            ..of_rule.clone()
        };
        self.filters(prefixes, true)
            .read(&backend.filters, &field, &mut filters);
        let group = backend.group.as_deref().unwrap_or_default();
        let kind = backend.kind.as_deref().unwrap_or("Service");
        let namespace = backend
            .namespace
            .as_deref()
            .map_or_else(|| Arc::clone(&self.meta.namespace), Into::into);
        let target = match (filters.refused.take(), backend.port) {
            (Some(reason), _) => Err(Unusable::Filter(reason)),
            _ if kind != "Service" || !matches!(group, "" | "core") => {
                Err(Unusable::Kind(kind.into()))
            }
            (_, None) => Err(Unusable::NoPort),
            (_, Some(port)) => Ok((ServiceName::new(namespace, backend.name.as_str()), port)),
        };
        let weight = backend.weight.unwrap_or(1);
        if let Err(reason @ (Unusable::Kind(_) | Unusable::NoPort)) = &target
            && weight > 0
        {
            let (reason, loss) = (reason.text(), self.kind.loss());
            self.findings.add(
                Severity::Error,
                code::REFERENCE,
                &field,
                format!("{reason}: {loss}"),
                "name a Service and its port",
            );
        }
        let mirrors = self.mirrors(&filters);
        let edits = filters.edits;
        BackendFacts {
            target,
            weight,
            edits: (!edits.is_empty()).then(|| Arc::new(edits)),
            rewrite: filters.rewrite.map(Arc::new),
            mirrors,
            cors: filters.cors.filter(|_| of_rule.cors.is_none()),
            field,
        }
    }
}

/// Compiles conditions on headers.
pub(super) fn header_matches(
    conditions: &[NamedCondition],
    path: &str,
    findings: &mut Findings,
) -> Vec<(HeaderName, TextMatch)> {
    let mut compiled = Vec::new();
    for (name, want) in first_of_each(conditions, str::to_ascii_lowercase) {
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => compiled.push((name, text_match(want, path, findings))),
            Err(_) => findings.reject(path, format!("{name:?} is not a header name"), "correct it"),
        }
    }
    compiled
}

/// Of several conditions on one name only the first counts.
pub(super) fn first_of_each(
    conditions: &[NamedCondition],
    normal: impl Fn(&str) -> String,
) -> Vec<(String, &NamedCondition)> {
    let mut kept: Vec<(String, &NamedCondition)> = Vec::new();
    for condition in conditions {
        let name = normal(&condition.name);
        if kept.iter().all(|(known, _)| *known != name) {
            kept.push((name, condition));
        }
    }
    kept
}

/// Compiles one condition on a text.
pub(super) fn text_match(want: &NamedCondition, path: &str, findings: &mut Findings) -> TextMatch {
    if want.kind != Some(TextKind::RegularExpression) {
        return TextMatch::Exact(want.value.clone());
    }
    match FullRegex::new(&want.value) {
        Ok(regex) => TextMatch::Regex(regex),
        Err(error) => {
            findings.reject(
                format!("{path}[{}]", want.name),
                error.to_string(),
                "correct it",
            );
            TextMatch::Present
        }
    }
}
