// SPDX-License-Identifier: Apache-2.0

//! Which names an index wants resolved, and what it makes of the answers.
//!
//! Knows nothing of name servers. Invariant: an answer is like an object: readers see it with the next
//! snapshot, and one that changes nothing publishes nothing.

use std::{future::pending, sync::Arc};

use tokio::sync::mpsc;

use super::{
    super::{
        facts::Change,
        names::{Answer, Questions},
    },
    Index,
};

impl Index {
    /// What is to be resolved, and where the answers go; for the one who asks name servers.
    pub(in crate::config) fn questions(&mut self) -> Questions {
        let (answers, receiver) = mpsc::unbounded_channel();
        self.answers = Some(receiver);
        Questions {
            names: self.names.subscribe(),
            answers,
        }
    }

    /// What a name resolves to now; comes to nothing if nobody asks name servers. Cancel-safe.
    pub(in crate::config) async fn next_answer(&mut self) -> Answer {
        let next = match &mut self.answers {
            Some(answers) => answers.recv().await,
            None => None,
        };
        match next {
            Some(answer) => answer,
            None => pending().await,
        }
    }

    /// Takes in what a name resolves to; readers see it after [`publish`](Self::publish).
    pub(in crate::config) fn resolve(&mut self, answer: Answer) {
        let Answer { name, addresses } = answer;
        if !self.names.borrow().contains(&name) {
            return;
        }
        if self.shelves.resolved.get(&name) != Some(&addresses) {
            self.shelves.resolved.insert(Arc::clone(&name), addresses);
            self.dirty.names.insert(name);
            self.change = Change::Facts;
        }
    }

    /// Says which names are to be resolved, and forgets those that are not any more.
    pub(super) fn ask(&mut self) {
        let names = self
            .joined
            .names(&self.shelves, &self.settings.cluster_domain);
        self.shelves.resolved.retain(|name, _| names.contains(name));
        self.names.send_if_modified(|last| {
            let differs = **last != names;
            if differs {
                *last = Arc::new(names);
            }
            differs
        });
    }
}
