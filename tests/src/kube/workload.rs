// SPDX-License-Identifier: Apache-2.0

//! A Deployment of the scenarios' Go application, with its Service.
//!
//! The application answers HTTP and gRPC on port 8080 (`tests/go/serve.go`), and is its own client.
//! Knows nothing of the mesh. Invariant: a pod that is ready answers.

use std::fmt::Write as _;

/// The image that the test command gives the nodes.
pub const IMAGE: &str = "mesh-agent.local/applications:dev";

/// One workload, to be applied.
#[derive(Clone, Debug)]
pub struct Workload {
    name: String,
    app: String,
    version: String,
    replicas: u32,
    node: Option<String>,
    account: String,
    labels: Vec<(String, String)>,
    annotations: Vec<(String, String)>,
    service: bool,
    liveness: bool,
}

impl Workload {
    /// A workload of one pod behind a Service of the same name.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            app: name.to_owned(),
            version: "v1".to_owned(),
            replicas: 1,
            node: None,
            account: "default".to_owned(),
            labels: Vec::new(),
            annotations: Vec::new(),
            service: true,
            liveness: false,
        }
    }

    /// A version of `app`: one of several behind the Service that the first of them brings.
    pub fn version(app: &str, version: &str) -> Self {
        Self {
            app: app.to_owned(),
            version: version.to_owned(),
            service: version == "v1",
            ..Self::new(&format!("{app}-{version}"))
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many pods.
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// All pods on one node.
    pub fn on(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }

    /// All pods with a ServiceAccount that is there already.
    pub fn account(mut self, account: &str) -> Self {
        self.account = account.to_owned();
        self
    }

    /// A label on the pods.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// An annotation on the pods: another value is another rollout.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The kubelet restarts it when it does not answer.
    pub fn with_liveness(mut self) -> Self {
        self.liveness = true;
        self
    }

    /// Deployment and Service as YAML.
    pub fn manifest(&self) -> String {
        let mut text = self.deployment();
        if self.service {
            write!(
                text,
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {app}}}\n\
                 spec:\n  selector: {{app: {app}}}\n\
                 \x20 ports: [{{name: http, port: 80, targetPort: 8080}}]\n",
                app = self.app
            )
            .expect("writing to a string cannot fail");
        }
        text
    }

    fn deployment(&self) -> String {
        let node = match &self.node {
            Some(node) => format!("nodeName: {node}"),
            None => "nodeSelector: {}".to_owned(),
        };
        let probe = "{httpGet: {path: /, port: 8080}, periodSeconds: 1}";
        let liveness = if self.liveness { probe } else { "null" };
        format!(
            "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {app}, version: {version}}}}}
  strategy: {{rollingUpdate: {{maxUnavailable: 0}}}}
  template:
    metadata:
      labels: {{app: {app}, version: {version}{labels}}}
      annotations: {{tests: \"\"{annotations}}}
    spec:
      {node}
      serviceAccountName: {account}
      terminationGracePeriodSeconds: 2
      containers:
      - name: app
        image: {IMAGE}
        imagePullPolicy: Never
        args: [serve, ':8080', '{app}-{version}']
        ports: [{{containerPort: 8080}}]
        readinessProbe: {probe}
        livenessProbe: {liveness}
        lifecycle: {{preStop: {{sleep: {{seconds: 2}}}}}}
",
            name = self.name,
            replicas = self.replicas,
            account = self.account,
            app = self.app,
            version = self.version,
            labels = pairs(&self.labels),
            annotations = pairs(&self.annotations),
        )
    }
}

fn pairs(pairs: &[(String, String)]) -> String {
    let one = |(key, value): &(String, String)| format!(", {key}: \"{value}\"");
    pairs.iter().map(one).collect()
}
