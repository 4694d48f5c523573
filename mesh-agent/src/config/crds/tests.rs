// SPDX-License-Identifier: Apache-2.0

//! Whether the definitions are of the form that an API server takes, and say what the types say.

use std::collections::BTreeSet;

use super::*;

/// All that a structural schema of ours may consist of.
const KEYS: [&str; 12] = [
    "type",
    "description",
    "properties",
    "required",
    "items",
    "additionalProperties",
    "enum",
    "nullable",
    "minimum",
    "maximum",
    "pattern",
    "x-kubernetes-preserve-unknown-fields",
];

/// The nodes of a schema with their paths.
fn nodes(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        nodes(property, &format!("{path}.{name}"), visit);
    }
    for below in ["items", "additionalProperties"] {
        if let Some(schema) = schema.get(below) {
            nodes(schema, &format!("{path}.{below}"), visit);
        }
    }
}

/// The node at `path` of the stored version of `plural`.
#[track_caller]
fn node(plural: &str, path: &str) -> Value {
    let definitions = all();
    let found = definitions
        .iter()
        .find(|definition| definition["spec"]["names"]["plural"] == plural)
        .expect("it is defined");
    let schema = &found["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut at = schema;
    for name in path.split('.') {
        at = match name {
            "[]" => &at["items"],
            "{}" => &at["additionalProperties"],
            name => &at["properties"][name],
        };
        assert!(!at.is_null(), "{path} has no {name}");
    }
    at.clone()
}

#[test]
fn schemas_are_structural() {
    for definition in all() {
        for version in definition["spec"]["versions"].as_array().unwrap() {
            let schema = &version["schema"]["openAPIV3Schema"];
            nodes(schema, "", &mut |path, node| {
                let keys = node.as_object().expect("a node is a mapping").keys();
                for key in keys {
                    assert!(KEYS.contains(&key.as_str()), "{path}: {key}");
                }
                let preserves = node["x-kubernetes-preserve-unknown-fields"] == true;
                assert!(node["type"].is_string() || preserves, "{path}: no type");
            });
        }
    }
}

#[test]
fn fields_that_a_type_does_not_have_are_kept() {
    for definition in all() {
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        nodes(&schema["properties"]["spec"], "spec", &mut |path, node| {
            let is_map = node.get("additionalProperties").is_some();
            if node["type"] == "object" && !is_map {
                assert_eq!(
                    node["x-kubernetes-preserve-unknown-fields"], true,
                    "{path} loses fields"
                );
            }
        });
    }
}

#[test]
fn exactly_one_version_is_stored_and_all_have_one_schema() {
    for definition in all() {
        let versions = definition["spec"]["versions"].as_array().unwrap();
        let stored: Vec<_> = versions.iter().filter(|it| it["storage"] == true).collect();
        assert_eq!(stored.len(), 1, "{}", definition["metadata"]["name"]);
        let schemas: BTreeSet<String> = versions
            .iter()
            .map(|version| version["schema"].to_string())
            .collect();
        assert_eq!(schemas.len(), 1, "{}", definition["metadata"]["name"]);
    }
}

#[test]
fn mtls_may_be_null() {
    let mtls = node("policies", "spec.peers.[].mtls");
    assert_eq!(mtls["nullable"], true);
    assert_eq!(mtls["type"], "object");
    assert_eq!(
        mtls["properties"]["mode"]["enum"].as_array().unwrap().len(),
        3
    );
    assert_eq!(node("peerauthentications", "spec.mtls")["nullable"], true);
}

#[test]
fn an_enumeration_has_the_names_that_people_write() {
    let mode = node("peerauthentications", "spec.portLevelMtls.{}.mode");
    assert_eq!(
        mode["enum"],
        json!(["UNSET", "DISABLE", "PERMISSIVE", "STRICT"])
    );
    let simple = node("destinationrules", "spec.trafficPolicy.loadBalancer.simple");
    assert!(!simple["enum"].as_array().unwrap().contains(&Value::Null));
    assert!(simple.get("nullable").is_none(), "null is dropped instead");
}

#[test]
fn numbers_have_the_bounds_of_their_types() {
    let port = node(
        "virtualservices",
        "spec.http.[].route.[].destination.port.number",
    );
    assert_eq!(port["maximum"], 65535);
    assert_eq!(port["minimum"], 0);
    let weight = node("virtualservices", "spec.http.[].route.[].weight");
    assert_eq!(weight["maximum"], u32::MAX);
    assert_eq!(weight["nullable"], true);
}

#[test]
fn what_has_no_effect_yet_may_be_anything() {
    assert_eq!(
        node("virtualservices", "spec.http.[].match.[].statPrefix"),
        json!({ "nullable": true, "x-kubernetes-preserve-unknown-fields": true })
    );
}

#[test]
fn only_what_a_type_cannot_do_without_is_required() {
    assert_eq!(
        node("destinationrules", "spec")["required"],
        json!(["host"])
    );
    assert!(node("virtualservices", "spec").get("required").is_none());
}

#[test]
fn the_yaml_names_each_document() {
    let text = yaml();
    assert_eq!(text.matches("\n# ").count(), SHAPES.len());
    assert!(text.starts_with("---\n# virtualservices.networking.istio.io\napiVersion: "));
}
