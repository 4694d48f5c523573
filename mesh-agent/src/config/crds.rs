// SPDX-License-Identifier: Apache-2.0

//! The CustomResourceDefinitions that the mesh brings along, made from the types that read them.
//!
//! Only kinds that nobody else may have installed: Istio's in the part that the mesh reads, the two
//! that Istio itself no longer ships, and one of its own. Gateway API's are its own to install. Knows nothing of
//! what the kinds mean.
//!
//! Invariant: a schema never takes away what it does not know: such fields are kept, and reported
//! by `analyze`. Reference: Kubernetes, "structural schemas" of `apiextensions.k8s.io/v1`.

mod install;
mod structural;

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde_json::{Value, json};

pub use self::install::{InstallError, Installed, install};
use super::{
    authorization::AuthorizationPolicySpec,
    istio::{
        DestinationRuleSpec, ServiceEntrySpec, SidecarSpec, VirtualServiceSpec, WorkloadEntrySpec,
    },
    rate_limit::LocalRateLimitSpec,
    request_authentication::RequestAuthenticationSpec,
    security::{PeerAuthenticationSpec, PolicySpec},
};

/// The label that tells our definitions from Istio's of the same name.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "mesh-agent");

/// One kind as the API server shall serve it.
struct Shape {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: Option<&'static str>,
    scope: &'static str,
    /// The first is the one that is stored.
    versions: &'static [&'static str],
    spec: fn() -> Value,
    /// What `kubectl get` shows: heading, type, path.
    columns: &'static [(&'static str, &'static str, &'static str)],
}

const SHAPES: [Shape; 11] = [
    Shape {
        group: "networking.istio.io",
        kind: "VirtualService",
        plural: "virtualservices",
        short: Some("vs"),
        scope: "Namespaced",
        versions: &["v1", "v1beta1", "v1alpha3"],
        spec: spec::<VirtualServiceSpec>,
        columns: &[
            ("Gateways", "string", ".spec.gateways"),
            ("Hosts", "string", ".spec.hosts"),
            AGE,
        ],
    },
    Shape {
        group: "networking.istio.io",
        kind: "DestinationRule",
        plural: "destinationrules",
        short: Some("dr"),
        scope: "Namespaced",
        versions: &["v1", "v1beta1", "v1alpha3"],
        spec: spec::<DestinationRuleSpec>,
        columns: &[("Host", "string", ".spec.host"), AGE],
    },
    Shape {
        group: "networking.istio.io",
        kind: "ServiceEntry",
        plural: "serviceentries",
        short: Some("se"),
        scope: "Namespaced",
        versions: &["v1", "v1beta1", "v1alpha3"],
        spec: spec::<ServiceEntrySpec>,
        columns: &[
            ("Hosts", "string", ".spec.hosts"),
            ("Location", "string", ".spec.location"),
            ("Resolution", "string", ".spec.resolution"),
            AGE,
        ],
    },
    Shape {
        group: "networking.istio.io",
        kind: "WorkloadEntry",
        plural: "workloadentries",
        short: Some("we"),
        scope: "Namespaced",
        versions: &["v1", "v1beta1", "v1alpha3"],
        spec: spec::<WorkloadEntrySpec>,
        columns: &[("Address", "string", ".spec.address"), AGE],
    },
    Shape {
        group: "networking.istio.io",
        kind: "Sidecar",
        plural: "sidecars",
        short: None,
        scope: "Namespaced",
        versions: &["v1", "v1beta1", "v1alpha3"],
        spec: spec::<SidecarSpec>,
        columns: &[AGE],
    },
    Shape {
        group: "security.istio.io",
        kind: "PeerAuthentication",
        plural: "peerauthentications",
        short: Some("pa"),
        scope: "Namespaced",
        versions: &["v1", "v1beta1"],
        spec: spec::<PeerAuthenticationSpec>,
        columns: &[("Mode", "string", ".spec.mtls.mode"), AGE],
    },
    Shape {
        group: "security.istio.io",
        kind: "AuthorizationPolicy",
        plural: "authorizationpolicies",
        short: Some("ap"),
        scope: "Namespaced",
        versions: &["v1", "v1beta1"],
        spec: spec::<AuthorizationPolicySpec>,
        columns: &[("Action", "string", ".spec.action"), AGE],
    },
    Shape {
        group: "security.istio.io",
        kind: "RequestAuthentication",
        plural: "requestauthentications",
        short: Some("ra"),
        scope: "Namespaced",
        versions: &["v1", "v1beta1"],
        spec: spec::<RequestAuthenticationSpec>,
        columns: &[AGE],
    },
    Shape {
        group: "authentication.istio.io",
        kind: "Policy",
        plural: "policies",
        short: None,
        scope: "Namespaced",
        versions: &["v1alpha1"],
        spec: spec::<PolicySpec>,
        columns: &[AGE],
    },
    Shape {
        group: "authentication.istio.io",
        kind: "MeshPolicy",
        plural: "meshpolicies",
        short: None,
        scope: "Cluster",
        versions: &["v1alpha1"],
        spec: spec::<PolicySpec>,
        columns: &[AGE],
    },
    Shape {
        group: "mesh-agent.io",
        kind: "LocalRateLimit",
        plural: "localratelimits",
        short: None,
        scope: "Namespaced",
        versions: &["v1alpha1"],
        spec: spec::<LocalRateLimitSpec>,
        columns: &[
            ("Target", "string", ".spec.targetRef.name"),
            ("Requests", "integer", ".spec.requests"),
            ("Unit", "string", ".spec.unit"),
            AGE,
        ],
    },
];

const AGE: (&str, &str, &str) = ("Age", "date", ".metadata.creationTimestamp");

/// All definitions, as objects of `apiextensions.k8s.io/v1`.
pub fn all() -> Vec<Value> {
    SHAPES.iter().map(Shape::definition).collect()
}

/// All definitions as YAML, each in a document that begins with its name in a comment.
pub fn yaml() -> String {
    let mut text = String::new();
    for (shape, definition) in SHAPES.iter().zip(all()) {
        let body = serde_yaml_ng::to_string(&definition).expect("a JSON value can be YAML");
        write!(text, "---\n# {}\n{body}", shape.name()).expect("a String can be written to");
    }
    text
}

impl Shape {
    fn name(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }

    /// Says what the API server would add by itself, too: what it stores then equals this.
    fn definition(&self) -> Value {
        let mut names = json!({
            "kind": self.kind,
            "listKind": format!("{}List", self.kind),
            "plural": self.plural,
            "singular": self.kind.to_lowercase(),
            "categories": categories(self.group),
        });
        if let Some(short) = self.short {
            names["shortNames"] = json!([short]);
        }
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {
                "name": self.name(),
                "labels": { MANAGED_BY.0: MANAGED_BY.1, "app.kubernetes.io/part-of": "mesh-agent" },
            },
            "spec": {
                "group": self.group,
                "names": names,
                "scope": self.scope,
                "conversion": { "strategy": "None" },
                "versions": self.versions(),
            },
        })
    }

    /// All with one schema: they differ by name only, so nothing has to be converted.
    fn versions(&self) -> Vec<Value> {
        let columns: Vec<Value> = self
            .columns
            .iter()
            .map(|(name, kind, path)| json!({ "name": name, "type": kind, "jsonPath": path }))
            .collect();
        let version = |(index, name): (usize, &&str)| {
            json!({
                "name": name,
                "served": true,
                "storage": index == 0,
                "subresources": { "status": {} },
                "additionalPrinterColumns": columns,
                "schema": { "openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "spec": (self.spec)(),
                        "status": {
                            "type": "object",
                            "description": "What was observed; written by the mesh.",
                            "nullable": true,
                            "x-kubernetes-preserve-unknown-fields": true,
                        },
                    },
                } },
            })
        };
        self.versions.iter().enumerate().map(version).collect()
    }
}

/// By which `kubectl get` lists kinds together.
fn categories(group: &str) -> Vec<String> {
    let own = group.replace('.', "-");
    match group.ends_with("istio.io") {
        true => vec!["istio-io".to_owned(), own],
        false => vec![own],
    }
}

fn spec<T: JsonSchema>() -> Value {
    structural::schema_of::<T>()
}

#[cfg(test)]
mod tests;
