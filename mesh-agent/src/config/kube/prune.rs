// SPDX-License-Identifier: Apache-2.0

//! Which fields of an object are read at all.
//!
//! A [`Mask`] is applied while JSON is parsed: what it leaves out is skipped over and never built.
//! Masks of Kubernetes' own kinds name the fields that facts are made of; whoever lets facts read a
//! further field adds it here. Objects of custom kinds keep their whole `spec`, because a field
//! there that has no effect is a finding.
//! Invariant: `managedFields` are in no mask, and neither is the annotation that names a network
//! namespace: from the API a pod must not name another's.

use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value};

use super::super::{authorization_facts, distribution, enrol, nodes, object::Kind, pod, service};

/// What is kept of a JSON value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mask {
    /// Everything.
    All,
    /// These keys of an object, or of every object of a list.
    Only(&'static [(&'static str, Mask)]),
}

use Mask::{All, Only};

const NAMES: &[(&str, Mask)] = &[
    ("name", All),
    ("namespace", All),
    ("uid", All),
    ("resourceVersion", All),
    ("generation", All),
    ("creationTimestamp", All),
    ("deletionTimestamp", All),
];

/// Only what tells an object from all others.
pub(super) const METADATA: Mask = Only(&[("metadata", Only(NAMES))]);

/// An answer that is about an object's state, not an object.
pub(super) const STATUS: Mask = Only(&[("code", All), ("message", All), ("reason", All)]);

/// Of pods and of namespaces.
const ANNOTATIONS: Mask = Only(&[
    (enrol::INJECTION, All),
    (enrol::SIDECAR, All),
    (enrol::DATAPLANE, All),
    (enrol::OWN, All),
    (pod::CLOSE_EXISTING_AFTER, All),
    (distribution::DISTRIBUTION, All),
]);

const NAMESPACE: Mask = Only(&[(
    "metadata",
    Only(&[
        ("name", All),
        ("uid", All),
        ("resourceVersion", All),
        ("creationTimestamp", All),
        ("labels", All),
        ("annotations", ANNOTATIONS),
    ]),
)]);

const NODE: Mask = Only(&[(
    "metadata",
    Only(&[
        ("name", All),
        ("uid", All),
        ("resourceVersion", All),
        (
            "labels",
            Only(&[
                (nodes::REGION[0], All),
                (nodes::REGION[1], All),
                (nodes::ZONE[0], All),
                (nodes::ZONE[1], All),
                (nodes::SUBZONE, All),
            ]),
        ),
    ]),
)]);

const PROBE: Mask = Only(&[
    ("httpGet", Only(&[("host", All), ("port", All)])),
    ("tcpSocket", Only(&[("host", All), ("port", All)])),
    ("grpc", Only(&[("port", All)])),
]);

const CONTAINERS: Mask = Only(&[
    ("name", All),
    (
        "ports",
        Only(&[("name", All), ("containerPort", All), ("protocol", All)]),
    ),
    ("livenessProbe", PROBE),
    ("readinessProbe", PROBE),
    ("startupProbe", PROBE),
]);

const POD: Mask = Only(&[
    (
        "metadata",
        Only(&[
            ("name", All),
            ("namespace", All),
            ("uid", All),
            ("resourceVersion", All),
            ("creationTimestamp", All),
            ("deletionTimestamp", All),
            ("labels", All),
            ("annotations", ANNOTATIONS),
            (
                "ownerReferences",
                Only(&[("kind", All), ("name", All), ("controller", All)]),
            ),
        ]),
    ),
    (
        "spec",
        Only(&[
            ("nodeName", All),
            ("serviceAccountName", All),
            ("hostNetwork", All),
            ("initContainers", CONTAINERS),
            ("containers", CONTAINERS),
        ]),
    ),
    (
        "status",
        Only(&[
            ("phase", All),
            ("podIP", All),
            ("podIPs", All),
            ("conditions", Only(&[("type", All), ("status", All)])),
        ]),
    ),
]);

const SERVICE: Mask = Only(&[
    (
        "metadata",
        Only(&[
            ("name", All),
            ("namespace", All),
            ("uid", All),
            ("resourceVersion", All),
            ("creationTimestamp", All),
            (
                "annotations",
                Only(&[
                    (service::EXPORT_TO, All),
                    (distribution::DISTRIBUTION, All),
                    (distribution::TOPOLOGY_MODE[0], All),
                    (distribution::TOPOLOGY_MODE[1], All),
                ]),
            ),
        ]),
    ),
    ("spec", All),
]);

const ENDPOINT_SLICE: Mask = Only(&[
    (
        "metadata",
        Only(&[
            ("name", All),
            ("namespace", All),
            ("uid", All),
            ("resourceVersion", All),
            ("creationTimestamp", All),
            ("labels", Only(&[("kubernetes.io/service-name", All)])),
        ]),
    ),
    ("addressType", All),
    (
        "endpoints",
        Only(&[
            ("addresses", All),
            ("conditions", All),
            ("nodeName", All),
            ("zone", All),
            ("hints", Only(&[("forZones", All)])),
        ]),
    ),
    ("ports", All),
]);

const CUSTOM: Mask = Only(&[
    ("apiVersion", All),
    ("kind", All),
    (
        "metadata",
        Only(&[
            ("name", All),
            ("namespace", All),
            ("uid", All),
            ("resourceVersion", All),
            ("generation", All),
            ("creationTimestamp", All),
            ("labels", All),
        ]),
    ),
    ("spec", All),
]);

const AUTHORIZATION: Mask = Only(&[
    ("apiVersion", All),
    ("kind", All),
    (
        "metadata",
        Only(&[
            ("name", All),
            ("namespace", All),
            ("uid", All),
            ("resourceVersion", All),
            ("generation", All),
            ("creationTimestamp", All),
            ("labels", All),
            ("annotations", Only(&[(authorization_facts::DRY_RUN, All)])),
        ]),
    ),
    ("spec", All),
]);

const CONFIG_MAP: Mask = Only(&[
    ("apiVersion", All),
    ("kind", All),
    (
        "metadata",
        Only(&[
            ("name", All),
            ("namespace", All),
            ("resourceVersion", All),
            ("creationTimestamp", All),
        ]),
    ),
    ("data", Only(&[("mesh", All)])),
]);

/// What is kept of an object of this kind.
pub(super) fn mask(kind: Kind) -> Mask {
    match kind {
        Kind::Namespace => NAMESPACE,
        Kind::Pod => POD,
        Kind::Service => SERVICE,
        Kind::EndpointSlice => ENDPOINT_SLICE,
        Kind::Node => NODE,
        Kind::ConfigMap => CONFIG_MAP,
        Kind::ServiceAccount | Kind::Unenforced(_) | Kind::Unsupported(_) => METADATA,
        Kind::AuthorizationPolicy => AUTHORIZATION,
        _ => CUSTOM,
    }
}

/// What is left of a pod of another node: nobody here asks for its probes.
pub(super) fn remote_pod(pod: &mut Value) {
    for list in ["initContainers", "containers"] {
        let containers = pod.get_mut("spec").and_then(|spec| spec.get_mut(list));
        for container in containers
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(fields) = container.as_object_mut() {
                fields.retain(|key, _| matches!(key.as_str(), "name" | "ports"));
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Mask {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self {
            All => Value::deserialize(deserializer),
            Only(keys) => deserializer.deserialize_any(Masked(keys)),
        }
    }
}

/// Builds what a mask keeps.
struct Masked(&'static [(&'static str, Mask)]);

impl<'de> Visitor<'de> for Masked {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = access.next_key::<std::borrow::Cow<'de, str>>()? {
            match self.0.iter().find(|(known, _)| *known == key) {
                Some((_, mask)) => {
                    let value = access.next_value_seed(*mask)?;
                    fields.insert(key.into_owned(), value);
                }
                None => {
                    access.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Value::Object(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(Only(self.0))? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(kind: Kind, object: &Value, want: &Value) {
        let text = object.to_string();
        let mut deserializer = serde_json::Deserializer::from_str(&text);
        let pruned = mask(kind).deserialize(&mut deserializer).unwrap();
        assert_eq!(pruned, *want);
    }

    #[test]
    fn a_pod_keeps_what_facts_are_made_of() {
        check(
            Kind::Pod,
            &json!({
                "metadata": {
                    "name": "web", "resourceVersion": "7", "labels": {"app": "web"},
                    "annotations": {
                        "mesh-agent.io/netns": "another", "sidecar.istio.io/inject": "true",
                        "mesh-agent.io/close-existing-after": "10m"
                    },
                    "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
                    "ownerReferences": [{"kind": "ReplicaSet", "name": "web-1", "uid": "u"}],
                },
                "spec": {
                    "nodeName": "a", "volumes": [{"name": "token"}],
                    "containers": [{
                        "name": "web", "image": "i", "ports": [{"containerPort": 80, "hostPort": 1}],
                        "livenessProbe": {"httpGet": {"port": 80, "path": "/"}, "periodSeconds": 1},
                    }],
                },
                "status": {
                    "podIP": "10.0.0.1", "startTime": "2026-01-01T00:00:00Z",
                    "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "x"}],
                },
            }),
            &json!({
                "metadata": {
                    "name": "web", "resourceVersion": "7", "labels": {"app": "web"},
                    "annotations": {
                        "sidecar.istio.io/inject": "true",
                        "mesh-agent.io/close-existing-after": "10m"
                    },
                    "ownerReferences": [{"kind": "ReplicaSet", "name": "web-1"}],
                },
                "spec": {
                    "nodeName": "a",
                    "containers": [{
                        "name": "web", "ports": [{"containerPort": 80}],
                        "livenessProbe": {"httpGet": {"port": 80}},
                    }],
                },
                "status": {
                    "podIP": "10.0.0.1",
                    "conditions": [{"type": "Ready", "status": "True"}],
                },
            }),
        );
    }

    #[test]
    fn a_namespace_keeps_what_it_says_for_its_pods() {
        check(
            Kind::Namespace,
            &json!({
                "metadata": {
                    "name": "shop", "labels": {"istio-injection": "enabled"},
                    "annotations": {
                        "mesh-agent.io/close-existing-after": "10m", "mesh-agent.io/enrolled": "true",
                        "kubectl.kubernetes.io/last-applied-configuration": "{}"
                    },
                },
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
            }),
            &json!({
                "metadata": {
                    "name": "shop", "labels": {"istio-injection": "enabled"},
                    "annotations": {
                        "mesh-agent.io/close-existing-after": "10m", "mesh-agent.io/enrolled": "true"
                    },
                },
            }),
        );
    }

    #[test]
    fn a_custom_object_keeps_its_spec() {
        check(
            Kind::VirtualService,
            &json!({
                "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
                "metadata": {"name": "x", "managedFields": [], "annotations": {"a": "b"}},
                "spec": {"hosts": ["x"], "odd": [1, 1.5, null, true]}, "status": {"a": 1},
            }),
            &json!({
                "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
                "metadata": {"name": "x"},
                "spec": {"hosts": ["x"], "odd": [1, 1.5, null, true]},
            }),
        );
    }

    #[test]
    fn values_of_an_unexpected_form_stay_as_they_are() {
        check(
            Kind::Pod,
            &json!({"metadata": "x", "spec": [1, "a", {"nodeName": "a"}], "status": null}),
            &json!({"metadata": "x", "spec": [1, "a", {"nodeName": "a"}], "status": null}),
        );
    }

    #[test]
    fn a_pod_of_another_node_has_no_probes() {
        let mut pod = json!({"spec": {"containers": [
            {"name": "web", "ports": [], "readinessProbe": {"grpc": {"port": 1}}},
        ]}});
        remote_pod(&mut pod);
        assert_eq!(
            pod,
            json!({"spec": {"containers": [{"name": "web", "ports": []}]}})
        );
    }
}
