// SPDX-License-Identifier: Apache-2.0

//! Whose clients may use an object: `exportTo`, and the annotation that says the same of a Service.

use std::{collections::BTreeSet, sync::Arc};

/// Who may use an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Visibility {
    /// Clients in all namespaces.
    #[default]
    Everyone,
    /// Clients in these.
    Namespaces(BTreeSet<Arc<str>>),
}

impl Visibility {
    /// Reads `exportTo` of an object in `own`: empty is `*`; `*` or `~` makes the rest irrelevant.
    pub fn new(export_to: &[String], own: &Arc<str>) -> Self {
        let has = |wanted: &str| export_to.iter().any(|entry| entry == wanted);
        if has("~") {
            return Self::Namespaces(BTreeSet::new());
        }
        if export_to.is_empty() || has("*") {
            return Self::Everyone;
        }
        Self::Namespaces(
            export_to
                .iter()
                .map(|entry| match entry.as_str() {
                    "." => Arc::clone(own),
                    other => other.into(),
                })
                .collect(),
        )
    }

    /// Whether clients in `namespace` are among them; `None` is a namespace that nothing names.
    pub fn allows(&self, namespace: Option<&str>) -> bool {
        match self {
            Self::Everyone => true,
            Self::Namespaces(names) => namespace.is_some_and(|namespace| names.contains(namespace)),
        }
    }

    /// The namespaces that are named.
    pub fn named(&self) -> impl Iterator<Item = &Arc<str>> {
        match self {
            Self::Everyone => None,
            Self::Namespaces(names) => Some(names),
        }
        .into_iter()
        .flatten()
    }
}
