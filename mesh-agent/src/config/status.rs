// SPDX-License-Identifier: Apache-2.0

//! What to tell the owner of an object about it: conditions, from what the index knows.
//!
//! Routes have conditions for each Service that they name as parent; other kinds have one of their
//! own. Knows nothing of clocks, of what was written before, or of how far a change has come.
//! Invariant: what is not as it was asked for names field and fix.
//! Reference: Gateway API `apis/v1/shared_types.go` `RouteParentStatus`; Istio
//! `meta/v1alpha1/status.proto`.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde_json::Value;

use super::{
    attachment,
    facts::{Shelf, Stored},
    index::Shelves,
    object::{Kind, ObjectKey, Revision},
    problem::{Problem, Severity, code},
    route::{BackendFacts, ParentFacts, RouteFacts, RouteKind, Unusable},
};
use crate::model::{ObjectRef, ServiceName};

/// How many problems a message lists.
const MAX_LISTED: usize = 8;

/// What to tell about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectStatus {
    /// The object.
    pub key: ObjectKey,
    /// The state that was judged.
    pub revision: Revision,
    /// The judgement.
    pub conditions: Conditions,
}

/// Conditions, by where they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conditions {
    /// In `status.parents`, an entry for each.
    Parents(Vec<ParentStatus>),
    /// In `status.conditions`.
    Own(Vec<Condition>),
}

/// What became of a route at one parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentStatus {
    /// `parentRef` as the route has it.
    pub parent: Value,
    /// The judgement.
    pub conditions: Vec<Condition>,
}

/// One condition; the rest of its fields is the writer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its type.
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// Why, in one word.
    pub reason: &'static str,
    /// Why, in words.
    pub message: String,
}

/// The condition that kinds without one of their own get.
pub const ACCEPTED: &str = "mesh-agent.io/Accepted";

/// Judges all objects that come from the API and whose kinds have a status.
pub(super) fn build(shelves: &Shelves, problems: &[Problem]) -> Vec<ObjectStatus> {
    let mut by_object: HashMap<&ObjectRef, Vec<&Problem>> = HashMap::new();
    for problem in problems {
        if let Some(object) = &problem.object {
            by_object.entry(object).or_default().push(problem);
        }
    }
    let mut judge = Judge {
        shelves,
        problems: by_object,
        winners: HashMap::new(),
        statuses: Vec::new(),
    };
    judge.winners = judge.winners();
    judge.routes(Kind::HttpRoute, &shelves.http_routes);
    judge.routes(Kind::GrpcRoute, &shelves.grpc_routes);
    judge.routes(Kind::TcpRoute, &shelves.tcp_routes);
    judge.routes(Kind::TlsRoute, &shelves.tls_routes);
    judge.others(Kind::VirtualService, &shelves.virtual_services);
    judge.others(Kind::DestinationRule, &shelves.destination_rules);
    judge.others(Kind::LocalRateLimit, &shelves.rate_limits);
    judge.others(Kind::ServiceEntry, &shelves.service_entries);
    judge.others(Kind::WorkloadEntry, &shelves.workload_entries);
    judge.others(Kind::Sidecar, &shelves.sidecars);
    judge.others(Kind::PeerAuthentication, &shelves.peer_authentications);
    judge.others(Kind::AuthorizationPolicy, &shelves.authorization_policies);
    judge.others(
        Kind::RequestAuthentication,
        &shelves.request_authentications,
    );
    judge.others(Kind::Policy, &shelves.policies);
    judge.others(Kind::MeshPolicy, &shelves.mesh_policies);
    judge.statuses
}

/// A port of a Service, and the namespace of routes that are attached to it.
type RoutedPort<'a> = (&'a ServiceName, u16, &'a str);

struct Judge<'a> {
    shelves: &'a Shelves,
    problems: HashMap<&'a ObjectRef, Vec<&'a Problem>>,
    /// Which route decides where several kinds, or several TCPRoutes, are attached.
    winners: HashMap<RoutedPort<'a>, &'a RouteFacts>,
    statuses: Vec<ObjectStatus>,
}

impl<'a> Judge<'a> {
    fn winners(&self) -> HashMap<RoutedPort<'a>, &'a RouteFacts> {
        let mut found: HashMap<RoutedPort<'a>, &'a RouteFacts> = HashMap::new();
        for (route, _) in self.shelves.routes() {
            for parent in &route.parents {
                let ports = self.ports(route.kind, parent).unwrap_or_default();
                for port in ports {
                    let place = (&parent.service, port, &*route.meta.namespace);
                    let winner = found.entry(place).or_insert(route);
                    let elder = route.meta.seniority() < winner.meta.seniority();
                    if route.kind > winner.kind || (route.kind == winner.kind && elder) {
                        *winner = route;
                    }
                }
            }
        }
        found
    }

    fn ports(&self, kind: RouteKind, parent: &ParentFacts) -> Result<Vec<u16>, String> {
        let ServiceName { namespace, name } = &parent.service;
        let service = self.shelves.services.get(namespace, name);
        let ports = attachment::ports(kind, parent, service)?;
        Ok(ports.iter().map(|port| port.number).collect())
    }

    fn problems_of(&self, key: &ObjectKey) -> &[&'a Problem] {
        self.problems.get(&key.to_ref()).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, key: ObjectKey, revision: &Revision, conditions: Conditions) {
        if revision.resource_version.is_empty() {
            return;
        }
        self.statuses.push(ObjectStatus {
            key,
            revision: revision.clone(),
            conditions,
        });
    }

    fn routes(&mut self, kind: Kind, shelf: &'a Shelf<RouteFacts>) {
        for (namespace, name, stored) in shelf.stored() {
            let key = key(kind, namespace, name);
            let parents = stored.parents.iter().map(|parent| ParentStatus {
                parent: serde_json::to_value(&parent.reference).unwrap_or_default(),
                conditions: self.at_parent(&key, stored, parent),
            });
            let parents = parents.collect();
            self.add(key, &stored.revision, Conditions::Parents(parents));
        }
    }

    fn at_parent(
        &self,
        key: &ObjectKey,
        stored: &'a Stored<RouteFacts>,
        parent: &'a ParentFacts,
    ) -> Vec<Condition> {
        // Of a state that was rejected, here or before it was even an object.
        let problems = self.problems_of(key).iter().copied();
        let faults = list(problems.filter(|one| one.code == code::SCHEMA));
        let Some(route) = &stored.facts else {
            return vec![condition("Accepted", false, "UnsupportedValue", faults)];
        };
        let mut conditions = vec![self.accepted(route, parent), self.resolved(route)];
        let broken = refusals(route);
        if !faults.is_empty() {
            let text = format!("Fall Back: {faults}");
            conditions.push(condition(
                "PartiallyInvalid",
                true,
                "UnsupportedValue",
                text,
            ));
        } else if conditions[0].holds && !broken.is_empty() {
            let text = format!("Dropped Rule: {}", broken.join("; "));
            conditions.push(condition(
                "PartiallyInvalid",
                true,
                "UnsupportedValue",
                text,
            ));
        }
        conditions
    }

    fn accepted(&self, route: &'a RouteFacts, parent: &'a ParentFacts) -> Condition {
        let no = |reason, text| condition("Accepted", false, reason, text);
        let ports = match self.ports(route.kind, parent) {
            Ok(ports) => ports,
            Err(text) => {
                let text = format!("{}: {text}; fix: {}", parent.field, attachment::FIX);
                return no("NoMatchingParent", text);
            }
        };
        let broken = refusals(route);
        if !broken.is_empty() && broken.len() == route.rules.len() {
            return no("UnsupportedValue", broken.join("; "));
        }
        let winner = |port: &u16| {
            let place = (&parent.service, *port, &*route.meta.namespace);
            let winner = self.winners.get(&place).copied();
            // Routes of one kind share a port, but for TCPRoutes: nothing tells their connections apart.
            let alone = route.kind == RouteKind::Tcp;
            winner.filter(|one| one.kind > route.kind || (alone && one.meta != route.meta))
        };
        let in_force: Vec<String> = ports
            .iter()
            .filter(|port| winner(port).is_none())
            .map(u16::to_string)
            .collect();
        match ports.iter().find_map(winner) {
            Some(winner) if in_force.is_empty() => {
                let winner = winner.meta.to_ref(winner.kind.as_str());
                let text = format!(
                    "{}: {winner} decides at this Service and port; fix: keep one of them",
                    parent.field
                );
                no("Conflicted", text)
            }
            _ => {
                let text = format!("Attached at port {}", in_force.join(", "));
                condition("Accepted", true, "Accepted", text)
            }
        }
    }

    /// Whether all backends exist.
    fn resolved(&self, route: &RouteFacts) -> Condition {
        let rules = route.rules.iter().filter(|rule| rule.redirect.is_none());
        let faults: Vec<(&'static str, String)> = rules
            .flat_map(|rule| &rule.backends)
            .filter_map(|backend| self.unresolved(backend))
            .collect();
        match faults.first() {
            None => {
                let text = "All backends exist".to_owned();
                condition("ResolvedRefs", true, "ResolvedRefs", text)
            }
            Some((reason, _)) => {
                let mut seen = HashSet::new();
                let texts = faults.iter().map(|(_, text)| text.as_str());
                let texts = texts.filter(|text| seen.insert(*text));
                let text = texts.take(MAX_LISTED).collect::<Vec<_>>().join("; ");
                condition("ResolvedRefs", false, reason, text)
            }
        }
    }

    fn unresolved(&self, backend: &BackendFacts) -> Option<(&'static str, String)> {
        let field = &backend.field;
        match &backend.target {
            Err(Unusable::Filter(_)) => None,
            Err(fault @ Unusable::Kind(_)) => Some((
                "InvalidKind",
                format!("{field}: {}; fix: name a Service", fault.text()),
            )),
            Err(fault @ Unusable::NoPort) => Some((
                "UnsupportedValue",
                format!("{field}: {}; fix: name a port of the Service", fault.text()),
            )),
            Ok((name, port)) => {
                let service = self.shelves.services.get(&name.namespace, &name.name);
                let (text, fix) = match service {
                    None => (
                        format!("there is no Service {name}"),
                        "create or correct it",
                    ),
                    Some(service) if service.alias.is_some() => {
                        let text = format!("{field}: {name} is an ExternalName Service");
                        let fix = "name the Service itself, or write a VirtualService";
                        return Some(("UnsupportedValue", format!("{text}; fix: {fix}")));
                    }
                    Some(service) if service.port(*port).is_none() => (
                        format!("Service {name} has no TCP port {port}"),
                        "name one of its ports",
                    ),
                    Some(_) => return None,
                };
                Some(("BackendNotFound", format!("{field}: {text}; fix: {fix}")))
            }
        }
    }

    fn others<T: PartialEq>(&mut self, kind: Kind, shelf: &Shelf<T>) {
        for (namespace, name, stored) in shelf.stored() {
            let key = key(kind, namespace, name);
            let own = own(self.problems_of(&key));
            self.add(key, &stored.revision, Conditions::Own(vec![own]));
        }
    }
}

fn key(kind: Kind, namespace: &Arc<str>, name: &Arc<str>) -> ObjectKey {
    ObjectKey {
        kind,
        namespace: namespace.to_string(),
        name: name.to_string(),
    }
}

fn condition(kind: &'static str, holds: bool, reason: &'static str, message: String) -> Condition {
    Condition {
        kind,
        holds,
        reason,
        message,
    }
}

/// Why rules are refused, for those that are.
fn refusals(route: &RouteFacts) -> Vec<String> {
    let rules = route.rules.iter();
    rules
        .filter_map(|rule| rule.refused.as_deref())
        .map(str::to_owned)
        .collect()
}

/// The condition of an object with `problems`, the worst of which come first.
fn own(problems: &[&Problem]) -> Condition {
    let errors = || {
        problems
            .iter()
            .copied()
            .filter(|one| one.severity == Severity::Error)
    };
    if let Some(worst) = errors().next() {
        return condition(ACCEPTED, false, reason(worst.code), list(errors()));
    }
    let warnings = problems
        .iter()
        .copied()
        .filter(|one| one.severity == Severity::Warning);
    let said = list(warnings);
    let text = if said.is_empty() {
        "The mesh honours the object".to_owned()
    } else {
        said
    };
    condition(ACCEPTED, true, "Accepted", text)
}

fn reason(code: &str) -> &'static str {
    match code {
        code::REFERENCE | code::PORT_REQUIRED => "ReferenceNotFound",
        code::UNSUPPORTED => "UnsupportedValue",
        code::HOST_CONFLICT | code::SIDECAR_CONFLICT | code::OVERRULED | code::DUPLICATE => {
            "Conflicted"
        }
        _ => "Invalid",
    }
}

/// What is wrong, in words: the first few.
fn list<'p>(problems: impl Iterator<Item = &'p Problem>) -> String {
    let mut said: Vec<String> = Vec::new();
    let mut left_out = 0;
    for problem in problems {
        if said.len() == MAX_LISTED {
            left_out += 1;
            continue;
        }
        let field = match problem.field.as_str() {
            "" => String::new(),
            field => format!("{field}: "),
        };
        let fix = match problem.fix.as_str() {
            "" => String::new(),
            fix => format!("; fix: {fix}"),
        };
        said.push(format!("{field}{}{fix}", problem.text));
    }
    if left_out > 0 {
        said.push(format!("and {left_out} more"));
    }
    said.join("\n")
}
