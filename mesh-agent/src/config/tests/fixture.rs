// SPDX-License-Identifier: Apache-2.0

//! An index fed with YAML, and questions to its snapshot.

use std::{collections::BTreeMap, sync::Arc};

use http::HeaderMap;

use crate::{
    config::{
        Index, IndexSettings, ObjectKey, Problem,
        read::{self, Entry, Format},
    },
    model::{Client, Decision, MtlsMode, RequestHead, Service, ServiceName, Snapshot, Workload},
};

/// An index that reads YAML.
pub(super) struct Mesh {
    pub(super) index: Index,
    broken: Vec<Problem>,
}

impl Mesh {
    pub(super) fn new(yaml: &str) -> Self {
        Self::with(yaml, false)
    }

    /// The same for one who writes statuses.
    pub(super) fn with_statuses(yaml: &str) -> Self {
        Self::with(yaml, true)
    }

    fn with(yaml: &str, statuses: bool) -> Self {
        let mut mesh = Self {
            index: Index::new(IndexSettings {
                node: "node-a".to_owned(),
                statuses,
                ..IndexSettings::default()
            }),
            broken: Vec::new(),
        };
        mesh.apply(yaml);
        mesh
    }

    /// Applies all objects of `yaml` as one change.
    pub(super) fn apply(&mut self, yaml: &str) {
        for entry in read::read("test.yaml", yaml, Format::Yaml) {
            match entry {
                Entry::Good(object, origin) => {
                    self.index.apply(object, origin);
                }
                Entry::Broken(_, problems) => self.broken.extend(problems),
                Entry::Foreign(problem) => self.broken.push(problem),
            }
        }
        self.index.set_front_end_problems(self.broken.clone());
        self.index.publish();
    }

    pub(super) fn delete(&mut self, key: &ObjectKey) {
        self.index.delete(key);
        self.index.publish();
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
        let workload = self.workload(client);
        let service = self.service(namespace, name);
        let port = service.ports.iter().find(|port| port.number == number);
        let head = RequestHead {
            method: &http::Method::GET,
            uri: &path.parse().unwrap(),
            authority: name,
            scheme: "http",
            headers,
        };
        let client = Client {
            workload: &workload,
        };
        match port.expect("the port exists").decide(&client, &head) {
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
            Decision::Refuse(refusal) => format!("{} {}", refusal.status, refusal.flag.as_str()),
        }
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
