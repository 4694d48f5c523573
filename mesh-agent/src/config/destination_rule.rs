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
    istio::{ClientTlsMode, DestinationRuleSpec, Simple, TrafficPolicy},
    object::Resource,
    problem::{Severity, code},
    resolve::{self, HostPattern, Visibility},
};

/// What matters of a DestinationRule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DestinationRuleFacts {
    pub(super) meta: Meta,
    pub(super) host: HostPattern,
    pub(super) visibility: Visibility,
    pub(super) subsets: Vec<SubsetFacts>,
}

/// A named part of a Service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SubsetFacts {
    pub(super) name: Arc<str>,
    pub(super) labels: BTreeMap<String, String>,
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
                "not supported yet: a rule for some clients only would be used for all",
                "remove the field, or the rule",
            );
        }
        if let Some(policy) = &spec.traffic_policy {
            traffic_policy(policy, "spec.trafficPolicy", findings);
        }
        for (index, subset) in spec.subsets.iter().enumerate() {
            let path = format!("spec.subsets[{index}]");
            if subset.name.is_empty() {
                findings.reject(format!("{path}.name"), "must be set", "name the subset");
            }
            if let Some(policy) = &subset.traffic_policy {
                traffic_policy(policy, &format!("{path}.trafficPolicy"), findings);
            }
        }
        let subset = |subset: &super::istio::Subset| SubsetFacts {
            name: subset.name.as_str().into(),
            labels: subset.labels.clone(),
        };
        Self {
            host: HostPattern::new(&resolve::qualify(&spec.host, &meta.namespace, domain)),
            visibility: Visibility::new(&spec.export_to, &meta.namespace),
            subsets: spec.subsets.iter().map(subset).collect(),
            meta,
        }
    }
}

/// Reports what of a traffic policy has no effect.
fn traffic_policy(policy: &TrafficPolicy, path: &str, findings: &mut Findings) {
    let fields = [
        ("connectionPool", policy.connection_pool),
        ("outlierDetection", policy.outlier_detection),
        ("portLevelSettings", policy.port_level_settings),
        ("tunnel", policy.tunnel),
        ("proxyProtocol", policy.proxy_protocol),
        ("retryBudget", policy.retry_budget),
    ];
    findings.unsupported(path, &fields, "the defaults apply");
    if let Some(balancer) = &policy.load_balancer {
        let path = format!("{path}.loadBalancer");
        let what = "endpoints are chosen by least requests of two";
        let fields = [
            ("consistentHash", balancer.consistent_hash),
            ("localityLbSetting", balancer.locality_lb_setting),
            ("zoneAwareLbSetting", balancer.zone_aware_lb_setting),
            ("warmup", balancer.warmup),
            ("warmupDurationSecs", balancer.warmup_duration_secs),
        ];
        findings.unsupported(&path, &fields, what);
        let other = matches!(
            balancer.simple,
            Some(Simple::Random | Simple::RoundRobin | Simple::Passthrough)
        );
        findings.unsupported(&path, &[("simple", super::object::Present(other))], what);
    }
    if let Some(tls) = &policy.tls
        && matches!(
            tls.mode,
            Some(ClientTlsMode::Simple | ClientTlsMode::Mutual)
        )
    {
        findings.add(
            Severity::Error,
            code::UNSUPPORTED,
            format!("{path}.tls.mode"),
            "not supported yet: TLS is not originated for the application; between enrolled pods \
             traffic is mutual TLS in any mode",
            "use ISTIO_MUTUAL or DISABLE inside the mesh",
        );
    }
}

/// The rules of one namespace for one host, merged.
#[derive(Clone, Debug)]
pub(super) struct Merged<'a> {
    /// All subsets; of several with one name the oldest rule's.
    pub(super) subsets: Vec<(&'a SubsetFacts, &'a Meta)>,
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
            subsets: Vec::new(),
        };
        let same_host = matching.filter(|rule| rule.host == first.host);
        for rule in std::iter::once(&first).chain(same_host) {
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

    /// The namespaces whose clients may use other rules for `hostname` than everybody else.
    pub(super) fn special_namespaces(&self, hostname: &str) -> impl Iterator<Item = &Arc<str>> {
        let all = self.by_namespace.values().flatten();
        all.filter(move |rule| rule.host.matches(hostname))
            .flat_map(|rule| rule.visibility.named().chain([&rule.meta.namespace]))
    }
}
