// SPDX-License-Identifier: Apache-2.0

//! One allocation for texts that many objects share.
//!
//! Ten thousand pods have a few namespaces, nodes, accounts and sets of labels between them. What
//! nobody uses any more is forgotten when the tables have doubled.

use std::{
    collections::{BTreeMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use crate::model::Labels;

/// Tables below this size are not looked through.
const FEW: usize = 1024;

/// Texts and labels that are in use.
#[derive(Debug, Default)]
pub(super) struct Interner {
    texts: Table<str>,
    labels: Table<BTreeMap<String, String>>,
}

#[derive(Debug)]
struct Table<T: ?Sized + Eq + Hash> {
    values: HashSet<Arc<T>>,
    /// How many were in use when it was last looked through.
    used: usize,
}

impl<T: ?Sized + Eq + Hash> Default for Table<T> {
    fn default() -> Self {
        Self {
            values: HashSet::new(),
            used: 0,
        }
    }
}

impl Interner {
    /// Replaces `text` with the one that others share.
    pub(super) fn text(&mut self, text: &mut Arc<str>) {
        self.texts.share(text);
    }

    /// Replaces `labels` with those that others share.
    pub(super) fn labels(&mut self, labels: &mut Labels) {
        self.labels.share(labels);
    }
}

impl<T: ?Sized + Eq + Hash> Table<T> {
    fn share(&mut self, value: &mut Arc<T>) {
        if let Some(known) = self.values.get(value) {
            *value = Arc::clone(known);
            return;
        }
        if self.values.len() >= (self.used * 2).max(FEW) {
            self.values.retain(|known| Arc::strong_count(known) > 1);
            self.used = self.values.len();
        }
        self.values.insert(Arc::clone(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_become_one() {
        let mut interner = Interner::default();
        let (mut one, mut other): (Arc<str>, Arc<str>) = ("shop".into(), "shop".into());
        interner.text(&mut one);
        interner.text(&mut other);
        assert!(Arc::ptr_eq(&one, &other));
    }

    #[test]
    fn what_nobody_uses_is_forgotten() {
        let mut interner = Interner::default();
        for index in 0..10 * FEW {
            interner.text(&mut index.to_string().into());
        }
        assert!(interner.texts.values.len() <= FEW);
    }
}
