// SPDX-License-Identifier: Apache-2.0

//! What matters of a DestinationRule, and which one a client's namespace uses for a host.
//!
//! Reference: Istio `pilot/pkg/model/push_context.go` `destinationRule()`: the client's namespace,
//! then the Service's, then the root namespace; the first that has a match decides alone.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    facts::{Findings, Meta},
    istio::DestinationRuleSpec,
    locality,
    object::Resource,
    resolve::{self, HostPattern, Visibility},
    traffic_policy::{self, PolicyFacts},
};
use crate::model::{ObjectRef, UpstreamPolicy};

/// What matters of a DestinationRule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DestinationRuleFacts {
    pub(super) meta: Meta,
    pub(super) host: HostPattern,
    pub(super) visibility: Visibility,
    pub(super) policy: Option<PolicyFacts>,
    pub(super) subsets: Vec<SubsetFacts>,
}

/// A named part of a Service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SubsetFacts {
    pub(super) name: Arc<str>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) policy: Option<PolicyFacts>,
}

impl DestinationRuleFacts {
    pub(super) fn new(
        object: &Resource<DestinationRuleSpec>,
        domain: &str,
        findings: &mut Findings,
    ) -> Self {
        let meta = Meta::new(&object.metadata);
        let spec = &object.spec;
        if spec.host.is_empty() {
            findings.reject("spec.host", "must be set", "name a Service");
        }
        if spec.workload_selector.0 {
            findings.reject(
                "spec.workloadSelector",
                "not supported: a rule for some clients only would be used for all",
                "remove the field, or the rule",
            );
        }
        locality::report_unwatched(spec, findings);
        let policy = spec.traffic_policy.as_ref();
        let policy =
            policy.map(|policy| traffic_policy::read(policy, "spec.trafficPolicy", findings));
        let mut subsets = Vec::with_capacity(spec.subsets.len());
        for (index, subset) in spec.subsets.iter().enumerate() {
            let path = format!("spec.subsets[{index}]");
            if subset.name.is_empty() {
                findings.reject(format!("{path}.name"), "must be set", "name the subset");
            }
            let policy = subset.traffic_policy.as_ref().map(|policy| {
                traffic_policy::read(policy, &format!("{path}.trafficPolicy"), findings)
            });
            subsets.push(SubsetFacts {
                name: subset.name.as_str().into(),
                labels: subset.labels.clone(),
                policy,
            });
        }
        Self {
            host: HostPattern::new(&resolve::qualify(&spec.host, &meta.namespace, domain)),
            visibility: Visibility::new(&spec.export_to, &meta.namespace),
            policy,
            subsets,
            meta,
        }
    }
}

/// The rules of one namespace for one host, merged.
#[derive(Clone, Debug)]
pub(super) struct Merged<'a> {
    /// The oldest rule's that has one.
    policy: Option<(&'a PolicyFacts, &'a Meta)>,
    /// All subsets; of several with one name the oldest rule's.
    pub(super) subsets: Vec<(&'a SubsetFacts, &'a Meta)>,
}

impl Merged<'_> {
    /// How the endpoints of `port`, or of a subset of it, are used, and which rule says so; `None`
    /// if that is as it is without a rule.
    pub(super) fn upstream(
        &self,
        subset: Option<(&SubsetFacts, &Meta)>,
        port: u16,
    ) -> Option<(UpstreamPolicy, ObjectRef)> {
        let general = self.policy.map(|(policy, _)| policy);
        let own = subset.and_then(|(subset, _)| subset.policy.as_ref());
        let policy = traffic_policy::effective(general, own, port)?;
        let meta = subset
            .map(|(_, meta)| meta)
            .or(self.policy.map(|(_, meta)| meta))?;
        Some((policy, meta.to_ref("DestinationRule")))
    }
}

/// Finds the rules for a client and a host.
pub(super) struct Rules<'a> {
    root_namespace: &'a str,
    /// By namespace; in each, the most specific host first, then the oldest.
    by_namespace: HashMap<&'a str, Vec<&'a DestinationRuleFacts>>,
}

impl<'a> Rules<'a> {
    pub(super) fn new(
        rules: impl Iterator<Item = &'a DestinationRuleFacts>,
        root_namespace: &'a str,
    ) -> Self {
        let mut by_namespace: HashMap<&str, Vec<&DestinationRuleFacts>> = HashMap::new();
        for rule in rules {
            by_namespace
                .entry(&rule.meta.namespace)
                .or_default()
                .push(rule);
        }
        for rules in by_namespace.values_mut() {
            rules.sort_by(|a, b| {
                b.host
                    .cmp(&a.host)
                    .then_with(|| a.meta.seniority().cmp(&b.meta.seniority()))
            });
        }
        Self {
            root_namespace,
            by_namespace,
        }
    }

    /// What clients in `client` (`None`: a namespace that no object names) use for `hostname`, a
    /// Service of `service_namespace`.
    pub(super) fn find(
        &self,
        client: Option<&str>,
        hostname: &str,
        service_namespace: &str,
    ) -> Option<Merged<'a>> {
        let own = client.filter(|client| *client != self.root_namespace);
        let in_own = own.and_then(|client| self.in_namespace(client, hostname, |_| true));
        let exported = |rule: &DestinationRuleFacts| rule.visibility.allows(client);
        in_own
            .or_else(|| self.in_namespace(service_namespace, hostname, exported))
            .or_else(|| self.in_namespace(self.root_namespace, hostname, exported))
    }

    fn in_namespace(
        &self,
        namespace: &str,
        hostname: &str,
        usable: impl Fn(&DestinationRuleFacts) -> bool,
    ) -> Option<Merged<'a>> {
        let rules = self.by_namespace.get(namespace)?;
        let mut matching = rules
            .iter()
            .filter(|rule| rule.host.matches(hostname) && usable(rule));
        let first = *matching.next()?;
        let mut merged = Merged {
            policy: None,
            subsets: Vec::new(),
        };
        let same_host = matching.filter(|rule| rule.host == first.host);
        for rule in std::iter::once(&first).chain(same_host) {
            let own = rule.policy.as_ref().map(|policy| (policy, &rule.meta));
            merged.policy = merged.policy.or(own);
            for subset in &rule.subsets {
                if merged
                    .subsets
                    .iter()
                    .all(|(known, _)| known.name != subset.name)
                {
                    merged.subsets.push((subset, &rule.meta));
                }
            }
        }
        Some(merged)
    }

    /// How clients in `client` use the endpoints of a Service's port, if a rule says so.
    pub(super) fn upstream(
        &self,
        client: Option<&str>,
        (hostname, namespace): (&str, &str),
        port: u16,
    ) -> Option<(UpstreamPolicy, ObjectRef)> {
        self.find(client, hostname, namespace)?.upstream(None, port)
    }

    /// The namespaces whose clients may have another policy for `hostname` than everybody else.
    pub(super) fn special_policies(&self, hostname: &str) -> impl Iterator<Item = &Arc<str>> {
        let all = self.by_namespace.values().flatten();
        let shaping = all.filter(|rule| rule.policy.is_some() && rule.host.matches(hostname));
        shaping.flat_map(|rule| rule.visibility.named().chain([&rule.meta.namespace]))
    }

    /// The namespaces whose clients may use other rules for `hostname` than everybody else.
    pub(super) fn special_namespaces(&self, hostname: &str) -> impl Iterator<Item = &Arc<str>> {
        let all = self.by_namespace.values().flatten();
        all.filter(move |rule| rule.host.matches(hostname))
            .flat_map(|rule| rule.visibility.named().chain([&rule.meta.namespace]))
    }
}
