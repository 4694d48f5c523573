// SPDX-License-Identifier: Apache-2.0

//! Verifies the signatures of tokens, and remembers which were good.
//!
//! A cache is one thread's own. It keeps no token, only their digests, and only of good ones, so that
//! nobody but an issuer can fill it. Knows nothing of where a token was found. Invariant: what is
//! remembered counts only for the rule and the keys that it was verified with, and until it is over.

use std::{collections::HashMap, sync::Arc};

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{
        self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
    },
};

use super::key_sets::KeySets;
use crate::model::token::{
    Algorithm, Jwt, Key, KeySet, KeySource, Material, Token, TokenFault, TokenRule,
};

/// How many tokens are remembered, twice: those of late, and those before them.
const TOKENS_MAX: usize = 2048;

type Digest = [u8; 32];

/// Good tokens.
#[derive(Default)]
pub struct TokenCache {
    fresh: HashMap<Digest, Good>,
    aging: HashMap<Digest, Good>,
}

struct Good {
    rule: Arc<TokenRule>,
    keys: Arc<KeySet>,
    token: Arc<Token>,
}

impl Good {
    /// Whether it still counts, for `rule` by `keys`.
    fn is_of(&self, rule: &Arc<TokenRule>, keys: &Arc<KeySet>) -> bool {
        Arc::ptr_eq(&self.rule, rule) && Arc::ptr_eq(&self.keys, keys)
    }
}

impl TokenCache {
    /// What `text` says by `rule`, at `now` (seconds since 1970).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(
        &mut self,
        sets: &KeySets,
        rule: &Arc<TokenRule>,
        text: &str,
        now: u64,
    ) -> Result<Arc<Token>, TokenFault> {
        let mut key = Digest::default();
        key.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        let keys = match &rule.keys {
            KeySource::Inline(keys) => Some(Arc::clone(keys)),
            KeySource::Remote(place) => sets.get(place),
            KeySource::Nowhere => None,
        };
        if let Some(known) = self.find(&key) {
            if known.token.issuer() != &*rule.issuer {
                return Err(TokenFault::UnknownIssuer);
            }
            if keys.as_ref().is_some_and(|keys| known.is_of(rule, keys)) {
                let token = Arc::clone(&known.token);
                return match token.is_expired(now) {
                    true => Err(TokenFault::Expired),
                    false => Ok(token),
                };
            }
        }
        let jwt = Jwt::parse(text)?;
        jwt.check(rule, now)?;
        let keys = keys.ok_or(TokenFault::NoKeys)?;
        verified(&jwt, &keys).inspect_err(|fault| {
            if let (TokenFault::NoKey, KeySource::Remote(place)) = (fault, &rule.keys) {
                sets.ask_anew(place);
            }
        })?;
        let token = Arc::new(jwt.into_token(rule)?);
        let good = Good {
            rule: Arc::clone(rule),
            keys,
            token: Arc::clone(&token),
        };
        self.put(key, good);
        Ok(token)
    }

    fn find(&mut self, key: &Digest) -> Option<&Good> {
        if !self.fresh.contains_key(key) {
            let good = self.aging.remove(key)?;
            self.put(*key, good);
        }
        self.fresh.get(key)
    }

    fn put(&mut self, key: Digest, good: Good) {
        if self.fresh.len() >= TOKENS_MAX {
            self.aging = std::mem::take(&mut self.fresh);
        }
        self.fresh.insert(key, good);
    }
}

/// Whether one of `keys` made the signature.
pub(super) fn verified(jwt: &Jwt<'_>, keys: &KeySet) -> Result<(), TokenFault> {
    let mut fault = TokenFault::NoKey;
    for key in keys.candidates(jwt.algorithm, jwt.key_id.as_deref()) {
        if is_signed(jwt, key) {
            return Ok(());
        }
        fault = TokenFault::BadSignature;
    }
    Err(fault)
}

fn is_signed(jwt: &Jwt<'_>, key: &Key) -> bool {
    let (message, said) = (jwt.signed.as_bytes(), jwt.signature.as_slice());
    let one = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
        UnparsedPublicKey::new(algorithm, key)
            .verify(message, said)
            .is_ok()
    };
    match &key.material {
        Material::Rsa { modulus, exponent } => rsa(jwt.algorithm).is_some_and(|parameters| {
            let key = RsaPublicKeyComponents {
                n: modulus,
                e: exponent,
            };
            key.verify(parameters, message, said).is_ok()
        }),
        Material::Elliptic(_, point) => match jwt.algorithm {
            Algorithm::Es256 => one(&signature::ECDSA_P256_SHA256_FIXED, point),
            Algorithm::Es384 => one(&signature::ECDSA_P384_SHA384_FIXED, point),
            Algorithm::Es512 => one(&signature::ECDSA_P521_SHA512_FIXED, point),
            _ => false,
        },
        Material::Edwards(key) => match jwt.algorithm {
            Algorithm::EdDsa => one(&signature::ED25519, key),
            _ => false,
        },
    }
}

fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        Algorithm::Rs256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Rs384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::Rs512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::Ps256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::Ps384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::Ps512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 | Algorithm::EdDsa => None,
    }
}

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
