// SPDX-License-Identifier: Apache-2.0

//! Conditions of a VirtualService, checked and compiled.
//!
//! Knows nothing of what is done with a request that meets them.

use std::collections::BTreeMap;

use http::HeaderName;

use super::{
    facts::Findings,
    istio::{HttpMatchRequest, StringMatch},
};
use crate::model::{HttpMatch, PathMatch, TextMatch, text::FullRegex};

/// Compiles one entry of `match`, but for its port and gateways.
pub(super) fn compile(one: &HttpMatchRequest, path: &str, findings: &mut Findings) -> HttpMatch {
    let mut text = |field: &str, want: &Option<StringMatch>| {
        let want = want.as_ref()?;
        Some(text_match(want, &format!("{path}.{field}"), findings))
    };
    let (method, authority, scheme) = (
        text("method", &one.method),
        text("authority", &one.authority),
        text("scheme", &one.scheme),
    );
    HttpMatch {
        path: one
            .uri
            .as_ref()
            .and_then(|uri| path_match(uri, one.ignore_uri_case, path, findings)),
        method,
        authority,
        scheme,
        headers: header_matches(&one.headers, &format!("{path}.headers"), findings),
        without_headers: header_matches(
            &one.without_headers,
            &format!("{path}.withoutHeaders"),
            findings,
        ),
        query: one
            .query_params
            .iter()
            .map(|(name, want)| {
                let field = format!("{path}.queryParams[{name}]");
                (name.clone(), optional(want.as_ref(), &field, findings))
            })
            .collect(),
        source_labels: one.source_labels.clone().into_iter().collect(),
        source_namespace: (!one.source_namespace.is_empty()).then(|| one.source_namespace.clone()),
    }
}

fn path_match(
    uri: &StringMatch,
    ignore_case: bool,
    path: &str,
    findings: &mut Findings,
) -> Option<PathMatch> {
    match (&uri.exact, &uri.prefix, &uri.regex) {
        (Some(exact), None, None) => Some(PathMatch::text_exact(exact, ignore_case)),
        (None, Some(prefix), None) => Some(PathMatch::text_prefix(prefix, ignore_case)),
        (None, None, Some(pattern)) => match PathMatch::regex(pattern) {
            Ok(regex) => Some(regex),
            Err(error) => {
                findings.reject(
                    format!("{path}.uri.regex"),
                    error.to_string(),
                    "correct it (RE2 syntax)",
                );
                None
            }
        },
        (None, None, None) => None,
        _ => {
            findings.reject(
                format!("{path}.uri"),
                "only one of exact, prefix, regex may be set",
                "choose one",
            );
            None
        }
    }
}

fn header_matches(
    conditions: &BTreeMap<String, Option<StringMatch>>,
    path: &str,
    findings: &mut Findings,
) -> Vec<(HeaderName, TextMatch)> {
    let mut compiled = Vec::new();
    for (name, want) in conditions {
        let field = format!("{path}[{name}]");
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => compiled.push((name, optional(want.as_ref(), &field, findings))),
            Err(_) => findings.reject(field, "this is not a header name", "correct it"),
        }
    }
    compiled
}

/// `{}` and the regular expression `*` only ask that the text be there.
fn optional(want: Option<&StringMatch>, field: &str, findings: &mut Findings) -> TextMatch {
    match want {
        None => TextMatch::Present,
        Some(want) if want.regex.as_deref() == Some("*") => TextMatch::Present,
        Some(want) => text_match(want, field, findings),
    }
}

/// Compiles a condition on a text.
pub(super) fn text_match(want: &StringMatch, field: &str, findings: &mut Findings) -> TextMatch {
    match (&want.exact, &want.prefix, &want.regex) {
        (Some(exact), None, None) => TextMatch::Exact(exact.clone()),
        (None, Some(prefix), None) => TextMatch::Prefix(prefix.clone()),
        (None, None, Some(pattern)) => match FullRegex::new(pattern) {
            Ok(regex) => TextMatch::Regex(regex),
            Err(error) => {
                findings.reject(
                    format!("{field}.regex"),
                    error.to_string(),
                    "correct it (RE2 syntax)",
                );
                TextMatch::Present
            }
        },
        (None, None, None) => TextMatch::Present,
        _ => {
            findings.reject(
                field,
                "only one of exact, prefix, regex may be set",
                "choose one",
            );
            TextMatch::Present
        }
    }
}
