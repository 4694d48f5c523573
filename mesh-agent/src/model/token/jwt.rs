// SPDX-License-Identifier: Apache-2.0

//! A signed token's parts, and what they must say.
//!
//! Knows nothing of cryptography or clocks. Invariant: a token without a signature, or with one by
//! a shared secret, does not come to be one of these. References: RFC 7515, RFC 7519; Envoy's
//! order of the checks.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Material, Token, TokenFault, TokenRule, base64url, keys::Curve};

/// By how many seconds clocks may differ.
const CLOCK_SKEW: u64 = 60;

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the algorithm of its name")]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

const NAMES: [(&str, Algorithm); 10] = [
    ("RS256", Algorithm::Rs256),
    ("RS384", Algorithm::Rs384),
    ("RS512", Algorithm::Rs512),
    ("PS256", Algorithm::Ps256),
    ("PS384", Algorithm::Ps384),
    ("PS512", Algorithm::Ps512),
    ("ES256", Algorithm::Es256),
    ("ES384", Algorithm::Es384),
    ("ES512", Algorithm::Es512),
    ("EdDSA", Algorithm::EdDsa),
];

impl Algorithm {
    /// As tokens write it.
    pub fn as_str(self) -> &'static str {
        let mut names = NAMES.iter();
        names
            .find(|(_, its)| *its == self)
            .map_or("", |(name, _)| name)
    }

    fn named(name: &str) -> Option<Self> {
        let mut names = NAMES.iter();
        names.find(|(its, _)| *its == name).map(|(_, its)| *its)
    }

    /// Whether a signature by it can be of a key like this.
    pub(super) fn fits(self, key: &Material) -> bool {
        match self {
            Self::Rs256 | Self::Rs384 | Self::Rs512 | Self::Ps256 | Self::Ps384 | Self::Ps512 => {
                matches!(key, Material::Rsa { .. })
            }
            Self::Es256 => matches!(key, Material::Elliptic(Curve::P256, _)),
            Self::Es384 => matches!(key, Material::Elliptic(Curve::P384, _)),
            Self::Es512 => matches!(key, Material::Elliptic(Curve::P521, _)),
            Self::EdDsa => matches!(key, Material::Edwards(_)),
        }
    }
}

/// A token, taken apart; nothing of it is believed yet.
#[derive(Clone, Debug)]
pub struct Jwt<'a> {
    /// How it is signed.
    pub algorithm: Algorithm,
    /// With which key, if it says so.
    pub key_id: Option<String>,
    /// What is signed.
    pub signed: &'a str,
    /// The signature.
    pub signature: Vec<u8>,
    payload: &'a str,
    claims: Map<String, Value>,
}

impl<'a> Jwt<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// If it is none, or signed in no way that could be verified.
    pub fn parse(text: &'a str) -> Result<Self, TokenFault> {
        let mut parts = text.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenFault::BadForm);
        };
        let head = base64url::decode(header).ok_or(TokenFault::HeaderNotBase64)?;
        let head = object(&head).ok_or(TokenFault::HeaderNotJson)?;
        let Some(Value::String(algorithm)) = head.get("alg") else {
            return Err(TokenFault::NoAlgorithm);
        };
        let algorithm = Algorithm::named(algorithm).ok_or(TokenFault::UnknownAlgorithm)?;
        // An extension that must be understood and is not.
        if head.contains_key("crit") {
            return Err(TokenFault::Critical);
        }
        let key_id = match head.get("kid") {
            None => None,
            Some(Value::String(id)) if id.is_empty() => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err(TokenFault::KeyIdNotString),
        };
        let claims = base64url::decode(payload).ok_or(TokenFault::PayloadNotBase64)?;
        let claims = object(&claims).ok_or(TokenFault::PayloadNotJson)?;
        let signature = base64url::decode(signature).ok_or(TokenFault::SignatureNotBase64)?;
        let signed = header.len() + 1 + payload.len();
        Ok(Self {
            algorithm,
            key_id,
            signed: &text[..signed],
            signature,
            payload,
            claims,
        })
    }

    fn text(&self, name: &str, fault: TokenFault) -> Result<Option<&str>, TokenFault> {
        match self.claims.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(fault),
        }
    }

    fn time(&self, name: &'static str) -> Result<Option<u64>, TokenFault> {
        match self.claims.get(name) {
            None => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or(TokenFault::NotInteger(name)),
        }
    }

    /// Whether it says what `rule` asks for, at `now` (seconds since 1970). Its signature is
    /// another matter.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, rule: &TokenRule, now: u64) -> Result<(), TokenFault> {
        let issuer = self.text("iss", TokenFault::NotString("iss"))?;
        if issuer.unwrap_or_default() != &*rule.issuer {
            return Err(TokenFault::UnknownIssuer);
        }
        self.text("sub", TokenFault::NotString("sub"))?;
        let begins = [self.time("nbf")?, self.time("iat")?];
        let late = now.saturating_add(CLOCK_SKEW);
        if begins.into_iter().flatten().any(|begins| begins > late) {
            return Err(TokenFault::NotYetValid);
        }
        if self.time("exp")?.is_some_and(|ends| is_over(ends, now)) {
            return Err(TokenFault::Expired);
        }
        let audiences = self.audiences()?;
        let wanted = &rule.audiences;
        let is_wanted = |one: &String| {
            let mut wanted = wanted.iter();
            wanted.any(|wanted| bare(wanted) == bare(one))
        };
        if !wanted.is_empty() && !audiences.iter().any(is_wanted) {
            return Err(TokenFault::WrongAudience);
        }
        Ok(())
    }

    fn audiences(&self) -> Result<Vec<String>, TokenFault> {
        match self.claims.get("aud") {
            None => Ok(Vec::new()),
            Some(Value::String(one)) => Ok(vec![one.clone()]),
            Some(Value::Array(all)) => {
                let texts = all.iter().map(|one| one.as_str().map(str::to_owned));
                texts.collect::<Option<_>>().ok_or(TokenFault::BadAudience)
            }
            Some(_) => Err(TokenFault::BadAudience),
        }
    }

    /// What it says, once it was checked and its signature verified.
    ///
    /// # Errors
    /// If its audiences cannot be read.
    pub fn into_token(self, rule: &TokenRule) -> Result<Token, TokenFault> {
        let text = |name: &str| match self.claims.get(name) {
            Some(Value::String(text)) if !text.is_empty() => Some(text.as_str()),
            _ => None,
        };
        let principal = match (text("iss"), text("sub")) {
            (Some(issuer), Some(subject)) => Some(format!("{issuer}/{subject}")),
            _ => None,
        };
        Ok(Token {
            issuer: Arc::clone(&rule.issuer),
            principal,
            audiences: self.audiences()?,
            presenter: text("azp").map(str::to_owned),
            expires: self.time("exp")?,
            space_delimited: rule.space_delimited.clone(),
            payload: self.payload.into(),
            claims: self.claims,
        })
    }
}

/// Whether what ends at `ends` is over at `now`.
pub(super) fn is_over(ends: u64, now: u64) -> bool {
    now > ends.saturating_add(CLOCK_SKEW)
}

fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(bytes).ok()
}

/// An audience without what people write around a host, as Envoy compares them.
fn bare(audience: &str) -> &str {
    let rest = audience.strip_prefix("https://");
    let rest = rest.or_else(|| audience.strip_prefix("http://"));
    let rest = rest.unwrap_or(audience);
    rest.strip_suffix('/').unwrap_or(rest)
}
