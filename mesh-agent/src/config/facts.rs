// SPDX-License-Identifier: Apache-2.0

//! What the index keeps of an object: its facts, where it was read, what is wrong with it.
//!
//! Objects are reduced to facts when they are applied, so that a snapshot is built without looking
//! at manifests again, and so that a change of what does not matter is no change.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::ObjectMeta, jiff::Timestamp};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    gaps::Gap,
    object::{Present, Revision},
    problem::{Origin, Problem, Severity, code},
    read::{self, Fault},
    route::ParentFacts,
};
use crate::model::ObjectRef;

/// What becomes of an object that is rejected.
const STAYS: &str = "the last good state of the object stays in force";

/// The parts of metadata that matter for every kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// Empty if cluster-scoped.
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    /// Older objects win; those without a time count as oldest.
    pub(super) created: Option<Timestamp>,
}

impl Meta {
    pub(super) fn new(metadata: &ObjectMeta) -> Self {
        Self {
            namespace: metadata.namespace.as_deref().unwrap_or_default().into(),
            name: metadata.name.as_deref().unwrap_or_default().into(),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0),
        }
    }

    /// Istio's order of precedence: oldest, then name, then namespace.
    pub(super) fn seniority(&self) -> (Option<Timestamp>, &str, &str) {
        (self.created, &self.name, &self.namespace)
    }

    pub(super) fn to_ref(&self, kind: &str) -> ObjectRef {
        ObjectRef {
            kind: kind.into(),
            namespace: Arc::clone(&self.namespace),
            name: Arc::clone(&self.name),
        }
    }
}

/// Collects what is wrong with one object.
#[derive(Debug)]
pub(super) struct Findings {
    pub(super) object: ObjectRef,
    pub(super) origin: Origin,
    pub(super) problems: Vec<Problem>,
    /// The object cannot be honoured at all: its last good state stays.
    pub(super) rejected: bool,
    /// The state that was read.
    pub(super) revision: Revision,
    /// The Services that it names as parents, if it is a route.
    pub(super) parents: Vec<ParentFacts>,
}

impl Findings {
    pub(super) fn new(object: ObjectRef, origin: Origin) -> Self {
        Self {
            object,
            origin,
            problems: Vec::new(),
            rejected: false,
            revision: Revision::default(),
            parents: Vec::new(),
        }
    }

    /// Reads a `spec`; what is wrong with one that cannot be read is added.
    pub(super) fn spec<T: DeserializeOwned>(&mut self, value: &Value) -> Option<T> {
        let say = |faults: Vec<Fault>| {
            for fault in faults {
                self.reject(fault.field, fault.text, fault.fix);
            }
        };
        read::spec(value.clone()).map_err(say).ok()
    }

    pub(super) fn add(
        &mut self,
        severity: Severity,
        code: &'static str,
        field: impl Into<String>,
        text: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.problems.push(Problem {
            severity,
            code,
            object: Some(self.object.clone()),
            origin: self.origin.clone(),
            field: field.into(),
            text: text.into(),
            fix: fix.into(),
        });
    }

    /// The object is not of the form of its kind: its last good state stays in force.
    pub(super) fn reject(
        &mut self,
        field: impl Into<String>,
        text: impl AsRef<str>,
        fix: impl Into<String>,
    ) {
        self.rejected = true;
        let text = format!("{}; {STAYS}", text.as_ref());
        self.add(Severity::Error, code::SCHEMA, field, text, fix);
    }

    /// Each of the fields below `path` that is written has no effect.
    pub(super) fn gaps(&mut self, path: &str, fields: &[(Gap, Present)]) {
        for (gap, present) in fields {
            if present.0 {
                self.gap(&format!("{path}.{}", gap.name()), gap);
            }
        }
    }

    /// What is written at `field` has no effect.
    pub(super) fn gap(&mut self, field: &str, gap: &Gap) {
        let (severity, code) = (gap.severity(), code::UNSUPPORTED);
        self.add(severity, code, field, gap.text(), gap.fix);
    }
}

/// What a new state of an object changes. The greater, the more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    #[default]
    Nothing,
    /// Where it was read or what is wrong with it, but nothing that the mesh does.
    Words,
    Facts,
}

/// One object in the index.
#[derive(Debug)]
pub(super) struct Stored<T> {
    /// The last good state; none if there never was one.
    pub(super) facts: Option<T>,
    pub(super) origin: Origin,
    /// Of the state that was applied last, good or not.
    pub(super) problems: Vec<Problem>,
    /// The state that was applied last, good or not. Nothing that the mesh does follows from it.
    pub(super) revision: Revision,
    /// The parents of that state, if it is a route's.
    pub(super) parents: Vec<ParentFacts>,
}

impl<T> Stored<T> {
    fn good(&self) -> Option<(&T, &Origin)> {
        Some((self.facts.as_ref()?, &self.origin))
    }
}

/// An object's namespace and name.
pub(super) type Name = (Arc<str>, Arc<str>);

/// All objects of one kind, by namespace and name.
#[derive(Debug)]
pub(super) struct Shelf<T> {
    objects: BTreeMap<Name, Stored<T>>,
    /// Those with problems: few of many.
    faulty: BTreeSet<Name>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            faulty: BTreeSet::new(),
        }
    }
}

impl<T: PartialEq> Shelf<T> {
    /// Takes in an object's new state.
    pub(super) fn put(&mut self, facts: T, findings: Findings) -> Change {
        let key = (
            Arc::clone(&findings.object.namespace),
            Arc::clone(&findings.object.name),
        );
        let facts = (!findings.rejected).then_some(facts);
        if findings.problems.is_empty() {
            self.faulty.remove(&key);
        } else {
            self.faulty.insert(key.clone());
        }
        let stored = self.objects.entry(key).or_insert_with(|| Stored {
            facts: None,
            origin: Origin::default(),
            problems: Vec::new(),
            revision: Revision::default(),
            parents: Vec::new(),
        });
        // A new version alone says nothing: it may be a status that we wrote ourselves.
        let other = |revision: &Revision| {
            let fresh = &findings.revision;
            revision.generation != fresh.generation || revision.uid != fresh.uid
        };
        let words = stored.problems != findings.problems
            || stored.origin != findings.origin
            || other(&stored.revision);
        let mut change = if words {
            Change::Words
        } else {
            Change::Nothing
        };
        if facts.is_some() && stored.facts != facts {
            stored.facts = facts;
            change = Change::Facts;
        }
        stored.origin = findings.origin;
        stored.problems = findings.problems;
        stored.revision = findings.revision;
        stored.parents = findings.parents;
        change
    }

    /// As [`put`](Self::put), for a kind of which not even a broken object may be without effect: where
    /// there is no good state to keep, `facts` are what stands in for one, as `stands_in` says.
    pub(super) fn put_closed(
        &mut self,
        facts: T,
        mut findings: Findings,
        stands_in: impl Fn(&T) -> bool,
    ) -> Change {
        let known = self.get(&findings.object.namespace, &findings.object.name);
        if findings.rejected && known.is_none_or(stands_in) {
            findings.rejected = false;
            for problem in &mut findings.problems {
                problem.text = problem.text.replace(STAYS, "all that it selects is denied");
            }
        }
        self.put(facts, findings)
    }

    /// Forgets an object; whether it was there.
    pub(super) fn remove(&mut self, namespace: &str, name: &str) -> bool {
        let key = (namespace.into(), name.into());
        self.faulty.remove(&key);
        self.objects.remove(&key).is_some()
    }

    /// The facts of one object.
    pub(super) fn get(&self, namespace: &Arc<str>, name: &Arc<str>) -> Option<&T> {
        Some(self.find(&(Arc::clone(namespace), Arc::clone(name)))?.0)
    }

    /// The facts of one object, and its origin.
    pub(super) fn find(&self, name: &Name) -> Option<(&T, &Origin)> {
        self.objects.get(name).and_then(Stored::good)
    }

    /// All facts with their origin, ordered by namespace and name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&T, &Origin)> {
        self.objects.values().filter_map(Stored::good)
    }

    /// The facts of all objects in a namespace, by name.
    pub(super) fn in_namespace<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Name, &'a T)> {
        self.objects
            .range((Arc::from(namespace), Arc::from(""))..)
            .take_while(move |((of, _), _)| **of == *namespace)
            .filter_map(|(name, stored)| Some((name, stored.facts.as_ref()?)))
    }

    /// All objects, good or not, with their namespace and name.
    pub(super) fn stored(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, &Stored<T>)> {
        self.objects
            .iter()
            .map(|((namespace, name), stored)| (namespace, name, stored))
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        let faulty = self.faulty.iter();
        faulty
            .filter_map(|name| self.objects.get(name))
            .flat_map(|stored| &stored.problems)
    }

    /// Namespace and name of every object, good or not.
    pub(super) fn keys(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.objects
            .keys()
            .map(|(namespace, name)| (namespace, name))
    }

    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }
}
