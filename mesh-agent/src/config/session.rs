// SPDX-License-Identifier: Apache-2.0

//! `sessionPersistence` of a route's rule, checked and compiled.
//!
//! Reference: Gateway API `SessionPersistence`, GEP-1619.

use http::HeaderName;

use super::{
    facts::{Findings, Meta},
    gaps,
    gateway::{CookieLifetime, SessionKind, SessionPersistence},
    object::Present,
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
    let fields = [
        (gaps::SESSION_ABSOLUTE, written.absolute_timeout.is_some()),
        (gaps::SESSION_IDLE, written.idle_timeout.is_some()),
    ];
    findings.gaps(&path, &fields.map(|(gap, present)| (gap, Present(present))));
    let fields = [(gaps::SESSION_LASTING, Present(lasting))];
    findings.gaps(&format!("{path}.cookieConfig"), &fields);
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
