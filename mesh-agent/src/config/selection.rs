// SPDX-License-Identifier: Apache-2.0

//! Which pods a Service selects, and the other way around.
//!
//! Invariant: however many are asked for, the answers are the same: many questions at once are
//! answered from an index of all labels, few by looking through the namespace.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    facts::Shelf,
    pod::PodFacts,
    pods::{PodView, Pods},
};
use crate::model::Labels;

/// From how many Services on an index of labels is worth its making.
const MANY: usize = 16;

/// How many sets of labels are compared with every selector of a namespace.
const MANY_LABELS: usize = 64;

/// Answers which pods have some labels.
pub(super) enum Selection<'a> {
    Few(&'a Pods, &'a Shelf<PodFacts>),
    Many(LabelIndex<'a>),
}

/// Pods by namespace and label, so that a selector looks at few of them.
pub(super) struct LabelIndex<'a> {
    pods: Vec<PodView<'a>>,
    by_label: HashMap<(&'a str, &'a str, &'a str), Vec<usize>>,
}

impl<'a> Selection<'a> {
    /// For about `questions` of them.
    pub(super) fn new(pods: &'a Pods, shelf: &'a Shelf<PodFacts>, questions: usize) -> Self {
        match questions {
            0..MANY => Self::Few(pods, shelf),
            _ => Self::Many(LabelIndex::new(pods.all(shelf))),
        }
    }

    /// The pods of `namespace` with all labels of `selector`, by name; none if that is empty.
    pub(super) fn select(
        &self,
        namespace: &str,
        selector: &BTreeMap<String, String>,
    ) -> Vec<PodView<'a>> {
        if selector.is_empty() {
            return Vec::new();
        }
        match self {
            Self::Few(pods, shelf) => shelf
                .in_namespace(namespace)
                .filter(|(_, facts)| has_labels(&facts.labels, selector))
                .filter_map(|(name, _)| pods.view(shelf, name))
                .collect(),
            Self::Many(index) => index.select(namespace, selector),
        }
    }
}

impl<'a> LabelIndex<'a> {
    fn new(pods: Vec<PodView<'a>>) -> Self {
        let mut by_label: HashMap<_, Vec<usize>> = HashMap::new();
        for (index, pod) in pods.iter().enumerate() {
            let facts = pod.facts;
            for (key, value) in &*facts.labels {
                let entry = (&*facts.meta.namespace, key.as_str(), value.as_str());
                by_label.entry(entry).or_default().push(index);
            }
        }
        Self { pods, by_label }
    }

    fn select(&self, namespace: &str, selector: &BTreeMap<String, String>) -> Vec<PodView<'a>> {
        let lists = selector.iter().map(|(key, value)| {
            self.by_label
                .get(&(namespace, key.as_str(), value.as_str()))
        });
        let Some(Some(rarest)) = lists.min_by_key(|list| list.map_or(0, Vec::len)) else {
            return Vec::new();
        };
        let pods = rarest.iter().map(|index| &self.pods[*index]);
        pods.filter(|pod| has_labels(&pod.facts.labels, selector))
            .cloned()
            .collect()
    }
}

/// The labels of some pods, to be asked whether a selector is for any of them.
#[derive(Debug, Default)]
pub(super) struct SomeLabels {
    /// By namespace; pods of one owner share theirs.
    by_namespace: HashMap<Arc<str>, Vec<Labels>>,
}

impl SomeLabels {
    pub(super) fn add(&mut self, namespace: &Arc<str>, labels: &Labels) {
        let known = self.by_namespace.entry(Arc::clone(namespace)).or_default();
        // Beyond that every selector counts as one for them, so that more are not needed.
        if known.len() <= MANY_LABELS && !known.iter().any(|one| Arc::ptr_eq(one, labels)) {
            known.push(Arc::clone(labels));
        }
    }

    pub(super) fn namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_namespace.keys()
    }

    /// Whether `selector`, of `namespace`, may be for one of them.
    pub(super) fn may_match(&self, namespace: &str, selector: &BTreeMap<String, String>) -> bool {
        let known = self
            .by_namespace
            .get(namespace)
            .map_or(&[][..], Vec::as_slice);
        known.len() > MANY_LABELS || known.iter().any(|labels| has_labels(labels, selector))
    }
}

/// Whether `labels` has all that are wanted.
pub(super) fn has_labels(
    labels: &BTreeMap<String, String>,
    wanted: &BTreeMap<String, String>,
) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}
