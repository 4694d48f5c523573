// SPDX-License-Identifier: Apache-2.0

//! What matters of a VirtualService: checked, with compiled conditions, not yet resolved.
//!
//! Reference: Istio `pilot/pkg/networking/core/route/route.go` and
//! `pkg/config/validation/virtualservice.go`.

use std::{sync::Arc, time::Duration};

use super::{
    actions::{self, VirtualRedirect},
    condition,
    facts::{Findings, Meta},
    gaps, headers,
    istio::{self, HttpRoute, HttpRouteDestination, Percent, VirtualServiceSpec},
    object::Resource,
    opaque::{self, OpaqueRuleFacts},
    overlap,
    problem::{Severity, code},
    resolve::{self, HostPattern, Visibility},
    treatment::{self, TreatmentFacts},
};
use crate::model::{DirectAnswer, HeaderEdits, HttpMatch, Share, UrlRewrite};

/// What matters of a VirtualService.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct VirtualServiceFacts {
    pub(super) meta: Meta,
    /// In the order written.
    pub(super) hosts: Vec<HostPattern>,
    pub(super) visibility: Visibility,
    /// Whether it is about traffic inside the mesh, not only about gateways.
    pub(super) in_mesh: bool,
    pub(super) rules: Vec<RuleFacts>,
    /// Those of `tls`, then those of `tcp`.
    pub(super) opaque: Vec<OpaqueRuleFacts>,
    /// What it offers to others that leave rules to it, as it is written; nothing if it has hosts.
    pub(super) offered: Vec<HttpRoute>,
}

/// One entry of `http`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RuleFacts {
    /// Its place in `spec.http`.
    pub(super) index: usize,
    pub(super) name: Arc<str>,
    /// Destination port (any if `None`) and conditions; none at all is a catch-all.
    pub(super) matches: Vec<(Option<u16>, HttpMatch)>,
    pub(super) action: Action,
    pub(super) timeout: Option<Duration>,
    pub(super) treatment: TreatmentFacts,
    pub(super) mirrors: Vec<(DestinationFacts, Share)>,
}

/// What is done with a rule's requests.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    Route(Vec<DestinationFacts>),
    Redirect(VirtualRedirect),
    Answer(Arc<DirectAnswer>),
    /// Left to another VirtualService; the rule as it is written.
    Delegate(Box<HttpRoute>),
    /// It cannot be carried out; why.
    Refuse(Arc<str>),
}

impl RuleFacts {
    /// All that the rule sends requests to, copies included.
    pub(super) fn destinations(&self) -> impl Iterator<Item = &DestinationFacts> {
        let routed = match &self.action {
            Action::Route(destinations) => destinations.as_slice(),
            Action::Redirect(_) | Action::Answer(_) | Action::Delegate(_) | Action::Refuse(_) => {
                &[]
            }
        };
        routed
            .iter()
            .chain(self.mirrors.iter().map(|(mirror, _)| mirror))
    }
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
    pub(super) rewrite: Option<Arc<UrlRewrite>>,
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
        let offered = match spec.hosts.is_empty() {
            true => spec.http.clone(),
            false => Vec::new(),
        };
        for (index, rule) in offered.iter().enumerate() {
            if rule.delegate.is_some() {
                let field = format!("spec.http[{index}].delegate");
                let text = "a delegate cannot delegate";
                findings.reject(field, text, "write its rules here");
            }
        }
        let in_mesh = spec.gateways.is_empty() || spec.gateways.iter().any(|name| name == "mesh");
        let qualify = |host: &String| resolve::qualify(host, &meta.namespace, domain);
        let rules = spec.http.iter().enumerate();
        let rules: Vec<RuleFacts> = rules
            .filter_map(|(index, rule)| self::rule(&meta, domain, index, rule, findings))
            .collect();
        unreachable(&rules, findings);
        overlap::report(&rules, findings);
        Self {
            hosts: spec
                .hosts
                .iter()
                .map(|host| HostPattern::new(&qualify(host)))
                .collect(),
            visibility: Visibility::new(&spec.export_to, &meta.namespace),
            in_mesh,
            rules,
            opaque: opaque::read(spec, &meta, domain, findings),
            offered,
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

/// One rule, unless all its matches are about gateways only.
pub(super) fn rule(
    meta: &Meta,
    domain: &str,
    index: usize,
    written: &HttpRoute,
    findings: &mut Findings,
) -> Option<RuleFacts> {
    let path = format!("spec.http[{index}]");
    let mut reader = RuleReader {
        meta,
        domain,
        path,
        findings,
    };
    reader.read(index, written)
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
                (one.port, condition::compile(one, &path, self.findings))
            })
            .collect();
        if matches.is_empty() && !rule.matches.is_empty() {
            return None;
        }
        self.unheeded(rule);
        let mut edits = HeaderEdits::default();
        let authority = rule.headers.as_ref().and_then(|own| {
            let path = format!("{}.headers", self.path);
            headers::istio(own, &path, &mut edits, self.findings)
        });
        let name = match rule.name.as_str() {
            "" => format!("{}#{index}", self.meta.name),
            name => name.to_owned(),
        };
        let mut rewrite = rule.rewrite.as_ref().and_then(|written| {
            let path = format!("{}.rewrite", self.path);
            actions::rewrite(written, &path, self.findings)
        });
        if let Some(authority) = authority {
            rewrite.get_or_insert_default().authority = Some(authority);
        }
        Some(RuleFacts {
            index,
            name: name.into(),
            matches,
            action: self.action(rule, &edits, rewrite.as_ref()),
            timeout: self.timeout(rule),
            treatment: self.treatment(rule),
            mirrors: self.mirrors(rule),
        })
    }

    /// What means nothing here.
    fn unheeded(&mut self, rule: &HttpRoute) {
        for (at, one) in rule.matches.iter().enumerate() {
            let path = format!("{}.match[{at}]", self.path);
            let fields = [(gaps::STAT_PREFIX, one.stat_prefix)];
            self.findings.gaps(&path, &fields);
        }
        let fields = [(gaps::WEBSOCKET_UPGRADE, rule.websocket_upgrade)];
        self.findings.gaps(&self.path, &fields);
    }

    /// What is done with the requests; whatever else is written there is excluded.
    fn action(
        &mut self,
        rule: &HttpRoute,
        edits: &HeaderEdits,
        rewrite: Option<&UrlRewrite>,
    ) -> Action {
        let path = self.path.clone();
        let unsendable = [
            ("route", !rule.route.is_empty()),
            ("rewrite", rule.rewrite.is_some()),
            ("fault", rule.fault.is_some()),
            ("delegate", rule.delegate.is_some()),
        ];
        let (name, with) = match (&rule.redirect, &rule.direct_response) {
            (Some(_), Some(_)) => ("redirect", Some("directResponse")),
            (Some(_), None) => ("redirect", None),
            (None, Some(_)) => ("directResponse", None),
            (None, None) => return self.sending(rule, edits, rewrite),
        };
        let mut excluded = unsendable.iter().filter(|(_, written)| *written);
        if let Some(other) = with.or_else(|| excluded.next().map(|(name, _)| *name)) {
            let text = format!("{name} and {other} exclude each other");
            self.findings
                .reject(format!("{path}.{name}"), text, "remove one of them");
        }
        let action = match (&rule.redirect, &rule.direct_response) {
            (Some(written), _) => {
                let path = format!("{path}.redirect");
                let redirect = actions::redirect(written, &path, self.findings);
                redirect.map(|redirect| Action::Redirect(redirect.with(edits)))
            }
            (None, Some(written)) => {
                let path = format!("{path}.directResponse");
                actions::direct_response(written, &path, self.findings).map(|mut answer| {
                    edits.apply_response(&mut answer.headers);
                    Action::Answer(Arc::new(answer))
                })
            }
            (None, None) => None,
        };
        // What is wrong was rejected, so that this is never used.
        action.unwrap_or_else(|| Action::Route(Vec::new()))
    }

    fn sending(
        &mut self,
        rule: &HttpRoute,
        edits: &HeaderEdits,
        rewrite: Option<&UrlRewrite>,
    ) -> Action {
        if rule.delegate.is_some() {
            if !rule.route.is_empty() {
                let text = "delegate and route exclude each other";
                self.findings.reject(
                    format!("{}.delegate", self.path),
                    text,
                    "remove one of them",
                );
            }
            return Action::Delegate(Box::new(rule.clone()));
        }
        if rule.route.is_empty() {
            self.findings.reject(
                format!("{}.route", self.path),
                "a rule must have a destination or another action",
                "add route",
            );
        }
        Action::Route(self.destinations(&rule.route, edits, rewrite))
    }

    fn treatment(&mut self, rule: &HttpRoute) -> TreatmentFacts {
        let path = |field: &str| format!("{}.{field}", self.path);
        let findings = &mut *self.findings;
        let cors = rule.cors_policy.as_ref();
        let fault = rule.fault.as_ref();
        let retries = rule.retries.as_ref();
        TreatmentFacts {
            cors: cors.map(|written| treatment::cors(written, &path("corsPolicy"), findings)),
            fault: fault.and_then(|written| treatment::fault(written, &path("fault"), findings)),
            retry: retries
                .and_then(|written| treatment::retries(written, &path("retries"), findings)),
            session: None,
        }
    }

    /// Where copies of the requests go.
    fn mirrors(&mut self, rule: &HttpRoute) -> Vec<(DestinationFacts, Share)> {
        if rule.mirror.is_some() && !rule.mirrors.is_empty() {
            let text = "mirror and mirrors exclude each other";
            self.findings
                .reject(format!("{}.mirrors", self.path), text, "remove one of them");
        }
        let old = rule.mirror_percent.map(|percent| Percent {
            value: f64::from(percent),
        });
        let single = rule.mirror.as_ref().map(|destination| {
            let share = rule.mirror_percentage.or(old);
            (destination, share, format!("{}.mirror", self.path))
        });
        let several = rule.mirrors.iter().enumerate().map(|(index, one)| {
            let field = format!("{}.mirrors[{index}]", self.path);
            (&one.destination, one.percentage, field)
        });
        let all: Vec<_> = single.into_iter().chain(several).collect();
        all.into_iter()
            .filter_map(|(destination, share, field)| {
                let share = treatment::share(share, Share::ALL, &field, self.findings)?;
                let facts = self.destination(destination, field);
                (share > Share::NONE).then_some((facts, share))
            })
            .collect()
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
        rewrite: Option<&UrlRewrite>,
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
            let mut edits = HeaderEdits::default();
            let mut rewrite = rewrite.cloned();
            if let Some(own) = &one.headers {
                let path = format!("{field}.headers");
                let authority = headers::istio(own, &path, &mut edits, self.findings);
                if let Some(authority) = authority {
                    // What the rule says comes first.
                    let rewrite = rewrite.get_or_insert_default();
                    rewrite.authority.get_or_insert(authority);
                }
            }
            let edits = headers::joined(rule_edits, edits, route.len() == 1);
            DestinationFacts {
                // The weight of a single destination does not count.
                weight: if route.len() == 1 {
                    1
                } else {
                    one.weight.unwrap_or(0)
                },
                edits: (!edits.is_empty()).then(|| Arc::new(edits)),
                rewrite: rewrite.map(Arc::new),
                ..self.destination(&one.destination, format!("{field}.destination"))
            }
        });
        destinations.collect()
    }

    fn destination(&mut self, written: &istio::Destination, field: String) -> DestinationFacts {
        destination(written, field, self.meta, self.domain, self.findings)
    }
}

/// A destination without what is done to requests on the way.
pub(super) fn destination(
    written: &istio::Destination,
    field: String,
    meta: &Meta,
    domain: &str,
    findings: &mut Findings,
) -> DestinationFacts {
    if written.host.is_empty() {
        let path = format!("{field}.host");
        findings.reject(path, "must be set", "name a Service");
    }
    let subset = written.subset.as_deref().filter(|name| !name.is_empty());
    DestinationFacts {
        host: resolve::qualify(&written.host, &meta.namespace, domain),
        subset: subset.map(Into::into),
        port: written.port.as_ref().map(|port| port.number),
        weight: 1,
        edits: None,
        rewrite: None,
        field,
    }
}
