// SPDX-License-Identifier: Apache-2.0

//! An HTTPRoute, reduced to what matters of any route.
//!
//! Reference: Gateway API `apis/v1/httproute_types.go`.

use std::time::Duration;

use super::{
    facts::{Findings, Meta},
    filters::Filters,
    gateway::{HttpRouteSpec, PathKind, Retry, RouteMatch, Rule, Timeouts},
    object::Resource,
    resolve,
    route::{
        Precedence, RouteFacts, RouteKind, RouteRuleFacts, RuleReader, first_of_each,
        header_matches, parents, text_match, unheeded,
    },
    treatment::{self, TreatmentFacts},
};
use crate::model::{HttpMatch, PathMatch, RetryOn, RetryPolicy, TextMatch, retry::MAX_ATTEMPTS};

/// Reads an HTTPRoute.
pub(super) fn read(object: &Resource<HttpRouteSpec>, findings: &mut Findings) -> RouteFacts {
    let meta = Meta::new(&object.metadata);
    let spec = &object.spec;
    unheeded(&spec.hostnames, spec.use_default_gateways, findings);
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
        names: Vec::new(),
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
    let session = reader.session(rule.session_persistence.as_ref(), index);
    let (timeout, per_try) = timeouts(rule.timeouts.as_ref(), &path, reader.findings);
    let retry = rule.retry.as_ref().and_then(|written| {
        let policy = retry(written, &format!("{path}.retry"), reader.findings)?;
        Some(RetryPolicy {
            per_try_timeout: per_try,
            ..policy
        })
    });
    let redirect = filters.redirect.take();
    RouteRuleFacts {
        name: reader.name(index, rule.name.as_deref()),
        matches,
        backends: reader.backends(&rule.backend_refs, &filters, prefixes),
        mirrors: reader.mirrors(&filters),
        // A request that is tried once takes the shorter of both.
        timeout: match retry {
            Some(_) => timeout,
            None => timeout.into_iter().chain(per_try).min(),
        },
        treatment: TreatmentFacts {
            cors: filters.cors,
            fault: None,
            retry,
            session,
        },
        redirect: redirect.map(|redirect| redirect.with(&filters.edits)),
        refused: filters.refused,
    }
}

/// Compiles `retry`.
fn retry(written: &Retry, path: &str, findings: &mut Findings) -> Option<RetryPolicy> {
    let attempts = written.attempts.unwrap_or(2);
    if attempts > MAX_ATTEMPTS {
        let text = format!("{attempts} is more than {MAX_ATTEMPTS}");
        findings.reject(format!("{path}.attempts"), text, "lower it");
        return None;
    }
    if let Some(code) = written
        .codes
        .iter()
        .find(|code| !(400..600).contains(*code))
    {
        let text = format!("{code} is no status of an error");
        findings.reject(format!("{path}.codes"), text, "use 400 to 599");
        return None;
    }
    let base_interval = match written.backoff.as_deref() {
        None => treatment::BASE_INTERVAL,
        Some(text) => match resolve::duration(text) {
            Some(length) => length,
            None => {
                let said = format!("{text:?} is not a duration");
                findings.reject(format!("{path}.backoff"), said, "write it as 250ms");
                return None;
            }
        },
    };
    Some(RetryPolicy {
        attempts,
        per_try_timeout: None,
        on: RetryOn::gateway(&written.codes),
        base_interval,
        max_interval: base_interval.saturating_mul(treatment::LONGEST),
        avoids_tried: true,
        goes_elsewhere: false,
    })
}

/// How long the whole exchange, and one try of it, may take.
fn timeouts(
    timeouts: Option<&Timeouts>,
    path: &str,
    findings: &mut Findings,
) -> (Option<Duration>, Option<Duration>) {
    let Some(timeouts) = timeouts else {
        return (None, None);
    };
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
    (request, backend)
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
