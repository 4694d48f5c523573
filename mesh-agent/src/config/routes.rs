// SPDX-License-Identifier: Apache-2.0

//! Which HTTP rules decide at a Service's port, for which clients.
//!
//! A GRPCRoute beats an HTTPRoute for the same Service and port, and that a VirtualService.
//! Consumer routes beat producer ones for the clients of their namespace. Of several
//! VirtualServices the most specific host wins, then the oldest. Reference: GEP-1294; Istio `pilot/pkg/model/push_context.go` and
//! `pilot/pkg/networking/core/route/route.go`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    attachment,
    compile::{Compiler, Place, Positions, Sharing},
    delegate::Whole,
    destination_rule::Rules,
    endpoints::Catalog,
    facts::Meta,
    problem::{Origin, Problem, Severity, code},
    resolve::{self, HostPattern},
    route::{ParentFacts, Precedence, RouteFacts, RouteKind},
    service::PortFacts,
    views::{self, Viewer, Views},
    virtual_service::VirtualServiceFacts,
};
use crate::model::{HttpRoutes, HttpRule, ObjectRef, ServiceName};

/// Compiles rules.
pub(super) struct Router<'a> {
    pub(super) virtual_services: VirtualServices<'a>,
    routes: HashMap<&'a ServiceName, Vec<Attached<'a>>>,
    /// The DestinationRules, by client.
    pub(super) rules: Rules<'a>,
    pub(super) domain: &'a str,
    /// How far the schedules of the Service that is compiled were drawn.
    pub(super) last: Positions,
    pub(super) positions: Positions,
    /// A set, because one fault shows at many ports.
    pub(super) problems: BTreeSet<Problem>,
}

/// A route at one of its parents.
#[derive(Clone, Copy)]
pub(super) struct Attached<'a> {
    pub(super) route: &'a RouteFacts,
    pub(super) parent: &'a ParentFacts,
    pub(super) origin: &'a Origin,
}

impl Attached<'_> {
    fn is_at(&self, port: &PortFacts) -> bool {
        attachment::names(self.parent, port)
    }

    pub(super) fn origin(&self) -> ObjectRef {
        self.route.meta.to_ref(self.route.kind.as_str())
    }
}

/// VirtualServices by host.
pub(super) struct VirtualServices<'a> {
    exact: HashMap<Arc<str>, Vec<(&'a VirtualServiceFacts, &'a Origin)>>,
    /// The most specific first.
    wild: Vec<(&'a HostPattern, &'a VirtualServiceFacts, &'a Origin)>,
}

impl<'a> VirtualServices<'a> {
    fn new(all: &'a [Whole<'a>]) -> Self {
        let mut sorted: Vec<(&VirtualServiceFacts, &Origin)> = all
            .iter()
            .map(|(facts, origin)| (&**facts, *origin))
            .filter(|(facts, _)| {
                facts.in_mesh && !(facts.rules.is_empty() && facts.opaque.is_empty())
            })
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
    pub(super) fn about(
        &self,
        hostname: &str,
    ) -> impl Iterator<Item = (&'a VirtualServiceFacts, &'a Origin)> {
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
        virtual_services: &'a [Whole<'a>],
        routes: impl Iterator<Item = (&'a RouteFacts, &'a Origin)>,
        rules: Rules<'a>,
        domain: &'a str,
    ) -> Self {
        let mut by_service: HashMap<&ServiceName, Vec<Attached<'_>>> = HashMap::new();
        for (route, origin) in routes {
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
            last: Positions::default(),
            positions: Positions::default(),
            problems: BTreeSet::new(),
        }
    }

    /// The clients that may be routed differently from everybody else: those of some namespaces, and pods
    /// among `views`.
    pub(super) fn special(
        &self,
        catalog: &mut Catalog<'_>,
        service: &ServiceName,
        hostname: &Arc<str>,
        views: &Views,
    ) -> Vec<Viewer> {
        let targets = self.targets(catalog, service, hostname);
        let namespaces = self.special_namespaces(service, hostname, &targets);
        let differs = |viewer: &&Viewer| {
            viewer.sees(&service.namespace, hostname)
                && (self.is_kept_from(viewer, hostname)
                    || targets
                        .keys()
                        .any(|target| self.rules.singles_out(viewer, target)))
        };
        let some_pods = views.values().filter(differs).cloned();
        namespaces.iter().map(Viewer::of).chain(some_pods).collect()
    }

    /// Whether a VirtualService about `hostname` counts for the namespace of `viewer`, but not for them.
    fn is_kept_from(&self, viewer: &Viewer, hostname: &str) -> bool {
        let mut about = self.virtual_services.about(hostname);
        about.any(|(facts, _)| {
            facts.visibility.allows(Some(&viewer.namespace)) && !viewer.imports(facts)
        })
    }

    /// The namespaces whose clients may be routed differently from everybody else.
    fn special_namespaces(
        &self,
        service: &ServiceName,
        hostname: &str,
        targets: &BTreeMap<Arc<str>, bool>,
    ) -> BTreeSet<Arc<str>> {
        let mut found = BTreeSet::new();
        for attached in self.routes.get(service).into_iter().flatten() {
            if attached.route.meta.namespace != service.namespace {
                found.insert(Arc::clone(&attached.route.meta.namespace));
            }
        }
        for (facts, _) in self.virtual_services.about(hostname) {
            found.extend(facts.visibility.named().map(Arc::clone));
        }
        for (target, by_subset) in targets {
            found.extend(self.rules.special_policies(target).map(Arc::clone));
            if *by_subset {
                let rules = self.rules.special_namespaces(target);
                found.extend(rules.map(Arc::clone));
            }
        }
        found
    }

    /// The hosts that requests to a Service may be sent to, itself among them, and whether any to a subset.
    /// Of a host that is not there no rule counts, whoever has one.
    fn targets(
        &self,
        catalog: &mut Catalog<'_>,
        service: &ServiceName,
        hostname: &Arc<str>,
    ) -> BTreeMap<Arc<str>, bool> {
        let mut targets = BTreeMap::from([(Arc::clone(hostname), false)]);
        for (facts, _) in self.virtual_services.about(hostname) {
            let of_rules = facts.rules.iter().flat_map(|rule| rule.destinations());
            let of_bytes = facts.opaque.iter().flat_map(|rule| &rule.destinations);
            for destination in of_rules.chain(of_bytes) {
                let host = catalog.stands_for(&destination.host);
                if catalog.service(&host).is_some() {
                    *targets.entry(host).or_default() |= destination.subset.is_some();
                }
            }
        }
        for attached in self.routes.get(service).into_iter().flatten() {
            for backend in attached
                .route
                .rules
                .iter()
                .flat_map(|rule| rule.all_backends())
            {
                let Ok((service, _)) = &backend.target else {
                    continue;
                };
                let host = resolve::hostname(&service.namespace, &service.name, self.domain);
                if catalog.service(&host).is_some() {
                    targets.entry(host).or_default();
                }
            }
        }
        targets
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
            .filter(|(facts, _)| {
                !facts.rules.is_empty() && views::heeds(place.client.as_ref(), facts)
            })
            .collect::<Vec<_>>();
        let virtual_service = visible.first().copied();
        let mut attached = self.attached(service, port, place.namespace());
        if let Some(winner) = attached.iter().map(|one| one.route.kind).max() {
            let (decide, overruled) = attached
                .into_iter()
                .partition(|one| one.route.kind == winner);
            attached = decide;
            let text = format!(
                "{} decides at port {} of Service {service}",
                attached[0].origin(),
                port.number
            );
            if let Some((facts, origin)) = virtual_service {
                let object = facts.meta.to_ref("VirtualService");
                self.warn(object, origin, "spec.hosts", text.clone());
            }
            // It decides about HTTP, too, as about all other bytes.
            if winner.is_opaque() {
                return None;
            }
            let overruled: Vec<Attached<'_>> = overruled;
            for one in overruled {
                self.warn(one.origin(), one.origin, &one.parent.field, text.clone());
            }
            return Some(self.gateway(catalog, &attached, winner, place));
        }
        let (facts, origin) = virtual_service?;
        let mut compiler = Compiler {
            router: self,
            catalog,
            place,
            origin: facts.meta.to_ref("VirtualService"),
            read_at: origin,
            sharing: Sharing::Requests,
        };
        let rules: Vec<HttpRule> = facts
            .rules
            .iter()
            .filter_map(|rule| compiler.istio(rule, &facts.meta))
            .collect();
        (!rules.is_empty()).then(|| HttpRoutes {
            rules: rules.into(),
            origin: facts.meta.to_ref("VirtualService"),
        })
    }

    /// The routes that are attached to a port: those of the client's namespace, else the Service's.
    pub(super) fn attached(
        &self,
        service: &ServiceName,
        port: &PortFacts,
        client: Option<&str>,
    ) -> Vec<Attached<'a>> {
        let of = |namespace: &str| {
            let all = self.routes.get(service).into_iter().flatten();
            let mut found: Vec<Attached<'a>> = all
                .filter(|attached| {
                    *attached.route.meta.namespace == *namespace
                        && attached.is_at(port)
                        && attachment::suits(attached.route.kind, port.protocol)
                })
                .copied()
                .collect();
            found.dedup_by_key(|attached| (attached.route.kind, &attached.route.meta.name));
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

    /// Merges the rules of all attached routes of `kind` in the order of the specification.
    fn gateway(
        &mut self,
        catalog: &mut Catalog<'a>,
        attached: &[Attached<'a>],
        kind: RouteKind,
        place: &Place,
    ) -> HttpRoutes {
        let mut ranked: Vec<(Precedence, &Meta, usize, HttpRule)> = Vec::new();
        for one in attached {
            let mut compiler = Compiler {
                router: self,
                catalog,
                place,
                origin: one.origin(),
                read_at: one.origin,
                sharing: Sharing::Requests,
            };
            for (index, rule) in one.route.rules.iter().enumerate() {
                let compiled = compiler.gateway(index, rule, kind);
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
            origin: attached[0].origin(),
        }
    }

    pub(super) fn warn(&mut self, object: ObjectRef, origin: &Origin, field: &str, text: String) {
        self.problems.insert(Problem {
            severity: Severity::Warning,
            code: code::OVERRULED,
            object: Some(object),
            origin: origin.clone(),
            field: field.to_owned(),
            text,
            fix: "keep one of them".to_owned(),
        });
    }
}
