// SPDX-License-Identifier: Apache-2.0

//! What matters of an HTTPRoute with a Service as parent: checked, compiled, not yet resolved.
//!
//! Reference: Gateway API `apis/v1/httproute_types.go` and GEP-1294. What cannot be honoured is
//! answered with 500, as the specification asks.

use std::{sync::Arc, time::Duration};

use http::HeaderName;

use super::{
    facts::{Findings, Meta},
    gateway::{
        BackendRef, Filter, HttpRouteSpec, NamedCondition, ParentRef, PathKind, RouteMatch, Rule,
        TextKind,
    },
    headers,
    object::Resource,
    problem::{Severity, code},
    resolve,
};
use crate::model::{
    HeaderEdits, HttpMatch, PathMatch, ServiceName, TextMatch, path::PathRank, text::FullRegex,
};

/// What matters of an HTTPRoute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HttpRouteFacts {
    pub(super) meta: Meta,
    pub(super) parents: Vec<ParentFacts>,
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
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RouteRuleFacts {
    pub(super) name: Arc<str>,
    /// At least one.
    pub(super) matches: Vec<(Precedence, HttpMatch)>,
    pub(super) backends: Vec<BackendFacts>,
    pub(super) timeout: Option<Duration>,
    /// Why the rule's requests are refused, if they are.
    pub(super) refused: Option<Arc<str>>,
}

/// How a match stands against others of all routes; the greater wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Precedence {
    path: PathRank,
    method: bool,
    headers: usize,
    query: usize,
}

/// Where a share of a rule's requests goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BackendFacts {
    /// The Service and port, or why there is none.
    pub(super) target: Result<(ServiceName, u16), Arc<str>>,
    pub(super) weight: u32,
    pub(super) edits: Option<Arc<HeaderEdits>>,
    pub(super) field: String,
}

impl HttpRouteFacts {
    pub(super) fn new(object: &Resource<HttpRouteSpec>, findings: &mut Findings) -> Self {
        let meta = Meta::new(&object.metadata);
        let spec = &object.spec;
        if !spec.hostnames.is_empty() {
            findings.add(
                Severity::Info,
                code::UNSUPPORTED,
                "spec.hostnames",
                "a mesh route follows the Service, not the host name: this has no effect",
                "match the header Host",
            );
        }
        let unwritten = [Rule::default()];
        let rules = spec
            .rules
            .as_deref()
            .unwrap_or(&unwritten)
            .iter()
            .enumerate();
        Self {
            parents: parents(&spec.parent_refs, &meta, findings),
            rules: rules
                .map(|(index, rule)| {
                    RuleReader {
                        meta: &meta,
                        path: format!("spec.rules[{index}]"),
                        findings,
                    }
                    .read(index, rule)
                })
                .collect(),
            meta,
        }
    }
}

fn parents(refs: &[ParentRef], meta: &Meta, findings: &mut Findings) -> Vec<ParentFacts> {
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
        });
    }
    parents
}

struct RuleReader<'a> {
    meta: &'a Meta,
    path: String,
    findings: &'a mut Findings,
}

impl RuleReader<'_> {
    fn read(&mut self, index: usize, rule: &Rule) -> RouteRuleFacts {
        let mut edits = HeaderEdits::default();
        let refused = self.filters(&rule.filters, &self.path.clone(), &mut edits);
        if refused.is_some() {
            self.findings.add(
                Severity::Error,
                code::UNSUPPORTED,
                format!("{}.filters", self.path),
                "a filter is not supported yet: requests that match the rule are answered with 500",
                "remove the filter or the rule",
            );
        }
        let path = self.path.clone();
        let fields = [
            ("retry", rule.retry),
            ("sessionPersistence", rule.session_persistence),
        ];
        self.findings
            .unsupported(&path, &fields, "the defaults apply");
        let unwritten = [RouteMatch::default()];
        let written = if rule.matches.is_empty() {
            &unwritten[..]
        } else {
            &rule.matches
        };
        let matches = written.iter().enumerate();
        let name = rule.name.as_deref().filter(|name| !name.is_empty());
        RouteRuleFacts {
            name: name.map_or_else(|| format!("{}#{index}", self.meta.name).into(), Into::into),
            matches: matches
                .map(|(at, one)| condition(one, &format!("{path}.matches[{at}]"), self.findings))
                .collect(),
            backends: rule
                .backend_refs
                .iter()
                .enumerate()
                .map(|(at, backend)| {
                    self.backend(backend, &edits, format!("{path}.backendRefs[{at}]"))
                })
                .collect(),
            timeout: self.timeout(rule),
            refused,
        }
    }

    /// Compiles header modifiers; returns which filter is not supported, if one is not.
    fn filters(
        &mut self,
        filters: &[Filter],
        path: &str,
        edits: &mut HeaderEdits,
    ) -> Option<Arc<str>> {
        let mut refused = None;
        for (index, filter) in filters.iter().enumerate() {
            let field = format!("{path}.filters[{index}]");
            match (
                filter.kind.as_str(),
                &filter.request_header_modifier,
                &filter.response_header_modifier,
            ) {
                ("RequestHeaderModifier", Some(modifier), _) => {
                    headers::gateway(
                        modifier,
                        &format!("{field}.requestHeaderModifier"),
                        &mut edits.request,
                        self.findings,
                    );
                }
                ("ResponseHeaderModifier", _, Some(modifier)) => {
                    headers::gateway(
                        modifier,
                        &format!("{field}.responseHeaderModifier"),
                        &mut edits.response,
                        self.findings,
                    );
                }
                (kind, ..) => {
                    let name = format!("{}/{}", self.meta.namespace, self.meta.name);
                    refused = Some(
                        format!("HTTPRoute {name} {field}: {kind} is not supported yet").into(),
                    );
                }
            }
        }
        refused
    }

    fn backend(
        &mut self,
        backend: &BackendRef,
        rule_edits: &HeaderEdits,
        field: String,
    ) -> BackendFacts {
        let mut edits = rule_edits.clone();
        let refused = self.filters(&backend.filters, &field, &mut edits);
        let group = backend.group.as_deref().unwrap_or_default();
        let kind = backend.kind.as_deref().unwrap_or("Service");
        let namespace = backend
            .namespace
            .as_deref()
            .map_or_else(|| Arc::clone(&self.meta.namespace), Into::into);
        let target = match (refused, backend.port) {
            (Some(reason), _) => Err(reason.to_string()),
            _ if kind != "Service" || !matches!(group, "" | "core") => {
                Err(format!("{kind} is not a Service"))
            }
            (_, None) => Err("no port is named".to_owned()),
            (_, Some(port)) => Ok((ServiceName::new(namespace, backend.name.as_str()), port)),
        };
        let weight = backend.weight.unwrap_or(1);
        if let Err(reason) = &target
            && weight > 0
        {
            self.findings.add(
                Severity::Error,
                code::REFERENCE,
                &field,
                format!("{reason}: its share of requests is answered with 500"),
                "name a Service and its port, without other filters than header modifiers",
            );
        }
        BackendFacts {
            target: target.map_err(Into::into),
            weight,
            edits: (!edits.is_empty()).then(|| Arc::new(edits)),
            field,
        }
    }

    /// The shorter of both timeouts: a request is tried once.
    fn timeout(&mut self, rule: &Rule) -> Option<Duration> {
        let timeouts = rule.timeouts.as_ref()?;
        let mut read = |name: &str, text: Option<&str>| {
            let text = text?;
            let timeout = resolve::duration(text);
            if timeout.is_none() {
                let field = format!("{}.timeouts.{name}", self.path);
                self.findings.reject(
                    field,
                    format!("{text:?} is not a duration"),
                    "write it as 5s or 250ms",
                );
            }
            timeout.filter(|timeout| !timeout.is_zero())
        };
        let request = read("request", timeouts.request.as_deref());
        let backend = read("backendRequest", timeouts.backend_request.as_deref());
        match (request, backend) {
            (Some(request), Some(backend)) => Some(request.min(backend)),
            (one, other) => one.or(other),
        }
    }
}

fn condition(one: &RouteMatch, path: &str, findings: &mut Findings) -> (Precedence, HttpMatch) {
    let path_condition = one.path.clone().unwrap_or_default();
    let value = path_condition.value.as_deref().unwrap_or("/");
    let compiled = match path_condition.kind.unwrap_or(PathKind::PathPrefix) {
        PathKind::Exact => PathMatch::exact(value).map_err(|error| error.to_string()),
        PathKind::PathPrefix => PathMatch::prefix(value).map_err(|error| error.to_string()),
        PathKind::RegularExpression => PathMatch::regex(value).map_err(|error| error.to_string()),
    };
    let path_match = compiled.unwrap_or_else(|error| {
        findings.reject(format!("{path}.path.value"), error, "correct it");
        PathMatch::text_prefix("/", false)
    });
    let condition = HttpMatch {
        method: one
            .method
            .map(|method| TextMatch::Exact(method.as_str().to_owned())),
        headers: header_matches(&one.headers, &format!("{path}.headers"), findings),
        query: first_of_each(&one.query_params, str::to_owned)
            .into_iter()
            .map(|(name, want)| {
                (
                    name,
                    text_match(want, &format!("{path}.queryParams"), findings),
                )
            })
            .collect(),
        ..HttpMatch::default()
    };
    let precedence = Precedence {
        path: path_match.rank(),
        method: condition.method.is_some(),
        headers: condition.headers.len(),
        query: condition.query.len(),
    };
    let condition = HttpMatch {
        path: Some(path_match),
        ..condition
    };
    (precedence, condition)
}

fn header_matches(
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
fn first_of_each(
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

fn text_match(want: &NamedCondition, path: &str, findings: &mut Findings) -> TextMatch {
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
