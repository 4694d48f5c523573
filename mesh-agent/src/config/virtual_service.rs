// SPDX-License-Identifier: Apache-2.0

//! What matters of a VirtualService: checked, with compiled conditions, not yet resolved.
//!
//! Reference: Istio `pilot/pkg/networking/core/route/route.go` and
//! `pkg/config/validation/virtualservice.go`. A rule whose action is not supported yet answers 500
//! with that reason: sending its requests on unchanged would be a guess.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::HeaderName;

use super::{
    facts::{Findings, Meta},
    headers,
    istio::{HttpMatchRequest, HttpRoute, HttpRouteDestination, StringMatch, VirtualServiceSpec},
    object::Resource,
    problem::{Severity, code},
    resolve::{self, HostPattern, Visibility},
};
use crate::model::{HeaderEdits, HttpMatch, PathMatch, TextMatch, text::FullRegex};

/// What matters of a VirtualService.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VirtualServiceFacts {
    pub(super) meta: Meta,
    /// In the order written.
    pub(super) hosts: Vec<HostPattern>,
    pub(super) visibility: Visibility,
    /// Whether it is about traffic inside the mesh, not only about gateways.
    pub(super) in_mesh: bool,
    pub(super) rules: Vec<RuleFacts>,
}

/// One entry of `http`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RuleFacts {
    /// Its place in `spec.http`.
    pub(super) index: usize,
    pub(super) name: Arc<str>,
    /// Destination port (any if `None`) and conditions; none at all is a catch-all.
    pub(super) matches: Vec<(Option<u16>, HttpMatch)>,
    pub(super) destinations: Vec<DestinationFacts>,
    pub(super) timeout: Option<Duration>,
    /// Why the rule's requests are refused, if they are.
    pub(super) refused: Option<Arc<str>>,
}

/// One entry of `route`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DestinationFacts {
    /// Qualified.
    pub(super) host: Arc<str>,
    pub(super) subset: Option<Arc<str>>,
    pub(super) port: Option<u16>,
    pub(super) weight: u32,
    pub(super) edits: Option<Arc<HeaderEdits>>,
    /// Where it is written, for problems.
    pub(super) field: String,
}

impl VirtualServiceFacts {
    pub(super) fn new(
        object: &Resource<VirtualServiceSpec>,
        domain: &str,
        findings: &mut Findings,
    ) -> Self {
        let meta = Meta::new(&object.metadata);
        let spec = &object.spec;
        if spec.hosts.is_empty() {
            findings.reject(
                "spec.hosts",
                "at least one host must be named",
                "name a Service",
            );
        }
        findings.unsupported(
            "spec",
            &[("tls", spec.tls), ("tcp", spec.tcp)],
            "connections that are not HTTP go to all endpoints of the Service",
        );
        let in_mesh = spec.gateways.is_empty() || spec.gateways.iter().any(|name| name == "mesh");
        let qualify = |host: &String| resolve::qualify(host, &meta.namespace, domain);
        let rules = spec.http.iter().enumerate();
        let rules: Vec<RuleFacts> = rules
            .filter_map(|(index, rule)| {
                RuleReader {
                    meta: &meta,
                    domain,
                    path: format!("spec.http[{index}]"),
                    findings,
                }
                .read(index, rule)
            })
            .collect();
        unreachable(&rules, findings);
        Self {
            hosts: spec
                .hosts
                .iter()
                .map(|host| HostPattern::new(&qualify(host)))
                .collect(),
            visibility: Visibility::new(&spec.export_to, &meta.namespace),
            in_mesh,
            rules,
            meta,
        }
    }
}

/// Reports rules behind one that takes every request.
fn unreachable(rules: &[RuleFacts], findings: &mut Findings) {
    let takes_all = |rule: &RuleFacts| {
        let mut free = rule.matches.iter().filter(|(port, _)| port.is_none());
        rule.matches.is_empty() || free.any(|(_, condition)| condition.is_catch_all())
    };
    let Some(first) = rules.iter().position(takes_all) else {
        return;
    };
    for rule in &rules[first + 1..] {
        findings.add(
            Severity::Warning,
            code::UNREACHABLE,
            format!("spec.http[{}]", rule.index),
            format!(
                "never reached: spec.http[{}] takes every request",
                rules[first].index
            ),
            "put the rule with conditions first",
        );
    }
}

struct RuleReader<'a> {
    meta: &'a Meta,
    domain: &'a str,
    path: String,
    findings: &'a mut Findings,
}

impl RuleReader<'_> {
    /// The rule, unless all its matches are about gateways only.
    fn read(&mut self, index: usize, rule: &HttpRoute) -> Option<RuleFacts> {
        let matches: Vec<_> = rule
            .matches
            .iter()
            .enumerate()
            .filter(|(_, one)| {
                one.gateways.is_empty() || one.gateways.iter().any(|name| name == "mesh")
            })
            .map(|(at, one)| {
                let path = format!("{}.match[{at}]", self.path);
                (one.port, condition(one, &path, self.findings))
            })
            .collect();
        if matches.is_empty() && !rule.matches.is_empty() {
            return None;
        }
        let refused = self.refusal(rule);
        self.without_effect(rule);
        let mut edits = HeaderEdits::default();
        if let Some(own) = &rule.headers {
            headers::istio(
                own,
                &format!("{}.headers", self.path),
                &mut edits,
                self.findings,
            );
        }
        let name = match rule.name.as_str() {
            "" => format!("{}#{index}", self.meta.name),
            name => name.to_owned(),
        };
        Some(RuleFacts {
            index,
            name: name.into(),
            matches,
            destinations: self.destinations(&rule.route, &edits),
            timeout: self.timeout(rule),
            refused,
        })
    }

    /// Why the rule cannot be carried out, if it has an action that is not supported.
    fn refusal(&mut self, rule: &HttpRoute) -> Option<Arc<str>> {
        let actions = [
            ("redirect", rule.redirect),
            ("directResponse", rule.direct_response),
            ("delegate", rule.delegate),
            ("rewrite", rule.rewrite),
        ];
        let written = actions.iter().find(|(_, present)| present.0);
        let Some((field, _)) = written else {
            if rule.route.is_empty() {
                self.findings.reject(
                    format!("{}.route", self.path),
                    "a rule must have a destination or another action",
                    "add route",
                );
            }
            return None;
        };
        let field = format!("{}.{field}", self.path);
        self.findings.add(
            Severity::Error,
            code::UNSUPPORTED,
            &field,
            "not supported yet: requests that match the rule are answered with 500",
            "remove the field or the rule",
        );
        Some(
            format!(
                "VirtualService {}/{} {field} is not supported yet",
                self.meta.namespace, self.meta.name
            )
            .into(),
        )
    }

    /// Reports what is left out while the rule is carried out.
    fn without_effect(&mut self, rule: &HttpRoute) {
        let path = self.path.clone();
        self.findings
            .unsupported(&path, &[("fault", rule.fault)], "no fault is injected");
        let mirrors = [
            ("mirror", rule.mirror),
            ("mirrors", rule.mirrors),
            ("mirrorPercent", rule.mirror_percent),
            ("mirrorPercentage", rule.mirror_percentage),
        ];
        self.findings
            .unsupported(&path, &mirrors, "requests are not mirrored");
        let cors = [("corsPolicy", rule.cors_policy)];
        self.findings
            .unsupported(&path, &cors, "preflight requests go to the destination");
        if let Some(retries) = &rule.retries
            && retries.attempts != Some(2)
        {
            self.findings.add(
                Severity::Warning,
                code::UNSUPPORTED,
                format!("{path}.retries"),
                "not supported yet: only connections that fail are tried again, at another endpoint",
                "remove the field if you can do without",
            );
        } else if let Some(retries) = &rule.retries {
            let fields = [
                ("perTryTimeout", retries.per_try_timeout),
                ("retryOn", retries.retry_on),
                ("retryRemoteLocalities", retries.retry_remote_localities),
                (
                    "retryIgnorePreviousHosts",
                    retries.retry_ignore_previous_hosts,
                ),
                ("backoff", retries.backoff),
            ];
            let what = "only connections that fail are tried again, at another endpoint";
            self.findings
                .unsupported(&format!("{path}.retries"), &fields, what);
        }
    }

    fn timeout(&mut self, rule: &HttpRoute) -> Option<Duration> {
        let text = rule.timeout.as_deref()?;
        let timeout = resolve::duration(text);
        if timeout.is_none() {
            let field = format!("{}.timeout", self.path);
            self.findings.reject(
                field,
                format!("{text:?} is not a duration"),
                "write it as 5s or 250ms",
            );
        }
        timeout.filter(|timeout| !timeout.is_zero())
    }

    fn destinations(
        &mut self,
        route: &[HttpRouteDestination],
        rule_edits: &HeaderEdits,
    ) -> Vec<DestinationFacts> {
        let sum: u64 = route
            .iter()
            .map(|one| u64::from(one.weight.unwrap_or(0)))
            .sum();
        if route.len() > 1 && sum == 0 {
            self.findings.reject(
                format!("{}.route", self.path),
                "the weights of the destinations add up to 0",
                "give at least one destination a weight",
            );
        }
        let destinations = route.iter().enumerate().map(|(index, one)| {
            let field = format!("{}.route[{index}]", self.path);
            let mut edits = rule_edits.clone();
            if let Some(own) = &one.headers {
                headers::istio(own, &format!("{field}.headers"), &mut edits, self.findings);
            }
            if one.destination.host.is_empty() {
                self.findings.reject(
                    format!("{field}.destination.host"),
                    "must be set",
                    "name a Service",
                );
            }
            DestinationFacts {
                host: resolve::qualify(&one.destination.host, &self.meta.namespace, self.domain),
                subset: one
                    .destination
                    .subset
                    .as_deref()
                    .filter(|name| !name.is_empty())
                    .map(Into::into),
                port: one.destination.port.as_ref().map(|port| port.number),
                // The weight of a single destination does not count.
                weight: if route.len() == 1 {
                    1
                } else {
                    one.weight.unwrap_or(0)
                },
                edits: (!edits.is_empty()).then(|| Arc::new(edits)),
                field: format!("{field}.destination"),
            }
        });
        destinations.collect()
    }
}

/// Compiles one entry of `match`, but for its port and gateways.
fn condition(one: &HttpMatchRequest, path: &str, findings: &mut Findings) -> HttpMatch {
    let mut text = |field: &str, want: &Option<StringMatch>| {
        let want = want.as_ref()?;
        Some(text_match(want, &format!("{path}.{field}"), findings))
    };
    let (method, authority, scheme) = (
        text("method", &one.method),
        text("authority", &one.authority),
        text("scheme", &one.scheme),
    );
    HttpMatch {
        path: one
            .uri
            .as_ref()
            .and_then(|uri| path_match(uri, one.ignore_uri_case, path, findings)),
        method,
        authority,
        scheme,
        headers: header_matches(&one.headers, &format!("{path}.headers"), findings),
        without_headers: header_matches(
            &one.without_headers,
            &format!("{path}.withoutHeaders"),
            findings,
        ),
        query: one
            .query_params
            .iter()
            .map(|(name, want)| {
                let field = format!("{path}.queryParams[{name}]");
                (name.clone(), optional(want.as_ref(), &field, findings))
            })
            .collect(),
        source_labels: one.source_labels.clone().into_iter().collect(),
        source_namespace: (!one.source_namespace.is_empty()).then(|| one.source_namespace.clone()),
    }
}

fn path_match(
    uri: &StringMatch,
    ignore_case: bool,
    path: &str,
    findings: &mut Findings,
) -> Option<PathMatch> {
    match (&uri.exact, &uri.prefix, &uri.regex) {
        (Some(exact), None, None) => Some(PathMatch::text_exact(exact, ignore_case)),
        (None, Some(prefix), None) => Some(PathMatch::text_prefix(prefix, ignore_case)),
        (None, None, Some(pattern)) => match PathMatch::regex(pattern) {
            Ok(regex) => Some(regex),
            Err(error) => {
                findings.reject(
                    format!("{path}.uri.regex"),
                    error.to_string(),
                    "correct it (RE2 syntax)",
                );
                None
            }
        },
        (None, None, None) => None,
        _ => {
            findings.reject(
                format!("{path}.uri"),
                "only one of exact, prefix, regex may be set",
                "choose one",
            );
            None
        }
    }
}

fn header_matches(
    conditions: &BTreeMap<String, Option<StringMatch>>,
    path: &str,
    findings: &mut Findings,
) -> Vec<(HeaderName, TextMatch)> {
    let mut compiled = Vec::new();
    for (name, want) in conditions {
        let field = format!("{path}[{name}]");
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => compiled.push((name, optional(want.as_ref(), &field, findings))),
            Err(_) => findings.reject(field, "this is not a header name", "correct it"),
        }
    }
    compiled
}

/// `{}` and the regular expression `*` only ask that the text be there.
fn optional(want: Option<&StringMatch>, field: &str, findings: &mut Findings) -> TextMatch {
    match want {
        None => TextMatch::Present,
        Some(want) if want.regex.as_deref() == Some("*") => TextMatch::Present,
        Some(want) => text_match(want, field, findings),
    }
}

fn text_match(want: &StringMatch, field: &str, findings: &mut Findings) -> TextMatch {
    match (&want.exact, &want.prefix, &want.regex) {
        (Some(exact), None, None) => TextMatch::Exact(exact.clone()),
        (None, Some(prefix), None) => TextMatch::Prefix(prefix.clone()),
        (None, None, Some(pattern)) => match FullRegex::new(pattern) {
            Ok(regex) => TextMatch::Regex(regex),
            Err(error) => {
                findings.reject(
                    format!("{field}.regex"),
                    error.to_string(),
                    "correct it (RE2 syntax)",
                );
                TextMatch::Present
            }
        },
        (None, None, None) => TextMatch::Present,
        _ => {
            findings.reject(
                field,
                "only one of exact, prefix, regex may be set",
                "choose one",
            );
            TextMatch::Present
        }
    }
}
