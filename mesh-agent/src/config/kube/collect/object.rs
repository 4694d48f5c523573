// SPDX-License-Identifier: Apache-2.0

//! Takes a single object in and out: whether it matters here, whether it is well formed, and the
//! disk's copy of it.
//!
//! Knows nothing of lists, watches and versions. Invariant: an object that is rejected keeps its
//! last good state, in the index and on disk.

use serde_json::Value;

use super::{
    super::{
        super::{
            object::{Kind, ObjectKey},
            problem::{Origin, Problem},
            read,
        },
        parse::Item,
        prune,
    },
    Collector, PLACE,
};

impl Collector {
    /// Takes in an object; whether it counts.
    pub(super) fn apply(&mut self, item: Item) -> bool {
        let Item {
            key,
            mut value,
            version,
        } = item;
        if key.kind == Kind::Pod && !is_of_use(&mut value, &self.parts.node) {
            return false;
        }
        let text = self.parts.journal.is_some().then(|| value.clone());
        match read::from_server(key.kind, &key, value) {
            Ok(object) => {
                self.words |= self.broken.remove(&key).is_some();
                let is_new = self.parts.index.apply(object, self.origin.clone());
                if let (Some(journal), Some(text), true) = (&self.parts.journal, text, is_new) {
                    journal.put(&key, &text);
                }
            }
            Err(faults) => {
                let origin = Origin {
                    place: format!("{PLACE}, resourceVersion {version}").into(),
                    line: None,
                };
                let problem = |fault: read::Fault| fault.problem(&key, origin.clone(), "");
                let problems: Vec<Problem> = faults.into_iter().map(problem).collect();
                self.words |= self.broken.get(&key) != Some(&problems);
                self.broken.insert(key, problems);
            }
        }
        true
    }

    pub(super) fn delete(&mut self, key: &ObjectKey) {
        self.words |= self.broken.remove(key).is_some();
        if self.parts.index.delete(key)
            && let Some(journal) = &self.parts.journal
        {
            journal.delete(key);
        }
    }
}

/// Whether a pod can matter on this node: a pod of another node does once it has an address of its
/// own. Prunes what is left.
fn is_of_use(pod: &mut Value, node: &str) -> bool {
    let text = |value: &Value, path: &str| {
        let text = value.pointer(path).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    if matches!(text(pod, "/status/phase").as_str(), "Succeeded" | "Failed") {
        return false;
    }
    if text(pod, "/spec/nodeName") == node {
        return true;
    }
    let host_network = pod.pointer("/spec/hostNetwork") == Some(&Value::Bool(true));
    let has_address = !text(pod, "/status/podIP").is_empty();
    if host_network || !has_address {
        return false;
    }
    prune::remote_pod(pod);
    true
}
