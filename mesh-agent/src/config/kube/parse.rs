// SPDX-License-Identifier: Apache-2.0

//! The API server's lists and watch events, pruned while they are read.
//!
//! Invariant: one broken object never hides the others; only an answer that is no JSON at all, or
//! has no version, is an error.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::{
    super::object::{Kind, ObjectKey},
    prune::{Mask, STATUS},
};

/// One object, pruned.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) key: ObjectKey,
    pub(super) version: String,
    pub(super) value: Value,
}

impl Item {
    /// `None` if the value does not even tell its name.
    pub(super) fn new(kind: Kind, value: Value) -> Option<Self> {
        let metadata = value.get("metadata")?;
        let text = |key: &str| {
            let text = metadata.get(key).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        let name = text("name");
        let key = ObjectKey {
            kind,
            namespace: if kind.is_cluster_scoped() {
                String::new()
            } else {
                text("namespace")
            },
            name,
        };
        let version = text("resourceVersion");
        (!key.name.is_empty()).then_some(Self {
            key,
            version,
            value,
        })
    }
}

/// One page of a list.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) items: Vec<Value>,
    /// Of the whole list.
    pub(super) version: String,
    /// Asks for the next page; empty on the last one.
    pub(super) next: String,
}

/// One line of a watch.
#[derive(Debug)]
pub(super) enum Line {
    /// An object was made or changed.
    Applied(Value),
    Deleted(Value),
    /// Nothing happened up to this version.
    Bookmark(String),
    /// The watch has failed.
    Failed {
        code: u16,
        message: String,
    },
    /// Of a type that is not known.
    Unknown,
}

/// Reads a page.
pub(super) fn page(text: &[u8], mask: Mask) -> Result<Page, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let page = deserializer.deserialize_map(PageVisitor(mask))?;
    if page.version.is_empty() {
        return Err(serde_json::Error::custom("the list has no version"));
    }
    Ok(page)
}

/// Reads a line.
pub(super) fn line(text: &[u8], mask: Mask) -> Result<Line, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let (kind, object) = deserializer.deserialize_map(LineVisitor(mask))?;
    Ok(match kind.as_str() {
        "ADDED" | "MODIFIED" => Line::Applied(object),
        "DELETED" => Line::Deleted(object),
        "BOOKMARK" => Line::Bookmark(version(&object)),
        "ERROR" => Line::Failed {
            code: object
                .get("code")
                .and_then(Value::as_u64)
                .and_then(|code| u16::try_from(code).ok())
                .unwrap_or_default(),
            message: message(&object),
        },
        _ => Line::Unknown,
    })
}

/// The version of an object.
pub(super) fn version(object: &Value) -> String {
    let version = object
        .get("metadata")
        .and_then(|metadata| metadata.get("resourceVersion"));
    version
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

/// What a `Status` says.
pub(super) fn message(status: &Value) -> String {
    let text = status.get("message").or(status.get("reason"));
    text.and_then(Value::as_str).unwrap_or_default().to_owned()
}

struct PageVisitor(Mask);

impl<'de> Visitor<'de> for PageVisitor {
    type Value = Page;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Page, A::Error> {
        let mut page = Page::default();
        while let Some(key) = access.next_key::<String>()? {
            match key.as_str() {
                "metadata" => {
                    let metadata: Value = access.next_value()?;
                    let text = |key: &str| {
                        let text = metadata.get(key).and_then(Value::as_str);
                        text.unwrap_or_default().to_owned()
                    };
                    page.version = text("resourceVersion");
                    page.next = text("continue");
                }
                "items" => page.items = access.next_value_seed(Items(self.0))?,
                _ => {
                    access.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(page)
    }
}

struct Items(Mask);

impl<'de> DeserializeSeed<'de> for Items {
    type Value = Vec<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Items {
    type Value = Vec<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the items of a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self.0)? {
            items.push(item);
        }
        Ok(items)
    }

    /// A list of nothing may be `null`.
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }
}

struct LineVisitor(Mask);

impl<'de> Visitor<'de> for LineVisitor {
    type Value = (String, Value);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a watch event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let (mut kind, mut object) = (String::new(), Value::Null);
        while let Some(key) = access.next_key::<String>()? {
            match key.as_str() {
                "type" => kind = access.next_value()?,
                "object" => {
                    // The API server writes the type first; if it did not, all would be kept.
                    let mask = match kind.as_str() {
                        "" => Mask::All,
                        "ERROR" => STATUS,
                        _ => self.0,
                    };
                    object = access.next_value_seed(mask)?;
                }
                _ => {
                    access.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok((kind, object))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::prune, *};

    #[test]
    fn a_page_has_items_a_version_and_the_next_page() {
        let text = br#"{"kind":"PodList","items":[{"metadata":{"name":"a","managedFields":[]}},7],
            "metadata":{"resourceVersion":"12","continue":"abc"}}"#;
        let page = page(text, prune::mask(Kind::Pod)).unwrap();
        assert_eq!((page.version.as_str(), page.next.as_str()), ("12", "abc"));
        assert_eq!(page.items[0].to_string(), r#"{"metadata":{"name":"a"}}"#);
        assert_eq!(page.items[1], 7);
    }

    #[test]
    fn an_empty_list_may_be_null() {
        let text = br#"{"metadata":{"resourceVersion":"1"},"items":null}"#;
        assert!(page(text, Mask::All).unwrap().items.is_empty());
    }

    #[test]
    fn a_list_without_version_cannot_be_followed() {
        page(br#"{"items":[]}"#, Mask::All).unwrap_err();
        page(b"<html>", Mask::All).unwrap_err();
    }

    #[test]
    fn lines_are_told_by_their_type() {
        let mask = prune::mask(Kind::Pod);
        let bookmark = br#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}"#;
        assert!(matches!(line(bookmark, mask), Ok(Line::Bookmark(version)) if version == "9"));
        let gone = br#"{"type":"ERROR","object":{"code":410,"reason":"Expired","message":"old"}}"#;
        assert!(
            matches!(line(gone, mask), Ok(Line::Failed { code: 410, message }) if message == "old")
        );
        let deleted = br#"{"type":"DELETED","object":{"metadata":{"name":"a"}}}"#;
        assert!(matches!(line(deleted, mask), Ok(Line::Deleted(_))));
        assert!(matches!(line(b"{}", mask), Ok(Line::Unknown)));
    }
}
