// SPDX-License-Identifier: Apache-2.0

//! Rules that a VirtualService leaves to another one, put in their place.
//!
//! A delegate's rule decides where both it and the root's rule match; what it does not say it
//! inherits. Reference: Istio `pilot/pkg/model/virtualservice.go` (`mergeHTTPRoute`,
//! `mergeHTTPMatchRequests`, `hasConflict`).

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    facts::{Findings, Name, Shelf},
    istio::{HeaderOperations, Headers, HttpMatchRequest, HttpRoute, StringMatch},
    problem::{Origin, Problem, Severity, code},
    resolve,
    virtual_service::{self, Action, RuleFacts, VirtualServiceFacts},
};

/// A VirtualService with its delegates' rules in place.
pub(super) type Whole<'a> = (Cow<'a, VirtualServiceFacts>, &'a Origin);

/// All VirtualServices, whole.
pub(super) fn expand<'a>(
    shelf: &'a Shelf<VirtualServiceFacts>,
    domain: &str,
    problems: &mut BTreeSet<Problem>,
) -> Vec<Whole<'a>> {
    let delegates = |rule: &RuleFacts| matches!(rule.action, Action::Delegate(_));
    let whole = |(facts, origin): (&'a VirtualServiceFacts, &'a Origin)| {
        if !facts.rules.iter().any(delegates) {
            return (Cow::Borrowed(facts), origin);
        }
        let mut expander = Expander {
            shelf,
            domain,
            root: facts,
            origin,
            problems,
        };
        let rules = facts.rules.iter().flat_map(|rule| expander.rule(rule));
        let rules = rules.collect();
        let whole = VirtualServiceFacts {
            rules,
            ..facts.clone()
        };
        (Cow::Owned(whole), origin)
    };
    shelf.iter().map(whole).collect()
}

/// Whether rules of `root` are left to the VirtualService of this name.
pub(super) fn leaves_to(root: &VirtualServiceFacts, (namespace, name): &Name) -> bool {
    root.rules.iter().any(|rule| match &rule.action {
        Action::Delegate(written) => written.delegate.as_ref().is_some_and(|wanted| {
            let own = wanted.namespace.is_empty() && root.meta.namespace == *namespace;
            *wanted.name == **name && (own || *wanted.namespace == **namespace)
        }),
        _ => false,
    })
}

struct Expander<'e, 'a> {
    shelf: &'a Shelf<VirtualServiceFacts>,
    domain: &'e str,
    root: &'a VirtualServiceFacts,
    origin: &'a Origin,
    problems: &'e mut BTreeSet<Problem>,
}

impl Expander<'_, '_> {
    fn rule(&mut self, rule: &RuleFacts) -> Vec<RuleFacts> {
        let Action::Delegate(written) = &rule.action else {
            return vec![rule.clone()];
        };
        let field = format!("spec.http[{}].delegate", rule.index);
        let wanted = written.delegate.clone().unwrap_or_default();
        let namespace: Arc<str> = match wanted.namespace.as_str() {
            "" => Arc::clone(&self.root.meta.namespace),
            namespace => namespace.into(),
        };
        let key = (Arc::clone(&namespace), Arc::from(wanted.name.as_str()));
        let found = self.shelf.find(&key).map(|(facts, _)| facts);
        let root = &*self.root.meta.namespace;
        let usable =
            found.filter(|other| other.hosts.is_empty() && other.visibility.allows(Some(root)));
        let Some(delegate) = usable else {
            let text = format!(
                "there is no VirtualService {namespace}/{} without hosts that is exported to here",
                wanted.name
            );
            self.report(
                &field,
                format!("{text}: matching requests are answered with 500"),
            );
            return vec![RuleFacts {
                action: Action::Refuse(format!("{}: {field}: {text}", self.root.meta.name).into()),
                ..rule.clone()
            }];
        };
        let mut rules = Vec::new();
        let root = qualified(written, root, self.domain);
        for (nth, own) in delegate.offered.iter().enumerate() {
            let own = qualified(own, &namespace, self.domain);
            let Some(merged) = merge(&root, own) else {
                let text = format!(
                    "spec.http[{nth}] of {namespace}/{} matches what this rule does not: it is left out",
                    wanted.name
                );
                self.report(&field, text);
                continue;
            };
            // What is wrong with either was said where it is written.
            let mut unheard = Findings::new(
                self.root.meta.to_ref("VirtualService"),
                Origin::clone(self.origin),
            );
            // Apart from the places of all other rules.
            let index = rule.index + (nth + 1) * 10_000;
            let meta = &self.root.meta;
            let read = virtual_service::rule(meta, self.domain, index, &merged, &mut unheard);
            rules.extend(read.filter(|_| !unheard.rejected));
        }
        rules
    }

    fn report(&mut self, field: &str, text: String) {
        self.problems.insert(Problem {
            severity: Severity::Error,
            code: code::REFERENCE,
            object: Some(self.root.meta.to_ref("VirtualService")),
            origin: Origin::clone(self.origin),
            field: field.to_owned(),
            text,
            fix: "name a VirtualService without hosts, and match no more there than here"
                .to_owned(),
        });
    }
}

/// The rule with hosts that mean the same in every namespace.
fn qualified(rule: &HttpRoute, namespace: &str, domain: &str) -> HttpRoute {
    let mut rule = rule.clone();
    let routed = rule.route.iter_mut().map(|one| &mut one.destination);
    let copied = rule.mirrors.iter_mut().map(|one| &mut one.destination);
    for destination in routed.chain(copied).chain(&mut rule.mirror) {
        destination.host = resolve::qualify(&destination.host, namespace, domain).to_string();
    }
    rule
}

/// What `own` is within `root`; `None` if it matches what that does not.
fn merge(root: &HttpRoute, own: HttpRoute) -> Option<HttpRoute> {
    let matches = match (root.matches.as_slice(), own.matches.as_slice()) {
        ([], _) => own.matches.clone(),
        (_, []) => root.matches.clone(),
        (wider, narrower) => {
            let mut merged = Vec::new();
            for one in narrower {
                let within: Vec<_> = wider.iter().filter_map(|root| narrow(root, one)).collect();
                if within.is_empty() {
                    return None;
                }
                merged.extend(within);
            }
            merged
        }
    };
    let name = match (root.name.as_str(), own.name.as_str()) {
        ("", own) => own.to_owned(),
        (root, "") => root.to_owned(),
        (root, own) => format!("{root}-{own}"),
    };
    let sends = own.redirect.is_none() && own.direct_response.is_none();
    let mirrored = own.mirror.is_some() || !own.mirrors.is_empty();
    let (mirror, mirrors, percentage, percent) = if mirrored {
        (
            own.mirror,
            own.mirrors,
            own.mirror_percentage,
            own.mirror_percent,
        )
    } else {
        (
            root.mirror.clone(),
            root.mirrors.clone(),
            root.mirror_percentage,
            root.mirror_percent,
        )
    };
    Some(HttpRoute {
        name,
        matches,
        headers: headers(root.headers.as_ref(), own.headers.as_ref()),
        rewrite: own
            .rewrite
            .or_else(|| root.rewrite.clone().filter(|_| sends)),
        fault: own.fault.or_else(|| root.fault.clone().filter(|_| sends)),
        timeout: own.timeout.or_else(|| root.timeout.clone()),
        retries: own.retries.or_else(|| root.retries.clone()),
        cors_policy: own.cors_policy.or_else(|| root.cors_policy.clone()),
        mirror,
        mirrors,
        mirror_percentage: percentage,
        mirror_percent: percent,
        ..own
    })
}

/// Both; of one name, what `own` says.
fn headers(root: Option<&Headers>, own: Option<&Headers>) -> Option<Headers> {
    let both = |root: Option<&HeaderOperations>, own: Option<&HeaderOperations>| {
        let (root, own) = match (root, own) {
            (Some(root), Some(own)) => (root.clone(), own.clone()),
            (one, other) => return one.or(other).cloned(),
        };
        Some(HeaderOperations {
            set: root.set.into_iter().chain(own.set).collect(),
            add: root.add.into_iter().chain(own.add).collect(),
            remove: root.remove.into_iter().chain(own.remove).collect(),
        })
    };
    match (root, own) {
        (Some(root), Some(own)) => Some(Headers {
            request: both(root.request.as_ref(), own.request.as_ref()),
            response: both(root.response.as_ref(), own.response.as_ref()),
        }),
        (one, other) => one.or(other).cloned(),
    }
}

/// What meets both; `None` if `own` may be met by what `root` is not.
fn narrow(root: &HttpMatchRequest, own: &HttpMatchRequest) -> Option<HttpMatchRequest> {
    let text = |root: &Option<StringMatch>, own: &Option<StringMatch>| match (root, own) {
        (Some(root), Some(own)) => within(root, own).then(|| Some(own.clone())),
        (one, other) => Some(other.clone().or_else(|| one.clone())),
    };
    let same = |root: &str, own: &str| root.is_empty() || own.is_empty() || root == own;
    let labels = root.source_labels.iter();
    let agree = labels
        .clone()
        .all(|(key, value)| own.source_labels.get(key).is_none_or(|own| own == value));
    if !agree
        || !same(&root.source_namespace, &own.source_namespace)
        || root
            .port
            .zip(own.port)
            .is_some_and(|(root, own)| root != own)
    {
        return None;
    }
    let labels = labels.map(|(key, value)| (key.clone(), value.clone()));
    Some(HttpMatchRequest {
        uri: text(&root.uri, &own.uri)?,
        scheme: text(&root.scheme, &own.scheme)?,
        method: text(&root.method, &own.method)?,
        authority: text(&root.authority, &own.authority)?,
        headers: maps(&root.headers, &own.headers)?,
        without_headers: maps(&root.without_headers, &own.without_headers)?,
        query_params: maps(&root.query_params, &own.query_params)?,
        port: own.port.or(root.port),
        source_labels: own
            .source_labels
            .clone()
            .into_iter()
            .chain(labels)
            .collect(),
        source_namespace: match own.source_namespace.as_str() {
            "" => root.source_namespace.clone(),
            own => own.to_owned(),
        },
        gateways: root.gateways.clone(),
        ignore_uri_case: root.ignore_uri_case || own.ignore_uri_case,
        name: own.name.clone(),
        ..HttpMatchRequest::default()
    })
}

type Conditions = BTreeMap<String, Option<StringMatch>>;

fn maps(root: &Conditions, own: &Conditions) -> Option<Conditions> {
    let mut merged = root.clone();
    for (name, condition) in own {
        match (root.get(name), condition) {
            (Some(Some(wider)), Some(own)) if !within(wider, own) => return None,
            (Some(Some(_)), None) => {}
            _ => {
                merged.insert(name.clone(), condition.clone());
            }
        }
    }
    Some(merged)
}

/// Whether all that meets `own` meets `root`, as far as that can be told.
fn within(root: &StringMatch, own: &StringMatch) -> bool {
    if root.regex.is_some() || own.regex.is_some() {
        return root == own;
    }
    match (
        &root.exact,
        &root.prefix,
        own.exact.as_ref(),
        own.prefix.as_ref(),
    ) {
        (Some(root), _, Some(own), _) => root == own,
        (Some(_), ..) => false,
        (None, Some(root), Some(own), _) | (None, Some(root), None, Some(own)) => {
            own.starts_with(root.as_str())
        }
        _ => true,
    }
}
