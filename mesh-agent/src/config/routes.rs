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
    destination_rule::Rules,
    endpoints::{Catalog, Family},
    facts::{Meta, Shelf},
    http_route::{BackendFacts, HttpRouteFacts, ParentFacts, Precedence, RouteRuleFacts},
    problem::{Origin, Problem, Severity, code},
    resolve::{self, HostPattern},
    service::PortFacts,
    virtual_service::{DestinationFacts, RuleFacts, VirtualServiceFacts},
};
use crate::model::{
    Backend, HttpMatch, HttpRoutes, HttpRule, ObjectRef, Position, Refusal, ResponseFlag, Schedule,
    ServiceName,
};

/// Names a schedule over snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PositionKey {
    origin: ObjectRef,
    rule: usize,
    place: Place,
}

/// A Service's port as one group of clients sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) hostname: Arc<str>,
    pub(super) port: u16,
    pub(super) family: Family,
    /// Clients of this namespace; of all that nothing names if `None`.
    pub(super) client: Option<Arc<str>>,
}

/// How far each schedule has been drawn, and for which weights.
#[derive(Debug, Default)]
pub(super) struct Positions(HashMap<PositionKey, (Vec<u32>, Position)>);

/// Compiles rules.
pub(super) struct Router<'a> {
    virtual_services: VirtualServices<'a>,
    routes: HashMap<&'a ServiceName, Vec<Attached<'a>>>,
    rules: Rules<'a>,
    domain: &'a str,
    last: &'a Positions,
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

    /// The DestinationRules that clients of `client` use for a host.
    pub(super) fn rules(&self) -> &Rules<'a> {
        &self.rules
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

/// Compiles the rules of one object at one place.
struct Compiler<'r, 'a> {
    router: &'r mut Router<'a>,
    catalog: &'r mut Catalog<'a>,
    place: &'r Place,
    origin: ObjectRef,
    read_at: &'r Origin,
}

impl Compiler<'_, '_> {
    fn istio(&mut self, rule: &RuleFacts, meta: &Meta) -> Option<HttpRule> {
        let at_port = rule
            .matches
            .iter()
            .filter(|(port, _)| port.is_none_or(|port| port == self.place.port));
        let matches: Vec<HttpMatch> = at_port.map(|(_, condition)| condition.clone()).collect();
        if matches.is_empty() && !rule.matches.is_empty() {
            return None;
        }
        let weights: Vec<u32> = rule.destinations.iter().map(|one| one.weight).collect();
        let backends = rule
            .destinations
            .iter()
            .map(|one| self.destination(one, meta, &rule.name))
            .collect();
        let (backends, weights) = or_refused(rule.refused.as_ref(), &rule.name, backends, weights);
        Some(self.rule(
            rule.index,
            &rule.name,
            matches,
            backends,
            weights,
            rule.timeout,
        ))
    }

    fn gateway(&mut self, index: usize, rule: &RouteRuleFacts) -> HttpRule {
        let weights: Vec<u32> = rule.backends.iter().map(|one| one.weight).collect();
        let backends = rule
            .backends
            .iter()
            .map(|one| self.backend(one, &rule.name))
            .collect();
        let (backends, weights) = or_refused(rule.refused.as_ref(), &rule.name, backends, weights);
        self.rule(
            index,
            &rule.name,
            Vec::new(),
            backends,
            weights,
            rule.timeout,
        )
    }

    fn rule(
        &mut self,
        index: usize,
        name: &Arc<str>,
        matches: Vec<HttpMatch>,
        backends: Vec<Backend>,
        weights: Vec<u32>,
        timeout: Option<std::time::Duration>,
    ) -> HttpRule {
        let key = PositionKey {
            origin: self.origin.clone(),
            rule: index,
            place: self.place.clone(),
        };
        let position = match self.router.last.0.get(&key) {
            Some((same, position)) if *same == weights => position.clone(),
            _ => Position::default(),
        };
        self.router
            .positions
            .0
            .insert(key, (weights.clone(), position.clone()));
        HttpRule {
            name: Arc::clone(name),
            origin: self.origin.clone(),
            matches,
            backends,
            schedule: Schedule::new(&weights, position),
            weights,
            timeout,
        }
    }

    fn destination(
        &mut self,
        destination: &DestinationFacts,
        meta: &Meta,
        rule: &Arc<str>,
    ) -> Backend {
        let (host, field) = (&destination.host, &destination.field);
        let Some(service) = self.catalog.services.get(host) else {
            let text = format!("no Service has the host {host}");
            return self.missing(
                503,
                format!("{field}.host"),
                &text,
                "name an existing Service",
                rule,
            );
        };
        let (namespace, ports) = (Arc::clone(&service.name.namespace), &service.facts.ports);
        let port = match (destination.port, ports.as_slice()) {
            (Some(number), _) => number,
            (None, [only]) => only.number,
            (None, _) => self.place.port,
        };
        if service.facts.port(port).is_none() {
            let text = format!("{host} has no TCP port {port}");
            let fix = "set destination.port.number to a port of the Service";
            return self.missing(503, format!("{field}.port"), &text, fix, rule);
        }
        let client = self.place.client.as_deref();
        let found = self.router.rules.find(client, host, &namespace);
        let subset = match &destination.subset {
            None => None,
            Some(name) => {
                let subsets = found.iter().flat_map(|merged| &merged.subsets);
                match subsets.copied().find(|(subset, _)| subset.name == *name) {
                    Some(subset) => Some(subset),
                    None => {
                        let text = format!("no DestinationRule defines subset {name} of {host}");
                        let fix = format!(
                            "add the subset to a DestinationRule for this host in namespace {}",
                            meta.namespace
                        );
                        return self.missing(503, format!("{field}.subset"), &text, &fix, rule);
                    }
                }
            }
        };
        match self.catalog.cluster(host, port, self.place.family, subset) {
            Some(cluster) => Backend::Cluster {
                cluster,
                edits: destination.edits.clone(),
            },
            None => self.missing(503, field.clone(), "there is no such cluster", "", rule),
        }
    }

    fn backend(&mut self, backend: &BackendFacts, rule: &Arc<str>) -> Backend {
        let (service, port) = match &backend.target {
            Ok(target) => target,
            Err(reason) => {
                return Backend::Refused(self.refusal(500, &backend.field, reason, rule));
            }
        };
        let hostname = resolve::hostname(&service.namespace, &service.name, self.router.domain);
        match self
            .catalog
            .cluster(&hostname, *port, self.place.family, None)
        {
            Some(cluster) => Backend::Cluster {
                cluster,
                edits: backend.edits.clone(),
            },
            None => {
                let text = match self.catalog.services.contains_key(&hostname) {
                    true => format!("Service {service} has no TCP port {port}"),
                    false => format!("there is no Service {service}"),
                };
                if backend.weight == 0 {
                    return Backend::Refused(self.refusal(500, &backend.field, &text, rule));
                }
                self.missing(
                    500,
                    backend.field.clone(),
                    &text,
                    "name an existing Service and port",
                    rule,
                )
            }
        }
    }

    /// A backend that does not exist: reported, and answered with `status`.
    fn missing(
        &mut self,
        status: u16,
        field: String,
        text: &str,
        fix: &str,
        rule: &Arc<str>,
    ) -> Backend {
        let refusal = self.refusal(status, &field, text, rule);
        self.router.problems.insert(Problem {
            severity: Severity::Error,
            code: code::REFERENCE,
            object: Some(self.origin.clone()),
            origin: self.read_at.clone(),
            field,
            text: format!("{text}: its share of requests is answered with {status} NC"),
            fix: fix.to_owned(),
        });
        Backend::Refused(refusal)
    }

    fn refusal(&self, status: u16, field: &str, text: &str, rule: &Arc<str>) -> Refusal {
        Refusal {
            status,
            flag: ResponseFlag::NoCluster,
            reason: format!("{} {field}: {text}", self.origin).into(),
            route: Arc::clone(rule),
        }
    }
}

/// Replaces the backends of a rule that cannot be carried out.
fn or_refused(
    refused: Option<&Arc<str>>,
    rule: &Arc<str>,
    backends: Vec<Backend>,
    weights: Vec<u32>,
) -> (Vec<Backend>, Vec<u32>) {
    match refused {
        None => (backends, weights),
        Some(reason) => {
            let refusal = Refusal {
                status: 500,
                flag: ResponseFlag::None,
                reason: Arc::clone(reason),
                route: Arc::clone(rule),
            };
            (vec![Backend::Refused(refusal)], vec![1])
        }
    }
}
