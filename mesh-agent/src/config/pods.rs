// SPDX-License-Identifier: Apache-2.0

//! Pods as workloads: joined with their namespaces and with what decides about what they accept.
//!
//! Of several pods with one address the first by namespace and name has it, of several with one UID
//! the last. Invariant: after an update everything here is as if all pods had been joined anew.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    build,
    claims::Claims,
    dirty::Dirty,
    facts::{Name, Shelf},
    index::{IndexSettings, Shelves},
    object::Kind,
    pod::PodFacts,
    policy::Composer,
    scopes::Scopes,
    selection::SomeLabels,
};
use crate::model::{SharedMap, Workload, WorkloadUid};

/// Who says what a pod accepts, and what its clients see.
type Composing<'c> = (&'c Composer<'c>, &'c Scopes<'c>);

/// All workloads.
#[derive(Debug)]
pub(super) struct Pods {
    /// The name of this node.
    pub(super) node: Arc<str>,
    by_name: BTreeMap<Name, Arc<Workload>>,
    pub(super) by_uid: SharedMap<WorkloadUid, Arc<Workload>>,
    pub(super) by_address: SharedMap<IpAddr, Arc<Workload>>,
    same_uid: Claims<WorkloadUid, Name>,
    pub(super) same_address: Claims<IpAddr, Name>,
    /// The enrolled ones of this node.
    local: BTreeMap<Name, Arc<Workload>>,
    /// By namespace, without those of their host's network.
    members: HashMap<Arc<str>, Members>,
}

/// How many pods a namespace has.
#[derive(Clone, Copy, Debug, Default)]
struct Members {
    all: usize,
    enrolled: usize,
}

/// What an update changed.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Pods whose facts or workload are not what they were, or that are gone.
    pub(super) pods: HashSet<Name>,
    /// Addresses that may have another owner, or one with another state.
    pub(super) addresses: HashSet<IpAddr>,
    /// What these pods are and were labelled with.
    pub(super) labels: SomeLabels,
}

/// A pod that has not ended, with its workload.
#[derive(Clone)]
pub(super) struct PodView<'a> {
    pub(super) facts: &'a PodFacts,
    pub(super) workload: Arc<Workload>,
}

impl Pods {
    pub(super) fn new(node: &str) -> Self {
        Self {
            node: node.into(),
            by_name: BTreeMap::new(),
            by_uid: SharedMap::default(),
            by_address: SharedMap::default(),
            same_uid: Claims::default(),
            same_address: Claims::default(),
            local: BTreeMap::new(),
            members: HashMap::new(),
        }
    }

    /// Takes in what changed; `dirty` pods may be what they were.
    pub(super) fn update(
        &mut self,
        shelves: &Shelves,
        settings: &IndexSettings,
        composing: Composing<'_>,
        dirty: &Dirty,
    ) -> Touched {
        let mut touched = Touched::default();
        for name in &dirty.pods {
            self.update_one(shelves, settings, composing, name, true, &mut touched);
        }
        // An endpoint is where its node is.
        for workload in self.on(&dirty.nodes) {
            touched.note(&named(&workload), &workload, true);
        }
        let mut others = implied(shelves, settings, dirty);
        others.extend(self.singled_out(dirty));
        for name in others {
            if !dirty.pods.contains(&name) {
                self.update_one(shelves, settings, composing, &name, false, &mut touched);
            }
        }
        touched
    }

    fn update_one(
        &mut self,
        shelves: &Shelves,
        settings: &IndexSettings,
        composing: Composing<'_>,
        name: &Name,
        facts_changed: bool,
        touched: &mut Touched,
    ) {
        let facts = shelves.pods.find(name).map(|(facts, _)| facts);
        let fresh = facts.filter(|facts| !facts.over).map(|facts| {
            let namespace = shelves
                .namespaces
                .get(&Arc::default(), &facts.meta.namespace);
            build::workload(facts, namespace, settings, &self.node, composing)
        });
        let last = self.by_name.get(name).cloned();
        let same = match (&last, &fresh) {
            (Some(last), Some(fresh)) => **last == *fresh,
            (last, fresh) => last.is_none() && fresh.is_none(),
        };
        if same {
            if let (true, Some(last)) = (facts_changed, last) {
                // The names of its ports, for one, are not part of a workload.
                touched.note(name, &last, false);
            }
            return;
        }
        if let Some(last) = last {
            touched.note(name, &last, true);
            self.release(name, &last);
        }
        if let Some(fresh) = fresh {
            // The same pod under another name keeps its allocation.
            let fresh = match self.by_uid.get(&fresh.uid) {
                Some(same) if **same == fresh => Arc::clone(same),
                _ => Arc::new(fresh),
            };
            touched.note(name, &fresh, true);
            self.claim(name, fresh);
        }
    }

    /// Pods whose clients a DestinationRule that changed may be or have been for, others left out.
    fn singled_out(&self, dirty: &Dirty) -> Vec<Name> {
        let rules = dirty.routing.iter();
        let rules = rules.filter(|(kind, _)| *kind == Kind::DestinationRule);
        let namespaces: HashSet<&Arc<str>> = rules.map(|(_, (namespace, _))| namespace).collect();
        if namespaces.is_empty() {
            return Vec::new();
        }
        let local = self.local.keys();
        let concerned = local.filter(|(namespace, _)| namespaces.contains(namespace));
        concerned.cloned().collect()
    }

    fn claim(&mut self, name: &Name, workload: Arc<Workload>) {
        self.by_name.insert(name.clone(), Arc::clone(&workload));
        let uid = &workload.uid;
        let holder = self.by_uid.get(uid).map(|holder| named(holder));
        let several = self.same_uid.add(uid, holder.as_ref(), name);
        let winner = several.and_then(BTreeSet::last).unwrap_or(name);
        let winner = Arc::clone(&self.by_name[winner]);
        self.by_uid.insert(uid.clone(), winner);
        if workload.host_network {
            return;
        }
        for address in &workload.addresses {
            let holder = self.by_address.get(address).map(|holder| named(holder));
            let several = self.same_address.add(address, holder.as_ref(), name);
            let winner = several.and_then(BTreeSet::first).unwrap_or(name);
            let winner = Arc::clone(&self.by_name[winner]);
            self.by_address.insert(*address, winner);
        }
        let members = self.members.entry(Arc::clone(&name.0)).or_default();
        members.all += 1;
        members.enrolled += usize::from(workload.enrolled);
        if workload.enrolled && workload.node == self.node {
            self.local.insert(name.clone(), workload);
        }
    }

    fn release(&mut self, name: &Name, workload: &Workload) {
        self.by_name.remove(name);
        let uid = &workload.uid;
        let left = self.same_uid.remove(uid, name);
        match left.as_ref().and_then(BTreeSet::last) {
            Some(winner) => drop(
                self.by_uid
                    .insert(uid.clone(), Arc::clone(&self.by_name[winner])),
            ),
            None => drop(self.by_uid.remove(uid)),
        }
        if workload.host_network {
            return;
        }
        for address in &workload.addresses {
            let left = self.same_address.remove(address, name);
            match left.as_ref().and_then(BTreeSet::first) {
                Some(winner) => {
                    let winner = Arc::clone(&self.by_name[winner]);
                    self.by_address.insert(*address, winner);
                }
                None => drop(self.by_address.remove(address)),
            }
        }
        if let Some(members) = self.members.get_mut(&name.0) {
            members.all -= 1;
            members.enrolled -= usize::from(workload.enrolled);
            if members.all == 0 {
                self.members.remove(&name.0);
            }
        }
        self.local.remove(name);
    }

    /// The workloads of these nodes.
    fn on(&self, nodes: &HashSet<Arc<str>>) -> Vec<Arc<Workload>> {
        if nodes.is_empty() {
            return Vec::new();
        }
        let all = self.by_name.values();
        all.filter(|workload| nodes.contains(&workload.node))
            .map(Arc::clone)
            .collect()
    }

    /// The enrolled workloads of this node, also those that others stand in for.
    pub(super) fn here(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.local.values()
    }

    /// The enrolled workloads of this node.
    pub(super) fn local(&self) -> Vec<Arc<Workload>> {
        let all = self.local.values();
        // Of several with one UID only one counts.
        let counts = |workload: &&Arc<Workload>| {
            let winner = self.by_uid.get(&workload.uid);
            winner.is_some_and(|winner| Arc::ptr_eq(winner, workload))
        };
        all.filter(counts).map(Arc::clone).collect()
    }

    /// Whether `namespace` has pods, none of which is in the mesh.
    pub(super) fn is_left_out(&self, namespace: &str) -> bool {
        let members = self.members.get(namespace);
        members.is_some_and(|members| members.enrolled == 0)
    }

    /// A pod that has not ended.
    pub(super) fn view<'a>(&self, shelf: &'a Shelf<PodFacts>, name: &Name) -> Option<PodView<'a>> {
        let workload = Arc::clone(self.by_name.get(name)?);
        let (facts, _) = shelf.find(name)?;
        Some(PodView { facts, workload })
    }

    /// The pods of a namespace that have not ended, by name.
    pub(super) fn in_namespace<'a>(
        &'a self,
        shelf: &'a Shelf<PodFacts>,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Name, PodView<'a>)> {
        let pods = shelf.in_namespace(namespace);
        pods.filter_map(|(name, facts)| {
            let workload = Arc::clone(self.by_name.get(name)?);
            Some((name, PodView { facts, workload }))
        })
    }

    /// All pods that have not ended, by namespace and name.
    pub(super) fn all<'a>(&self, shelf: &'a Shelf<PodFacts>) -> Vec<PodView<'a>> {
        let names = self.by_name.keys();
        names.filter_map(|name| self.view(shelf, name)).collect()
    }
}

impl Touched {
    fn note(&mut self, name: &Name, workload: &Workload, is_other: bool) {
        self.pods.insert(name.clone());
        self.labels.add(&name.0, &workload.labels);
        if is_other && !workload.host_network {
            self.addresses.extend(&workload.addresses);
        }
    }
}

/// Pods whose own facts need not have changed for them to be other workloads.
fn implied(shelves: &Shelves, settings: &IndexSettings, dirty: &Dirty) -> HashSet<Name> {
    let mut namespaces = dirty.namespaces.clone();
    for (_, (namespace, _)) in &dirty.policies {
        if namespace.is_empty() || **namespace == *settings.root_namespace {
            let pods = shelves.pods.keys();
            return pods
                .map(|(namespace, name)| (Arc::clone(namespace), Arc::clone(name)))
                .collect();
        }
        namespaces.insert(Arc::clone(namespace));
    }
    // Policies name Services, whose selectors and ports they take over.
    let targets = |namespace: &str| {
        let guards = &shelves.authorization_policies;
        let tokens = &shelves.request_authentications;
        shelves.policies.in_namespace(namespace).next().is_some()
            || guards.in_namespace(namespace).next().is_some()
            || tokens.in_namespace(namespace).next().is_some()
            || tokens
                .in_namespace(&settings.root_namespace)
                .next()
                .is_some()
    };
    for (namespace, _) in &dirty.services {
        if !namespaces.contains(namespace) && targets(namespace) {
            namespaces.insert(Arc::clone(namespace));
        }
    }
    let of = |namespace| shelves.pods.in_namespace(namespace);
    let names = namespaces.iter().flat_map(|namespace| of(namespace));
    names.map(|(name, _)| name.clone()).collect()
}

fn named(workload: &Workload) -> Name {
    (Arc::clone(&workload.namespace), Arc::clone(&workload.name))
}
