// SPDX-License-Identifier: Apache-2.0

//! One route rule, compiled for one Service port and one group of clients.
//!
//! What a rule names and nothing has becomes a backend that refuses: never a silent fall-back.
//! Reference: Istio `pilot/pkg/networking/core/route/route.go` `GetDestinationCluster`; Gateway API
//! `HTTPRouteRule.backendRefs`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{
    endpoints::{Catalog, Family, Shape},
    facts::Meta,
    problem::{Origin, Problem, Severity, code},
    resolve,
    route::{BackendFacts, RouteKind, RouteRuleFacts},
    routes::Router,
    treatment::TreatmentFacts,
    views::Viewer,
    virtual_service::{Action, DestinationFacts, RuleFacts},
};
use crate::model::{
    Backend, HttpMatch, HttpRule, Mirror, ObjectRef, Position, Refusal, ResponseFlag, Schedule,
    Share, Treatment,
};

/// A Service's port as one group of clients sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) hostname: Arc<str>,
    pub(super) port: u16,
    pub(super) family: Family,
    /// These clients; all that nothing names if `None`.
    pub(super) client: Option<Viewer>,
}

impl Place {
    /// The namespace of the clients, if they are of one.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.client.as_ref().map(|client| &*client.namespace)
    }
}

/// How far each schedule has been drawn, and for which weights.
#[derive(Debug, Default)]
pub(super) struct Positions(HashMap<PositionKey, (Vec<u32>, Position)>);

/// Names a schedule over snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PositionKey {
    origin: ObjectRef,
    rule: usize,
    place: Place,
}

/// Compiles the rules of one object at one place.
pub(super) struct Compiler<'r, 'a> {
    pub(super) router: &'r mut Router<'a>,
    pub(super) catalog: &'r mut Catalog<'a>,
    pub(super) place: &'r Place,
    pub(super) origin: ObjectRef,
    pub(super) read_at: &'r Origin,
    pub(super) sharing: Sharing,
}

/// What backends get a share of, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    Requests,
    Copies,
    Connections,
}

impl Compiler<'_, '_> {
    pub(super) fn istio(&mut self, rule: &RuleFacts, meta: &Meta) -> Option<HttpRule> {
        let at_port = rule
            .matches
            .iter()
            .filter(|(port, _)| port.is_none_or(|port| port == self.place.port));
        let matches: Vec<HttpMatch> = at_port.map(|(_, condition)| condition.clone()).collect();
        if matches.is_empty() && !rule.matches.is_empty() {
            return None;
        }
        let drawn = match &rule.action {
            Action::Route(destinations) => {
                let drawn = || destinations.iter().filter(|one| one.weight > 0);
                let compile = |one| self.destination(one, meta, &rule.name);
                let backends = drawn().map(compile).collect();
                (backends, drawn().map(|one| one.weight).collect())
            }
            Action::Redirect(redirect) => {
                let redirect = redirect.at(self.place.port);
                (vec![Backend::Redirect(Arc::new(redirect))], vec![1])
            }
            Action::Answer(answer) => (vec![Backend::Answer(Arc::clone(answer))], vec![1]),
            // Put in place before; never compiled itself.
            Action::Delegate(_) => (Vec::new(), Vec::new()),
            Action::Refuse(reason) => refused(500, reason, &rule.name),
        };
        self.sharing = Sharing::Copies;
        let mirrors = rule.mirrors.iter().filter_map(|(one, share)| {
            let backend = self.destination(one, meta, &rule.name);
            mirror(backend, *share)
        });
        let mirrors = mirrors.collect();
        self.sharing = Sharing::Requests;
        let treatment = treatment(&rule.treatment, mirrors);
        let of = (rule.index, &rule.name, rule.timeout);
        Some(self.rule(of, matches, drawn, treatment))
    }

    pub(super) fn gateway(
        &mut self,
        index: usize,
        rule: &RouteRuleFacts,
        kind: RouteKind,
    ) -> HttpRule {
        let status = kind.broken_status();
        let unweighted = rule.backends.iter().all(|one| one.weight == 0);
        let drawn = if let Some(reason) = &rule.refused {
            refused(status, reason, &rule.name)
        } else if let Some(redirect) = &rule.redirect {
            let redirect = redirect.at(self.place.port);
            (vec![Backend::Redirect(Arc::new(redirect))], vec![1])
        } else if unweighted && kind == RouteKind::Grpc {
            let reason = format!(
                "{}: no backend of the rule has a weight above 0",
                self.origin
            );
            refused(status, &reason.into(), &rule.name)
        } else {
            let weights = rule.backends.iter().map(|one| one.weight).collect();
            let all = rule.backends.iter();
            let compile = |one| self.treated(one, rule, status);
            (all.map(compile).collect(), weights)
        };
        let mirrors = self.mirrors(&rule.mirrors, &rule.name, status);
        let treatment = treatment(&rule.treatment, mirrors);
        let of = (index, &rule.name, rule.timeout);
        self.rule(of, Vec::new(), drawn, treatment)
    }

    /// A backend with what is done with its requests, if it says anything about that itself.
    fn treated(&mut self, one: &BackendFacts, rule: &RouteRuleFacts, status: u16) -> Backend {
        let mut backend = self.backend(one, &rule.name, status);
        if let Backend::Cluster { treatment, .. } = &mut backend
            && !(one.mirrors.is_empty() && one.cors.is_none())
        {
            let all = [&*rule.mirrors, &*one.mirrors].concat();
            let facts = TreatmentFacts {
                cors: one.cors.clone().or_else(|| rule.treatment.cors.clone()),
                ..rule.treatment.clone()
            };
            *treatment = self::treatment(&facts, self.mirrors(&all, &rule.name, status));
        }
        backend
    }

    /// Where copies of requests go; what is missing gets none.
    fn mirrors(
        &mut self,
        facts: &[(BackendFacts, Share)],
        rule: &Arc<str>,
        status: u16,
    ) -> Vec<Mirror> {
        self.sharing = Sharing::Copies;
        let mirrors = facts.iter().filter_map(|(one, share)| {
            let backend = self.backend(one, rule, status);
            mirror(backend, *share)
        });
        let mirrors = mirrors.collect();
        self.sharing = Sharing::Requests;
        mirrors
    }

    fn rule(
        &mut self,
        (index, name, timeout): (usize, &Arc<str>, Option<Duration>),
        matches: Vec<HttpMatch>,
        (backends, weights): (Vec<Backend>, Vec<u32>),
        treatment: Option<Arc<Treatment>>,
    ) -> HttpRule {
        HttpRule {
            name: Arc::clone(name),
            origin: self.origin.clone(),
            matches,
            backends,
            schedule: self.schedule(index, &weights),
            weights,
            timeout,
            treatment,
        }
    }

    /// The schedule of a rule, which goes on where that of the last snapshot was.
    pub(super) fn schedule(&mut self, rule: usize, weights: &[u32]) -> Schedule {
        let key = PositionKey {
            origin: self.origin.clone(),
            rule,
            place: self.place.clone(),
        };
        let position = match self.router.last.0.get(&key) {
            Some((same, position)) if *same == weights => position.clone(),
            _ => Position::default(),
        };
        let kept = (weights.to_vec(), position.clone());
        self.router.positions.0.insert(key, kept);
        Schedule::new(weights, position)
    }

    pub(super) fn destination(
        &mut self,
        destination: &DestinationFacts,
        meta: &Meta,
        rule: &Arc<str>,
    ) -> Backend {
        let (host, field) = (
            &self.catalog.stands_for(&destination.host),
            &destination.field,
        );
        let Some(service) = self.catalog.service(host) else {
            let text = format!("no Service has the host {host}");
            return self.missing(
                503,
                format!("{field}.host"),
                &text,
                "name an existing Service",
                rule,
            );
        };
        let (namespace, ports) = (Arc::clone(&service.meta.namespace), &service.ports);
        let port = match (destination.port, ports.as_slice()) {
            (Some(number), _) => number,
            (None, [only]) => only.number,
            (None, _) => self.place.port,
        };
        if service.port(port).is_none() {
            let text = format!("{host} has no TCP port {port}");
            let fix = "set destination.port.number to a port of the Service";
            let backend = self.missing(503, format!("{field}.port"), &text, fix, rule);
            if destination.port.is_none() {
                self.port_required(field, host);
            }
            return backend;
        }
        let client = self.place.client.as_ref();
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
        let used = found.and_then(|merged| merged.upstream(subset, port));
        let shape = Shape { subset, used };
        match self.catalog.cluster(host, port, self.place.family, shape) {
            Some(cluster) => Backend::Cluster {
                cluster,
                edits: destination.edits.clone(),
                rewrite: destination.rewrite.clone(),
                treatment: None,
            },
            None => self.missing(503, field.clone(), "there is no such cluster", "", rule),
        }
    }

    pub(super) fn backend(
        &mut self,
        backend: &BackendFacts,
        rule: &Arc<str>,
        status: u16,
    ) -> Backend {
        let (service, port) = match &backend.target {
            Ok(target) => target,
            Err(reason) => {
                let text = reason.text();
                return Backend::Refused(self.refusal(status, &backend.field, &text, rule));
            }
        };
        let hostname = resolve::hostname(&service.namespace, &service.name, self.router.domain);
        let facts = self.catalog.service(&hostname);
        if facts.is_some_and(|facts| facts.alias.is_some()) {
            // Whoever may write one could reach what no ReferenceGrant lets him.
            let text = format!("{service} is an ExternalName Service");
            let fix = "name the Service itself, or write a VirtualService";
            return self.missing(status, backend.field.clone(), &text, fix, rule);
        }
        let client = self.place.client.as_ref();
        let at = (&*hostname, &*service.namespace);
        let shape = Shape {
            subset: None,
            used: self.router.rules.upstream(client, at, *port),
        };
        match self
            .catalog
            .cluster(&hostname, *port, self.place.family, shape)
        {
            Some(cluster) => Backend::Cluster {
                cluster,
                edits: backend.edits.clone(),
                rewrite: backend.rewrite.clone(),
                treatment: None,
            },
            None => {
                let text = match self.catalog.service(&hostname).is_some() {
                    true => format!("Service {service} has no TCP port {port}"),
                    false => format!("there is no Service {service}"),
                };
                if backend.weight == 0 {
                    return Backend::Refused(self.refusal(status, &backend.field, &text, rule));
                }
                self.missing(
                    status,
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
        let consequence = match self.sharing {
            Sharing::Copies => "no request is copied there".to_owned(),
            Sharing::Requests => format!("its share of requests is answered with {status} NC"),
            Sharing::Connections => "its share of connections is reset with NC".to_owned(),
        };
        self.router.problems.insert(Problem {
            severity: Severity::Error,
            code: code::REFERENCE,
            object: Some(self.origin.clone()),
            origin: self.read_at.clone(),
            field,
            text: format!("{text}: {consequence}"),
            fix: fix.to_owned(),
        });
        Backend::Refused(refusal)
    }

    /// A Service with several ports, none of which is the one connected to, needs a choice.
    fn port_required(&mut self, field: &str, host: &str) {
        self.router.problems.insert(Problem {
            severity: Severity::Error,
            code: code::PORT_REQUIRED,
            object: Some(self.origin.clone()),
            origin: self.read_at.clone(),
            field: format!("{field}.port"),
            text: format!("{host} has several ports, so that one must be chosen"),
            fix: "set destination.port.number".to_owned(),
        });
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

/// What is done with a rule's requests besides sending them on, if anything.
fn treatment(facts: &TreatmentFacts, mirrors: Vec<Mirror>) -> Option<Arc<Treatment>> {
    let treatment = Treatment {
        cors: facts.cors.clone(),
        fault: facts.fault,
        mirrors,
        retry: facts.retry.clone(),
        limits: Vec::new(),
        session: facts.session.clone(),
    };
    (!treatment.is_empty()).then(|| Arc::new(treatment))
}

/// A copy goes to a cluster or nowhere.
fn mirror(backend: Backend, share: Share) -> Option<Mirror> {
    match backend {
        Backend::Cluster { cluster, .. } => Some(Mirror { cluster, share }),
        Backend::Redirect(_) | Backend::Answer(_) | Backend::Refused(_) => None,
    }
}

/// The backends of a rule that cannot be carried out.
fn refused(status: u16, reason: &Arc<str>, rule: &Arc<str>) -> (Vec<Backend>, Vec<u32>) {
    let refusal = Refusal {
        status,
        flag: ResponseFlag::None,
        reason: Arc::clone(reason),
        route: Arc::clone(rule),
    };
    (vec![Backend::Refused(refusal)], vec![1])
}
