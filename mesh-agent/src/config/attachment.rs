// SPDX-License-Identifier: Apache-2.0

//! Where a route is attached: at which ports of a Service that it names as parent.
//!
//! Reference: GEP-1294: an address of the Service's own, and a port, or all of them.

use super::{
    route::{ParentFacts, RouteKind},
    service::{PortFacts, ServiceFacts},
};
use crate::model::Protocol;

/// What to do about a parent that a route cannot be attached to.
pub(super) const FIX: &str = "name a Service with a ClusterIP, and one of its ports for that";

/// Whether `parent` names `port` of its Service, perhaps among others.
pub(super) fn names(parent: &ParentFacts, port: &PortFacts) -> bool {
    parent.port.is_none_or(|number| number == port.number)
        && parent
            .section
            .as_deref()
            .is_none_or(|name| *name == *port.name)
}

/// The ports at which a route is attached to `parent`, which is `service`; at least one, else why.
pub(super) fn ports<'s>(
    kind: RouteKind,
    parent: &ParentFacts,
    service: Option<&'s ServiceFacts>,
) -> Result<Vec<&'s PortFacts>, String> {
    let name = &parent.service;
    let Some(service) = service else {
        return Err(format!(
            "there is no Service {name}: the route is not attached"
        ));
    };
    let named = || service.ports.iter().filter(|port| names(parent, port));
    if named().next().is_none() {
        return Err(format!(
            "Service {name} has no such TCP port: the route is not attached"
        ));
    }
    let ports: Vec<&PortFacts> = named().filter(|port| suits(kind, port.protocol)).collect();
    if ports.is_empty() {
        let protocol = match kind.is_opaque() {
            true => "HTTP",
            false => "another protocol than HTTP",
        };
        return Err(format!(
            "Service {name} declares {protocol} there: the route is not attached"
        ));
    }
    if service.vips.is_empty() {
        return Err(format!(
            "Service {name} is headless: no connection is opened to an address of its own"
        ));
    }
    Ok(ports)
}

/// Whether routes of `kind` decide about a port where this is spoken.
pub(super) fn suits(kind: RouteKind, protocol: Protocol) -> bool {
    match protocol {
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => !kind.is_opaque(),
        Protocol::Tcp | Protocol::Tls => kind.is_opaque(),
        Protocol::Sniff => true,
    }
}
