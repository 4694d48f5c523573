// SPDX-License-Identifier: Apache-2.0

//! The form of the journal's file: a magic word, then records of length, checksum and JSON. The
//! first record tells version and node.
//!
//! Pure: bytes in, bytes out.

use std::{collections::HashMap, ops::Range};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::{super::object::ObjectKey, kinds};

const MAGIC: &[u8; 8] = b"MESHCONF";

/// Of what records mean. A file of another version is not read.
const VERSION: u32 = 1;

/// Length and checksum, both little-endian.
const FRAME: usize = 8;

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    node: String,
}

/// One change.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record<'a> {
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
    /// `None`: it is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<std::borrow::Cow<'a, Value>>,
}

/// What tells a record's object from others.
#[derive(Deserialize)]
struct Owner {
    kind: String,
    namespace: String,
    name: String,
    #[serde(default)]
    object: Option<Value>,
}

impl<'a> Record<'a> {
    pub(super) fn put(key: &'a ObjectKey, value: &'a Value) -> Self {
        Self {
            object: Some(std::borrow::Cow::Borrowed(value)),
            ..Self::delete(key)
        }
    }

    pub(super) fn delete(key: &'a ObjectKey) -> Self {
        Self {
            kind: key.kind.as_str(),
            namespace: &key.namespace,
            name: &key.name,
            object: None,
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        frame(self)
    }
}

/// How a file begins.
pub(super) fn header(node: &str) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(frame(&Header {
        version: VERSION,
        node: node.to_owned(),
    }));
    bytes
}

fn frame(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![0; FRAME];
    serde_json::to_writer(&mut bytes, value).expect("texts and JSON values are written as JSON");
    let length =
        u32::try_from(bytes.len() - FRAME).expect("an object is no larger than etcd allows");
    let sum = checksum(&bytes[FRAME..]);
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..FRAME].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// CRC-32 (IEEE 802.3).
fn checksum(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    let step = |sum: u32, byte: &u8| TABLE[usize::from(sum.to_le_bytes()[0] ^ byte)] ^ (sum >> 8);
    !bytes.iter().fold(!0, step)
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    let mut byte = 0;
    while index < 256 {
        let mut sum: u32 = byte;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 {
                (sum >> 1) ^ 0xedb8_8320
            } else {
                sum >> 1
            };
            bit += 1;
        }
        table[index] = sum;
        index += 1;
        byte += 1;
    }
    table
}

/// What a file holds.
#[derive(Debug)]
pub(super) struct Contents {
    bytes: Vec<u8>,
    /// The last record of each object that is not gone, frame included.
    latest: HashMap<ObjectKey, Range<usize>>,
}

impl Contents {
    /// Fails with the reason if the file is of another node or version.
    pub(super) fn parse(bytes: Vec<u8>, node: &str) -> Result<Self, &'static str> {
        if !bytes.starts_with(MAGIC) {
            return Err("it is no journal");
        }
        let first = next(&bytes, MAGIC.len()).ok_or("its first record is damaged")?;
        let header: Header = serde_json::from_slice(&bytes[first.start + FRAME..first.end])
            .map_err(|_malformed| "its first record is of another form")?;
        if header.version != VERSION {
            return Err("it is of another version");
        }
        if header.node != node {
            return Err("it is of another node");
        }
        let mut contents = Self {
            latest: HashMap::new(),
            bytes,
        };
        let mut end = first.end;
        while let Some(range) = next(&contents.bytes, end) {
            let text = &contents.bytes[range.start + FRAME..range.end];
            let Ok(owner) = serde_json::from_slice::<Owner>(text) else {
                break;
            };
            end = range.end;
            // A kind that is not read any more is left out.
            let Some(kind) = kinds::named(&owner.kind) else {
                continue;
            };
            let key = ObjectKey {
                kind,
                namespace: owner.namespace,
                name: owner.name,
            };
            match owner.object {
                Some(_) => drop(contents.latest.insert(key, range)),
                None => drop(contents.latest.remove(&key)),
            }
        }
        Ok(contents)
    }

    /// The objects that are there.
    pub(super) fn objects(&self) -> Vec<(ObjectKey, Value)> {
        let object = |(key, range): (&ObjectKey, &Range<usize>)| {
            let text = &self.bytes[range.start + FRAME..range.end];
            let owner: Owner = serde_json::from_slice(text).ok()?;
            Some((key.clone(), owner.object?))
        };
        self.latest.iter().filter_map(object).collect()
    }

    /// Their records.
    pub(super) fn latest(&self) -> impl Iterator<Item = &[u8]> {
        self.latest.values().map(|range| &self.bytes[range.clone()])
    }

    /// How many objects are there.
    pub(super) fn live(&self) -> usize {
        self.latest.len()
    }
}

/// Where the record that begins at `start` is, frame included; `None` if it is not all there.
fn next(bytes: &[u8], start: usize) -> Option<Range<usize>> {
    let number = |at: usize| {
        let bytes = bytes.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let length = usize::try_from(number(start)?).ok()?;
    let sum = number(start + 4)?;
    let end = (start + FRAME).checked_add(length)?;
    let text = bytes.get(start + FRAME..end)?;
    (checksum(text) == sum).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(checksum(b"123456789"), 0xcbf4_3926);
    }
}
