// SPDX-License-Identifier: Apache-2.0

//! Header changes of routes, checked and compiled.
//!
//! Invariant: no compiled edit names `Host` or a pseudo header: to set the host is to rewrite the
//! authority.

use http::{HeaderName, HeaderValue, header, uri::Authority};

use super::{
    facts::Findings,
    gaps,
    gateway::HeaderModifier,
    istio::{HeaderOperations, Headers},
    problem::{Severity, code},
};
use crate::model::{HeaderEdit, HeaderEdits};

/// Compiles `headers` of a VirtualService's route or destination, appended to `edits`; the authority,
/// if it is set.
pub(super) fn istio(
    headers: &Headers,
    path: &str,
    edits: &mut HeaderEdits,
    findings: &mut Findings,
) -> Option<Authority> {
    for (direction, operations, into) in [
        ("request", &headers.request, &mut edits.request),
        ("response", &headers.response, &mut edits.response),
    ] {
        if let Some(operations) = operations {
            operate(operations, &format!("{path}.{direction}"), into, findings);
        }
    }
    let request = headers.request.as_ref()?;
    let mut set = request.set.iter().filter(|(name, _)| is_authority(name));
    let (name, value) = set.next()?;
    let parsed = value.parse();
    if parsed.is_err() {
        let field = format!("{path}.request.set[{name}]");
        let text = format!("{value:?} is not a host");
        findings.reject(field, text, "write host or host:port");
    }
    parsed.ok()
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(header::HOST.as_str()) || name == ":authority"
}

fn operate(
    operations: &HeaderOperations,
    path: &str,
    into: &mut Vec<HeaderEdit>,
    findings: &mut Findings,
) {
    for name in &operations.remove {
        into.extend(named(name, &format!("{path}.remove"), findings).map(HeaderEdit::Remove));
    }
    // The authority of a request is rewritten instead.
    let of_request = path.ends_with(".request");
    let edited = operations.set.iter();
    for (name, value) in edited.filter(|(name, _)| !(of_request && is_authority(name))) {
        let field = format!("{path}.set[{name}]");
        literal(value, &field, findings);
        into.extend(
            pair(name, value, &field, findings).map(|(name, value)| HeaderEdit::Set(name, value)),
        );
    }
    for (name, value) in &operations.add {
        let field = format!("{path}.add[{name}]");
        literal(value, &field, findings);
        into.extend(
            pair(name, value, &field, findings).map(|(name, value)| HeaderEdit::Add(name, value)),
        );
    }
}

/// Says so if Envoy would put something else in the place of what is written.
fn literal(value: &str, field: &str, findings: &mut Findings) {
    if value.contains('%') {
        findings.add(
            Severity::Warning,
            code::UNSUPPORTED,
            field,
            format!(
                "not supported: {}; {value:?} is sent as it is written",
                gaps::ENVOY_COMMANDS.reason
            ),
            gaps::ENVOY_COMMANDS.fix,
        );
    }
}

/// What a rule and one of its destinations change, in the order in which Envoy carries it out as Istio
/// writes it: what is removed goes first, and the destination's edits come last; but where a rule has
/// several destinations, each one's edits come before the rule's.
pub(super) fn joined(rule: &HeaderEdits, destination: HeaderEdits, alone: bool) -> HeaderEdits {
    let join = |rule: &[HeaderEdit], destination: Vec<HeaderEdit>| {
        if !alone {
            return [destination, rule.to_vec()].concat();
        }
        let all = rule.iter().cloned().chain(destination);
        let (mut edits, rest): (Vec<_>, Vec<_>) =
            all.partition(|edit| matches!(edit, HeaderEdit::Remove(_)));
        edits.extend(rest);
        edits
    };
    HeaderEdits {
        request: join(&rule.request, destination.request),
        response: join(&rule.response, destination.response),
    }
}

/// Compiles a Gateway API header modifier, appended to `into`.
pub(super) fn gateway(
    modifier: &HeaderModifier,
    path: &str,
    into: &mut Vec<HeaderEdit>,
    findings: &mut Findings,
) {
    for header in &modifier.set {
        let edit = pair(
            &header.name,
            &header.value,
            &format!("{path}.set"),
            findings,
        );
        into.extend(edit.map(|(name, value)| HeaderEdit::Set(name, value)));
    }
    for header in &modifier.add {
        let edit = pair(
            &header.name,
            &header.value,
            &format!("{path}.add"),
            findings,
        );
        into.extend(edit.map(|(name, value)| HeaderEdit::Add(name, value)));
    }
    for name in &modifier.remove {
        into.extend(named(name, &format!("{path}.remove"), findings).map(HeaderEdit::Remove));
    }
}

fn pair(
    name: &str,
    value: &str,
    field: &str,
    findings: &mut Findings,
) -> Option<(HeaderName, HeaderValue)> {
    let name = named(name, field, findings)?;
    match HeaderValue::from_str(value) {
        Ok(value) => Some((name, value)),
        Err(_) => {
            findings.reject(
                field,
                format!("{value:?} is not a header value"),
                "use visible ASCII",
            );
            None
        }
    }
}

fn named(name: &str, field: &str, findings: &mut Findings) -> Option<HeaderName> {
    if name.starts_with(':') || name.eq_ignore_ascii_case(header::HOST.as_str()) {
        findings.add(
            Severity::Warning,
            code::UNSUPPORTED,
            field,
            format!("{name:?} cannot be changed so: it is left as it is"),
            "set Host in the request to rewrite the authority",
        );
        return None;
    }
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) => Some(name),
        Err(_) => {
            findings.reject(
                field,
                format!("{name:?} is not a header name"),
                "correct it",
            );
            None
        }
    }
}
