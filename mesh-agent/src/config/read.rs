// SPDX-License-Identifier: Apache-2.0

//! From the text of a manifest file to typed objects.
//!
//! Knows nothing of directories or of what objects mean. A document that is not what its kind asks
//! for never hides the others of its file, and names itself as far as it could be told, so that the
//! caller can keep the last good state of that object.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{
    object::{Class, Kind, Object, ObjectKey, Resource},
    problem::{Origin, Problem, Severity, code},
};
use crate::model::ObjectRef;

/// How a file is written: any number of documents or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Yaml,
    Json,
}

/// What one document, or one item of a list, turned out to be.
#[derive(Debug)]
pub(super) enum Entry {
    /// An object.
    Good(Object, Origin),
    /// Not an object of its kind; the key, as far as it could be told.
    Broken(Option<ObjectKey>, Vec<Problem>),
    /// Nothing the mesh reads.
    Foreign(Problem),
}

/// Reads all objects of a file.
pub(super) fn read(place: &str, text: &str, format: Format) -> Vec<Entry> {
    let mut reader = Reader {
        place: place.into(),
        line: 1,
        entries: Vec::new(),
    };
    match format {
        Format::Yaml => reader.yaml(text),
        Format::Json => reader.json(text),
    }
    reader.entries
}

struct Reader {
    place: std::sync::Arc<str>,
    /// Where the current document begins.
    line: u32,
    entries: Vec<Entry>,
}

impl Reader {
    fn origin(&self) -> Origin {
        Origin {
            place: std::sync::Arc::clone(&self.place),
            line: Some(self.line),
        }
    }

    fn yaml(&mut self, text: &str) {
        for (line, document) in documents(text) {
            match parse_yaml(document) {
                Ok(Value::Null) => {}
                Ok(value) => {
                    self.line = line + lines_before_content(document);
                    self.value(value, "");
                }
                Err(error) => {
                    self.line = line;
                    self.syntax(&error);
                }
            }
        }
    }

    fn json(&mut self, text: &str) {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        let mut start = 0;
        while let Some(value) = values.next() {
            let skipped = text[start..].len() - text[start..].trim_start().len();
            self.line = line_at(text, start + skipped);
            start = values.byte_offset();
            match value {
                Ok(value) => self.value(value, ""),
                Err(error) => {
                    let line = u32::try_from(error.line()).ok();
                    let text = strip_place(&error.to_string());
                    self.broken_text(line, &text);
                }
            }
        }
    }

    fn syntax(&mut self, error: &serde_yaml_ng::Error) {
        let line = error
            .location()
            .and_then(|place| u32::try_from(place.line()).ok())
            .map(|line| self.line + line.saturating_sub(1));
        self.broken_text(line.or(Some(self.line)), &strip_place(&error.to_string()));
    }

    fn broken_text(&mut self, line: Option<u32>, text: &str) {
        let problem = Problem {
            severity: Severity::Error,
            code: code::SCHEMA,
            object: None,
            origin: Origin {
                line,
                ..self.origin()
            },
            field: String::new(),
            text: format!("{text}; what was read from this file before stays in force"),
            fix: "correct the syntax of this document".to_owned(),
        };
        self.entries.push(Entry::Broken(None, vec![problem]));
    }

    /// Reads one object, or the items of a list; `path` is where it stands in its document.
    fn value(&mut self, value: Value, path: &str) {
        let Value::Object(mut fields) = value else {
            return self.broken(
                None,
                path,
                "a manifest must be a mapping",
                "write one object per document",
            );
        };
        let text = |key: &str| {
            fields
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        if api_version.is_empty() || kind.is_empty() {
            return self.broken(
                None,
                path,
                "apiVersion and kind must be set to text",
                "write both at the top of the document",
            );
        }
        if let Some(Value::Array(items)) = fields.get_mut("items").map(Value::take)
            && let Some(of) = kind.strip_suffix("List")
        {
            return self.list(items, &api_version, of, path);
        }
        match Kind::classify(&api_version, &kind) {
            Class::Known(known) => self.object(known, fields, path),
            Class::WrongVersion(known, versions) => {
                let key = key_of(known, &fields);
                self.broken(
                    key,
                    &join(path, "apiVersion"),
                    &format!("{kind} has no version {api_version:?}"),
                    &format!("use one of {}", versions.join(", ")),
                );
            }
            Class::Foreign => self.foreign(&kind, &fields),
        }
    }

    fn list(&mut self, items: Vec<Value>, api_version: &str, kind: &str, path: &str) {
        for (index, mut item) in items.into_iter().enumerate() {
            if let (Value::Object(fields), false) = (&mut item, kind.is_empty()) {
                fields
                    .entry("apiVersion")
                    .or_insert_with(|| api_version.into());
                fields.entry("kind").or_insert_with(|| kind.into());
            }
            self.value(item, &join(path, &format!("items[{index}]")));
        }
    }

    fn object(&mut self, kind: Kind, mut fields: Map<String, Value>, path: &str) {
        let Some(key) = key_of(kind, &fields) else {
            return self.broken(
                None,
                &join(path, "metadata.name"),
                "must be set to text",
                "name the object",
            );
        };
        if !kind.is_cluster_scoped()
            && let Some(Value::Object(metadata)) = fields.get_mut("metadata")
        {
            metadata.insert("namespace".to_owned(), key.namespace.clone().into());
        }
        match typed(kind, &key, Value::Object(fields)) {
            Ok(object) => self.entries.push(Entry::Good(object, self.origin())),
            Err(faults) => {
                let problems = faults
                    .into_iter()
                    .map(|fault| self.fault(&key, path, fault))
                    .collect();
                self.entries.push(Entry::Broken(Some(key), problems));
            }
        }
    }

    fn fault(&self, key: &ObjectKey, path: &str, fault: Fault) -> Problem {
        fault.problem(key, self.origin(), path)
    }

    fn broken(&mut self, key: Option<ObjectKey>, field: &str, text: &str, fix: &str) {
        let problem = Problem {
            severity: Severity::Error,
            code: code::SCHEMA,
            object: key.as_ref().map(ObjectKey::to_ref),
            origin: self.origin(),
            field: field.to_owned(),
            text: text.to_owned(),
            fix: fix.to_owned(),
        };
        self.entries.push(Entry::Broken(key, vec![problem]));
    }

    fn foreign(&mut self, kind: &str, fields: &Map<String, Value>) {
        let metadata = |key: &str| fields.get("metadata")?.get(key)?.as_str();
        self.entries.push(Entry::Foreign(Problem {
            severity: Severity::Info,
            code: code::IGNORED_KIND,
            object: Some(ObjectRef {
                kind: kind.into(),
                namespace: metadata("namespace").unwrap_or_default().into(),
                name: metadata("name").unwrap_or_default().into(),
            }),
            origin: self.origin(),
            field: String::new(),
            text: "this kind has no bearing on the mesh and is ignored".to_owned(),
            fix: String::new(),
        }));
    }
}

/// What is wrong with one field.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) field: String,
    pub(super) text: String,
    pub(super) fix: String,
}

impl Fault {
    /// The same as a problem of an object whose last good state stays.
    pub(super) fn problem(self, key: &ObjectKey, origin: Origin, path: &str) -> Problem {
        Problem {
            severity: Severity::Error,
            code: code::SCHEMA,
            object: Some(key.to_ref()),
            origin,
            field: join(path, &self.field),
            text: format!(
                "{}; the last good state of the object stays in force",
                self.text
            ),
            fix: self.fix,
        }
    }
}

/// Reads what an API server handed over. Fields of Kubernetes' own kinds that are not known here
/// are new there; in other kinds they are something that was asked for.
pub(super) fn from_server(kind: Kind, key: &ObjectKey, value: Value) -> Result<Object, Vec<Fault>> {
    Ok(match kind {
        Kind::Namespace => Object::Namespace(known(value)?),
        Kind::Node => Object::Node(known(value)?),
        Kind::ServiceAccount => Object::ServiceAccount(known(value)?),
        Kind::Pod => Object::Pod(known(value)?),
        Kind::Service => Object::Service(known(value)?),
        Kind::EndpointSlice => Object::EndpointSlice(known(value)?),
        Kind::Unenforced(_) | Kind::Unsupported(_) => {
            let object = known::<Resource<super::object::Present>>(spec_or_empty(value))?;
            Object::Inert(key.clone(), Box::new(object.metadata))
        }
        _ => return typed(kind, key, value),
    })
}

/// Reads the object that `value` is.
fn typed(kind: Kind, key: &ObjectKey, value: Value) -> Result<Object, Vec<Fault>> {
    Ok(match kind {
        Kind::Namespace => Object::Namespace(exact(value)?),
        Kind::Node => Object::Node(exact(quantities(value))?),
        Kind::ConfigMap => Object::ConfigMap(exact(value)?),
        Kind::ServiceAccount => Object::ServiceAccount(exact(value)?),
        Kind::Pod => Object::Pod(exact(quantities(value))?),
        Kind::Service => Object::Service(exact(value)?),
        Kind::EndpointSlice => Object::EndpointSlice(exact(value)?),
        Kind::VirtualService => Object::VirtualService(exact(value)?),
        Kind::DestinationRule => Object::DestinationRule(exact(value)?),
        Kind::ServiceEntry => Object::ServiceEntry(exact(value)?),
        Kind::WorkloadEntry => Object::WorkloadEntry(exact(value)?),
        Kind::Sidecar => Object::Sidecar(exact(spec_or_empty(value))?),
        Kind::PeerAuthentication => Object::PeerAuthentication(exact(spec_or_empty(value))?),
        Kind::AuthorizationPolicy => Object::AuthorizationPolicy(exact(spec_or_empty(value))?),
        Kind::RequestAuthentication => Object::RequestAuthentication(exact(spec_or_empty(value))?),
        Kind::Policy => Object::Policy(exact(spec_or_empty(value))?),
        Kind::MeshPolicy => Object::MeshPolicy(exact(spec_or_empty(value))?),
        Kind::HttpRoute => Object::HttpRoute(exact(value)?),
        Kind::GrpcRoute => Object::GrpcRoute(exact(value)?),
        Kind::LocalRateLimit => Object::LocalRateLimit(exact(value)?),
        Kind::TcpRoute => Object::TcpRoute(exact(value)?),
        Kind::TlsRoute => Object::TlsRoute(exact(value)?),
        Kind::BackendTrafficPolicy => Object::BackendTrafficPolicy(exact(value)?),
        Kind::Unenforced(_) | Kind::Unsupported(_) => {
            // Only its name counts, but that must be well formed.
            let object = exact::<Resource<super::object::Present>>(spec_or_empty(value))?;
            Object::Inert(key.clone(), Box::new(object.metadata))
        }
    })
}

/// Deserializes what is known of `value`.
fn known<T: DeserializeOwned>(value: Value) -> Result<Box<T>, Vec<Fault>> {
    let object = serde_path_to_error::deserialize(value).map(Box::new);
    object.map_err(|error| vec![malformed(&error)])
}

fn malformed(error: &serde_path_to_error::Error<serde_json::Error>) -> Fault {
    Fault {
        field: error.path().to_string().trim_start_matches('.').to_owned(),
        text: error.inner().to_string(),
        fix: "give the field a value of that form".to_owned(),
    }
}

/// Reads a `spec`.
pub(super) fn spec<T: DeserializeOwned>(value: Value) -> Result<T, Vec<Fault>> {
    let whole = |fault: Fault| Fault {
        field: join("spec", &fault.field),
        ..fault
    };
    let spec = exact(value).map_err(|faults| faults.into_iter().map(whole).collect::<Vec<_>>());
    Ok(*spec?)
}

/// Deserializes all of `value`: what is left over is a fault.
fn exact<T: DeserializeOwned>(value: Value) -> Result<Box<T>, Vec<Fault>> {
    let mut unknown = Vec::new();
    let mut note = |path: serde_ignored::Path<'_>| unknown.push(field_path(&path));
    let outcome =
        serde_path_to_error::deserialize(serde_ignored::Deserializer::new(value, &mut note));
    let object = outcome.map_err(|error| vec![malformed(&error)])?;
    if unknown.is_empty() {
        return Ok(Box::new(object));
    }
    Err(unknown
        .into_iter()
        .map(|field| Fault {
            field,
            text: "unknown field".to_owned(),
            fix: "correct its spelling or indentation, or remove it".to_owned(),
        })
        .collect())
}

/// `spec.http[0].route`, as error paths have it too.
fn field_path(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", field_path(parent)),
        Path::Map { parent, key } => join(&field_path(parent), key),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => field_path(parent),
    }
}

fn join(path: &str, field: &str) -> String {
    match (path, field) {
        ("", field) => field.to_owned(),
        (path, "" | ".") => path.to_owned(),
        (path, field) => format!("{path}.{field}"),
    }
}

fn key_of(kind: Kind, fields: &Map<String, Value>) -> Option<ObjectKey> {
    let metadata = |key: &str| {
        fields
            .get("metadata")?
            .get(key)?
            .as_str()
            .filter(|text| !text.is_empty())
    };
    Some(ObjectKey {
        kind,
        namespace: if kind.is_cluster_scoped() {
            String::new()
        } else {
            metadata("namespace").unwrap_or("default").to_owned()
        },
        name: metadata("name")?.to_owned(),
    })
}

/// Kinds whose `spec` may be left out.
fn spec_or_empty(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        let spec = fields.entry("spec").or_insert(Value::Null);
        if spec.is_null() {
            *spec = Value::Object(Map::new());
        }
    }
    value
}

/// Turns the numbers that people write for quantities (`cpu: 1`) into text, as the API server does.
fn quantities(mut value: Value) -> Value {
    fn walk(value: &mut Value, inside: bool) {
        match value {
            Value::Object(fields) => {
                for (key, field) in fields {
                    let quantity = matches!(
                        key.as_str(),
                        "limits"
                            | "requests"
                            | "overhead"
                            | "capacity"
                            | "allocatable"
                            | "sizeLimit"
                            | "divisor"
                    );
                    walk(field, inside || quantity);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| walk(item, false)),
            Value::Number(number) if inside => *value = Value::String(number.to_string()),
            _ => {}
        }
    }
    walk(&mut value, false);
    value
}

fn parse_yaml(document: &str) -> Result<Value, serde_yaml_ng::Error> {
    if !document.contains("<<:") {
        return serde_yaml_ng::from_str(document);
    }
    let mut value: serde_yaml_ng::Value = serde_yaml_ng::from_str(document)?;
    value.apply_merge()?;
    serde_yaml_ng::from_value(value)
}

/// The documents of a YAML stream with the lines at which they begin. A line that begins with `---`
/// or `...` is a boundary wherever it stands (YAML 1.2, 9.1.2); what follows on it belongs to the
/// document.
fn documents(text: &str) -> impl Iterator<Item = (u32, &str)> {
    let mut starts = vec![(1, 0, 0)];
    let (mut offset, mut line) = (0, 1);
    for part in text.split_inclusive('\n') {
        let is_marker = ["---", "..."].iter().any(|marker| {
            part.strip_prefix(marker)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
        });
        if is_marker {
            starts.push((line, offset, offset + 3));
        }
        offset += part.len();
        line += 1;
    }
    let ends: Vec<usize> = starts
        .iter()
        .skip(1)
        .map(|(_, end, _)| *end)
        .chain([text.len()])
        .collect();
    starts
        .into_iter()
        .zip(ends)
        .map(move |((line, _, start), end)| (line, &text[start..end]))
}

/// How many lines of a document come before its first word.
fn lines_before_content(document: &str) -> u32 {
    let has_content = |line: &str| !line.trim().is_empty() && !line.trim().starts_with('#');
    let lines = document.lines();
    let count = lines.take_while(|line| !has_content(line)).count();
    u32::try_from(count).unwrap_or_default()
}

fn line_at(text: &str, offset: usize) -> u32 {
    let newlines = text[..offset].bytes().filter(|byte| *byte == b'\n').count();
    u32::try_from(newlines + 1).unwrap_or(u32::MAX)
}

/// Cuts ` at line 3 column 5`, which counts from the document: the problem has the file's line.
fn strip_place(text: &str) -> String {
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text.to_owned(),
    }
}
