// SPDX-License-Identifier: Apache-2.0

//! Turns the JSON schema of a Rust type into a Kubernetes structural schema.
//!
//! JSON Schema says `null` with a type of its own, enumerations with `oneOf`, and shared types with
//! references; a structural schema has one type per node, `nullable`, and no references. Knows
//! nothing of the types. Invariant: every object keeps fields that its type does not have.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";

/// The structural schema of `T`.
pub(super) fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
    });
    structural(
        settings
            .into_generator()
            .into_root_schema_for::<T>()
            .to_value(),
    )
}

/// Rewrites one node and all below it.
fn structural(schema: Value) -> Value {
    let Value::Object(node) = schema else {
        // `true`: anything.
        return json!({ PRESERVE: true });
    };
    let mut node = alternatives(node);
    nullable(&mut node);
    bounds(&mut node);
    for annotation in ["$schema", "$defs", "title", "default"] {
        node.remove(annotation);
    }
    if let Some(Value::Object(properties)) = node.get_mut("properties") {
        for (_, property) in properties.iter_mut() {
            *property = structural(property.take());
        }
    }
    if let Some(items) = node.get_mut("items") {
        *items = structural(items.take());
    }
    map_values(&mut node);
    if node.get("type") == Some(&json!("object")) && !node.contains_key("additionalProperties") {
        node.insert(PRESERVE.to_owned(), json!(true));
    }
    Value::Object(node)
}

/// Resolves `anyOf` (a type or null) and `oneOf` (an enumeration whose values are described).
fn alternatives(mut node: Map<String, Value>) -> Map<String, Value> {
    let Some(Value::Array(branches)) = node.remove("anyOf").or_else(|| node.remove("oneOf")) else {
        return node;
    };
    let mut values = Vec::new();
    for branch in branches {
        let Value::Object(mut branch) = branch else {
            continue;
        };
        if branch.get("type") == Some(&json!("null")) {
            node.insert("nullable".to_owned(), json!(true));
        } else if let Some(value) = branch.remove("const") {
            values.push(value);
            node.insert("type".to_owned(), json!("string"));
        } else {
            for (key, value) in alternatives(branch) {
                match (key.as_str(), value) {
                    ("enum", Value::Array(more)) => values.extend(more),
                    // What is said where the type is used is nearer than what the type says.
                    (_, value) => {
                        node.entry(key).or_insert(value);
                    }
                }
            }
        }
    }
    if !values.is_empty() {
        node.insert("enum".to_owned(), Value::Array(values));
    }
    node
}

/// `type: [T, "null"]` becomes `type: T, nullable: true`. Not for enumerations: the API server
/// compares null with their values and cannot be told that it is one. A null that is not allowed it
/// drops before it validates, which comes to the same.
fn nullable(node: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = node.get("type") {
        let mut others = types.iter().filter(|kind| **kind != json!("null"));
        let kind = others.next().cloned().unwrap_or_else(|| json!("object"));
        debug_assert!(others.next().is_none(), "one type per node");
        node.insert("type".to_owned(), kind);
        node.insert("nullable".to_owned(), json!(true));
    }
    if let Some(Value::Array(values)) = node.get_mut("enum") {
        values.retain(|value| !value.is_null());
        node.remove("nullable");
    }
}

/// Rust's widths are no formats of OpenAPI; what they mean are bounds.
fn bounds(node: &mut Map<String, Value>) {
    let Some(Value::String(format)) = node.remove("format") else {
        return;
    };
    let maximum = match format.as_str() {
        "uint8" => u64::from(u8::MAX),
        "uint16" => u64::from(u16::MAX),
        "uint32" => u64::from(u32::MAX),
        _ => return,
    };
    node.insert("minimum".to_owned(), json!(0));
    node.insert("maximum".to_owned(), json!(maximum));
}

/// Maps: those with numbers as keys, which JSON Schema tells by a pattern, as all others.
fn map_values(node: &mut Map<String, Value>) {
    if let Some(Value::Object(patterns)) = node.remove("patternProperties") {
        let values = patterns.into_iter().next().map(|(_, values)| values);
        node.insert(
            "additionalProperties".to_owned(),
            values.unwrap_or(Value::Bool(true)),
        );
    }
    if let Some(values) = node.get_mut("additionalProperties") {
        *values = structural(values.take());
    }
}
