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
    problem::{Severity, code},
    resolve::{self, HostPattern, Visibility},
    selection::has_labels,
    traffic_policy::{self, PolicyFacts},
    views::Viewer,
};
use crate::model::{ObjectRef, UpstreamPolicy};

/// What matters of a DestinationRule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DestinationRuleFacts {
    pub(super) meta: Meta,
    pub(super) host: HostPattern,
    pub(super) visibility: Visibility,
    /// Which pods of its namespace it is for; for all clients if empty.
    pub(super) selector: BTreeMap<String, String>,
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
        let selector = spec.workload_selector.clone().unwrap_or_default();
        let selector = selector.match_labels;
        let everywhere = ["."].map(str::to_owned);
        let export_to = match selector.is_empty() {
            true => &spec.export_to[..],
            false => {
                local_only(spec, findings);
                &everywhere
            }
        };
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
            visibility: Visibility::new(export_to, &meta.namespace),
            selector,
            policy,
            subsets,
            meta,
        }
    }
}

/// Says so if a rule for some pods of its namespace is exported.
fn local_only(spec: &DestinationRuleSpec, findings: &mut Findings) {
    if spec.export_to.iter().any(|namespace| namespace != ".") {
        findings.add(
            Severity::Warning,
            code::WITHOUT_EFFECT,
            "spec.exportTo",
            "a rule with a workloadSelector is for clients of its own namespace only, as in Istio",
            "remove the field, or write a rule into each namespace",
        );
    }
}

impl DestinationRuleFacts {
    /// Whether it is for some clients only, those with these labels among them.
    pub(super) fn is_for(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.selector.is_empty() && has_labels(labels, &self.selector)
    }

    /// Whether `viewer` is among the clients that it is for.
    fn counts_for(&self, viewer: Option<&Viewer>) -> bool {
        let chosen = |viewer: &Viewer| {
            viewer.namespace == self.meta.namespace && viewer.rules().contains(&self.meta.name)
        };
        self.selector.is_empty() || viewer.is_some_and(chosen)
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
    /// By namespace; in each, the most specific host first, then those for some clients, then the oldest.
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
                    .then_with(|| a.selector.is_empty().cmp(&b.selector.is_empty()))
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
        client: Option<&Viewer>,
        hostname: &str,
        service_namespace: &str,
    ) -> Option<Merged<'a>> {
        let namespace = client.map(|client| &*client.namespace);
        let own = namespace.filter(|own| *own != self.root_namespace);
        let counts = |rule: &DestinationRuleFacts| rule.counts_for(client);
        let in_own = own.and_then(|own| self.in_namespace(own, hostname, counts));
        let exported =
            |rule: &DestinationRuleFacts| rule.visibility.allows(namespace) && counts(rule);
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
        let same_host =
            matching.filter(|rule| rule.host == first.host && rule.selector == first.selector);
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
        client: Option<&Viewer>,
        (hostname, namespace): (&str, &str),
        port: u16,
    ) -> Option<(UpstreamPolicy, ObjectRef)> {
        self.find(client, hostname, namespace)?.upstream(None, port)
    }

    /// The namespaces whose clients may have another policy for `hostname` than everybody else.
    pub(super) fn special_policies(&self, hostname: &str) -> impl Iterator<Item = &Arc<str>> {
        let all = self.for_all();
        let shaping = all.filter(|rule| rule.policy.is_some() && rule.host.matches(hostname));
        shaping.flat_map(|rule| rule.visibility.named().chain([&rule.meta.namespace]))
    }

    /// The namespaces whose clients may use other rules for `hostname` than everybody else.
    pub(super) fn special_namespaces(&self, hostname: &str) -> impl Iterator<Item = &Arc<str>> {
        let all = self.for_all();
        all.filter(move |rule| rule.host.matches(hostname))
            .flat_map(|rule| rule.visibility.named().chain([&rule.meta.namespace]))
    }

    /// Those that are not for some clients of a namespace only.
    fn for_all(&self) -> impl Iterator<Item = &&'a DestinationRuleFacts> {
        let all = self.by_namespace.values().flatten();
        all.filter(|rule| rule.selector.is_empty())
    }

    /// Whether a rule for some clients, `viewer` among them, is about `hostname`.
    pub(super) fn singles_out(&self, viewer: &Viewer, hostname: &str) -> bool {
        let own = self.by_namespace.get(&*viewer.namespace);
        let mut own = own.into_iter().flatten();
        own.any(|rule| {
            !rule.selector.is_empty()
                && rule.counts_for(Some(viewer))
                && rule.host.matches(hostname)
        })
    }
}
