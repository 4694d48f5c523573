// SPDX-License-Identifier: Apache-2.0

//! Who rules may look different to: the clients of a namespace, or some pods of it, for whom a Sidecar or
//! a DestinationRule with a selector counts.
//!
//! Only pods of this node are told apart in that way. Knows nothing of what rules say. Reference: Istio
//! `pilot/pkg/model/sidecar.go` (`SelectVirtualServices`, `DestinationRule`). Invariant: for pods without a
//! view of their own nothing is compiled twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    endpoints::Endpoints, index::Shelves, resolve::HostPattern,
    virtual_service::VirtualServiceFacts,
};
use crate::model::{Scope, Seen, SeenHosts, Workload};

/// Clients for whom the same rules count.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Viewer {
    pub(super) namespace: Arc<str>,
    /// What they see, if they have a view of their own.
    own: Option<Arc<Scope>>,
}

/// The views of this node's pods, by key.
pub(super) type Views = BTreeMap<Arc<str>, Viewer>;

impl Viewer {
    /// The clients of a namespace.
    pub(super) fn of(namespace: &Arc<str>) -> Self {
        Self {
            namespace: Arc::clone(namespace),
            own: None,
        }
    }

    /// A pod's view, if it has one of its own.
    fn of_pod(pod: &Workload) -> Option<(Arc<str>, Self)> {
        let view = pod.scope.view.as_ref()?;
        let viewer = Self {
            namespace: Arc::clone(&pod.namespace),
            own: Some(Arc::clone(&pod.scope)),
        };
        Some((Arc::clone(&view.key), viewer))
    }

    /// By what ports know their rules.
    pub(super) fn key(&self) -> &Arc<str> {
        let view = self.own.as_ref().and_then(|own| own.view.as_ref());
        view.map_or(&self.namespace, |view| &view.key)
    }

    /// Whether they are some pods only.
    pub(super) fn is_some_pods(&self) -> bool {
        self.own.is_some()
    }

    /// The DestinationRules for some clients that are for these.
    pub(super) fn rules(&self) -> &[Arc<str>] {
        let view = self.own.as_ref().and_then(|own| own.view.as_ref());
        view.map_or(&[], |view| &view.rules)
    }

    /// Whether they see a host at all.
    pub(super) fn sees(&self, namespace: &str, hostname: &str) -> bool {
        let own = self.own.as_ref();
        own.is_none_or(|own| own.sees(&self.namespace, namespace, hostname))
    }

    /// Whether a VirtualService is among what a Sidecar lets them see.
    pub(super) fn imports(&self, facts: &VirtualServiceFacts) -> bool {
        let Some(own) = &self.own else {
            return true;
        };
        own.shows(|seen| {
            let mut hosts = facts.hosts.iter();
            seen.includes(&self.namespace, &facts.meta.namespace)
                && hosts.any(|host| overlaps(seen, host))
        })
    }

    /// Whether a VirtualService counts for them.
    pub(super) fn heeds(&self, facts: &VirtualServiceFacts) -> bool {
        facts.visibility.allows(Some(&self.namespace)) && self.imports(facts)
    }
}

/// Whether a VirtualService counts for `client`; for clients that nothing names if `None`.
pub(super) fn heeds(client: Option<&Viewer>, facts: &VirtualServiceFacts) -> bool {
    match client {
        Some(client) => client.heeds(facts),
        None => facts.visibility.allows(None),
    }
}

/// Whether a host can be one of those that are seen.
fn overlaps(seen: &Seen, host: &HostPattern) -> bool {
    match (&seen.hosts, host) {
        (SeenHosts::All, _) | (_, HostPattern::Any) => true,
        (seen, HostPattern::Exact(host)) => seen.include(host),
        (SeenHosts::Exact(seen), wild) => wild.matches(seen),
        (SeenHosts::Suffix(seen), HostPattern::Suffix(_, suffix)) => {
            seen.ends_with(&**suffix) || suffix.ends_with(&**seen)
        }
    }
}

/// The views of `pods`.
pub(super) fn of<'p>(pods: impl Iterator<Item = &'p Arc<Workload>>) -> Views {
    pods.filter_map(|pod| Viewer::of_pod(pod)).collect()
}

/// Adds the hosts about which pods whose views changed may see other rules than before.
pub(super) fn concerned(
    shelves: &Shelves,
    endpoints: &Endpoints,
    (last, now): (&Views, &Views),
    changed: &mut BTreeSet<Arc<str>>,
) {
    fn others<'v>(of: &'v Views, among: &'v Views) -> impl Iterator<Item = &'v Viewer> {
        let other = move |(key, viewer): &(&Arc<str>, &Viewer)| among.get(*key) != Some(viewer);
        of.iter().filter(other).map(|(_, viewer)| viewer)
    }
    let differing: Vec<&Viewer> = others(last, now).chain(others(now, last)).collect();
    if differing.is_empty() {
        return;
    }
    let virtual_services = shelves.virtual_services.iter().map(|(facts, _)| facts);
    let missed = |facts: &&VirtualServiceFacts| differing.iter().any(|one| !one.imports(facts));
    let mut patterns: Vec<&HostPattern> = virtual_services
        .filter(missed)
        .flat_map(|facts| &facts.hosts)
        .collect();
    for viewer in &differing {
        let rules = viewer.rules().iter();
        let rules = rules.filter_map(|name| shelves.destination_rules.get(&viewer.namespace, name));
        patterns.extend(rules.map(|rule| &rule.host));
    }
    for pattern in patterns {
        endpoints.about(pattern, changed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SeenIn;

    #[track_caller]
    fn check(hosts: SeenHosts, host: &str, want: bool) {
        let seen = Seen {
            namespace: SeenIn::Any,
            hosts,
        };
        let pattern = HostPattern::new(&host.into());
        assert_eq!(overlaps(&seen, &pattern), want, "{seen:?} {host}");
    }

    #[test]
    fn a_virtual_service_is_seen_if_one_of_its_hosts_can_be() {
        let exact = || SeenHosts::Exact("web.shop".into());
        let suffix = |text: &str| SeenHosts::Suffix(text.into());
        check(SeenHosts::All, "*.shop", true);
        check(exact(), "web.shop", true);
        check(exact(), "*.shop", true);
        check(exact(), "*.bank", false);
        check(exact(), "*", true);
        check(suffix(".shop"), "web.shop", true);
        check(suffix(".shop"), "web.bank", false);
        check(suffix(".shop"), "*.a.shop", true);
        check(suffix(".a.shop"), "*.shop", true);
        check(suffix(".a.shop"), "*.b.shop", false);
    }
}
