// SPDX-License-Identifier: Apache-2.0

//! Tokens in a request's head: found, judged, taken out; and the headers that they give.
//!
//! Invariant: a header that a rule gives is there only if that rule's token gave it.
//! Reference: Envoy's jwt_authn filter.

use std::{borrow::Cow, sync::Arc};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri,
    header::{ACCESS_CONTROL_REQUEST_METHOD, CONNECTION, COOKIE, ORIGIN},
    request,
    uri::PathAndQuery,
};
use serde_json::Value;

use super::{Authentication, Location, Token, TokenFault, TokenRule, base64url};

/// What the tokens of one rule are.
enum Found {
    Nothing,
    Good(Arc<Token>),
    Bad(TokenFault),
}

impl Authentication {
    /// Judges the tokens of a request to `port`, each by `verify`; takes out those of the rule that
    /// knows it, and puts in what it gives. Returns what the request is known by.
    ///
    /// # Errors
    /// What is wrong with a token.
    pub fn admit(
        &self,
        port: u16,
        head: &mut request::Parts,
        mut verify: impl FnMut(&Arc<TokenRule>, &str) -> Result<Arc<Token>, TokenFault>,
    ) -> Result<Option<Arc<Token>>, TokenFault> {
        let mut known = None;
        if !is_preflight(head) {
            let mut fault = None;
            for rule in self.at(port) {
                match rule.judge(head, &mut verify) {
                    Found::Nothing => {}
                    Found::Good(token) => {
                        known = Some((rule, token));
                        break;
                    }
                    // Any other says more than that another rule's token is not this one's.
                    Found::Bad(TokenFault::UnknownIssuer) => {
                        fault.get_or_insert(TokenFault::UnknownIssuer);
                    }
                    Found::Bad(other) => match fault {
                        None | Some(TokenFault::UnknownIssuer) => fault = Some(other),
                        Some(_) => {}
                    },
                }
            }
            if let (None, Some(fault)) = (&known, fault) {
                return Err(fault);
            }
        }
        for rule in self.at(port) {
            strip(rule, &mut head.headers);
        }
        let Some((rule, token)) = known else {
            return Ok(None);
        };
        if !rule.keeps_token {
            for location in &rule.locations {
                location.remove(head);
            }
        }
        rule.give(&token, &mut head.headers);
        Ok(Some(token))
    }
}

/// Whether a browser asks what it may ask: it sends no token with that.
fn is_preflight(head: &request::Parts) -> bool {
    head.method == Method::OPTIONS
        && head.headers.contains_key(ORIGIN)
        && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Takes out what only `rule` may give, in all spellings that an application may take for it, and
/// what would take out that which the rule gives.
fn strip(rule: &TokenRule, headers: &mut HeaderMap) {
    for name in rule.outputs() {
        retain(headers, &CONNECTION, |value| {
            let text = String::from_utf8_lossy(value.as_bytes());
            let other = |one: &&str| !one.trim().eq_ignore_ascii_case(name.as_str());
            let rest: Vec<&str> = text.split(',').filter(other).collect();
            let rest = HeaderValue::from_bytes(rest.join(",").as_bytes());
            rest.ok().filter(|rest| !rest.is_empty())
        });
        headers.remove(name);
        let same = |other: &&HeaderName| {
            let other = other.as_str();
            other.contains('_') && other.replace('_', "-") == name.as_str().replace('_', "-")
        };
        let alike: Vec<HeaderName> = headers.keys().filter(same).cloned().collect();
        for other in alike {
            headers.remove(other);
        }
        if name.as_str().contains('_') {
            let plain = name.as_str().replace('_', "-");
            headers.remove(plain.as_str());
        }
    }
}

impl TokenRule {
    fn judge(
        self: &Arc<Self>,
        head: &request::Parts,
        verify: &mut impl FnMut(&Arc<Self>, &str) -> Result<Arc<Token>, TokenFault>,
    ) -> Found {
        let mut found = Found::Nothing;
        for location in &self.locations {
            for text in location.tokens(&head.uri, &head.headers) {
                match verify(self, &text) {
                    // Of several the first counts, and all must be good: which of them the
                    // application believes is not known.
                    Ok(token) => {
                        if let Found::Nothing = found {
                            found = Found::Good(token);
                        }
                    }
                    Err(fault) => return Found::Bad(fault),
                }
            }
        }
        found
    }

    fn give(&self, token: &Token, headers: &mut HeaderMap) {
        if let Some(name) = &self.payload_header
            && let Ok(value) = HeaderValue::from_str(&token.payload)
        {
            headers.insert(name, value);
        }
        for (name, claim) in &self.claim_headers {
            let value = token.dotted(claim).and_then(in_header);
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
    }
}

/// A claim as a header says it: lists and objects as JSON in base64url.
fn in_header(value: &Value) -> Option<HeaderValue> {
    let text = match value {
        Value::Null => return None,
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(_) | Value::Object(_) => base64url::encode(value.to_string().as_bytes()),
    };
    HeaderValue::from_str(&text).ok()
}

impl Location {
    fn tokens<'a>(&self, uri: &'a Uri, headers: &'a HeaderMap) -> Vec<Cow<'a, str>> {
        match self {
            Self::Header(name, prefix) => {
                let values = headers.get_all(name).into_iter();
                let behind = |value: &'a HeaderValue| {
                    let rest = value.as_bytes().strip_prefix(prefix.as_bytes())?;
                    Some(String::from_utf8_lossy(rest.trim_ascii()))
                };
                values.filter_map(behind).collect()
            }
            Self::Param(name) => {
                let pairs = uri.query().unwrap_or_default().split('&');
                let of_name = |pair: &'a str| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decoded(key) == *name).then(|| decoded(value))
                };
                pairs.filter_map(of_name).collect()
            }
            Self::Cookie(name) => {
                let of_name = |value: &'a HeaderValue| {
                    let text = String::from_utf8_lossy(value.as_bytes());
                    let pairs = text.split(';').filter_map(|pair| pair.split_once('='));
                    let of_name = pairs.filter(|(key, _)| key.trim() == name);
                    let values = of_name.map(|(_, value)| value.trim().trim_matches('"'));
                    values
                        .map(|value| Cow::Owned(value.to_owned()))
                        .collect::<Vec<_>>()
                };
                headers.get_all(COOKIE).iter().flat_map(of_name).collect()
            }
        }
    }

    fn remove(&self, head: &mut request::Parts) {
        match self {
            Self::Header(name, prefix) => {
                let is_token =
                    |value: &HeaderValue| value.as_bytes().starts_with(prefix.as_bytes());
                retain(&mut head.headers, name, |value| {
                    (!is_token(value)).then(|| value.clone())
                });
            }
            Self::Param(name) => remove_param(&mut head.uri, name),
            Self::Cookie(name) => retain(&mut head.headers, &COOKIE, |value| {
                let text = String::from_utf8_lossy(value.as_bytes());
                let other = |pair: &&str| pair.split('=').next().map(str::trim) != Some(name);
                let rest: Vec<&str> = text.split(';').filter(other).collect();
                let rest = rest.join(";");
                let rest = rest.trim();
                (!rest.is_empty())
                    .then(|| HeaderValue::from_bytes(rest.as_bytes()).ok())
                    .flatten()
            }),
        }
    }
}

/// Keeps of the values of `name` what `keep` leaves of each.
fn retain(
    headers: &mut HeaderMap,
    name: &HeaderName,
    keep: impl Fn(&HeaderValue) -> Option<HeaderValue>,
) {
    let kept: Vec<HeaderValue> = headers.get_all(name).iter().filter_map(keep).collect();
    headers.remove(name);
    for value in kept {
        headers.append(name, value);
    }
}

fn remove_param(uri: &mut Uri, name: &str) {
    let Some(query) = uri.query() else {
        return;
    };
    let other = |pair: &&str| decoded(pair.split('=').next().unwrap_or_default()) != name;
    let rest: Vec<&str> = query.split('&').filter(other).collect();
    let path = uri.path();
    let target = match rest.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{}", rest.join("&")),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(target).ok();
    if let Ok(without) = Uri::from_parts(parts) {
        *uri = without;
    }
}

/// A part of a query, read as an application reads it.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let digit = |at: usize| {
        bytes
            .get(at)
            .and_then(|byte| char::from(*byte).to_digit(16))
    };
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => u8::try_from(high * 16 + low).ok(),
            _ => None,
        };
        plain.push(match (escaped, bytes[at]) {
            (Some(byte), _) => byte,
            (None, b'+') => b' ',
            (None, byte) => byte,
        });
        at += if escaped.is_some() { 3 } else { 1 };
    }
    Cow::Owned(String::from_utf8_lossy(&plain).into_owned())
}
