// SPDX-License-Identifier: Apache-2.0

//! A TCPRoute or TLSRoute, reduced to what matters of any route.
//!
//! Reference: Gateway API `apis/v1/{tcproute,tlsroute}_types.go` and their `v1alpha2`, which has the
//! same fields.

use super::{
    facts::{Findings, Meta},
    filters::Filters,
    gateway::{OpaqueRule, TcpRouteSpec, TlsRouteSpec},
    object::Resource,
    problem::{Severity, code},
    route::{RouteFacts, RouteKind, RouteRuleFacts, RuleReader, parents, unheeded},
    treatment::TreatmentFacts,
};
use crate::model::NamePattern;

/// Reads a TCPRoute.
pub(super) fn tcp(object: &Resource<TcpRouteSpec>, findings: &mut Findings) -> RouteFacts {
    let meta = Meta::new(&object.metadata);
    let spec = &object.spec;
    unheeded(&[], spec.use_default_gateways, findings);
    RouteFacts {
        kind: RouteKind::Tcp,
        parents: parents(&spec.parent_refs, &meta, findings),
        names: Vec::new(),
        rules: rules(RouteKind::Tcp, &spec.rules, &meta, findings),
        meta,
    }
}

/// Reads a TLSRoute.
pub(super) fn tls(object: &Resource<TlsRouteSpec>, findings: &mut Findings) -> RouteFacts {
    let meta = Meta::new(&object.metadata);
    let spec = &object.spec;
    unheeded(&[], spec.use_default_gateways, findings);
    for (index, host) in spec.hostnames.iter().enumerate() {
        if host.is_empty() || host.trim_start_matches("*.").contains('*') {
            let text = format!("{host:?} is no host name");
            let field = format!("spec.hostnames[{index}]");
            findings.reject(field, text, "write a name or *.name");
        }
    }
    let names: Vec<NamePattern> = spec
        .hostnames
        .iter()
        .map(|it| NamePattern::new(it))
        .collect();
    RouteFacts {
        kind: RouteKind::Tls,
        parents: parents(&spec.parent_refs, &meta, findings),
        names: match names.as_slice() {
            [] => vec![NamePattern::Any],
            _ => names,
        },
        rules: rules(RouteKind::Tls, &spec.rules, &meta, findings),
        meta,
    }
}

fn rules(
    kind: RouteKind,
    written: &[OpaqueRule],
    meta: &Meta,
    findings: &mut Findings,
) -> Vec<RouteRuleFacts> {
    if written.is_empty() {
        findings.reject("spec.rules", "must have a rule", "add one with backendRefs");
    }
    let mut rules = Vec::with_capacity(written.len());
    for (index, one) in written.iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        if index > 0 {
            findings.add(
                Severity::Warning,
                code::UNREACHABLE,
                &path,
                "never reached: the first rule takes every connection",
                "write one rule with all backends",
            );
        }
        for (at, backend) in one.backend_refs.iter().enumerate() {
            if !backend.filters.is_empty() {
                let field = format!("{path}.backendRefs[{at}].filters");
                let text = "a route for bytes has no filters";
                findings.reject(field, text, "remove the field");
            }
        }
        let mut reader = RuleReader {
            kind,
            meta,
            path,
            findings: &mut *findings,
        };
        rules.push(RouteRuleFacts {
            name: reader.name(index, one.name.as_deref()),
            matches: Vec::new(),
            backends: reader.backends(&one.backend_refs, &Filters::default(), false),
            mirrors: Vec::new(),
            redirect: None,
            timeout: None,
            treatment: TreatmentFacts::default(),
            refused: None,
        });
    }
    rules
}
