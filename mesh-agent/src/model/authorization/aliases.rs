// SPDX-License-Identifier: Apache-2.0

//! Policies where the own trust domain has several names: a principal that names one of them names all.
//!
//! Done once per policy, so that its evaluation knows nothing of aliases. As in Istio, a principal
//! whose trust domain is `*` or is not written is for all trust domains as it is, and `trustDomains` are
//! compared as they are written. Reference: istio `pilot/pkg/security/trustdomain/bundle.go`.

use std::sync::Arc;

use super::{Clause, Condition, Pattern, Policy, Rule, Source};
use crate::model::trust_domains::TrustDomains;

/// The parts of a whole principal: `<trust domain>/ns/<namespace>/sa/<service account>`.
const PARTS: usize = 5;

impl Policy {
    /// The policy with every principal of the own trust domain by all of its names; the same one if that
    /// makes no difference.
    pub fn known_by(self: &Arc<Self>, domains: &TrustDomains) -> Arc<Self> {
        if domains.aliases().is_empty() {
            return Arc::clone(self);
        }
        let rules: Vec<Rule> = self
            .rules
            .iter()
            .map(|rule| rule_by(rule, domains))
            .collect();
        if rules == self.rules {
            return Arc::clone(self);
        }
        let this = Self::clone(self);
        Arc::new(Self { rules, ..this })
    }
}

fn rule_by(rule: &Rule, domains: &TrustDomains) -> Rule {
    let mut rule = rule.clone();
    let of_conditions = rule.conditions.iter_mut().filter_map(|one| match one {
        Condition::Source(source) => Some(source),
        Condition::DestinationAddress(_)
        | Condition::DestinationPort(_)
        | Condition::Header(..)
        | Condition::Token(..)
        | Condition::Unknowable => None,
    });
    for source in rule.sources.iter_mut().chain(of_conditions) {
        source_by(source, domains);
    }
    rule
}

fn source_by(source: &mut Source, domains: &TrustDomains) {
    let Clause { any, none } = &mut source.principals;
    for side in [any, none] {
        let others: Vec<Pattern> = side.iter().flat_map(|one| others(one, domains)).collect();
        for other in others {
            if !side.contains(&other) {
                side.push(other);
            }
        }
    }
}

/// The same principal by the other names of the trust domain, if it names the own one.
fn others(principal: &Pattern, domains: &TrustDomains) -> Vec<Pattern> {
    let each = |named: &dyn Fn(&str) -> bool, make: &dyn Fn(&str) -> Pattern| {
        if !domains.names().any(named) {
            return Vec::new();
        }
        let unnamed = domains.names().filter(|name| !named(name));
        unnamed.map(make).collect()
    };
    match principal {
        Pattern::Present => Vec::new(),
        Pattern::Exact(text) => match text.split_once('/') {
            Some((domain, rest)) => each(&|name| name == domain, &|name| {
                Pattern::Exact(format!("{name}/{rest}"))
            }),
            None => Vec::new(),
        },
        Pattern::Prefix(text) => match text.split_once('/') {
            Some((domain, rest)) => each(&|name| name == domain, &|name| {
                Pattern::Prefix(format!("{name}/{rest}"))
            }),
            None => each(&|name| name.starts_with(text.as_str()), &|name| {
                Pattern::Prefix(format!("{name}/"))
            }),
        },
        Pattern::Suffix(text) => match text.split_once('/') {
            Some((end, rest)) if !end.is_empty() && text.split('/').count() == PARTS => {
                each(&|name| name.ends_with(end), &|name| {
                    Pattern::Exact(format!("{name}/{rest}"))
                })
            }
            Some(_) | None => Vec::new(),
        },
    }
}
