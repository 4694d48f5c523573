// SPDX-License-Identifier: Apache-2.0

//! The public keys of an issuer, as a JSON Web Key Set writes them.
//!
//! Keys of kinds or uses that no signature of ours can be verified with are left out. Knows
//! nothing of cryptography. References: RFC 7517, RFC 7518 section 6, RFC 8037.

use serde::Deserialize;
use serde_json::Value;

use super::{Algorithm, base64url};

/// How many keys of one set are looked at.
pub const KEYS_MAX: usize = 256;

/// The keys of an issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySet {
    keys: Vec<Key>,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    id: Option<String>,
    algorithm: Option<String>,
    /// The key itself.
    pub material: Material,
}

/// The parts of a public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Material {
    /// Modulus and exponent, big-endian, without leading zeros.
    Rsa {
        /// The modulus.
        modulus: Vec<u8>,
        /// The exponent.
        exponent: Vec<u8>,
    },
    /// A point, uncompressed.
    Elliptic(Curve, Vec<u8>),
    /// Ed25519.
    Edwards(Vec<u8>),
}

/// Which curve a point is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// `P-256`.
    P256,
    /// `P-384`.
    P384,
    /// `P-521`.
    P521,
}

/// A text is no set of keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotKeys {
    /// It is no JSON.
    #[error("it is no JSON: {0}")]
    Json(String),
    /// It has no list `keys`.
    #[error("it has no list \"keys\"")]
    NoList,
    /// There is nothing in it that a signature can be verified with.
    #[error(
        "it has no public key for signatures: kty RSA, EC (P-256, P-384, P-521) or OKP (Ed25519)"
    )]
    Empty,
    /// More than anybody needs.
    #[error("it has more than {KEYS_MAX} keys")]
    TooMany,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Written {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    crv: String,
    n: String,
    e: String,
    x: String,
    y: String,
}

impl KeySet {
    /// Reads a set.
    ///
    /// # Errors
    /// If it is none, or has no key that is of use.
    pub fn parse(text: &[u8]) -> Result<Self, NotKeys> {
        let value: Value =
            serde_json::from_slice(text).map_err(|error| NotKeys::Json(error.to_string()))?;
        let list = value.get("keys").and_then(Value::as_array);
        let list = list.ok_or(NotKeys::NoList)?;
        if list.len() > KEYS_MAX {
            return Err(NotKeys::TooMany);
        }
        let keys: Vec<Key> = list.iter().filter_map(read).collect();
        if keys.is_empty() {
            return Err(NotKeys::Empty);
        }
        Ok(Self { keys })
    }

    /// The keys that a signature by `algorithm` with the key `id` may be of.
    pub fn candidates(&self, algorithm: Algorithm, id: Option<&str>) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(move |key| {
            let same_id = match (id, &key.id) {
                (Some(wanted), Some(its)) => wanted == its,
                (None, _) | (_, None) => true,
            };
            let named = key.algorithm.as_deref();
            same_id
                && named.is_none_or(|named| named == algorithm.as_str())
                && algorithm.fits(&key.material)
        })
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none: never.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

fn read(value: &Value) -> Option<Key> {
    let written = Written::deserialize(value).ok()?;
    if written.purpose.as_deref().is_some_and(|use_| use_ != "sig") {
        return None;
    }
    let bytes = |text: &str| base64url::decode(text.trim_end_matches('='));
    let material = match (written.kty.as_str(), written.crv.as_str()) {
        ("RSA", _) => Material::Rsa {
            modulus: without_zeros(bytes(&written.n)?)?,
            exponent: without_zeros(bytes(&written.e)?)?,
        },
        ("EC", curve) => {
            let curve = Curve::named(curve)?;
            Material::Elliptic(
                curve,
                curve.point(&bytes(&written.x)?, &bytes(&written.y)?)?,
            )
        }
        ("OKP", "Ed25519") => Material::Edwards(bytes(&written.x).filter(|key| key.len() == 32)?),
        _ => return None,
    };
    Some(Key {
        id: written.kid,
        algorithm: written.alg,
        material,
    })
}

fn without_zeros(bytes: Vec<u8>) -> Option<Vec<u8>> {
    let first = bytes.iter().position(|byte| *byte != 0)?;
    Some(bytes[first..].to_vec())
}

impl Curve {
    fn named(name: &str) -> Option<Self> {
        match name {
            "P-256" => Some(Self::P256),
            "P-384" => Some(Self::P384),
            "P-521" => Some(Self::P521),
            _ => None,
        }
    }

    /// How long a coordinate is.
    fn bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    /// `4`, then both coordinates at full length.
    fn point(self, x: &[u8], y: &[u8]) -> Option<Vec<u8>> {
        let mut point = vec![4];
        for coordinate in [x, y] {
            let missing = self.bytes().checked_sub(coordinate.len())?;
            point.resize(point.len() + missing, 0);
            point.extend_from_slice(coordinate);
        }
        Some(point)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<usize, NotKeys> {
        KeySet::parse(text.as_bytes()).map(|keys| keys.len())
    }

    #[test]
    fn what_is_of_no_use_is_left_out() {
        let set = r#"{"keys": [
            {"kty": "RSA", "kid": "a", "n": "AAEC", "e": "AQAB"},
            {"kty": "RSA", "use": "enc", "n": "AQ", "e": "AQAB"},
            {"kty": "RSA", "n": "+", "e": "AQAB"},
            {"kty": "oct", "k": "c2VjcmV0"},
            {"kty": "EC", "crv": "secp256k1", "x": "AQ", "y": "AQ"},
            {"kty": "EC", "crv": "P-256", "x": "AQ", "y": "Ag"},
            {"kty": "OKP", "crv": "Ed25519", "x": "AQ"},
            7
        ]}"#;
        let set = KeySet::parse(set.as_bytes()).unwrap();
        assert_eq!(set.len(), 2);
        let rsa: Vec<&Key> = set.candidates(Algorithm::Rs256, Some("a")).collect();
        let [rsa] = rsa.as_slice() else {
            panic!("one key: {rsa:?}");
        };
        let want = Material::Rsa {
            modulus: vec![1, 2],
            exponent: vec![1, 0, 1],
        };
        assert_eq!(rsa.material, want);
        let elliptic = set.candidates(Algorithm::Es256, None).next().unwrap();
        let Material::Elliptic(Curve::P256, point) = &elliptic.material else {
            panic!("{elliptic:?}");
        };
        assert_eq!((point.len(), point[0], point[32], point[64]), (65, 4, 1, 2));
    }

    #[test]
    fn a_key_is_found_by_what_both_say() {
        let set = r#"{"keys": [
            {"kty": "RSA", "kid": "a", "alg": "RS256", "n": "AQ", "e": "AQ"},
            {"kty": "RSA", "n": "Ag", "e": "AQ"}
        ]}"#;
        let set = KeySet::parse(set.as_bytes()).unwrap();
        let count = |algorithm, id| set.candidates(algorithm, id).count();
        assert_eq!(count(Algorithm::Rs256, Some("a")), 2);
        assert_eq!(count(Algorithm::Rs256, Some("b")), 1, "one has no id");
        assert_eq!(count(Algorithm::Rs256, None), 2);
        assert_eq!(count(Algorithm::Ps256, Some("a")), 1, "one is for RS256");
        assert_eq!(count(Algorithm::Es256, None), 0, "no such kind of key");
    }

    #[test]
    fn what_is_no_set_is_refused() {
        assert!(matches!(read("{"), Err(NotKeys::Json(_))));
        assert_eq!(read("[]"), Err(NotKeys::NoList));
        assert_eq!(read(r#"{"keys": {}}"#), Err(NotKeys::NoList));
        assert_eq!(read(r#"{"keys": []}"#), Err(NotKeys::Empty));
        let many = format!(r#"{{"keys": [{}0]}}"#, "0,".repeat(KEYS_MAX));
        assert_eq!(read(&many), Err(NotKeys::TooMany));
    }
}
