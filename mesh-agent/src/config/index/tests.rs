// SPDX-License-Identifier: Apache-2.0

//! Whatever changes in whatever order: what is kept up to date is what would be joined anew.
//!
//! Sequences of changes by chance, in a mesh so small that everything concerns everything else.
//! After each, the snapshot is compared with one joined from nothing, and with one whose parts
//! were all joined again: that one must have the same schedules and loads, too.

mod chance;

use std::{collections::BTreeMap, sync::Arc};

use self::chance::Chance;
use super::*;
use crate::{
    config::read::{self, Entry, Format},
    model::{HttpRoutes, Service},
};

/// Snapshots by what is in them, each part as text.
type Shown = BTreeMap<String, String>;

/// An index, and the same with everything joined again at every change.
struct Pair {
    index: Index,
    again: Joined,
    drawn: usize,
}

fn settings() -> IndexSettings {
    IndexSettings {
        node: "node-a".to_owned(),
        statuses: true,
        ..IndexSettings::default()
    }
}

fn shown(snapshot: &Snapshot) -> Shown {
    let mut shown = Shown::new();
    for (uid, workload) in &snapshot.workloads {
        shown.insert(format!("workload {uid}"), format!("{workload:?}"));
    }
    for (address, workload) in &snapshot.by_address {
        shown.insert(format!("address {address}"), workload.dotted_name());
    }
    for (name, service) in &snapshot.services {
        shown.insert(format!("service {name}"), format!("{service:?}"));
    }
    for (socket, (service, port)) in &snapshot.by_vip {
        shown.insert(
            format!("vip {socket}"),
            format!("{} {port:?}", service.name),
        );
    }
    for (socket, what) in &snapshot.by_endpoint {
        shown.insert(format!("endpoint {socket}"), format!("{what:?}"));
    }
    for (number, ports) in &snapshot.named {
        shown.insert(format!("named {number}"), format!("{ports:?}"));
    }
    let aliases = format!("{:?}", snapshot.trust_domain_aliases);
    shown.insert("aliases".to_owned(), aliases);
    for workload in snapshot.local_enrolled() {
        shown.insert(format!("local {}", workload.uid), workload.dotted_name());
    }
    shown
}

/// Without how far schedules were drawn and what is under way.
fn still(shown: Shown) -> Shown {
    let cut = |text: &str, before: &str| {
        let mut parts = text.split(before);
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |text, part| {
            text + before + part.trim_start_matches(|digit: char| digit.is_ascii_digit())
        })
    };
    let entries = shown.into_iter();
    entries
        .map(|(key, text)| (key, cut(&cut(&text, "Position("), "under_way: ")))
        .collect()
}

#[track_caller]
fn same(is: &Shown, want: &Shown, history: &[String]) {
    let tail = || history[history.len().saturating_sub(12)..].join("\n");
    for (key, want) in want {
        let is = is.get(key).map_or("nothing", String::as_str);
        assert!(
            is == want,
            "{key}\nis   {is}\nwant {want}\nafter\n{}",
            tail()
        );
    }
    for key in is.keys() {
        assert!(want.contains_key(key), "{key} is left\nafter\n{}", tail());
    }
}

impl Pair {
    fn new() -> Self {
        Self {
            index: Index::new(settings()),
            again: Joined::new(&settings()),
            drawn: 0,
        }
    }

    fn change(&mut self, chance: &mut Chance) -> String {
        if chance.is_one_of(8) {
            let (name, addresses) = chance.answer();
            let text = format!("--- {name} resolves to {addresses:?}");
            self.index.resolve(Answer { name, addresses });
            return text;
        }
        let (key, text) = chance.object();
        if chance.is_one_of(4) {
            self.index.delete(&key);
            return format!("--- deleted {key:?}");
        }
        for entry in read::read("test.yaml", &text, Format::Yaml) {
            match entry {
                Entry::Good(object, origin) => {
                    assert_eq!(object.key(), key, "{text}");
                    self.index.apply(object, origin);
                }
                Entry::Broken(_, problems) => panic!("{problems:?} in {text}"),
                Entry::Foreign(problem) => panic!("{problem} in {text}"),
            }
        }
        text
    }

    fn everything(&self) -> Dirty {
        let mut dirty = Dirty::default();
        for (_, _, kind) in Kind::all() {
            for key in self.index.keys(kind) {
                dirty.note(kind, &key.namespace, &key.name);
            }
        }
        dirty
    }

    #[track_caller]
    fn check(&mut self, gone: &Dirty, history: &[String]) {
        let before = Arc::clone(&self.index.snapshots.borrow());
        self.index.publish();
        let after = Arc::clone(&self.index.snapshots.borrow());
        let shelves = &self.index.shelves;

        let mut fresh = Joined::new(&settings());
        let problems = fresh.update(shelves, &settings(), &self.everything());
        assert_eq!(
            self.index.between,
            problems,
            "after\n{}",
            history.join("\n")
        );
        let is = shown(&after);
        same(
            &still(is.clone()),
            &still(shown(&fresh.snapshot(0))),
            history,
        );

        let mut all = self.everything();
        all.pods.extend(gone.pods.iter().cloned());
        all.services.extend(gone.services.iter().cloned());
        all.slices.extend(gone.slices.iter().cloned());
        all.entries.extend(gone.entries.iter().cloned());
        let workloads = gone.workload_entries.iter().cloned();
        all.workload_entries.extend(workloads);
        all.names.extend(gone.names.iter().cloned());
        all.routing.extend(gone.routing.iter().cloned());
        all.policies.extend(gone.policies.iter().cloned());
        all.nodes.extend(gone.nodes.iter().cloned());
        all.namespaces.extend(gone.namespaces.iter().cloned());
        let problems = self.again.update(shelves, &settings(), &all);
        assert_eq!(
            self.index.between,
            problems,
            "after\n{}",
            history.join("\n")
        );
        let again = self.again.snapshot(0);
        same(&is, &shown(&again), history);

        let statuses = status::build(shelves, &self.index.reports.borrow().problems);
        assert_eq!(**self.index.statuses.borrow(), statuses);
        consistent(&before, &after);
        self.drawn += 1;
        draw(&after, self.drawn);
        draw(&again, self.drawn);
    }
}

/// What is one thing is one allocation, within a snapshot and over snapshots.
#[track_caller]
fn consistent(before: &Snapshot, after: &Snapshot) {
    for (uid, workload) in &after.workloads {
        match before.workloads.get(uid) {
            Some(last) if last == workload => assert!(Arc::ptr_eq(last, workload), "{uid}"),
            _ => {}
        }
    }
    for (socket, (service, _)) in &after.by_vip {
        let by_name = after.services.get(&service.name);
        assert!(
            by_name.is_some_and(|one| Arc::ptr_eq(one, service)),
            "{socket}"
        );
    }
    for service in after.services.values() {
        for endpoint in service
            .ports
            .iter()
            .flat_map(|port| &port.cluster.endpoints)
        {
            let owner = after.by_address.get(&endpoint.address.ip());
            if let (Some(owner), Some(workload)) = (owner, &endpoint.workload)
                && owner == workload
            {
                assert!(Arc::ptr_eq(owner, workload), "{}", endpoint.address);
            }
        }
    }
}

/// Draws from every schedule, and leaves something under way at some endpoints.
fn draw(snapshot: &Snapshot, count: usize) {
    let mut services: Vec<&Arc<Service>> = snapshot.services.values().collect();
    services.sort_by_key(|service| &service.name);
    for (nth, service) in services.into_iter().enumerate() {
        for port in &service.ports {
            let special = port.consumer_routes.iter().map(|(_, routes)| routes);
            for routes in port.routes.iter().chain(special) {
                draw_routes(routes, count + nth);
            }
            let rules = port.opaque.all().flat_map(|routes| &routes.rules);
            for rule in rules.filter(|_| count.is_multiple_of(2)) {
                let _index = rule.schedule.next();
            }
            if let Some(endpoint) = port.cluster.endpoints.first() {
                std::mem::forget(endpoint.load.begin());
            }
        }
    }
}

fn draw_routes(routes: &HttpRoutes, count: usize) {
    for rule in &routes.rules {
        for _ in 0..count % 3 {
            let _index = rule.schedule.next();
        }
    }
}

fn run(seed: u64, changes: usize) {
    let mut chance = Chance::new(seed);
    let mut pair = Pair::new();
    let mut history = vec![format!("seed {seed}")];
    for _ in 0..changes {
        for _ in 0..chance.below(4) {
            history.push(pair.change(&mut chance));
        }
        let mut gone = Dirty::default();
        std::mem::swap(&mut gone, &mut pair.index.dirty);
        for (kind, name) in named(&gone) {
            pair.index.dirty.note(kind, &name.0, &name.1);
        }
        pair.index.dirty.names.extend(gone.names.iter().cloned());
        pair.check(&gone, &history);
    }
}

fn named(dirty: &Dirty) -> Vec<(Kind, crate::config::facts::Name)> {
    let of = |kind| move |name: &crate::config::facts::Name| (kind, name.clone());
    let mut all: Vec<_> = dirty.pods.iter().map(of(Kind::Pod)).collect();
    all.extend(dirty.services.iter().map(of(Kind::Service)));
    all.extend(dirty.slices.iter().map(of(Kind::EndpointSlice)));
    all.extend(dirty.entries.iter().map(of(Kind::ServiceEntry)));
    let workloads = dirty.workload_entries.iter();
    all.extend(workloads.map(of(Kind::WorkloadEntry)));
    all.extend(dirty.routing.iter().cloned());
    all.extend(dirty.policies.iter().cloned());
    let nodes = dirty.nodes.iter();
    all.extend(nodes.map(|name| (Kind::Node, (Arc::default(), Arc::clone(name)))));
    let namespaces = dirty.namespaces.iter();
    all.extend(namespaces.map(|name| (Kind::Namespace, (Arc::default(), Arc::clone(name)))));
    all
}

#[test]
fn what_is_kept_up_to_date_is_what_would_be_joined_anew() {
    for seed in 0..12 {
        run(seed, 60);
    }
}
