// SPDX-License-Identifier: Apache-2.0

//! A GRPCRoute, reduced to what matters of any route: a method is a path.
//!
//! Reference: Gateway API `apis/v1/grpcroute_types.go`; gRPC over HTTP/2, "Path".

use super::{
    facts::{Findings, Meta},
    filters::Filters,
    gateway::{GrpcMatch, GrpcMethod, GrpcRouteSpec, GrpcRule, TextKind},
    object::Resource,
    route::{
        Precedence, RouteFacts, RouteKind, RouteRuleFacts, RuleReader, header_matches, parents,
        unheeded,
    },
    treatment::TreatmentFacts,
};
use crate::model::{HttpMatch, PathMatch};

/// Reads a GRPCRoute.
pub(super) fn read(object: &Resource<GrpcRouteSpec>, findings: &mut Findings) -> RouteFacts {
    let meta = Meta::new(&object.metadata);
    let spec = &object.spec;
    unheeded(&spec.hostnames, spec.use_default_gateways, findings);
    let parents = parents(&spec.parent_refs, &meta, findings);
    let unwritten = [GrpcRule::default()];
    let written = spec.rules.as_deref().unwrap_or(&unwritten);
    let rules = written.iter().enumerate().map(|(index, one)| {
        let reader = RuleReader {
            kind: RouteKind::Grpc,
            meta: &meta,
            path: format!("spec.rules[{index}]"),
            findings,
        };
        rule(reader, index, one)
    });
    RouteFacts {
        kind: RouteKind::Grpc,
        parents,
        names: Vec::new(),
        rules: rules.collect(),
        meta,
    }
}

fn rule(mut reader: RuleReader<'_>, index: usize, rule: &GrpcRule) -> RouteRuleFacts {
    let path = reader.path.clone();
    let mut filters = Filters::default();
    reader
        .filters(false, false)
        .read(&rule.filters, &path, &mut filters);
    let session = reader.session(rule.session_persistence.as_ref(), index);
    let unwritten = [GrpcMatch::default()];
    let written = if rule.matches.is_empty() {
        &unwritten[..]
    } else {
        &rule.matches
    };
    let matches = written.iter().enumerate();
    RouteRuleFacts {
        name: reader.name(index, rule.name.as_deref()),
        matches: matches
            .map(|(at, one)| condition(one, &format!("{path}.matches[{at}]"), reader.findings))
            .collect(),
        backends: reader.backends(&rule.backend_refs, &filters, false),
        mirrors: reader.mirrors(&filters),
        treatment: TreatmentFacts {
            session,
            ..TreatmentFacts::default()
        },
        redirect: None,
        timeout: None,
        refused: filters.refused,
    }
}

fn condition(one: &GrpcMatch, path: &str, findings: &mut Findings) -> (Precedence, HttpMatch) {
    let unwritten = GrpcMethod::default();
    let wanted = one.method.as_ref().unwrap_or(&unwritten);
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (service, method) = (text(&wanted.service), text(&wanted.method));
    let is_regex = wanted.kind == Some(TextKind::RegularExpression);
    for (name, value) in [("service", &service), ("method", &method)] {
        if !is_regex && value.contains('/') {
            let text = format!("{value:?} is not the name of a {name}");
            findings.reject(
                format!("{path}.method.{name}"),
                text,
                "write it without slash",
            );
        }
    }
    let path_match = path_match(&service, &method, is_regex).unwrap_or_else(|error| {
        findings.reject(format!("{path}.method"), error, "correct it (RE2 syntax)");
        None
    });
    let headers = header_matches(&one.headers, &format!("{path}.headers"), findings);
    let length = |text: &str| if is_regex { 0 } else { text.len() };
    let precedence = Precedence::Grpc {
        service: length(&service),
        method: length(&method),
        headers: headers.len(),
    };
    let condition = HttpMatch {
        path: path_match,
        headers,
        ..HttpMatch::default()
    };
    (precedence, condition)
}

/// `/service/method`, either of which may be left open.
fn path_match(service: &str, method: &str, is_regex: bool) -> Result<Option<PathMatch>, String> {
    let open = |text: &str| match (text, is_regex) {
        ("", _) => "[^/]+".to_owned(),
        (text, true) => format!("(?:{text})"),
        (text, false) => regex::escape(text),
    };
    match (service, method, is_regex) {
        ("", "", _) => Ok(None),
        (service, "", false) => Ok(Some(PathMatch::text_prefix(&format!("/{service}/"), false))),
        (service, method, false) if !service.is_empty() => {
            let path = format!("/{service}/{method}");
            Ok(Some(PathMatch::text_exact(&path, false)))
        }
        (service, method, _) => {
            let pattern = format!("/{}/{}", open(service), open(method));
            PathMatch::regex(&pattern)
                .map(Some)
                .map_err(|error| error.to_string())
        }
    }
}
