// SPDX-License-Identifier: Apache-2.0

//! `sessionPersistence` of a route's rule, checked and compiled.
//!
//! Reference: Gateway API `SessionPersistence`, GEP-1619.

use http::HeaderName;

use super::{
    facts::{Findings, Meta},
    gateway::{CookieLifetime, SessionKind, SessionPersistence},
    problem::{Severity, code},
};
use crate::model::Session;

/// Compiles what stands at `path` of rule number `index`.
pub(super) fn read(
    written: &SessionPersistence,
    (meta, index): (&Meta, usize),
    path: &str,
    findings: &mut Findings,
) -> Option<Session> {
    let path = format!("{path}.sessionPersistence");
    let lifetime = written.cookie_config.as_ref();
    let lasting =
        lifetime.and_then(|config| config.lifetime_type) == Some(CookieLifetime::Permanent);
    for (field, present, why) in [
        (
            "absoluteTimeout",
            written.absolute_timeout.is_some(),
            "a session lasts for as long as its client keeps it",
        ),
        (
            "idleTimeout",
            written.idle_timeout.is_some(),
            "a session lasts for as long as its client keeps it",
        ),
        (
            "cookieConfig.lifetimeType",
            lasting,
            "the cookie is one for the client's session",
        ),
    ] {
        if present {
            findings.add(
                Severity::Warning,
                code::UNSUPPORTED,
                format!("{path}.{field}"),
                format!("not supported yet: {why}"),
                "remove the field if you can do without",
            );
        }
    }
    let unwritten = format!("mesh-session-{}-{}-{index}", meta.namespace, meta.name);
    let name = written.session_name.as_deref();
    let name = name.filter(|name| !name.is_empty()).unwrap_or(&unwritten);
    // What is a header's name is a cookie's, too (RFC 6265 section 4.1.1).
    match (HeaderName::from_bytes(name.as_bytes()), written.kind) {
        (Ok(name), Some(SessionKind::Header)) => Some(Session::Header(name)),
        (Ok(_), Some(SessionKind::Cookie) | None) => Some(Session::Cookie(name.to_owned())),
        (Err(_), _) => {
            let text = format!("{name:?} is no name of a cookie or header");
            findings.reject(format!("{path}.sessionName"), text, "correct it");
            None
        }
    }
}
