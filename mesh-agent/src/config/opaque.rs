// SPDX-License-Identifier: Apache-2.0

//! `tls` and `tcp` of a VirtualService: checked, with compiled conditions, not yet resolved.
//!
//! Reference: Istio `pkg/config/validation/virtualservice.go` (`validateTLSRoute`,
//! `validateTCPRoute`).

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{
    facts::{Findings, Meta},
    gaps,
    istio::{RouteDestination, TcpRoute, TlsRoute, VirtualServiceSpec},
    resolve,
    virtual_service::{self, DestinationFacts},
};
use crate::model::{NamePattern, OpaqueMatch};

/// One entry of `tls` or `tcp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpaqueRuleFacts {
    /// Whether it is one of `tls`.
    pub(super) tls: bool,
    /// Its place in the list.
    pub(super) index: usize,
    pub(super) name: Arc<str>,
    /// Destination port (any if `None`) and conditions; none at all is a catch-all.
    pub(super) matches: Vec<(Option<u16>, OpaqueMatch)>,
    pub(super) destinations: Vec<DestinationFacts>,
}

/// Reads both lists, `tls` first.
pub(super) fn read(
    spec: &VirtualServiceSpec,
    meta: &Meta,
    domain: &str,
    findings: &mut Findings,
) -> Vec<OpaqueRuleFacts> {
    let qualify = |host: &String| resolve::qualify(host, &meta.namespace, domain);
    let hosts: Vec<NamePattern> = spec
        .hosts
        .iter()
        .flat_map(|host| [NamePattern::new(host), NamePattern::new(&qualify(host))])
        .collect();
    let mut reader = Reader {
        meta,
        domain,
        hosts,
        findings,
    };
    let tls = spec.tls.iter().enumerate();
    let mut rules: Vec<OpaqueRuleFacts> = tls.filter_map(|it| reader.tls(it)).collect();
    let tcp = spec.tcp.iter().enumerate();
    rules.extend(tcp.filter_map(|it| reader.tcp(it)));
    if spec.hosts.is_empty() && !rules.is_empty() {
        let text = "a VirtualService without hosts offers http rules to others, nothing else";
        reader.findings.reject("spec.hosts", text, "name hosts");
    }
    rules
}

struct Reader<'a> {
    meta: &'a Meta,
    domain: &'a str,
    /// Those of the VirtualService, as written and qualified.
    hosts: Vec<NamePattern>,
    findings: &'a mut Findings,
}

/// What matches of both lists have in common.
struct Common<'w> {
    port: Option<u16>,
    subnets: &'w [String],
    labels: &'w BTreeMap<String, String>,
    gateways: &'w [String],
    namespace: &'w str,
}

impl Reader<'_> {
    fn tls(&mut self, (index, rule): (usize, &TlsRoute)) -> Option<OpaqueRuleFacts> {
        let path = format!("spec.tls[{index}]");
        if rule.matches.is_empty() {
            let text = "a rule for TLS must say for which names";
            self.findings
                .reject(format!("{path}.match"), text, "add match with sniHosts");
        }
        let mut matches = Vec::new();
        for (at, one) in rule.matches.iter().enumerate() {
            let path = format!("{path}.match[{at}]");
            let names = self.names(&one.sni_hosts, &path);
            let common = Common {
                port: one.port,
                subnets: &one.destination_subnets,
                labels: &one.source_labels,
                gateways: &one.gateways,
                namespace: &one.source_namespace,
            };
            let read = self.condition(&common, &path);
            matches.extend(read.map(|(port, condition)| {
                let names = Some(names);
                (port, OpaqueMatch { names, ..condition })
            }));
        }
        // All are about gateways.
        if matches.is_empty() && !rule.matches.is_empty() {
            return None;
        }
        Some(self.rule(true, index, matches, &rule.route, &path))
    }

    fn tcp(&mut self, (index, rule): (usize, &TcpRoute)) -> Option<OpaqueRuleFacts> {
        let path = format!("spec.tcp[{index}]");
        let mut matches = Vec::new();
        for (at, one) in rule.matches.iter().enumerate() {
            let path = format!("{path}.match[{at}]");
            let fields = [(gaps::SOURCE_SUBNET, one.source_subnet)];
            self.findings.gaps(&path, &fields);
            let common = Common {
                port: one.port,
                subnets: &one.destination_subnets,
                labels: &one.source_labels,
                gateways: &one.gateways,
                namespace: &one.source_namespace,
            };
            matches.extend(self.condition(&common, &path));
        }
        if matches.is_empty() && !rule.matches.is_empty() {
            return None;
        }
        Some(self.rule(false, index, matches, &rule.route, &path))
    }

    /// The names of a match, each of which must be one of the hosts.
    fn names(&mut self, written: &[String], path: &str) -> Vec<NamePattern> {
        let path = format!("{path}.sniHosts");
        if written.is_empty() {
            self.findings.reject(&path, "must be set", "name a host");
        }
        let mut names = Vec::new();
        for host in written {
            let name = NamePattern::new(host);
            let misplaced = host.trim_start_matches('*').contains('*') || host.is_empty();
            if misplaced {
                let text = format!("{host:?} is no host name");
                self.findings
                    .reject(&path, text, "write a name, *.name or *");
            } else if !self.hosts.iter().any(|known| known.covers(&name)) {
                let text = format!("{host} is none of spec.hosts");
                self.findings.reject(&path, text, "add it to spec.hosts");
            }
            names.push(name);
        }
        names
    }

    /// The port and conditions of a match, unless it is about gateways only.
    fn condition(
        &mut self,
        written: &Common<'_>,
        path: &str,
    ) -> Option<(Option<u16>, OpaqueMatch)> {
        let mesh = |name: &String| name == "mesh";
        if !written.gateways.is_empty() && !written.gateways.iter().any(mesh) {
            return None;
        }
        let mut destinations = Vec::new();
        for subnet in written.subnets {
            let net = subnet.parse::<IpNet>();
            match net.or_else(|_| subnet.parse::<IpAddr>().map(IpNet::from)) {
                Ok(net) => destinations.push(net),
                Err(_) => {
                    let text = format!("{subnet:?} is neither a subnet nor an address");
                    let field = format!("{path}.destinationSubnets");
                    self.findings.reject(field, text, "write it as 10.0.0.0/8");
                }
            }
        }
        let namespace = written.namespace;
        let labels = written.labels.iter();
        let condition = OpaqueMatch {
            names: None,
            destinations,
            source_labels: labels
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            source_namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
        };
        Some((written.port, condition))
    }

    fn rule(
        &mut self,
        tls: bool,
        index: usize,
        matches: Vec<(Option<u16>, OpaqueMatch)>,
        route: &[RouteDestination],
        path: &str,
    ) -> OpaqueRuleFacts {
        let weights = route.iter().map(|one| u64::from(one.weight.unwrap_or(0)));
        let field = format!("{path}.route");
        if route.is_empty() {
            self.findings
                .reject(field, "must have a destination", "add one");
        } else if route.len() > 1 && weights.sum::<u64>() == 0 {
            let text = "the weights of the destinations add up to 0";
            let fix = "give at least one destination a weight";
            self.findings.reject(field, text, fix);
        }
        let mut destinations = Vec::with_capacity(route.len());
        for (at, one) in route.iter().enumerate() {
            let field = format!("{path}.route[{at}].destination");
            let (meta, domain) = (self.meta, self.domain);
            let facts =
                virtual_service::destination(&one.destination, field, meta, domain, self.findings);
            destinations.push(DestinationFacts {
                // The weight of a single destination does not count.
                weight: match route.len() {
                    1 => 1,
                    _ => one.weight.unwrap_or(0),
                },
                ..facts
            });
        }
        let list = if tls { "tls" } else { "tcp" };
        OpaqueRuleFacts {
            tls,
            index,
            name: format!("{}#{list}-{index}", self.meta.name).into(),
            matches,
            destinations,
        }
    }
}
