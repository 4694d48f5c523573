// SPDX-License-Identifier: Apache-2.0

//! Which HTTP rules decide at a Service's port, for which clients.
//!
//! An HTTPRoute beats a VirtualService for the same Service and port. Consumer HTTPRoutes beat
//! producer ones for the clients of their namespace. Of several VirtualServices the most specific
//! host wins, then the oldest. Reference: GEP-1294; Istio `pilot/pkg/model/push_context.go` and
//! `pilot/pkg/networking/core/route/route.go`.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    compile::{Compiler, Place, Positions},
    destination_rule::Rules,
    endpoints::Catalog,
    facts::{Meta, Shelf},
    http_route::{HttpRouteFacts, ParentFacts, Precedence},
    problem::{Origin, Problem, Severity, code},
    resolve::HostPattern,
    service::PortFacts,
    virtual_service::VirtualServiceFacts,
};
use crate::model::{HttpRoutes, HttpRule, ServiceName};

/// Compiles rules.
pub(super) struct Router<'a> {
    virtual_services: VirtualServices<'a>,
    routes: HashMap<&'a ServiceName, Vec<Attached<'a>>>,
    /// The DestinationRules, by client.
    pub(super) rules: Rules<'a>,
    pub(super) domain: &'a str,
    pub(super) last: &'a Positions,
    pub(super) positions: Positions,
    /// A set, because one fault shows at many ports.
    pub(super) problems: BTreeSet<Problem>,
}

/// An HTTPRoute at one of its parents.
#[derive(Clone, Copy)]
struct Attached<'a> {
    route: &'a HttpRouteFacts,
    parent: &'a ParentFacts,
    origin: &'a Origin,
}

impl Attached<'_> {
    fn is_at(&self, port: &PortFacts) -> bool {
        self.parent.port.is_none_or(|number| number == port.number)
            && self
                .parent
                .section
                .as_deref()
                .is_none_or(|name| name == &*port.name)
    }
}

/// VirtualServices by host.
struct VirtualServices<'a> {
    exact: HashMap<Arc<str>, Vec<(&'a VirtualServiceFacts, &'a Origin)>>,
    /// The most specific first.
    wild: Vec<(&'a HostPattern, &'a VirtualServiceFacts, &'a Origin)>,
}

impl<'a> VirtualServices<'a> {
    fn new(shelf: &'a Shelf<VirtualServiceFacts>) -> Self {
        let mut sorted: Vec<_> = shelf
            .iter()
            .filter(|(facts, _)| facts.in_mesh && !facts.rules.is_empty())
            .collect();
        sorted.sort_by_key(|(facts, _)| facts.meta.seniority());
        let mut found = Self {
            exact: HashMap::new(),
            wild: Vec::new(),
        };
        for (facts, origin) in sorted {
            for host in &facts.hosts {
                match host {
                    HostPattern::Exact(name) => {
                        found
                            .exact
                            .entry(Arc::clone(name))
                            .or_default()
                            .push((facts, origin));
                    }
                    wild => found.wild.push((wild, facts, origin)),
                }
            }
        }
        found
            .wild
            .sort_by_key(|(host, ..)| std::cmp::Reverse(*host));
        found
    }

    /// All that are about `hostname`, the one that decides first.
    fn about(&self, hostname: &str) -> impl Iterator<Item = (&'a VirtualServiceFacts, &'a Origin)> {
        let exact = self.exact.get(hostname).into_iter().flatten().copied();
        let wild = self
            .wild
            .iter()
            .filter(move |(host, ..)| host.matches(hostname));
        exact.chain(wild.map(|(_, facts, origin)| (*facts, *origin)))
    }
}

impl<'a> Router<'a> {
    pub(super) fn new(
        virtual_services: &'a Shelf<VirtualServiceFacts>,
        routes: &'a Shelf<HttpRouteFacts>,
        rules: Rules<'a>,
        domain: &'a str,
        last: &'a Positions,
    ) -> Self {
        let mut by_service: HashMap<&ServiceName, Vec<Attached<'_>>> = HashMap::new();
        for (route, origin) in routes.iter() {
            for parent in &route.parents {
                let attached = Attached {
                    route,
                    parent,
                    origin,
                };
                by_service
                    .entry(&parent.service)
                    .or_default()
                    .push(attached);
            }
        }
        Self {
            virtual_services: VirtualServices::new(virtual_services),
            routes: by_service,
            rules,
            domain,
            last,
            positions: Positions::default(),
            problems: BTreeSet::new(),
        }
    }

    /// The namespaces whose clients may be routed differently from everybody else.
    pub(super) fn special_namespaces(
        &self,
        service: &ServiceName,
        hostname: &str,
    ) -> BTreeSet<Arc<str>> {
        let mut found = BTreeSet::new();
        for attached in self.routes.get(service).into_iter().flatten() {
            if attached.route.meta.namespace != service.namespace {
                found.insert(Arc::clone(&attached.route.meta.namespace));
            }
        }
        for (facts, _) in self.virtual_services.about(hostname) {
            found.extend(facts.visibility.named().map(Arc::clone));
            let with_subset = facts.rules.iter().flat_map(|rule| &rule.destinations);
            for destination in with_subset.filter(|destination| destination.subset.is_some()) {
                found.extend(
                    self.rules
                        .special_namespaces(&destination.host)
                        .map(Arc::clone),
                );
            }
        }
        found
    }

    /// The rules at `place`, a port of `service`; `None` if no route is attached.
    pub(super) fn routes(
        &mut self,
        catalog: &mut Catalog<'a>,
        service: &ServiceName,
        port: &PortFacts,
        place: &Place,
    ) -> Option<HttpRoutes> {
        let candidates = self.virtual_services.about(&place.hostname);
        let visible = candidates
            .filter(|(facts, _)| facts.visibility.allows(place.client.as_deref()))
            .collect::<Vec<_>>();
        let virtual_service = visible.first().copied();
        let attached = self.attached(service, port, place.client.as_deref());
        if !attached.is_empty() {
            if let Some((facts, origin)) = virtual_service {
                let winner = attached[0].route.meta.to_ref("HTTPRoute");
                let text = format!(
                    "{winner} decides at port {} of Service {service}",
                    port.number
                );
                self.warn(&facts.meta, origin, "spec.hosts", text, "keep one of them");
            }
            return Some(self.gateway(catalog, &attached, place));
        }
        let (facts, origin) = virtual_service?;
        let mut compiler = Compiler {
            router: self,
            catalog,
            place,
            origin: facts.meta.to_ref("VirtualService"),
            read_at: origin,
        };
        let rules: Vec<HttpRule> = facts
            .rules
            .iter()
            .filter_map(|rule| compiler.istio(rule, &facts.meta))
            .collect();
        (!rules.is_empty()).then(|| HttpRoutes {
            rules,
            origin: facts.meta.to_ref("VirtualService"),
        })
    }

    /// The HTTPRoutes that decide at a port: those of the client's namespace, else the Service's.
    fn attached(
        &self,
        service: &ServiceName,
        port: &PortFacts,
        client: Option<&str>,
    ) -> Vec<Attached<'a>> {
        let of = |namespace: &str| {
            let all = self.routes.get(service).into_iter().flatten();
            let mut found: Vec<Attached<'a>> = all
                .filter(|attached| {
                    *attached.route.meta.namespace == *namespace && attached.is_at(port)
                })
                .copied()
                .collect();
            found.dedup_by_key(|attached| &attached.route.meta.name);
            found
        };
        let consumers = client
            .filter(|client| **client != *service.namespace)
            .map(of);
        match consumers {
            Some(consumers) if !consumers.is_empty() => consumers,
            _ => of(&service.namespace),
        }
    }

    /// Merges the rules of all attached HTTPRoutes in the order of the specification.
    fn gateway(
        &mut self,
        catalog: &mut Catalog<'a>,
        attached: &[Attached<'a>],
        place: &Place,
    ) -> HttpRoutes {
        let mut ranked: Vec<(Precedence, &Meta, usize, HttpRule)> = Vec::new();
        for one in attached {
            let mut compiler = Compiler {
                router: self,
                catalog,
                place,
                origin: one.route.meta.to_ref("HTTPRoute"),
                read_at: one.origin,
            };
            for (index, rule) in one.route.rules.iter().enumerate() {
                let compiled = compiler.gateway(index, rule);
                for (precedence, condition) in &rule.matches {
                    let one_match = HttpRule {
                        matches: vec![condition.clone()],
                        ..compiled.clone()
                    };
                    ranked.push((*precedence, &one.route.meta, index, one_match));
                }
            }
        }
        ranked.sort_by(|a, b| {
            b.0.cmp(&a.0)
                .then_with(|| a.1.created.cmp(&b.1.created))
                .then_with(|| {
                    (&a.1.namespace, &a.1.name, a.2).cmp(&(&b.1.namespace, &b.1.name, b.2))
                })
        });
        HttpRoutes {
            rules: ranked.into_iter().map(|(.., rule)| rule).collect(),
            origin: attached[0].route.meta.to_ref("HTTPRoute"),
        }
    }

    fn warn(&mut self, meta: &Meta, origin: &Origin, field: &str, text: String, fix: &str) {
        self.problems.insert(Problem {
            severity: Severity::Warning,
            code: code::OVERRULED,
            object: Some(meta.to_ref("VirtualService")),
            origin: origin.clone(),
            field: field.to_owned(),
            text,
            fix: fix.to_owned(),
        });
    }
}
