// SPDX-License-Identifier: Apache-2.0

//! What a rule of a VirtualService does instead of sending a request on, and what it makes of its
//! URL: checked and compiled.
//!
//! Knows nothing of Services. Reference: Istio `pilot/pkg/networking/core/route/route.go`
//! (`ApplyRedirect`, `ApplyDirectResponse`, `applyHTTPRouteDestination`).

use std::sync::Arc;

use http::{HeaderMap, StatusCode, uri::Authority};

use super::{
    base64,
    facts::Findings,
    istio::{DerivePort, DirectResponse, HttpRedirect, HttpRewrite},
};
use crate::model::{DirectAnswer, HeaderEdits, PathEdit, Redirect, UrlRewrite, rewrite};

/// A redirect before it is known at which port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VirtualRedirect {
    redirect: Redirect,
    of_request_port: bool,
}

impl VirtualRedirect {
    /// The same with changes in the headers of its answer.
    pub(super) fn with(mut self, edits: &HeaderEdits) -> Self {
        self.redirect = self.redirect.with(edits);
        self
    }

    /// The redirect for clients of port `number` of a Service.
    pub(super) fn at(&self, number: u16) -> Redirect {
        Redirect {
            port: match self.of_request_port {
                true => Some(number),
                false => self.redirect.port,
            },
            ..self.redirect.clone()
        }
    }
}

/// Compiles `redirect`.
pub(super) fn redirect(
    written: &HttpRedirect,
    path: &str,
    findings: &mut Findings,
) -> Option<VirtualRedirect> {
    let status = written.redirect_code.unwrap_or(301);
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        findings.reject(
            format!("{path}.redirectCode"),
            format!("{status} is no redirect"),
            "use 301, 302, 303, 307 or 308",
        );
        return None;
    }
    let scheme = written.scheme.to_ascii_lowercase();
    if !scheme.is_empty() && rewrite::well_known_port(&scheme).is_none() {
        let text = format!("{:?} is neither http nor https", written.scheme);
        findings.reject(format!("{path}.scheme"), text, "correct it");
        return None;
    }
    if written.port.is_some() && written.derive_port.is_some() {
        let text = "port and derivePort exclude each other";
        findings.reject(path, text, "remove one of them");
        return None;
    }
    if written.uri.is_empty() && written.authority.is_empty() && written == &HttpRedirect::default()
    {
        findings.reject(path, "nothing is redirected", "set uri or authority");
        return None;
    }
    let edit = match written.uri.as_str() {
        "" => None,
        uri => match PathEdit::with_query(uri) {
            Ok(edit) => Some(edit),
            Err(error) => {
                let fix = "write an absolute path";
                findings.reject(format!("{path}.uri"), error.to_string(), fix);
                return None;
            }
        },
    };
    let host = authority(&written.authority, path, findings)?;
    Some(VirtualRedirect {
        redirect: Redirect {
            status,
            scheme: (!scheme.is_empty()).then(|| scheme.into()),
            host: host.map(|host| host.as_str().into()),
            port: written.port,
            path: edit,
            edits: None,
        },
        of_request_port: written.derive_port == Some(DerivePort::FromRequestPort),
    })
}

/// The host that is written; the outer `None` if it is none.
#[expect(clippy::option_option, reason = "wrong is not the same as unwritten")]
fn authority(text: &str, path: &str, findings: &mut Findings) -> Option<Option<Authority>> {
    if text.is_empty() {
        return Some(None);
    }
    match text.parse::<Authority>() {
        Ok(authority) if !text.contains('@') => Some(Some(authority)),
        Ok(_) | Err(_) => {
            let said = format!("{text:?} is not a host");
            findings.reject(format!("{path}.authority"), said, "write host or host:port");
            None
        }
    }
}

/// Compiles `rewrite`.
pub(super) fn rewrite(
    written: &HttpRewrite,
    path: &str,
    findings: &mut Findings,
) -> Option<UrlRewrite> {
    let regex = written.uri_regex_rewrite.as_ref();
    let compiled = match (written.uri.as_str(), regex) {
        ("", None) => Ok(None),
        (uri, None) => PathEdit::matched(uri)
            .map(Some)
            .map_err(|error| error.to_string()),
        ("", Some(regex)) => PathEdit::regex(&regex.pattern, &regex.rewrite)
            .map(Some)
            .map_err(|error| error.to_string()),
        (_, Some(_)) => Err("uri and uriRegexRewrite exclude each other".to_owned()),
    };
    let edit = match compiled {
        Ok(edit) => edit,
        Err(error) => {
            let field = match (regex, written.uri.as_str()) {
                (Some(_), "") => "uriRegexRewrite",
                _ => "uri",
            };
            findings.reject(format!("{path}.{field}"), error, "correct it");
            return None;
        }
    };
    let host = authority(&written.authority, path, findings)?;
    if edit.is_none() && host.is_none() {
        let fix = "set uri, uriRegexRewrite or authority";
        findings.reject(path, "nothing is rewritten", fix);
        return None;
    }
    Some(UrlRewrite {
        authority: host,
        path: edit,
    })
}

/// Compiles `directResponse`.
pub(super) fn direct_response(
    written: &DirectResponse,
    path: &str,
    findings: &mut Findings,
) -> Option<DirectAnswer> {
    let status = StatusCode::from_u16(written.status).ok();
    let Some(status) = status.filter(|status| (200..600).contains(&status.as_u16())) else {
        let text = format!("{} is no status of an answer", written.status);
        findings.reject(format!("{path}.status"), text, "use 200 to 599");
        return None;
    };
    let body = written.body.clone().unwrap_or_default();
    let body: Vec<u8> = match (body.string, body.bytes) {
        (Some(_), Some(_)) => {
            let text = "string and bytes exclude each other";
            findings.reject(format!("{path}.body"), text, "remove one of them");
            return None;
        }
        (Some(text), None) => text.into_bytes(),
        (None, Some(encoded)) => match base64::decode(&encoded) {
            Some(bytes) => bytes,
            None => {
                let field = format!("{path}.body.bytes");
                findings.reject(field, "this is not base64", "encode it");
                return None;
            }
        },
        (None, None) => Vec::new(),
    };
    Some(DirectAnswer {
        status,
        headers: HeaderMap::new(),
        body: Arc::from(body),
    })
}
