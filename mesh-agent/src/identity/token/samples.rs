// SPDX-License-Identifier: Apache-2.0

//! Issuers for tests.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use serde_json::{Value, json};

use crate::model::token::base64url;

/// One who signs by Ed25519.
pub(crate) struct Issuer {
    id: String,
    pair: Ed25519KeyPair,
}

impl Issuer {
    pub(crate) fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            pair: Ed25519KeyPair::generate().unwrap(),
        }
    }

    /// Its key.
    pub(crate) fn key(&self) -> Value {
        let x = base64url::encode(self.pair.public_key().as_ref());
        json!({"kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": x})
    }

    /// Its key set.
    pub(crate) fn keys(&self) -> String {
        json!({"keys": [self.key()]}).to_string()
    }

    /// A token.
    pub(crate) fn token(&self, claims: &Value) -> String {
        let header = json!({"alg": "EdDSA", "kid": self.id});
        sign(&header, claims, |message| {
            self.pair.sign(message).as_ref().to_vec()
        })
    }
}

/// A token signed by `signer`.
pub(crate) fn sign(header: &Value, claims: &Value, signer: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| base64url::encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = base64url::encode(&signer(signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// Where chance comes from.
pub(crate) fn random() -> SystemRandom {
    SystemRandom::new()
}
