// SPDX-License-Identifier: Apache-2.0

//! What of the mesh a workload's clients see, and what becomes of connections to the rest.
//!
//! Knows nothing of the objects that say so. Invariant: what is not seen is an address like any other,
//! whoever has it; nothing that a pod accepts depends on it.

use std::sync::Arc;

use super::{service::Service, workload::Workload};

/// What becomes of connections to what nobody has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutboundPolicy {
    /// They go on to where they were opened to.
    #[default]
    AllowAny,
    /// They are refused.
    RegistryOnly,
}

/// What a workload's clients see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// What becomes of the rest.
    pub policy: OutboundPolicy,
    /// Whatever is exported to the workload's namespace, unless something more narrow is said.
    pub hosts: Option<Vec<Seen>>,
}

/// Some hosts of some namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Any if `None`.
    pub namespace: Option<Arc<str>>,
    /// Which hosts.
    pub hosts: SeenHosts,
}

/// Which hosts of a namespace are seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeenHosts {
    /// All.
    All,
    /// The one.
    Exact(Arc<str>),
    /// Those that end so: what follows the `*`.
    Suffix(Arc<str>),
}

impl Scope {
    /// Whether a host is seen, as far as this decides; it must be exported to the client, too.
    pub fn sees(&self, service: &Service) -> bool {
        let seen = |one: &Seen| {
            one.includes(&service.name.namespace)
                && match &one.hosts {
                    SeenHosts::All => true,
                    SeenHosts::Exact(host) => *host == service.hostname,
                    SeenHosts::Suffix(suffix) => service.hostname.ends_with(&**suffix),
                }
        };
        self.hosts
            .as_ref()
            .is_none_or(|hosts| hosts.iter().any(seen))
    }

    /// Whether anything of a namespace may be seen.
    pub fn sees_namespace(&self, namespace: &str) -> bool {
        let seen = |one: &Seen| one.includes(namespace);
        self.hosts
            .as_ref()
            .is_none_or(|hosts| hosts.iter().any(seen))
    }
}

impl Seen {
    fn includes(&self, namespace: &str) -> bool {
        self.namespace
            .as_ref()
            .is_none_or(|wanted| **wanted == *namespace)
    }
}

impl Workload {
    /// Whether its clients see the host.
    pub fn sees(&self, service: &Service) -> bool {
        service.visibility.allows(Some(&self.namespace)) && self.scope.sees(service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ServiceName, Visibility};

    fn seen(namespace: Option<&str>, hosts: SeenHosts) -> Seen {
        Seen {
            namespace: namespace.map(Arc::from),
            hosts,
        }
    }

    #[track_caller]
    fn check(hosts: Option<Vec<Seen>>, want: bool) {
        let service = Service {
            name: ServiceName::new("shop", "cart"),
            hostname: "cart.shop.svc.cluster.local".into(),
            vips: Vec::new(),
            ports: Vec::new(),
            captured: false,
            visibility: Visibility::Everyone,
        };
        let scope = Scope {
            hosts,
            ..Scope::default()
        };
        assert_eq!(scope.sees(&service), want, "{scope:?}");
    }

    #[test]
    fn a_host_is_seen_by_namespace_and_name() {
        let exact = || SeenHosts::Exact("cart.shop.svc.cluster.local".into());
        let suffix = |text: &str| SeenHosts::Suffix(text.into());
        check(None, true);
        check(Some(vec![]), false);
        check(Some(vec![seen(None, SeenHosts::All)]), true);
        check(Some(vec![seen(Some("shop"), SeenHosts::All)]), true);
        check(Some(vec![seen(Some("bank"), SeenHosts::All)]), false);
        check(Some(vec![seen(None, exact())]), true);
        check(Some(vec![seen(Some("bank"), exact())]), false);
        check(
            Some(vec![seen(None, suffix(".shop.svc.cluster.local"))]),
            true,
        );
        check(
            Some(vec![seen(None, suffix(".bank.svc.cluster.local"))]),
            false,
        );
        let several = vec![
            seen(Some("bank"), SeenHosts::All),
            seen(Some("shop"), exact()),
        ];
        check(Some(several), true);
    }
}
