// SPDX-License-Identifier: Apache-2.0

//! Which rules decide about connections that are carried as bytes, for which clients.
//!
//! A TLSRoute beats a TCPRoute for the same Service and port, and that a VirtualService. Where HTTP is
//! not ruled out, an HTTPRoute or GRPCRoute beats them all. Of TCPRoutes the oldest decides alone;
//! TLSRoutes share a port by name. Reference: GEP-1294; Istio `pilot/pkg/networking/core/tls.go`.

use std::sync::Arc;

use super::{
    compile::{Compiler, Place, Sharing},
    endpoints::Catalog,
    opaque::OpaqueRuleFacts,
    problem::{Origin, Problem, Severity, code},
    resolve::HostPattern,
    route::{RouteFacts, RouteKind},
    routes::{Attached, Router},
    service::{PortFacts, ServiceFacts},
    services::PortMaker,
    views::{self, Viewer},
    virtual_service::VirtualServiceFacts,
};
use crate::model::{
    Backend, Cluster, NamePattern, ObjectRef, OpaqueBackend, OpaqueMatch, OpaquePort, OpaqueRoutes,
    OpaqueRule, Protocol, Refusal, ResponseFlag, ServiceName,
};

/// Places of rules in lists that are not `http`, apart from the places of all others.
const TLS_RULES: usize = 1 << 24;
const TCP_RULES: usize = 1 << 25;

/// Whether rules of `tls`, or of `tcp`, decide at a port where this is spoken.
fn suits(tls: bool, protocol: Protocol) -> bool {
    match protocol {
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => false,
        Protocol::Tcp => !tls,
        Protocol::Tls => tls,
        Protocol::Sniff => true,
    }
}

impl PortMaker<'_, '_> {
    /// The routes for what is carried as bytes at `port`.
    pub(super) fn opaque(
        &mut self,
        port: &PortFacts,
        special: &[Viewer],
        general: &Arc<Cluster>,
    ) -> OpaquePort {
        if !port.protocol.is_opaque() && port.protocol != Protocol::Sniff {
            return OpaquePort::default();
        }
        let mut place = Place {
            hostname: Arc::clone(self.hostname),
            port: port.number,
            family: self.family,
            client: None,
        };
        let (router, catalog) = (&mut *self.router, &mut *self.catalog);
        let routes = router.opaque(catalog, self.name, port, &place, general);
        let mut consumers = Vec::new();
        for viewer in special {
            let Some(cluster) = self.whole(port, Some(viewer)) else {
                continue;
            };
            place.client = Some(viewer.clone());
            let (router, catalog) = (&mut *self.router, &mut *self.catalog);
            let own = router.opaque(catalog, self.name, port, &place, &cluster);
            let differs = viewer.is_some_pods() || !Arc::ptr_eq(&cluster, general);
            let own = own.or_else(|| differs.then(|| self.otherwise(cluster)));
            consumers.extend(own.map(|own| (Arc::clone(viewer.key()), Arc::new(own))));
        }
        OpaquePort {
            consumers,
            routes: routes.map(Arc::new),
        }
    }

    /// No rules: only another use of the endpoints.
    fn otherwise(&self, cluster: Arc<Cluster>) -> OpaqueRoutes {
        let service = ObjectRef {
            kind: "Service".into(),
            namespace: Arc::clone(&self.name.namespace),
            name: Arc::clone(&self.name.name),
        };
        OpaqueRoutes {
            rules: Vec::new(),
            origin: cluster.rule.clone().unwrap_or(service),
            otherwise: cluster,
            whole: false,
        }
    }
}

impl<'a> Router<'a> {
    /// The rules for bytes at `place`, a port of `service`; `None` if no route is attached.
    fn opaque(
        &mut self,
        catalog: &mut Catalog<'a>,
        service: &ServiceName,
        port: &PortFacts,
        place: &Place,
        otherwise: &Arc<Cluster>,
    ) -> Option<OpaqueRoutes> {
        let attached = self.attached(service, port, place.namespace());
        let winner = attached.iter().map(|one| one.route.kind).max();
        let (rules, origin, whole) = match winner.filter(|kind| kind.is_opaque()) {
            Some(winner) => {
                let decides = format!("at port {} of Service {service}", port.number);
                let attached = self.decisive(attached, winner, &decides);
                let origin = attached.first()?.origin();
                if let Some((facts, read_at)) = self.in_bytes(place) {
                    let object = facts.meta.to_ref("VirtualService");
                    let text = format!("{origin} decides {decides}");
                    self.warn(object, read_at, "spec.hosts", text);
                }
                let rules = match winner {
                    RouteKind::Tls => self.by_name(catalog, &attached, place),
                    _ => vec![self.attached_rule(catalog, &attached[0], place)?],
                };
                (rules, origin, true)
            }
            None => {
                let (facts, read_at) = self.in_bytes(place)?;
                let origin = facts.meta.to_ref("VirtualService");
                let mut compiler = self.compiler(catalog, place, origin.clone(), read_at);
                let suitable = facts.opaque.iter();
                let suitable = suitable.filter(|rule| suits(rule.tls, port.protocol));
                let rules = suitable.filter_map(|rule| compiler.opaque(rule, facts));
                (rules.collect::<Vec<_>>(), origin, false)
            }
        };
        (!rules.is_empty()).then(|| OpaqueRoutes {
            rules,
            otherwise: Arc::clone(otherwise),
            whole,
            origin,
        })
    }

    /// The VirtualService that decides about bytes.
    fn in_bytes(&self, place: &Place) -> Option<(&'a VirtualServiceFacts, &'a Origin)> {
        let client = place.client.as_ref();
        let mut candidates = self.virtual_services.about(&place.hostname);
        candidates.find(|(facts, _)| !facts.opaque.is_empty() && views::heeds(client, facts))
    }

    /// Those of `attached` that decide; says so of the others.
    fn decisive(
        &mut self,
        attached: Vec<Attached<'a>>,
        winner: RouteKind,
        decides: &str,
    ) -> Vec<Attached<'a>> {
        let of_kind = |one: &Attached<'a>| one.route.kind == winner;
        let (mut decisive, mut others): (Vec<_>, Vec<_>) = attached.into_iter().partition(of_kind);
        decisive.sort_by(|a, b| a.route.meta.seniority().cmp(&b.route.meta.seniority()));
        if winner == RouteKind::Tcp {
            others.extend(decisive.drain(1..));
        }
        if let Some(first) = decisive.first().map(Attached::origin) {
            for one in others {
                let text = format!("{first} decides {decides}");
                self.warn(one.origin(), one.origin, &one.parent.field, text);
            }
        }
        decisive
    }

    /// The rules of TLSRoutes: the most specific name first, then the oldest route.
    fn by_name(
        &mut self,
        catalog: &mut Catalog<'a>,
        attached: &[Attached<'a>],
        place: &Place,
    ) -> Vec<OpaqueRule> {
        let mut ranked: Vec<(&'a NamePattern, OpaqueRule)> = Vec::new();
        for one in attached {
            let route: &'a RouteFacts = one.route;
            let Some(rule) = self.attached_rule(catalog, one, place) else {
                continue;
            };
            for name in &route.names {
                let elder = ranked.iter().find(|(known, _)| *known == name);
                if let Some((_, elder)) = elder {
                    let text = format!("{} decides about {name}", elder.origin);
                    self.warn(one.origin(), one.origin, "spec.hostnames", text);
                    continue;
                }
                let condition = OpaqueMatch {
                    names: Some(vec![name.clone()]),
                    ..OpaqueMatch::default()
                };
                let rule = OpaqueRule {
                    matches: vec![condition],
                    ..rule.clone()
                };
                ranked.push((name, rule));
            }
        }
        ranked.sort_by_key(|(name, _)| std::cmp::Reverse(*name));
        ranked.into_iter().map(|(_, rule)| rule).collect()
    }

    /// The first rule of a route, for every connection.
    fn attached_rule(
        &mut self,
        catalog: &mut Catalog<'a>,
        one: &Attached<'a>,
        place: &Place,
    ) -> Option<OpaqueRule> {
        let rule = one.route.rules.first()?;
        let status = one.route.kind.broken_status();
        let mut compiler = self.compiler(catalog, place, one.origin(), one.origin);
        let backends = rule.backends.iter();
        let backends: Vec<OpaqueBackend> = backends
            .map(|backend| carried(compiler.backend(backend, &rule.name, status)))
            .collect();
        let weights: Vec<u32> = rule.backends.iter().map(|one| one.weight).collect();
        Some(OpaqueRule {
            name: Arc::clone(&rule.name),
            schedule: compiler.schedule(0, &weights),
            origin: compiler.origin,
            matches: Vec::new(),
            backends,
            weights,
        })
    }

    fn compiler<'r>(
        &'r mut self,
        catalog: &'r mut Catalog<'a>,
        place: &'r Place,
        origin: ObjectRef,
        read_at: &'r Origin,
    ) -> Compiler<'r, 'a> {
        Compiler {
            router: self,
            catalog,
            place,
            origin,
            read_at,
            sharing: Sharing::Connections,
        }
    }

    /// Reports lists of rules for bytes that no port of a Service suits.
    pub(super) fn report_unsuited(&mut self, hostname: &Arc<str>, service: &ServiceFacts) {
        let own = HostPattern::Exact(Arc::clone(hostname));
        let about = self.virtual_services.about(hostname);
        let named: Vec<_> = about
            .filter(|(facts, _)| facts.hosts.contains(&own))
            .collect();
        for (facts, origin) in named {
            for (tls, field, what) in [
                (true, "spec.tls", "is declared for TLS"),
                (false, "spec.tcp", "is declared for bytes that are not TLS"),
            ] {
                let written = facts.opaque.iter().any(|rule| rule.tls == tls);
                let mut ports = service.ports.iter();
                if !written || ports.any(|port| suits(tls, port.protocol)) {
                    continue;
                }
                self.problems.insert(Problem {
                    severity: Severity::Warning,
                    code: code::UNREACHABLE,
                    object: Some(facts.meta.to_ref("VirtualService")),
                    origin: origin.clone(),
                    field: field.to_owned(),
                    text: format!("never reached: no port of {hostname} {what}, or undeclared"),
                    fix: "declare it by appProtocol or the name of the Service's port".to_owned(),
                });
            }
        }
    }
}

impl Compiler<'_, '_> {
    /// One rule of a VirtualService, unless it is about other ports.
    fn opaque(
        &mut self,
        rule: &OpaqueRuleFacts,
        facts: &VirtualServiceFacts,
    ) -> Option<OpaqueRule> {
        let number = self.place.port;
        let at_port = rule.matches.iter();
        let at_port = at_port.filter(|(port, _)| port.is_none_or(|port| port == number));
        let matches: Vec<OpaqueMatch> = at_port.map(|(_, one)| one.clone()).collect();
        if matches.is_empty() && !rule.matches.is_empty() {
            return None;
        }
        let drawn = || rule.destinations.iter().filter(|one| one.weight > 0);
        let backends = drawn()
            .map(|one| carried(self.destination(one, &facts.meta, &rule.name)))
            .collect();
        let weights: Vec<u32> = drawn().map(|one| one.weight).collect();
        let list = if rule.tls { TLS_RULES } else { TCP_RULES };
        Some(OpaqueRule {
            name: Arc::clone(&rule.name),
            origin: self.origin.clone(),
            matches,
            backends,
            schedule: self.schedule(list + rule.index, &weights),
            weights,
        })
    }
}

/// A backend as bytes can be sent to it.
fn carried(backend: Backend) -> OpaqueBackend {
    match backend {
        Backend::Cluster { cluster, .. } => OpaqueBackend::Cluster(cluster),
        Backend::Refused(refusal) => OpaqueBackend::Refused(refusal),
        Backend::Redirect(_) | Backend::Answer(_) => OpaqueBackend::Refused(Refusal {
            status: 500,
            flag: ResponseFlag::NoCluster,
            reason: "bytes cannot be answered".into(),
            route: "-".into(),
        }),
    }
}
