// SPDX-License-Identifier: Apache-2.0

//! An HTTPRoute, reduced to what matters of any route.
//!
//! Reference: Gateway API `apis/v1/httproute_types.go`.

use std::time::Duration;

use super::{
    facts::{Findings, Meta},
    filters::Filters,
    gateway::{HttpRouteSpec, PathKind, RouteMatch, Rule, Timeouts},
    object::Resource,
    resolve,
    route::{
        Precedence, RouteFacts, RouteKind, RouteRuleFacts, RuleReader, first_of_each,
        header_matches, hostnames, parents, text_match,
    },
};
use crate::model::{HttpMatch, PathMatch, TextMatch};

/// Reads an HTTPRoute.
pub(super) fn read(object: &Resource<HttpRouteSpec>, findings: &mut Findings) -> RouteFacts {
    let meta = Meta::new(&object.metadata);
    let spec = &object.spec;
    hostnames(&spec.hostnames, findings);
    let parents = parents(&spec.parent_refs, &meta, findings);
    let unwritten = [Rule::default()];
    let written = spec.rules.as_deref().unwrap_or(&unwritten);
    let rules = written.iter().enumerate().map(|(index, one)| {
        let reader = RuleReader {
            kind: RouteKind::Http,
            meta: &meta,
            path: format!("spec.rules[{index}]"),
            findings,
        };
        rule(reader, index, one)
    });
    RouteFacts {
        kind: RouteKind::Http,
        parents,
        rules: rules.collect(),
        meta,
    }
}

fn rule(mut reader: RuleReader<'_>, index: usize, rule: &Rule) -> RouteRuleFacts {
    let path = reader.path.clone();
    let unwritten = [RouteMatch::default()];
    let written = if rule.matches.is_empty() {
        &unwritten[..]
    } else {
        &rule.matches
    };
    let matches: Vec<(Precedence, HttpMatch)> = written
        .iter()
        .enumerate()
        .map(|(at, one)| condition(one, &format!("{path}.matches[{at}]"), reader.findings))
        .collect();
    let is_prefix = |one: &HttpMatch| one.path.as_ref().is_some_and(PathMatch::is_prefix);
    let prefixes = matches.iter().all(|(_, one)| is_prefix(one));
    let mut filters = Filters::default();
    reader
        .filters(prefixes, false)
        .read(&rule.filters, &path, &mut filters);
    let fields = [
        ("retry", rule.retry),
        ("sessionPersistence", rule.session_persistence),
    ];
    reader
        .findings
        .unsupported(&path, &fields, "the defaults apply");
    RouteRuleFacts {
        name: reader.name(index, rule.name.as_deref()),
        matches,
        backends: reader.backends(&rule.backend_refs, &filters, prefixes),
        redirect: filters.redirect,
        timeout: timeout(rule.timeouts.as_ref(), &path, reader.findings),
        refused: filters.refused,
    }
}

/// The shorter of both timeouts: a request is tried once.
fn timeout(timeouts: Option<&Timeouts>, path: &str, findings: &mut Findings) -> Option<Duration> {
    let timeouts = timeouts?;
    let mut read = |name: &str, text: Option<&str>| {
        let text = text?;
        let timeout = resolve::duration(text);
        if timeout.is_none() {
            let field = format!("{path}.timeouts.{name}");
            findings.reject(
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
    let precedence = Precedence::Http {
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
