// SPDX-License-Identifier: Apache-2.0

//! What of the mesh a workload's clients see, and what becomes of connections to the rest.
//!
//! Knows nothing of the objects that say so. Invariant: what is not seen is an address like any other,
//! whoever has it; nothing that a pod accepts depends on it.

use std::sync::Arc;

use super::{service::Service, workload::Workload};

/// What becomes of connections to what nobody has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OutboundPolicy {
    /// They go on to where they were opened to.
    #[default]
    AllowAny,
    /// They are refused.
    RegistryOnly,
}

/// What a workload's clients see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope {
    /// What becomes of the rest.
    pub policy: OutboundPolicy,
    /// Whatever is exported to the workload's namespace, unless something more narrow is said.
    pub hosts: Option<Vec<Seen>>,
    /// What is not seen, whatever `hosts` says.
    pub hidden: Vec<Seen>,
    /// Set if rules may look other to its clients than to the rest of their namespace.
    pub view: Option<View>,
}

/// Tells clients for whom rules may look other than for the rest of their namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// By what ports know rules of theirs.
    pub key: Arc<str>,
    /// The DestinationRules of the namespace that are for some clients only, these among them.
    pub rules: Vec<Arc<str>>,
}

/// Some hosts of some namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    /// Of which namespace.
    pub namespace: SeenIn,
    /// Which hosts.
    pub hosts: SeenHosts,
}

/// In which namespace something is seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SeenIn {
    /// In all.
    Any,
    /// In the client's.
    Own,
    /// In the one.
    Named(Arc<str>),
}

/// Which hosts of a namespace are seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SeenHosts {
    /// All.
    All,
    /// The one.
    Exact(Arc<str>),
    /// Those that end so: what follows the `*`.
    Suffix(Arc<str>),
}

impl Scope {
    /// Whether clients in namespace `own` see a host, as far as this decides; it must be exported to
    /// them, too.
    pub fn sees(&self, own: &str, namespace: &str, host: &str) -> bool {
        self.shows(|seen| seen.includes(own, namespace) && seen.hosts.include(host))
    }

    /// Whether clients in namespace `own` may see anything of a namespace.
    pub fn sees_namespace(&self, own: &str, namespace: &str) -> bool {
        let seen = |one: &Seen| one.includes(own, namespace);
        let hidden = |one: &Seen| one.hosts == SeenHosts::All && seen(one);
        let hosts = self.hosts.as_ref();
        hosts.is_none_or(|hosts| hosts.iter().any(seen)) && !self.hidden.iter().any(hidden)
    }

    /// Whether something is shown that `is` finds, and none of it is hidden.
    pub fn shows(&self, is: impl Fn(&Seen) -> bool) -> bool {
        let hosts = self.hosts.as_ref();
        hosts.is_none_or(|hosts| hosts.iter().any(&is)) && !self.hidden.iter().any(&is)
    }

    /// Whether something that is exported to its clients may not be seen.
    pub fn is_narrow(&self) -> bool {
        let all = |one: &Seen| one.namespace == SeenIn::Any && one.hosts == SeenHosts::All;
        let hosts = self.hosts.as_ref();
        !self.hidden.is_empty() || hosts.is_some_and(|hosts| !hosts.iter().any(all))
    }
}

impl Seen {
    /// Whether it is about a namespace, for clients in namespace `own`.
    pub fn includes(&self, own: &str, namespace: &str) -> bool {
        match &self.namespace {
            SeenIn::Any => true,
            SeenIn::Own => *own == *namespace,
            SeenIn::Named(named) => **named == *namespace,
        }
    }
}

impl SeenHosts {
    /// Whether a host is among them.
    pub fn include(&self, host: &str) -> bool {
        match self {
            Self::All => true,
            Self::Exact(exact) => **exact == *host,
            Self::Suffix(suffix) => host.ends_with(&**suffix),
        }
    }
}

impl Workload {
    /// Whether its clients see the host.
    pub fn sees(&self, service: &Service) -> bool {
        let own = &self.namespace;
        let (of, host) = (&service.name.namespace, &service.hostname);
        service.visibility.allows(Some(own)) && self.scope.sees(own, of, host)
    }

    /// What is for its clients of `all`, which are known by view or by namespace.
    pub fn own<'a, T>(&self, all: &'a [(Arc<str>, T)]) -> Option<&'a T> {
        let of = |wanted: &Arc<str>| {
            let mut all = all.iter();
            all.find(|(known, _)| known == wanted).map(|(_, own)| own)
        };
        let view = self.scope.view.as_ref();
        view.and_then(|view| of(&view.key))
            .or_else(|| of(&self.namespace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(namespace: Option<&str>, hosts: SeenHosts) -> Seen {
        let namespace = match namespace {
            None => SeenIn::Any,
            Some(".") => SeenIn::Own,
            Some(name) => SeenIn::Named(name.into()),
        };
        Seen { namespace, hosts }
    }

    const CART: &str = "cart.shop.svc.cluster.local";

    #[track_caller]
    fn check(hosts: Option<Vec<Seen>>, want: bool) {
        let scope = Scope {
            hosts,
            ..Scope::default()
        };
        assert_eq!(scope.sees("till", "shop", CART), want, "{scope:?}");
    }

    #[test]
    fn the_clients_own_namespace_is_theirs() {
        let own = Scope {
            hosts: Some(vec![seen(Some("."), SeenHosts::All)]),
            ..Scope::default()
        };
        assert!(own.sees("shop", "shop", CART));
        assert!(!own.sees("till", "shop", CART));
        assert!(own.sees_namespace("shop", "shop"));
        assert!(!own.sees_namespace("till", "shop"));
    }

    #[test]
    fn what_is_hidden_is_not_seen_whatever_shows_it() {
        let hiding = |hosts| Scope {
            hidden: vec![seen(Some("shop"), hosts)],
            ..Scope::default()
        };
        let exact = hiding(SeenHosts::Exact(CART.into()));
        assert!(!exact.sees("till", "shop", CART));
        assert!(exact.sees("till", "bank", CART));
        assert!(exact.sees_namespace("till", "shop"));
        assert!(!hiding(SeenHosts::All).sees_namespace("till", "shop"));
        assert!(exact.is_narrow() && !Scope::default().is_narrow());
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
