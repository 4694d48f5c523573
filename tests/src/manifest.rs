// SPDX-License-Identifier: Apache-2.0

//! Writing the manifests that agents read: one file per object, replaced atomically.
//!
//! Manifests are JSON (which is YAML) where a fixture makes them, and YAML as it was given where
//! a test writes it. Knows nothing of what they mean. Invariant: a reader of the directory sees
//! an object as it was or as it is, never half of it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use serde_json::{Value, json};

use crate::topology::{DEFAULT_NAMESPACE, Lab};

/// A directory of manifests.
#[derive(Clone, Debug)]
pub struct Manifests {
    directory: PathBuf,
    staging: PathBuf,
    next: Arc<AtomicU32>,
}

impl Manifests {
    #[track_caller]
    pub(crate) fn new(lab: &Path) -> Self {
        let (directory, staging) = (lab.join("manifests"), lab.join("staging"));
        for made in [&directory, &staging] {
            fs::create_dir_all(made).expect("the lab's directory can be written");
        }
        Self {
            directory,
            staging,
            next: Arc::default(),
        }
    }

    /// The directory, for `--config-dir`.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes `text` as the file `name`, in one step.
    #[track_caller]
    pub fn write(&self, name: &str, text: &str) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let staged = self.staging.join(format!("{number}"));
        fs::write(&staged, text).expect("the lab's directory can be written");
        fs::rename(&staged, self.directory.join(name)).expect("both are on one file system");
    }

    /// Removes the file `name`.
    #[track_caller]
    pub fn remove(&self, name: &str) {
        let path = self.directory.join(name);
        fs::remove_file(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Writes the documents of `yaml`, each to the file of its object, so that a later document
    /// for the same object replaces it.
    #[track_caller]
    pub fn apply(&self, yaml: &str) {
        for document in yaml.split("\n---") {
            let document = document.trim_start_matches("---").trim_matches('\n');
            if document
                .lines()
                .all(|line| line.trim().is_empty() || line.starts_with('#'))
            {
                continue;
            }
            let text = dedent(document);
            let kind = field(&text, "kind");
            let namespace = nested(&text, "namespace").unwrap_or(DEFAULT_NAMESPACE.to_owned());
            let name = nested(&text, "name");
            let name = name.unwrap_or_else(|| panic!("no metadata.name in:\n{text}"));
            self.write(&file_name(&kind, &namespace, &name), &text);
        }
    }

    /// Writes one object.
    #[track_caller]
    pub fn object(&self, object: &Value) {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let kind = text("/kind").expect("fixtures name the kind");
        let name = text("/metadata/name").expect("fixtures name the object");
        let namespace = text("/metadata/namespace").unwrap_or(DEFAULT_NAMESPACE);
        self.write(&file_name(kind, namespace, name), &format!("{object:#}\n"));
    }

    /// Removes the file of an object.
    #[track_caller]
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        self.remove(&file_name(kind, namespace, name));
    }

    /// Writes a Namespace.
    #[track_caller]
    pub fn namespace(&self, name: &str, labels: &[(&str, &str)]) {
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        self.object(&json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels},
        }));
    }

    /// Writes a Node.
    #[track_caller]
    pub(crate) fn node(&self, name: &str, address: &str) {
        self.object(&json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]},
        }));
    }

    /// Writes a ServiceAccount.
    #[track_caller]
    pub(crate) fn service_account(&self, namespace: &str, name: &str) {
        self.object(&json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": namespace},
        }));
    }
}

fn file_name(kind: &str, namespace: &str, name: &str) -> String {
    format!("{}-{namespace}-{name}.yaml", kind.to_lowercase())
}

/// Takes away the indentation all lines share, so that manifests can stand indented in tests.
fn dedent(text: &str) -> String {
    let lines = || text.lines().filter(|line| !line.trim().is_empty());
    let shared = lines()
        .map(|line| line.len() - line.trim_start().len())
        .min()
        .unwrap_or(0);
    let mut dedented = String::new();
    for line in text.lines() {
        dedented.push_str(line.get(shared..).unwrap_or_default());
        dedented.push('\n');
    }
    dedented
}

fn unquote(value: &str) -> String {
    value.trim().trim_matches(['"', '\'']).to_owned()
}

/// The value of a top-level scalar.
#[track_caller]
fn field(text: &str, key: &str) -> String {
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{key}:")));
    unquote(found.unwrap_or_else(|| panic!("no {key} in:\n{text}")))
}

/// The value of a scalar of `metadata`, in block or flow style.
fn nested(text: &str, key: &str) -> Option<String> {
    let mut lines = text
        .lines()
        .skip_while(|line| !line.starts_with("metadata:"));
    let first = lines.next()?.trim_start_matches("metadata:").trim();
    if let Some(flow) = first.strip_prefix('{') {
        let pairs = flow.trim_end_matches('}').split(',');
        let found = pairs
            .filter_map(|pair| pair.split_once(':'))
            .find(|(k, _)| k.trim() == key);
        return found.map(|(_, value)| unquote(value));
    }
    let own = lines.take_while(|line| line.starts_with(' '));
    let found = own
        .filter_map(|line| line.trim().split_once(':'))
        .find(|(k, _)| *k == key);
    found.map(|(_, value)| unquote(value))
}

/// A Service being described.
pub struct ServiceSpec<'a> {
    lab: &'a Lab,
    name: String,
    namespace: String,
    selector: BTreeMap<String, String>,
    ports: Vec<Value>,
    addresses: Option<(String, String)>,
}

impl<'a> ServiceSpec<'a> {
    pub(crate) fn new(lab: &'a Lab, name: &str) -> Self {
        Self {
            lab,
            name: name.to_owned(),
            namespace: DEFAULT_NAMESPACE.to_owned(),
            selector: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            ports: Vec::new(),
            addresses: None,
        }
    }

    /// The namespace, if not `default`.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Which pods it selects, if not those with the label `app` = its name.
    #[must_use]
    pub fn selector(mut self, labels: &[(&str, &str)]) -> Self {
        self.selector = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        self
    }

    /// A port: its name (which tells the protocol), its number, and the pods' port.
    #[must_use]
    pub fn port(mut self, name: &str, port: u16, target: u16) -> Self {
        self.ports
            .push(json!({"name": name, "port": port, "targetPort": target}));
        self
    }

    /// A port with `appProtocol`.
    #[must_use]
    pub fn port_with_protocol(mut self, name: &str, port: u16, target: u16, app: &str) -> Self {
        self.ports
            .push(json!({"name": name, "port": port, "targetPort": target, "appProtocol": app}));
        self
    }

    /// Writes it, and makes its name known in the lab's pods. Returns its addresses.
    #[track_caller]
    pub fn create(mut self) -> (String, String) {
        let (v4, v6) = self
            .addresses
            .take()
            .unwrap_or_else(|| self.lab.next_service_address());
        self.lab.manifests.object(&json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {
                "clusterIP": v4, "clusterIPs": [v4, v6], "ipFamilyPolicy": "RequireDualStack",
                "ipFamilies": ["IPv4", "IPv6"], "selector": self.selector, "ports": self.ports,
            },
        }));
        let long = format!("{}.{}", self.name, self.namespace);
        self.lab.resolve(&long, &v4);
        self.lab.resolve(&format!("{long}.svc.cluster.local"), &v4);
        if self.namespace == DEFAULT_NAMESPACE {
            self.lab.resolve(&self.name, &v4);
        }
        (v4, v6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_named_by_its_metadata_alone() {
        let block = "kind: A\nmetadata:\n  name: \"x\"\n  namespace: ns\nspec:\n  name: y\n";
        assert_eq!(nested(block, "name").as_deref(), Some("x"));
        assert_eq!(nested(block, "namespace").as_deref(), Some("ns"));
        let flow = "kind: A\nmetadata: {name: x, namespace: ns}\nspec: {name: y}\n";
        assert_eq!(nested(flow, "name").as_deref(), Some("x"));
        assert_eq!(nested(flow, "namespace").as_deref(), Some("ns"));
        assert_eq!(
            nested("kind: A\nmetadata: {name: x}\nnamespace: no\n", "namespace"),
            None
        );
    }

    #[test]
    fn shared_indentation_is_taken_away() {
        assert_eq!(
            dedent("    a:\n      b: c\n\n    d: e"),
            "a:\n  b: c\n\nd: e\n"
        );
    }
}
