// SPDX-License-Identifier: Apache-2.0

//! An index fed with YAML, and questions to its snapshot.

use std::{collections::BTreeMap, sync::Arc};

use http::HeaderMap;
use serde::Deserialize as _;
use serde_json::Value;

use crate::{
    config::{
        Index, IndexSettings, Object, ObjectKey, Problem, kube,
        names::Answer,
        read::{self, Entry, Format},
    },
    model::{
        Client, Decision, InboundPolicy, MtlsMode, RequestHead, Service, ServiceName, Snapshot,
        SpiffeId, Workload, WorkloadUid,
    },
};

/// All that a Service is, but for how far its schedules were drawn.
fn shown(service: &Service) -> String {
    let text = format!("{service:?}");
    let mut parts = text.split("Position(");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |shown, part| {
        shown + part.trim_start_matches(|digit: char| digit.is_ascii_digit())
    })
}

/// The objects of `yaml`; lists are not looked into.
fn values(yaml: &str) -> Vec<Value> {
    let documents = serde_yaml_ng::Deserializer::from_str(yaml);
    documents
        .filter_map(|document| Value::deserialize(document).ok())
        .collect()
}

/// An object as an API server's, if it is among `values`.
fn pruned(object: &Object, values: &[Value]) -> Option<Object> {
    let key = object.key();
    let is_it = |value: &Value| {
        let metadata = &value["metadata"];
        let namespace = metadata["namespace"].as_str().unwrap_or("default");
        let kind = value["kind"].as_str() == Some(key.kind.as_str());
        let named = metadata["name"].as_str() == Some(key.name.as_str());
        kind && named && (key.namespace.is_empty() || key.namespace == namespace)
    };
    let mut value = values.iter().find(|value| is_it(value))?.clone();
    value["metadata"]["namespace"] = key.namespace.clone().into();
    let value = kube::masked(key.kind, &value.to_string());
    read::from_server(key.kind, &key, value).ok()
}

/// An index that reads YAML.
pub(super) struct Mesh {
    pub(super) index: Index,
    broken: Vec<Problem>,
    /// The same objects as they come from an API server, which leaves out what nobody reads.
    pruned: Index,
    prunes: bool,
}

/// How much YAML is read once more, as an API server's.
const PRUNED_MAX: usize = 256 * 1024;

impl Mesh {
    pub(super) fn new(yaml: &str) -> Self {
        Self::with(yaml, false)
    }

    /// The same for one who writes statuses.
    pub(super) fn with_statuses(yaml: &str) -> Self {
        Self::with(yaml, true)
    }

    fn with(yaml: &str, statuses: bool) -> Self {
        let index = || {
            Index::new(IndexSettings {
                node: "node-a".to_owned(),
                statuses,
                ..IndexSettings::default()
            })
        };
        let mut mesh = Self {
            index: index(),
            broken: Vec::new(),
            pruned: index(),
            prunes: true,
        };
        mesh.apply(yaml);
        mesh
    }

    /// Applies all objects of `yaml` as one change.
    pub(super) fn apply(&mut self, yaml: &str) {
        self.prunes &= yaml.len() <= PRUNED_MAX;
        let values = match self.prunes {
            true => values(yaml),
            false => Vec::new(),
        };
        for entry in read::read("test.yaml", yaml, Format::Yaml) {
            match entry {
                Entry::Good(object, origin) => {
                    if let Some(pruned) = pruned(&object, &values) {
                        self.pruned.apply(pruned, origin.clone());
                    }
                    self.index.apply(object, origin);
                }
                Entry::Broken(_, problems) => self.broken.extend(problems),
                Entry::Foreign(problem) => self.broken.push(problem),
            }
        }
        self.index.set_front_end_problems(self.broken.clone());
        self.index.publish();
        self.check_pruned();
    }

    /// What a name resolves to.
    pub(super) fn answer(&mut self, answer: Answer) {
        for index in [&mut self.index, &mut self.pruned] {
            index.resolve(answer.clone());
            index.publish();
        }
        self.check_pruned();
    }

    pub(super) fn delete(&mut self, key: &ObjectKey) {
        self.index.delete(key);
        self.index.publish();
        self.pruned.delete(key);
        self.check_pruned();
    }

    /// Whether everything that decides about traffic is in what an API server's objects keep.
    #[track_caller]
    fn check_pruned(&mut self) {
        if !self.prunes {
            return;
        }
        self.pruned.publish();
        let snapshot = |index: &Index| Arc::clone(&index.subscribe().borrow());
        let (whole, pruned) = (snapshot(&self.index), snapshot(&self.pruned));
        for (uid, workload) in &whole.workloads {
            let Some(pruned) = pruned.workloads.get(uid) else {
                panic!("{} is lost when its objects are pruned", workload.name);
            };
            // Files may name a network namespace; what everybody may write to the API may not.
            let workload = Workload {
                netns: None,
                ..Workload::clone(workload)
            };
            assert_eq!(**pruned, workload, "when its objects are pruned");
        }
        for (name, service) in &whole.services {
            let pruned = pruned.services.get(name).map(|service| shown(service));
            assert_eq!(pruned, Some(shown(service)), "when its objects are pruned");
        }
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.index.subscribe().borrow())
    }

    /// All problems but those of severity Info, one per line.
    pub(super) fn problems(&self) -> Vec<String> {
        let report = Arc::clone(&self.index.report().borrow());
        let all = report.problems.iter().map(ToString::to_string);
        all.filter(|text| !text.starts_with("Info")).collect()
    }

    #[track_caller]
    pub(super) fn check_problems(&self, want: &[&str]) {
        let problems = self.problems();
        let said = problems.join("\n");
        for part in want {
            assert!(
                problems.iter().any(|text| text.contains(part)),
                "no {part:?} in:\n{said}"
            );
        }
        assert_eq!(problems.len(), want.len(), "{said}");
    }

    #[track_caller]
    pub(super) fn workload(&self, name: &str) -> Arc<Workload> {
        let snapshot = self.snapshot();
        let found = snapshot
            .workloads
            .values()
            .find(|workload| &*workload.name == name);
        Arc::clone(found.unwrap_or_else(|| panic!("no workload {name}")))
    }

    #[track_caller]
    pub(super) fn service(&self, namespace: &str, name: &str) -> Arc<Service> {
        Arc::clone(&self.snapshot().services[&ServiceName::new(namespace, name)])
    }

    /// The mode of a pod's port.
    #[track_caller]
    pub(super) fn mode(&self, pod: &str, port: u16) -> MtlsMode {
        self.workload(pod).inbound.mode(port)
    }

    /// What becomes of `GET path` from pod `client` to a Service's port, as
    /// `<subset or *>@<first endpoint>` or `<status> <flag>`.
    #[track_caller]
    pub(super) fn get(&self, client: &str, service: (&str, &str, u16), path: &str) -> String {
        self.get_with(client, service, path, &HeaderMap::new())
    }

    #[track_caller]
    pub(super) fn get_with(
        &self,
        client: &str,
        (namespace, name, number): (&str, &str, u16),
        path: &str,
        headers: &HeaderMap,
    ) -> String {
        let decided = self.decide(client, (namespace, name, number), "GET", path, headers);
        match decided {
            Decision::Forward { cluster, .. } => match cluster.endpoints.first() {
                Some(endpoint) => {
                    format!(
                        "{}@{}",
                        cluster.subset.as_deref().unwrap_or("*"),
                        endpoint.address
                    )
                }
                None => format!("{}@nothing", cluster.subset.as_deref().unwrap_or("*")),
            },
            Decision::Redirect {
                status, location, ..
            } => format!("{status} {}", location.to_str().unwrap()),
            Decision::Answer { answer, .. } => format!("{} -", answer.status.as_u16()),
            Decision::Refuse(refusal) => format!("{} {}", refusal.status, refusal.flag.as_str()),
        }
    }

    /// What becomes of a request.
    #[track_caller]
    pub(super) fn decide(
        &self,
        client: &str,
        (namespace, name, number): (&str, &str, u16),
        method: &str,
        path: &str,
        headers: &HeaderMap,
    ) -> Decision {
        let workload = self.workload(client);
        let service = self.service(namespace, name);
        let port = service.ports.iter().find(|port| port.number == number);
        let head = RequestHead {
            method: &method.parse().unwrap(),
            uri: &path.parse().unwrap(),
            authority: name,
            scheme: "http",
            headers,
        };
        let client = Client {
            workload: &workload,
        };
        port.expect("the port exists").decide(&client, &head)
    }

    /// How often each outcome comes in `count` requests.
    #[track_caller]
    pub(super) fn shares(
        &self,
        client: &str,
        service: (&str, &str, u16),
        count: usize,
    ) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for _ in 0..count {
            *shares.entry(self.get(client, service, "/")).or_default() += 1;
        }
        shares
    }
}

/// A pod of nobody, for whom things may look other than for the pods of `default`.
pub(super) fn client_in(namespace: &str) -> Workload {
    Workload {
        uid: WorkloadUid("a client".into()),
        name: "client".into(),
        namespace: namespace.into(),
        identity: SpiffeId::new("cluster.local", namespace, "client"),
        node: "node-a".into(),
        addresses: Vec::new(),
        labels: Arc::default(),
        owner: "client".into(),
        canonical_service: "client".into(),
        canonical_revision: "latest".into(),
        enrolled: true,
        netns: None,
        host_network: false,
        ready: true,
        probe_ports: Vec::new(),
        close_existing_after: None,
        inbound: InboundPolicy::default(),
        scope: Arc::default(),
    }
}

/// A ready pod of `default` on node-a.
pub(super) fn pod(name: &str, address: &str, labels: &str) -> String {
    pod_in("default", name, address, labels)
}

pub(super) fn pod_in(namespace: &str, name: &str, address: &str, labels: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}
spec: {{nodeName: node-a, containers: [{{name: app, image: app, ports: [{{name: web, containerPort: 8080}}]}}]}}
status: {{podIP: {address}}}
"
    )
}

/// A Service of `default` with a port `http` 80 to 8080.
pub(super) fn service(name: &str, address: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{clusterIP: {address}, selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
"
    )
}

/// A Service `name` with pods `name-v1` (10.1.0.1) and `name-v2` (10.1.0.2), and a pod `client`.
pub(super) fn canary(name: &str) -> String {
    [
        service(name, "10.0.0.1"),
        pod(
            &format!("{name}-v1"),
            "10.1.0.1",
            &format!("app: {name}, version: v1"),
        ),
        pod(
            &format!("{name}-v2"),
            "10.1.0.2",
            &format!("app: {name}, version: v2"),
        ),
        pod("client", "10.1.0.9", "app: client"),
    ]
    .concat()
}
