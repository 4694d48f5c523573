// SPDX-License-Identifier: Apache-2.0

//! `mesh-agent.io LocalRateLimit`: as it is written, checked and compiled.
//!
//! It is for what a Service or a route of its own namespace decides about. Knows nothing of requests.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    facts::{Findings, Meta, Name, Shelf},
    index::Shelves,
    object::{Kind, Resource, null_default},
    problem::{Origin, Problem, Severity, code},
};
use crate::model::{
    Backend, HttpRoutes, HttpRule, ObjectRef, Protocol, ServiceName, Treatment,
    limit::{Rate, RateLimit},
};

/// `LocalRateLimit.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalRateLimitSpec {
    /// What is limited: a Service, an HTTPRoute or a GRPCRoute of the same namespace.
    pub target_ref: Option<LimitTarget>,
    /// How many requests there may be in each unit.
    pub requests: u32,
    /// The unit.
    #[serde(deserialize_with = "null_default")]
    pub unit: LimitUnit,
    /// How many requests may come at once; as many as in a unit if not written.
    pub burst: Option<u32>,
    /// Whether each client identity may send so many, instead of all clients on a node together.
    pub per_client: bool,
}

/// What a limit is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LimitTarget {
    /// Empty for a Service.
    #[serde(deserialize_with = "null_default")]
    pub group: String,
    pub kind: String,
    pub name: String,
}

/// In which time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum LimitUnit {
    #[default]
    Second,
    Minute,
    Hour,
}

/// What matters of a LocalRateLimit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RateLimitFacts {
    pub(super) meta: Meta,
    /// A Service, an HTTPRoute or a GRPCRoute.
    pub(super) target: (Kind, Name),
    limit: Option<Arc<RateLimit>>,
}

impl RateLimitFacts {
    pub(super) fn new(object: &Resource<LocalRateLimitSpec>, findings: &mut Findings) -> Self {
        let meta = Meta::new(&object.metadata);
        let spec = &object.spec;
        let target = spec.target_ref.clone().unwrap_or_default();
        let kind = match (target.group.as_str(), target.kind.as_str()) {
            ("" | "core", "Service") => Kind::Service,
            ("gateway.networking.k8s.io", "HTTPRoute") => Kind::HttpRoute,
            ("gateway.networking.k8s.io", "GRPCRoute") => Kind::GrpcRoute,
            (group, kind) => {
                let text = format!("{kind:?} of group {group:?} cannot be limited");
                let fix = "name a Service, an HTTPRoute or a GRPCRoute";
                findings.reject("spec.targetRef", text, fix);
                Kind::Service
            }
        };
        if target.name.is_empty() {
            findings.reject("spec.targetRef.name", "must be set", "name the target");
        }
        let unit = match spec.unit {
            LimitUnit::Second => Duration::from_secs(1),
            LimitUnit::Minute => Duration::from_secs(60),
            LimitUnit::Hour => Duration::from_secs(3_600),
        };
        let rate = Rate::new(spec.requests, unit, spec.burst.unwrap_or(spec.requests));
        if rate.is_none() {
            let text = "requests and burst must be above 0";
            findings.reject("spec.requests", text, "write how many there may be");
        }
        let origin = meta.to_ref("LocalRateLimit");
        let limit = rate.map(|rate| {
            Arc::new(RateLimit {
                reason: format!("{origin}: too many requests").into(),
                origin,
                rate,
                per_client: spec.per_client,
            })
        });
        let name: Name = (Arc::clone(&meta.namespace), target.name.as_str().into());
        Self {
            target: (kind, name),
            limit,
            meta,
        }
    }
}

/// The limits of everything that has one, by target.
#[derive(Debug, Default)]
pub(super) struct RateLimits(BTreeMap<(Kind, Name), Vec<Arc<RateLimit>>>);

impl RateLimits {
    pub(super) fn new(shelf: &Shelf<RateLimitFacts>) -> Self {
        let mut all = BTreeMap::<_, Vec<_>>::new();
        for (facts, _) in shelf.iter() {
            let of_target = all.entry(facts.target.clone()).or_default();
            of_target.extend(facts.limit.clone());
        }
        Self(all)
    }

    /// Those for whatever is asked of a Service.
    pub(super) fn of_service(&self, service: &ServiceName) -> &[Arc<RateLimit>] {
        let name = (Arc::clone(&service.namespace), Arc::clone(&service.name));
        self.of(Kind::Service, name)
    }

    fn of_rule(&self, origin: &ObjectRef) -> &[Arc<RateLimit>] {
        let kind = match &*origin.kind {
            "HTTPRoute" => Kind::HttpRoute,
            "GRPCRoute" => Kind::GrpcRoute,
            _ => return &[],
        };
        let name = (Arc::clone(&origin.namespace), Arc::clone(&origin.name));
        self.of(kind, name)
    }

    fn of(&self, kind: Kind, name: Name) -> &[Arc<RateLimit>] {
        self.0.get(&(kind, name)).map_or(&[], Vec::as_slice)
    }

    /// The rules at a port of `service`, each with its limits.
    pub(super) fn applied(&self, service: &ServiceName, routes: HttpRoutes) -> HttpRoutes {
        let of_service = self.of_service(service);
        let limits = |rule: &HttpRule| [of_service, self.of_rule(&rule.origin)].concat();
        if self.0.is_empty() || routes.rules.iter().all(|rule| limits(rule).is_empty()) {
            return routes;
        }
        let limited = |rule: &HttpRule| {
            let limits = limits(rule);
            let mut rule = rule.clone();
            if !limits.is_empty() {
                let limited = |last: Option<&Treatment>| {
                    Arc::new(Treatment {
                        limits: limits.clone(),
                        ..last.cloned().unwrap_or_default()
                    })
                };
                for backend in &mut rule.backends {
                    if let Backend::Cluster {
                        treatment: Some(own),
                        ..
                    } = backend
                    {
                        *own = limited(Some(&**own));
                    }
                }
                rule.treatment = Some(limited(rule.treatment.as_deref()));
            }
            rule
        };
        HttpRoutes {
            rules: routes.rules.iter().map(limited).collect(),
            origin: routes.origin,
        }
    }
}

/// What is wrong between limits and their targets.
pub(super) fn check(shelves: &Shelves) -> impl Iterator<Item = Problem> {
    let limits = shelves.rate_limits.iter();
    limits.filter_map(|(facts, origin)| {
        let (kind, name) = &facts.target;
        let service = shelves.services.find(name).map(|(service, _)| service);
        let text = match kind {
            Kind::HttpRoute if shelves.http_routes.find(name).is_some() => return None,
            Kind::GrpcRoute if shelves.grpc_routes.find(name).is_some() => return None,
            Kind::Service => match service {
                Some(service) => {
                    let mut ports = service.ports.iter();
                    if ports.any(|port| port.protocol != Protocol::Tcp) {
                        return None;
                    }
                    return Some(without_requests(facts, origin));
                }
                None => format!("there is no Service {}/{}", name.0, name.1),
            },
            kind => format!("there is no {} {}/{}", kind.as_str(), name.0, name.1),
        };
        Some(Problem {
            severity: Severity::Error,
            code: code::REFERENCE,
            object: Some(facts.meta.to_ref("LocalRateLimit")),
            origin: origin.clone(),
            field: "spec.targetRef".to_owned(),
            text: format!("{text}: nothing is limited"),
            fix: "name an object of this namespace".to_owned(),
        })
    })
}

fn without_requests(facts: &RateLimitFacts, origin: &Origin) -> Problem {
    Problem {
        severity: Severity::Warning,
        code: code::WITHOUT_EFFECT,
        object: Some(facts.meta.to_ref("LocalRateLimit")),
        origin: origin.clone(),
        field: "spec.targetRef".to_owned(),
        text: "all ports of the Service carry bytes, in which there are no requests to limit"
            .to_owned(),
        fix: "name the port http, or set its appProtocol".to_owned(),
    }
}
