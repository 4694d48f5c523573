// SPDX-License-Identifier: Apache-2.0

//! Services as the data path sees them, compiled with the routes at their ports.
//!
//! A compiled Service notes which other host names it asked for; it is compiled again when one of
//! them changed. Invariant: after an update everything here is as if all Services had been compiled
//! anew, but for how far their schedules were drawn.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use super::{
    backend_policy::Budgets,
    claims::Claims,
    compile::{Place, Positions},
    delegate,
    destination_rule::Rules,
    dirty::Dirty,
    endpoints::{Catalog, Endpoints, Family, Shape},
    entries::Entries,
    headless::Headless,
    index::{IndexSettings, Shelves},
    named::{self, Named},
    object::Kind,
    problem::{Origin, Problem, Severity, code},
    rate_limit::RateLimits,
    reach::Reach,
    routes::Router,
    service::{PortFacts, ServiceFacts},
    views::{self, Viewer, Views},
};
use crate::model::{
    Backend, Cluster, HttpRoutes, HttpRule, ObjectRef, Position, Protocol, Schedule, Service,
    ServiceName, ServicePort, SharedMap,
};

/// All compiled Services.
#[derive(Debug, Default)]
pub(super) struct Services {
    compiled: BTreeMap<Arc<str>, Compiled>,
    pub(super) by_name: SharedMap<ServiceName, Arc<Service>>,
    pub(super) by_vip: SharedMap<SocketAddr, (Arc<Service>, Arc<ServicePort>)>,
    /// By host name.
    same_vip: Claims<SocketAddr, Arc<str>>,
    pub(super) named: Named,
    pub(super) headless: Headless,
    reach: Reach,
    /// What is wrong with rules that are left to others.
    delegation: BTreeSet<Problem>,
    /// Of the pods of this node.
    views: Views,
}

/// A Service and what it was made of.
#[derive(Debug)]
struct Compiled {
    service: Arc<Service>,
    sockets: BTreeMap<SocketAddr, Arc<ServicePort>>,
    named: named::Ports,
    /// The host names that it depends on, its own left out.
    hosts: BTreeSet<Arc<str>>,
    positions: Positions,
    problems: BTreeSet<Problem>,
}

impl Services {
    /// Compiles again what depends on a Service of `changed`, on an object that routes, or on who sees
    /// which of those, if `views` are other ones.
    pub(super) fn update(
        &mut self,
        shelves: &Shelves,
        settings: &IndexSettings,
        (entries, endpoints): (&Entries, &mut Endpoints),
        (dirty, views): (&Dirty, Option<Views>),
        mut changed: BTreeSet<Arc<str>>,
    ) {
        if let Some(now) = views {
            let last = std::mem::replace(&mut self.views, now);
            views::concerned(shelves, endpoints, (&last, &self.views), &mut changed);
        }
        self.reach
            .update(shelves, settings, endpoints, dirty, &mut changed);
        let mut routing = dirty.routing.iter();
        let rewritten = routing.any(|(kind, _)| *kind == Kind::VirtualService);
        if changed.is_empty() && !rewritten {
            return;
        }
        let domain = &settings.cluster_domain;
        self.delegation.clear();
        let whole = delegate::expand(&shelves.virtual_services, domain, &mut self.delegation);
        let mut due = changed.clone();
        let depends = |one: &Compiled| !one.hosts.is_disjoint(&changed);
        let dependants = self.compiled.iter().filter(|(_, one)| depends(one));
        due.extend(dependants.map(|(host, _)| Arc::clone(host)));
        endpoints.renew(&changed);
        let limits = RateLimits::new(&shelves.rate_limits);
        let mut router = Router::new(
            &whole,
            shelves.routes(),
            Rules::new(
                shelves.destination_rules.iter().map(|(rule, _)| rule),
                &settings.root_namespace,
            ),
            domain,
        );
        let budgets = Budgets::new(&shelves.backend_policies, domain);
        let mut catalog = Catalog {
            budgets: &budgets,
            shelf: &shelves.services,
            entries,
            endpoints,
            asking: None,
            used: BTreeSet::new(),
        };
        let views = std::mem::take(&mut self.views);
        for host in &due {
            self.renew(&mut catalog, &mut router, (&limits, &views), host);
        }
        self.views = views;
        catalog.endpoints.settle(&changed);
        self.named.settle();
    }

    /// Compiles one Service again, or forgets it.
    fn renew<'a>(
        &mut self,
        catalog: &mut Catalog<'a>,
        router: &mut Router<'a>,
        with: (&RateLimits, &Views),
        host: &Arc<str>,
    ) {
        catalog.used.clear();
        let last = self.compiled.remove(host);
        if let Some(last) = &last {
            self.release(host, last);
        }
        let name = last.as_ref().map(|last| last.service.name.clone());
        let Some(facts) = catalog.service(host) else {
            if let Some(name) = name {
                self.headless.remove(&name);
            }
            return;
        };
        router.last = last.map(|last| last.positions).unwrap_or_default();
        catalog.asking = facts.headless.then(|| Arc::clone(host));
        let compiled = compile(catalog, router, with, (facts, host));
        if let Some(other) = name.filter(|name| *name != compiled.service.name) {
            self.headless.remove(&other);
        }
        self.headless.put(&compiled.service, facts.headless);
        self.claim(host, compiled);
    }

    fn claim(&mut self, host: &Arc<str>, compiled: Compiled) {
        let service = Arc::clone(&compiled.service);
        self.named.add(host, &compiled.named);
        let sockets: Vec<SocketAddr> = compiled.sockets.keys().copied().collect();
        self.compiled.insert(Arc::clone(host), compiled);
        for socket in sockets {
            let holder = self.by_vip.get(&socket);
            let holder = holder.map(|(service, _)| Arc::clone(&service.hostname));
            let several = self.same_vip.add(&socket, holder.as_ref(), host);
            let winner = several.and_then(BTreeSet::first).unwrap_or(host).clone();
            self.win(&winner, socket);
        }
        self.by_name.insert(service.name.clone(), service);
    }

    fn release(&mut self, host: &Arc<str>, compiled: &Compiled) {
        for socket in compiled.sockets.keys() {
            let left = self.same_vip.remove(socket, host);
            match left.as_ref().and_then(BTreeSet::first) {
                Some(winner) => self.win(winner, *socket),
                None => drop(self.by_vip.remove(socket)),
            }
        }
        self.named.remove(host, &compiled.named);
        self.by_name.remove(&compiled.service.name);
    }

    fn win(&mut self, host: &Arc<str>, socket: SocketAddr) {
        let compiled = &self.compiled[host];
        let port = Arc::clone(&compiled.sockets[&socket]);
        let entry = (Arc::clone(&compiled.service), port);
        self.by_vip.insert(socket, entry);
    }

    /// What is wrong with the routes at Services.
    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        let compiled = self.compiled.values().flat_map(|one| &one.problems);
        compiled.chain(&self.delegation)
    }
}

fn compile<'a>(
    catalog: &mut Catalog<'a>,
    router: &mut Router<'a>,
    (limits, views): (&RateLimits, &Views),
    (facts, hostname): (&ServiceFacts, &Arc<str>),
) -> Compiled {
    let meta = &facts.meta;
    let name = ServiceName::new(Arc::clone(&meta.namespace), Arc::clone(&meta.name));
    let special = router.special(catalog, &name, hostname, views);
    let mut by_family: Vec<(Family, Vec<Arc<ServicePort>>)> = Vec::new();
    for family in Family::all_of(facts) {
        let mut ports = Vec::with_capacity(facts.ports.len());
        for port in &facts.ports {
            let mut maker = PortMaker {
                catalog,
                router,
                limits,
                name: &name,
                hostname,
                family,
            };
            ports.extend(maker.make(port, &special).map(Arc::new));
        }
        by_family.push((family, ports));
    }
    router.report_unsuited(hostname, facts);
    let mut sockets = BTreeMap::new();
    for vip in &facts.vips {
        let of_family = by_family.iter().find(|(family, _)| family.includes(*vip));
        for port in of_family.into_iter().flat_map(|(_, ports)| ports) {
            let entry = sockets.entry(SocketAddr::new(*vip, port.number));
            entry.or_insert_with(|| Arc::clone(port));
        }
    }
    let mut by_family = by_family.into_iter().map(|(_, ports)| ports);
    let ports = by_family.next().unwrap_or_default();
    let other = by_family.next().unwrap_or_else(|| ports.clone());
    let mut hosts = std::mem::take(&mut catalog.used);
    hosts.remove(hostname);
    let service = Arc::new(Service {
        captured: facts.reach.is_some()
            || catalog.is_enrolled(hostname)
            || ports.iter().any(|port| is_routed(port)),
        visibility: facts.visibility.clone(),
        name,
        hostname: Arc::clone(hostname),
        vips: facts.vips.clone(),
        ports: ports.clone(),
    });
    Compiled {
        named: named::ports(facts, &service, &ports, &other),
        service,
        sockets,
        hosts,
        positions: std::mem::take(&mut router.positions),
        problems: std::mem::take(&mut router.problems),
    }
}

/// Whether anything but the Service itself says what becomes of its traffic.
fn is_routed(port: &ServicePort) -> bool {
    // What a Service says itself, kube-proxy follows where nothing is captured.
    let used = port.cluster.upstream.is_some() && port.cluster.rule.is_some();
    let routed = port.routes.is_some() || port.opaque.all().next().is_some();
    used || routed || !port.consumer_routes.is_empty()
}

fn service_ref(name: &ServiceName) -> ObjectRef {
    ObjectRef {
        kind: "Service".into(),
        namespace: Arc::clone(&name.namespace),
        name: Arc::clone(&name.name),
    }
}

/// Makes the ports of one Service for one address family.
pub(super) struct PortMaker<'r, 'a> {
    pub(super) catalog: &'r mut Catalog<'a>,
    pub(super) router: &'r mut Router<'a>,
    pub(super) limits: &'r RateLimits,
    pub(super) name: &'r ServiceName,
    pub(super) hostname: &'r Arc<str>,
    pub(super) family: Family,
}

impl PortMaker<'_, '_> {
    fn make(&mut self, port: &PortFacts, special: &[Viewer]) -> Option<ServicePort> {
        let (hostname, family) = (self.hostname, self.family);
        let cluster = self.whole(port, None)?;
        let (mut consumer_routes, mut routes) = (Vec::new(), None);
        if !port.protocol.is_opaque() {
            let mut place = Place {
                hostname: Arc::clone(hostname),
                port: port.number,
                family,
                client: None,
            };
            let general = self.router.routes(self.catalog, self.name, port, &place);
            let general = general.or_else(|| {
                let limited = !self.limits.of_service(self.name).is_empty();
                limited.then(|| self.unrouted(&cluster))
            });
            routes = general.map(|routes| self.limited(routes));
            if let (Protocol::Sniff, Some(routes)) = (port.protocol, &routes) {
                self.report_unnamed(port, &routes.origin);
            }
            for viewer in special {
                place.client = Some(viewer.clone());
                let own = self.router.routes(self.catalog, self.name, port, &place);
                let own = own.or_else(|| self.differently(port, viewer, &cluster));
                let own = own.map(|own| (Arc::clone(viewer.key()), self.limited(own)));
                consumer_routes.extend(own);
            }
        }
        let opaque = self.opaque(port, special, &cluster);
        Some(ServicePort {
            number: port.number,
            name: Arc::clone(&port.name),
            protocol: port.protocol,
            cluster,
            subsets: self.subsets(port),
            consumer_routes,
            routes,
            opaque,
        })
    }

    /// All endpoints of `port`, as clients in `client` use them.
    pub(super) fn whole(
        &mut self,
        port: &PortFacts,
        client: Option<&Viewer>,
    ) -> Option<Arc<Cluster>> {
        let at = (&**self.hostname, &*self.name.namespace);
        let used = self.router.rules.upstream(client, at, port.number);
        let shape = Shape { subset: None, used };
        self.catalog
            .cluster(self.hostname, port.number, self.family, shape)
    }

    /// Says of a port with HTTP routes that nothing says it is one.
    fn report_unnamed(&mut self, port: &PortFacts, routes: &ObjectRef) {
        self.router.problems.insert(Problem {
            severity: Severity::Info,
            code: code::PORT_NAME,
            object: Some(service_ref(self.name)),
            origin: Origin::default(),
            field: "spec.ports".to_owned(),
            text: format!(
                "neither the name {:?} of port {} nor its appProtocol says what is spoken: {routes} counts for \
                 connections whose first bytes are HTTP",
                port.name, port.number
            ),
            fix: "name the port http, http2 or grpc, or set its appProtocol".to_owned(),
        });
    }

    /// What decides for `viewer` without a route, if they use the endpoints in another way than everybody
    /// else, or must be kept from routes that others have.
    fn differently(
        &mut self,
        port: &PortFacts,
        viewer: &Viewer,
        general: &Arc<Cluster>,
    ) -> Option<HttpRoutes> {
        let cluster = self.whole(port, Some(viewer))?;
        let differs = viewer.is_some_pods() || !Arc::ptr_eq(&cluster, general);
        differs.then(|| self.unrouted(&cluster))
    }

    fn limited(&self, routes: HttpRoutes) -> Arc<HttpRoutes> {
        Arc::new(self.limits.applied(self.name, routes))
    }

    /// One rule for all requests, to this cluster.
    fn unrouted(&self, cluster: &Arc<Cluster>) -> HttpRoutes {
        let origin = cluster.rule.clone();
        let origin = origin.unwrap_or_else(|| service_ref(self.name));
        let rule = HttpRule {
            name: "default".into(),
            origin: origin.clone(),
            matches: Vec::new(),
            backends: vec![Backend::Cluster {
                cluster: Arc::clone(cluster),
                edits: None,
                rewrite: None,
                treatment: None,
            }],
            schedule: Schedule::new(&[1], Position::default()),
            weights: vec![1],
            timeout: None,
            treatment: None,
        };
        HttpRoutes {
            rules: vec![rule].into(),
            origin,
        }
    }

    /// All subsets that clients in the Service's namespace can use.
    fn subsets(&mut self, port: &PortFacts) -> Vec<Arc<Cluster>> {
        let namespace = &self.name.namespace;
        let own = Viewer::of(namespace);
        let merged = self.router.rules.find(Some(&own), self.hostname, namespace);
        let Some(merged) = merged else {
            return Vec::new();
        };
        let cluster = |subset: &(_, _)| {
            let shape = Shape {
                subset: Some(*subset),
                used: merged.upstream(Some(*subset), port.number),
            };
            self.catalog
                .cluster(self.hostname, port.number, self.family, shape)
        };
        merged.subsets.iter().filter_map(cluster).collect()
    }
}
