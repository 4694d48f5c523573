// SPDX-License-Identifier: Apache-2.0

//! What matters of a ServiceEntry: each of its hosts as if it were a Service, and where its
//! endpoints are to be found.
//!
//! Knows nothing of pods, or of what names resolve to. Reference: istio/api
//! `networking/v1alpha3/service_entry.proto`; Istio `pkg/config/validation` (`ValidateServiceEntry`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    facts::{Findings, Meta},
    gaps,
    istio::{EntryPort, Resolution, ServiceEntrySpec},
    object::Resource,
    problem::{Severity, code},
    resolve::Visibility,
    service::{self, PortFacts, Reach, ServiceFacts, Target},
    workload_entry::{EntryEndpoint, Place},
};

/// What matters of a ServiceEntry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceEntryFacts {
    pub(super) meta: Meta,
    /// What each host is as a Service; its name is the host.
    pub(super) hosts: Vec<(Arc<str>, ServiceFacts)>,
    pub(super) source: Source,
}

/// Where the endpoints are to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// There are none: traffic goes on to where it was sent.
    Original,
    /// These.
    Listed(Vec<EntryEndpoint>),
    /// Where the host's name resolves to.
    Host,
    /// Pods and WorkloadEntries with these labels.
    Selected(BTreeMap<String, String>),
}

impl ServiceEntryFacts {
    pub(super) fn new(
        object: &Resource<ServiceEntrySpec>,
        trust_domain: &str,
        findings: &mut Findings,
    ) -> Self {
        let meta = Meta::new(&object.metadata);
        let spec = &object.spec;
        let mut reader = Reader {
            spec,
            meta: &meta,
            findings,
        };
        let (vips, ranges) = reader.addresses();
        let ports = reader.ports();
        let source = reader.source(trust_domain);
        reader.without_effect();
        let hosts = reader.hosts(&source);
        let names = spec.subject_alt_names.iter();
        let names: Vec<Arc<str>> = names.map(|name| name.as_str().into()).collect();
        let visibility = Visibility::new(&spec.export_to, &meta.namespace);
        let facts = |host: &Arc<str>| ServiceFacts {
            meta: Meta {
                name: Arc::clone(host),
                ..meta.clone()
            },
            vips: vips.clone(),
            headless: false,
            ports: ports.clone(),
            selector: BTreeMap::new(),
            publish_not_ready: false,
            alias: None,
            visibility: visibility.clone(),
            distribution: None,
            reach: Some(Reach {
                original: source == Source::Original,
                ranges: ranges.clone(),
                names: names.clone(),
            }),
        };
        Self {
            hosts: hosts
                .iter()
                .map(|host| (Arc::clone(host), facts(host)))
                .collect(),
            meta,
            source,
        }
    }
}

struct Reader<'r> {
    spec: &'r ServiceEntrySpec,
    meta: &'r Meta,
    findings: &'r mut Findings,
}

impl Reader<'_> {
    fn hosts(&mut self, source: &Source) -> BTreeSet<Arc<str>> {
        let mut hosts = BTreeSet::new();
        if self.spec.hosts.is_empty() {
            let text = "names no host";
            self.findings
                .reject("spec.hosts", text, "write at least one");
        }
        for (index, host) in self.spec.hosts.iter().enumerate() {
            let field = format!("spec.hosts[{index}]");
            let plain = host.strip_prefix("*.").unwrap_or(host);
            let fault = if plain.contains('*') || !plain.contains('.') || plain.starts_with('.') {
                "is no full host name: the mesh would take it for something else"
            } else if plain.len() < host.len() && *source == Source::Host {
                "cannot be resolved, as it stands for many names"
            } else {
                hosts.insert(host.to_ascii_lowercase().into());
                continue;
            };
            let fix = "write it as api.example.com, or *.example.com with resolution NONE";
            self.findings
                .reject(field, format!("{host:?} {fault}"), fix);
        }
        hosts
    }

    fn addresses(&mut self) -> (Vec<IpAddr>, Vec<IpNet>) {
        let (mut vips, mut ranges) = (Vec::new(), Vec::new());
        for (index, text) in self.spec.addresses.iter().enumerate() {
            let field = format!("spec.addresses[{index}]");
            let range = text.parse::<IpNet>();
            let single = text.parse().or_else(|_| match &range {
                Ok(range) if range.prefix_len() == range.max_prefix_len() => Ok(range.addr()),
                _ => Err(()),
            });
            match (single, range) {
                (Ok(address), _) if !vips.contains(&address) => vips.push(address),
                (Ok(_), _) => {}
                (Err(()), Ok(range)) => {
                    if matches!(
                        self.spec.resolution,
                        Resolution::Dns | Resolution::DnsRoundRobin
                    ) {
                        let text = "a range of addresses has no name to resolve";
                        let fix = "use resolution NONE or STATIC";
                        self.findings.reject(&*field, text, fix);
                    }
                    ranges.push(range.trunc());
                }
                (Err(()), Err(_)) => {
                    let text = format!("{text:?} is neither an IP address nor a range of them");
                    self.findings
                        .reject(field, text, "write it as 10.1.2.3 or 10.1.0.0/16");
                }
            }
        }
        (vips, ranges)
    }

    fn ports(&mut self) -> Vec<PortFacts> {
        let mut ports: Vec<PortFacts> = Vec::new();
        for (index, port) in self.spec.ports.iter().enumerate() {
            let field = format!("spec.ports[{index}]");
            if port.number == 0 || port.target_port == Some(0) {
                let text = "0 is not a port";
                self.findings.reject(field, text, "use 1 to 65535");
            } else if ports.iter().any(|known| known.number == port.number) {
                let text = format!("port {} is there twice", port.number);
                self.findings.reject(field, text, "remove one of them");
            } else if port.protocol.eq_ignore_ascii_case("UDP") {
                self.findings
                    .gap(&format!("{field}.protocol"), &gaps::ENTRY_UDP);
            } else {
                ports.push(port_facts(port));
            }
        }
        ports
    }

    fn source(&mut self, trust_domain: &str) -> Source {
        let spec = self.spec;
        let by_name = match spec.resolution {
            Resolution::None => {
                if !spec.endpoints.is_empty() {
                    let text = "resolution NONE sends traffic on to where it was sent";
                    let fix = "remove the endpoints, or use STATIC or DNS";
                    self.findings.reject("spec.endpoints", text, fix);
                }
                return Source::Original;
            }
            Resolution::DynamicDns => {
                let gap = gaps::DYNAMIC_DNS;
                self.findings.reject("spec.resolution", gap.text(), gap.fix);
                return Source::Original;
            }
            Resolution::Static => false,
            Resolution::Dns | Resolution::DnsRoundRobin => true,
        };
        if let Some(selector) = &spec.workload_selector {
            if !spec.endpoints.is_empty() {
                let text = "endpoints and workloadSelector exclude each other";
                self.findings.reject("spec.endpoints", text, "choose one");
            }
            return Source::Selected(selector.labels.clone());
        }
        if spec.endpoints.is_empty() && by_name {
            return Source::Host;
        }
        let mut listed = Vec::new();
        for (index, endpoint) in spec.endpoints.iter().enumerate() {
            let path = format!("spec.endpoints[{index}]");
            let name = format!("{}-{index}", self.meta.name);
            let name = (&*self.meta.namespace, &*name);
            let read = EntryEndpoint::new(endpoint, name, trust_domain, &path, self.findings);
            if let (Place::Name(name), false) = (&read.place, by_name) {
                let text = format!("{name:?} is no IP address, as STATIC asks for");
                let fix = "use resolution DNS, or write an address";
                self.findings.reject(format!("{path}.address"), text, fix);
            }
            listed.push(read);
        }
        Source::Listed(listed)
    }

    fn without_effect(&mut self) {
        if self.spec.ports.is_empty() {
            self.findings.add(
                Severity::Warning,
                code::WITHOUT_EFFECT,
                "spec.ports",
                "there are none: nothing that is sent to the hosts is looked at",
                "list the ports",
            );
        }
    }
}

fn port_facts(port: &EntryPort) -> PortFacts {
    let declared = Some(port.protocol.as_str()).filter(|protocol| !protocol.is_empty());
    PortFacts {
        number: port.number,
        name: port.name.as_str().into(),
        target: Target::Number(port.target_port.unwrap_or(port.number)),
        protocol: service::protocol(declared, &port.name),
    }
}
