// SPDX-License-Identifier: Apache-2.0

//! Joins the facts of all objects into one snapshot.
//!
//! What is joined is kept, and only what a change reaches is joined again: values that did not
//! change are the same allocations as before, so that caches keyed by them stay warm, and loads and
//! schedules go on where they were. Invariant: a snapshot, and what is wrong, are as if everything
//! had been joined anew.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use super::{
    backend_policy,
    dirty::Dirty,
    endpoints::Endpoints,
    enrol::NamespaceFacts,
    entries::Entries,
    guards::{Selected, Surroundings},
    index::{IndexSettings, Shelves},
    pod::PodFacts,
    pods::Pods,
    policy::Composer,
    problem::Problem,
    rate_limit,
    references::References,
    scopes::Scopes,
    services::Services,
    views,
};
use crate::model::{Snapshot, SpiffeId, Workload};

/// Everything that was joined, to be kept up to date.
#[derive(Debug)]
pub(super) struct Joined {
    pods: Pods,
    entries: Entries,
    endpoints: Endpoints,
    services: Services,
    references: References,
    selected: Selected,
    selected_for_tokens: Selected,
    trust_domain_aliases: Arc<[Arc<str>]>,
}

impl Joined {
    /// Nothing yet.
    pub(super) fn new(settings: &IndexSettings) -> Self {
        Self {
            pods: Pods::new(&settings.node),
            entries: Entries::default(),
            endpoints: Endpoints::default(),
            services: Services::default(),
            references: References::default(),
            selected: Selected::default(),
            selected_for_tokens: Selected::default(),
            trust_domain_aliases: Arc::default(),
        }
    }

    /// Joins again what the changes reach; returns what is wrong between objects.
    pub(super) fn update(
        &mut self,
        shelves: &Shelves,
        settings: &IndexSettings,
        dirty: &Dirty,
    ) -> Vec<Problem> {
        let domains = shelves.trust_domains(settings);
        if self.trust_domain_aliases != *domains.aliases() {
            self.trust_domain_aliases = Arc::clone(domains.aliases());
        }
        let composer = Composer::new(
            &shelves.peer_authentications,
            &shelves.policies,
            &shelves.mesh_policies,
            &shelves.authorization_policies,
            &shelves.request_authentications,
            &shelves.services,
            (
                &settings.root_namespace,
                Surroundings {
                    providers: shelves.providers(settings),
                    trust_domains: domains,
                },
            ),
        );
        let Self {
            pods,
            entries,
            endpoints,
            services,
            references,
            selected,
            selected_for_tokens,
            ..
        } = self;
        let scopes = Scopes::new(settings, &shelves.sidecars, &shelves.destination_rules);
        let touched = pods.update(shelves, settings, (&composer, &scopes), dirty);
        let domain = &settings.cluster_domain;
        let hosts = entries.update(shelves, domain, dirty, &touched);
        let mut changed = endpoints.update(shelves, domain, pods, entries, (dirty, &touched));
        endpoints.update_entries(shelves, domain, pods, entries, hosts, &mut changed);
        let views = (!touched.pods.is_empty()).then(|| views::of(pods.here()));
        services.update(
            shelves,
            settings,
            (entries, endpoints),
            (dirty, views),
            changed,
        );
        let mut problems: BTreeSet<Problem> = services.problems().cloned().collect();
        problems.extend(rate_limit::check(shelves));
        backend_policy::check(shelves, &mut problems);
        let findings = composer.findings.into_iter().chain(scopes.findings);
        problems.extend(findings.flat_map(|findings| findings.problems));
        entries.problems(shelves, &mut problems);
        references.update(shelves, settings, endpoints, pods, dirty, &touched);
        references.check(shelves, pods, &mut problems);
        let (root, changes) = (&settings.root_namespace, (dirty, &touched));
        let guards = &shelves.authorization_policies;
        selected.update(guards, shelves, root, pods, changes);
        selected.check(guards, root, pods, &mut problems);
        let tokens = &shelves.request_authentications;
        selected_for_tokens.update(tokens, shelves, root, pods, changes);
        selected_for_tokens.check(tokens, root, pods, &mut problems);
        problems.into_iter().collect()
    }

    /// The names that are to be resolved.
    pub(super) fn names(&self, shelves: &Shelves, domain: &str) -> BTreeSet<Arc<str>> {
        let mut names = self.entries.names(shelves);
        names.extend(self.endpoints.names(domain).map(Arc::clone));
        names
    }

    /// What there is now. Shares with earlier snapshots what is the same.
    pub(super) fn snapshot(&self, generation: u64) -> Snapshot {
        Snapshot {
            generation,
            node: Arc::clone(&self.pods.node),
            workloads: self.pods.by_uid.clone(),
            by_address: self.pods.by_address.clone(),
            services: self.services.by_name.clone(),
            by_vip: self.services.by_vip.clone(),
            by_endpoint: self.services.headless.published.clone(),
            named: self.services.named.published.clone(),
            trust_domain_aliases: Arc::clone(&self.trust_domain_aliases),
            local: OnceLock::from(self.pods.local()),
            ..Snapshot::default()
        }
    }
}

/// What a pod is to the mesh.
pub(super) fn workload(
    pod: &PodFacts,
    namespace: Option<&NamespaceFacts>,
    settings: &IndexSettings,
    node: &Arc<str>,
    (composer, scopes): (&Composer<'_>, &Scopes<'_>),
) -> Workload {
    let label = |keys: &[&str]| {
        let found = keys.iter().find_map(|key| pod.labels.get(*key));
        found
            .filter(|value| !value.is_empty())
            .map(|value| Arc::from(value.as_str()))
    };
    let here = pod.node == *node;
    let choice = namespace.map(|namespace| namespace.choice);
    let of_all = namespace.and_then(|namespace| namespace.close_existing_after);
    let enrolled = !pod.host_network && pod.choice.enrols(choice.unwrap_or_default());
    Workload {
        uid: pod.uid.clone(),
        name: Arc::clone(&pod.meta.name),
        namespace: Arc::clone(&pod.meta.namespace),
        identity: SpiffeId::new(
            &settings.trust_domain,
            &pod.meta.namespace,
            &pod.service_account,
        ),
        node: if here {
            Arc::clone(node)
        } else {
            Arc::clone(&pod.node)
        },
        addresses: pod.addresses.clone(),
        labels: Arc::clone(&pod.labels),
        owner: Arc::clone(&pod.owner),
        canonical_service: label(&[
            "service.istio.io/canonical-name",
            "app.kubernetes.io/name",
            "app",
        ])
        .unwrap_or_else(|| Arc::clone(&pod.owner)),
        canonical_revision: label(&[
            "service.istio.io/canonical-revision",
            "app.kubernetes.io/version",
            "version",
        ])
        .unwrap_or_else(|| "latest".into()),
        enrolled,
        netns: pod.netns.clone().filter(|_| here && !pod.host_network),
        host_network: pod.host_network,
        ready: pod.ready,
        probe_ports: pod.probe_ports.clone(),
        close_existing_after: pod.close_existing_after.or(of_all),
        inbound: composer.compose(pod),
        scope: scopes.of(pod, here && enrolled),
    }
}
