// SPDX-License-Identifier: Apache-2.0

//! Whom a request's token says it is of: the RequestAuthentications that select a workload, and what
//! follows from them for a request.
//!
//! A request without a token passes, and says nothing; one with a token that is not what a rule asks
//! for is answered. Of several rules one whose tokens are all good is enough; without one, no rule
//! may find a bad token (ADR 25). Headers that rules give to the application never come from a client.
//!
//! Knows nothing of cryptography, clocks or where keys come from: the caller verifies.
//! Invariant: a [`Token`] that exists was checked by its rule.
//! Reference: istio/api `security/v1beta1/request_authentication.proto`.

pub mod base64url;
mod fault;
mod jwt;
mod keys;
mod request;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::HeaderName;
use serde_json::{Map, Value};

pub use self::{
    fault::{TokenFault, TokenRefusal},
    jwt::{Algorithm, Jwt},
    keys::{Curve, KEYS_MAX, Key, KeySet, Material, NotKeys},
};
use super::authorization::Pattern;

/// Where a request carries a token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    /// In a header, behind a prefix that may be empty.
    Header(HeaderName, String),
    /// In a parameter of the query.
    Param(String),
    /// In a cookie.
    Cookie(String),
}

/// Where an issuer's keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// They are written down.
    Inline(Arc<KeySet>),
    /// They are fetched.
    Remote(KeyPlace),
    /// There are none, so no token is good.
    Nowhere,
}

/// Where keys are fetched.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyPlace {
    /// A URL of a key set, or of an issuer.
    pub url: Arc<str>,
    /// The URL is that of an issuer, who says where the key set is (OpenID Connect Discovery).
    pub discover: bool,
    /// How long a fetch may take.
    pub timeout: Duration,
}

/// One rule: an issuer whose tokens are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRule {
    /// Whom tokens must name as theirs.
    pub issuer: Arc<str>,
    /// One of these must be among the token's, if there are any.
    pub audiences: Vec<Arc<str>>,
    /// By which tokens are verified.
    pub keys: KeySource,
    /// Where tokens are looked for.
    pub locations: Vec<Location>,
    /// Gets the token's payload.
    pub payload_header: Option<HeaderName>,
    /// Get claims.
    pub claim_headers: Vec<(HeaderName, String)>,
    /// The application sees the token.
    pub keeps_token: bool,
    /// Claims that are lists in one text.
    pub space_delimited: Arc<[String]>,
}

impl TokenRule {
    /// The headers that it gives to the application.
    pub fn outputs(&self) -> impl Iterator<Item = &HeaderName> {
        let claims = self.claim_headers.iter().map(|(name, _)| name);
        self.payload_header.iter().chain(claims)
    }
}

/// What is said of a request by a token that was verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    issuer: Arc<str>,
    principal: Option<String>,
    audiences: Vec<String>,
    presenter: Option<String>,
    expires: Option<u64>,
    space_delimited: Arc<[String]>,
    payload: Box<str>,
    claims: Map<String, Value>,
}

/// A part of what a token says, as policies name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenPart {
    /// `<iss>/<sub>`.
    Principal,
    /// `aud`.
    Audiences,
    /// `azp`.
    Presenter,
    /// A claim, by the names that lead to it.
    Claim(Vec<String>),
}

impl Token {
    /// Who issued it.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// `<iss>/<sub>`, if it names both.
    pub fn principal(&self) -> Option<&str> {
        self.principal.as_deref()
    }

    /// Whether it is over at `now`, in seconds since 1970.
    pub fn is_expired(&self, now: u64) -> bool {
        self.expires.is_some_and(|ends| jwt::is_over(ends, now))
    }

    /// Whether one of the values of `part` meets `want`.
    pub fn has(&self, part: &TokenPart, want: &Pattern) -> bool {
        match part {
            TokenPart::Principal => self.principal.iter().any(|it| want.matches(it)),
            TokenPart::Presenter => self.presenter.iter().any(|it| want.matches(it)),
            TokenPart::Audiences => self.audiences.iter().any(|it| want.matches(it)),
            TokenPart::Claim(path) => self.claim_has(path, want),
        }
    }

    fn claim_has(&self, path: &[String], want: &Pattern) -> bool {
        let Some(value) = self.claim(path) else {
            return false;
        };
        match (path, value) {
            ([name], Value::String(text)) if self.is_list(name) => {
                text.split_ascii_whitespace().any(|one| want.matches(one))
            }
            (_, Value::Array(all)) => all.iter().any(|one| has(one, want)),
            (_, one) => has(one, want),
        }
    }

    fn is_list(&self, name: &str) -> bool {
        self.space_delimited.iter().any(|one| one == name)
    }

    fn claim(&self, path: &[String]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        let mut value = self.claims.get(first)?;
        for name in rest {
            value = value.get(name)?;
        }
        Some(value)
    }

    /// The claim that `name` is, or leads to with dots between names.
    fn dotted(&self, name: &str) -> Option<&Value> {
        if let Some(whole) = self.claims.get(name) {
            return Some(whole);
        }
        let mut names = name.split('.');
        let first = self.claims.get(names.next()?)?;
        names.try_fold(first, |value, name| value.get(name))
    }
}

#[cfg(test)]
impl Token {
    /// One that says `claims`; whoever wants it believes it.
    pub(in crate::model) fn of(claims: &Value) -> Self {
        let part = |text: &str| base64url::encode(text.as_bytes());
        let header = part("{\"alg\": \"ES256\"}");
        let text = format!("{header}.{}.", part(&claims.to_string()));
        let rule = TokenRule {
            issuer: claims["iss"].as_str().unwrap_or_default().into(),
            audiences: Vec::new(),
            keys: KeySource::Nowhere,
            locations: Vec::new(),
            payload_header: None,
            claim_headers: Vec::new(),
            keeps_token: false,
            space_delimited: Arc::default(),
        };
        let jwt = Jwt::parse(&text).expect("it has the form of one");
        jwt.into_token(&rule).expect("it is read")
    }
}

/// Whether a single value meets `want`.
fn has(value: &Value, want: &Pattern) -> bool {
    match value {
        Value::String(text) => want.matches(text),
        Value::Bool(true) => want.matches("true"),
        Value::Bool(false) => want.matches("false"),
        Value::Number(number) => want.matches(&number.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

/// Rules as they apply to one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedRules {
    /// `<namespace>/<name>` of the RequestAuthentication.
    pub name: Arc<str>,
    /// Its rules.
    pub rules: Vec<Arc<TokenRule>>,
    /// The workload's ports that they are about, if not all.
    pub ports: Option<Arc<[u16]>>,
}

/// All rules for the tokens that come to a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authentication {
    attached: Vec<AttachedRules>,
}

/// What is known to be spoken at a workload's ports, where its Services say so.
pub type Spoken = BTreeMap<u16, Speech>;

/// What is spoken at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    /// HTTP.
    Http,
    /// Anything else.
    Opaque,
}

/// How a port looks at what comes to it, because of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heed {
    /// Not at all.
    Nothing,
    /// Requests are; what is none passes.
    Requests,
    /// Requests are; what is none does not pass.
    RequestsOnly,
}

impl Authentication {
    /// Rules in the order in which they are asked.
    pub fn new(mut attached: Vec<AttachedRules>) -> Self {
        attached.sort_by(|a, b| a.name.cmp(&b.name));
        Self { attached }
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.attached.is_empty()
    }

    /// Whose rules they are, in the order in which they are asked.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.attached.iter().map(|one| &one.name)
    }

    /// All rules, whatever their ports.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<TokenRule>> {
        self.attached.iter().flat_map(|one| &one.rules)
    }

    fn at(&self, port: u16) -> impl Iterator<Item = &Arc<TokenRule>> {
        let covers = move |one: &&AttachedRules| {
            let ports = one.ports.as_deref();
            ports.is_none_or(|ports| ports.contains(&port))
        };
        self.attached
            .iter()
            .filter(covers)
            .flat_map(|one| &one.rules)
    }

    /// How `port` looks at what comes to it.
    pub fn heed(&self, port: u16, spoken: &Spoken) -> Heed {
        if self.attached.is_empty() || self.at(port).next().is_none() {
            return Heed::Nothing;
        }
        let gives = self.at(port).any(|rule| rule.outputs().next().is_some());
        match spoken.get(&port) {
            Some(Speech::Opaque) => Heed::Nothing,
            Some(Speech::Http) => Heed::RequestsOnly,
            // What is taken for something else must not be able to bring headers of its own.
            None if gives => Heed::RequestsOnly,
            None => Heed::Requests,
        }
    }
}
