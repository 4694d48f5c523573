// SPDX-License-Identifier: Apache-2.0

//! Which certificates of workloads are no longer good, though their time is not over.
//!
//! By serial number, or by whom they name and when they begin: that is for whoever knows that a key was
//! stolen, and not which certificates there were for it. Knows nothing of certificates' encoding.

use std::{collections::HashSet, fmt};

use super::{authorization::Pattern, spiffe::SpiffeId};

/// A serial number: big-endian, without zeros in front.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Serial(Box<[u8]>);

/// A text is no serial number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no serial number in hexadecimal digits")]
pub struct NotSerial(String);

impl Serial {
    /// As a certificate has it.
    pub fn new(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Self(bytes.get(zeros..).unwrap_or_default().into())
    }

    /// Reads hexadecimal digits, in any case, with or without colons.
    ///
    /// # Errors
    /// If it is something else.
    pub fn parse(text: &str) -> Result<Self, NotSerial> {
        let wrong = || NotSerial(text.to_owned());
        let digits: Vec<u8> = text
            .chars()
            .filter(|letter| *letter != ':')
            .map(|letter| {
                letter
                    .to_digit(16)
                    .and_then(|digit| u8::try_from(digit).ok())
            })
            .collect::<Option<_>>()
            .ok_or_else(wrong)?;
        if digits.is_empty() {
            return Err(wrong());
        }
        let pairs = digits.rchunks(2).rev();
        let bytes: Vec<u8> = pairs
            .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
            .collect();
        Ok(Self::new(&bytes))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Certificates of identities that begin before a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedBefore {
    /// Of the whole identity, without `spiffe://`.
    pub identity: Pattern,
    /// In seconds of Unix time.
    pub before: i64,
}

/// What of a certificate a list is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafFacts {
    /// Whom it names.
    pub identity: SpiffeId,
    /// Its serial number.
    pub serial: Serial,
    /// When it begins to be valid, in seconds of Unix time.
    pub not_before: i64,
}

/// A list of certificates that are no longer good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    serials: HashSet<Serial>,
    issued: Vec<IssuedBefore>,
}

impl Revoked {
    /// These, and those.
    pub fn new(serials: impl IntoIterator<Item = Serial>, issued: Vec<IssuedBefore>) -> Self {
        Self {
            serials: serials.into_iter().collect(),
            issued,
        }
    }

    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.serials.is_empty() && self.issued.is_empty()
    }

    /// How many serial numbers, and how many identities.
    pub fn len(&self) -> (usize, usize) {
        (self.serials.len(), self.issued.len())
    }

    /// Whether a certificate is among them.
    pub fn has(&self, leaf: &LeafFacts) -> bool {
        let by_name = |one: &IssuedBefore| {
            leaf.not_before < one.before && one.identity.matches(leaf.identity.principal())
        };
        self.serials.contains(&leaf.serial) || self.issued.iter().any(by_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: Option<&str>) {
        let serial = Serial::parse(text).ok().map(|serial| serial.to_string());
        assert_eq!(serial.as_deref(), want, "{text:?}");
    }

    #[test]
    fn a_serial_number_is_the_same_however_it_is_written() {
        check("0A:ff:10", Some("0aff10"));
        check("aff10", Some("0aff10"));
        check("000aff10", Some("0aff10"));
        check("", None);
        check(":", None);
        check("0x1", None);
        check("12 34", None);
        assert_eq!(Serial::parse("0:12").unwrap(), Serial::new(&[0, 0, 0x12]));
    }

    fn leaf(account: &str, serial: u8, not_before: i64) -> LeafFacts {
        LeafFacts {
            identity: SpiffeId::new("td", "shop", account),
            serial: Serial::new(&[serial]),
            not_before,
        }
    }

    #[test]
    fn a_certificate_is_revoked_by_its_number_or_by_its_name_and_begin() {
        let issued = |pattern: &str, before| IssuedBefore {
            identity: Pattern::new(pattern),
            before,
        };
        let list = Revoked::new(
            [Serial::new(&[7])],
            vec![issued("td/ns/shop/sa/web", 100), issued("td/ns/shop/*", 50)],
        );
        assert!(list.has(&leaf("db", 7, 1000)));
        assert!(list.has(&leaf("web", 1, 99)));
        assert!(!list.has(&leaf("web", 1, 100)));
        assert!(list.has(&leaf("db", 1, 49)));
        assert!(!list.has(&leaf("db", 1, 50)));
        assert!(!Revoked::default().has(&leaf("db", 7, 0)));
        assert_eq!(list.len(), (1, 2));
    }
}
