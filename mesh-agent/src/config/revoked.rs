// SPDX-License-Identifier: Apache-2.0

//! Reads lists of revoked certificates, as operators write them: YAML, one entry for each.
//!
//! Knows nothing of where the text comes from. Invariant: a list is read as a whole or not at all, and
//! what is wrong says which entry and what to write.

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use crate::model::{
    authorization::Pattern,
    revoked::{IssuedBefore, NotSerial, Revoked, Serial},
};

/// A text is no list of revoked certificates.
#[derive(Debug, thiserror::Error)]
pub enum RevokedError {
    /// It is no YAML of the right form.
    #[error("it is no list of entries with serial, or identity and issuedBefore")]
    Form(#[source] serde_yaml_ng::Error),
    /// A serial number is none.
    #[error("entry {place}: {source}")]
    Serial {
        /// Which one, from 1.
        place: usize,
        /// What is wrong.
        source: NotSerial,
    },
    /// A time is none.
    #[error("entry {place}: issuedBefore {text:?} is no time: write it as 2026-01-31T15:00:00Z")]
    Time {
        /// Which one, from 1.
        place: usize,
        /// What is written.
        text: String,
    },
    /// An entry says too little or too much.
    #[error("entry {place} must have either serial, or identity and issuedBefore")]
    Entry {
        /// Which one, from 1.
        place: usize,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    serial: Option<String>,
    identity: Option<String>,
    issued_before: Option<String>,
    /// For people.
    #[serde(rename = "reason")]
    _reason: Option<String>,
}

/// Reads a list. An empty text is a list of nothing.
///
/// # Errors
/// What is wrong with the first entry that is.
pub fn parse_revoked(text: &str) -> Result<Revoked, RevokedError> {
    let entries: Option<Vec<Entry>> = serde_yaml_ng::from_str(text).map_err(RevokedError::Form)?;
    let (mut serials, mut issued) = (Vec::new(), Vec::new());
    for (index, entry) in entries.unwrap_or_default().into_iter().enumerate() {
        let place = index + 1;
        match (entry.serial, entry.identity, entry.issued_before) {
            (Some(serial), None, None) => {
                let serial = Serial::parse(&serial);
                serials.push(serial.map_err(|source| RevokedError::Serial { place, source })?);
            }
            (None, Some(identity), Some(text)) if !identity.is_empty() => {
                let before = text.parse::<Timestamp>();
                let before = before.map_err(|_unreadable| RevokedError::Time { place, text })?;
                let identity = identity.strip_prefix("spiffe://").unwrap_or(&identity);
                issued.push(IssuedBefore {
                    identity: Pattern::new(identity),
                    before: before.as_second(),
                });
            }
            _ => return Err(RevokedError::Entry { place }),
        }
    }
    Ok(Revoked::new(serials, issued))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{SpiffeId, revoked::LeafFacts},
        telemetry::chain,
    };

    #[test]
    fn serial_numbers_and_identities_are_read() {
        let list = parse_revoked(
            "- serial: '0A:ff'\n- {serial: 1e10, reason: laptop lost}\n- serial: 0012\n- identity: spiffe://td/ns/shop/sa/web\n  issuedBefore: 2026-01-31T15:00:00Z\n- {identity: 'td/ns/bank/*', issuedBefore: '2026-01-31T16:00:00+01:00'}\n",
        )
        .unwrap();
        assert_eq!(list.len(), (3, 2));
        let leaf = |namespace, serial, not_before| LeafFacts {
            identity: SpiffeId::new("td", namespace, "web"),
            serial: Serial::parse(serial).unwrap(),
            not_before,
        };
        let at = 1_769_871_600;
        assert!(list.has(&leaf("shop", "aff", at)));
        assert!(list.has(&leaf("shop", "1e10", at)));
        for namespace in ["shop", "bank"] {
            assert!(list.has(&leaf(namespace, "1", at - 1)));
            assert!(!list.has(&leaf(namespace, "1", at)));
        }
        for nothing in ["", "[]", "# nothing yet\n"] {
            assert!(parse_revoked(nothing).unwrap().is_empty(), "{nothing:?}");
        }
    }

    #[track_caller]
    fn check(text: &str, want: &str) {
        let error = chain(&parse_revoked(text).unwrap_err());
        assert!(error.contains(want), "{error}");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        check(
            "- serial: [a]",
            "identity and issuedBefore: .[0].serial: invalid type",
        );
        check(
            "- serial: 'ab'\n- serial: xyz",
            "entry 2: \"xyz\" is no serial number",
        );
        check(
            "- {identity: td/ns/a/sa/b}",
            "entry 1 must have either serial, or",
        );
        check(
            "- {serial: 'a', identity: a, issuedBefore: b}",
            "entry 1 must have either",
        );
        check(
            "- {identity: a, issuedBefore: yesterday}",
            "entry 1: issuedBefore \"yesterday\"",
        );
        check("- {serail: 'a'}", "unknown field");
        check("serial: 'a'", "invalid type");
    }
}
