// SPDX-License-Identifier: Apache-2.0

//! What matters of a RequestAuthentication: which pods it is for, and its rules, compiled.
//!
//! Invariant: one that cannot be read lets no token pass at what it selects, as far as that can be
//! told, until it has a good state.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, Uri, header::AUTHORIZATION};
use serde_json::Value;

use super::{
    aim::{self, Aim, Written},
    facts::{Findings, Meta},
    object::Resource,
    problem::{Severity, code},
    request_authentication::{JwtRule, RequestAuthenticationSpec},
    resolve,
};
use crate::model::{
    inner::Inner,
    token::{KeyPlace, KeySet, KeySource, Location, TokenRule},
};

/// How long a fetch of keys may take, if nothing is written.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Claims that are always lists in one text.
const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];

/// Headers that requests cannot do with as somebody else wrote them.
const RESERVED: [&str; 9] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "trailer",
    "keep-alive",
    "proxy-connection",
];

/// What matters of a RequestAuthentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RequestAuthenticationFacts {
    pub(super) meta: Meta,
    pub(super) aim: Aim,
    pub(super) rules: Vec<Arc<TokenRule>>,
    /// It could not be read, and knows no issuer.
    pub(super) stopgap: bool,
}

impl RequestAuthenticationFacts {
    pub(super) fn new(object: &Resource<Value>, findings: &mut Findings) -> Self {
        let meta = Meta::new(&object.metadata);
        let spec: Option<RequestAuthenticationSpec> = findings.spec(&object.spec);
        let written = spec.as_ref().map(|spec| Written {
            selector: spec.selector.as_ref(),
            target_ref: spec.target_ref.as_ref(),
            target_refs: &spec.target_refs,
        });
        let aim = written.and_then(|written| written.aim(&meta, findings));
        let aim = aim.unwrap_or_else(|| Aim::Pods(aim::labels(&object.spec)));
        let written = spec.iter().flat_map(|spec| &spec.jwt_rules).enumerate();
        let rules = written.map(|(index, rule)| {
            let field = format!("spec.jwtRules[{index}]");
            Arc::new(Reader { findings, field }.rule(rule))
        });
        let rules: Vec<_> = rules.collect();
        let stopgap = findings.rejected;
        Self {
            meta,
            aim,
            rules: if stopgap { vec![nobody()] } else { rules },
            stopgap,
        }
    }
}

/// The rule by which no token is good.
fn nobody() -> Arc<TokenRule> {
    Arc::new(TokenRule {
        issuer: "".into(),
        audiences: Vec::new(),
        keys: KeySource::Nowhere,
        locations: default_locations(),
        payload_header: None,
        claim_headers: Vec::new(),
        keeps_token: false,
        space_delimited: Arc::default(),
    })
}

fn default_locations() -> Vec<Location> {
    vec![
        Location::Header(AUTHORIZATION, "Bearer ".to_owned()),
        Location::Param("access_token".to_owned()),
    ]
}

/// Reads one rule.
struct Reader<'a> {
    findings: &'a mut Findings,
    field: String,
}

impl Reader<'_> {
    fn reject(&mut self, name: &str, text: impl Into<String>, fix: &str) {
        let field = format!("{}.{name}", self.field);
        self.findings.reject(field, text.into(), fix);
    }

    fn rule(&mut self, rule: &JwtRule) -> TokenRule {
        if rule.issuer.is_empty() {
            self.reject(
                "issuer",
                "must not be empty",
                "write what tokens have as iss",
            );
        }
        if rule.audiences.iter().any(String::is_empty) {
            self.reject("audiences", "must not have empty values", "remove them");
        }
        let mut lists: Vec<String> = SPACE_DELIMITED.map(str::to_owned).to_vec();
        lists.extend(rule.space_delimited_claims.iter().cloned());
        TokenRule {
            issuer: rule.issuer.as_str().into(),
            audiences: rule.audiences.iter().map(|it| it.as_str().into()).collect(),
            keys: self.keys(rule),
            locations: self.locations(rule),
            payload_header: self.payload_header(rule),
            claim_headers: self.claim_headers(rule),
            keeps_token: rule.forward_original_token,
            space_delimited: lists.into(),
        }
    }

    fn keys(&mut self, rule: &JwtRule) -> KeySource {
        let timeout = self.timeout(rule);
        let place = |url: &str, discover| {
            KeySource::Remote(KeyPlace {
                url: url.into(),
                discover,
                timeout,
            })
        };
        match (rule.jwks.as_str(), rule.jwks_uri.as_str()) {
            ("", "") => {
                if !is_web(&rule.issuer) {
                    let text =
                        "neither jwks nor jwksUri is set, and the issuer is no URL that could tell";
                    self.reject("jwksUri", text, "write where the issuer's keys are");
                }
                place(&rule.issuer, true)
            }
            ("", url) => {
                if !is_web(url) {
                    let text = format!("{url:?} is no http or https URL");
                    self.reject("jwksUri", text, "write https://HOST/PATH");
                }
                if url.starts_with("http://") {
                    self.findings.add(
                        Severity::Warning,
                        code::PLAINTEXT_KEYS,
                        format!("{}.jwksUri", self.field),
                        "the keys are fetched in plaintext: who can change them on their way can make tokens",
                        "use https, or write the keys as jwks",
                    );
                }
                self.warn_of_inner(url);
                place(url, false)
            }
            (text, "") => match KeySet::parse(text.as_bytes()) {
                Ok(keys) => KeySource::Inline(Arc::new(keys)),
                Err(error) => {
                    let text = format!("is no key set: {error}");
                    self.reject("jwks", text, "write a JSON Web Key Set: {\"keys\": [...]}");
                    KeySource::Nowhere
                }
            },
            (_, _) => {
                let text = "jwks and jwksUri cannot stand together";
                self.reject("jwks", text, "keep one of them");
                KeySource::Nowhere
            }
        }
    }

    /// A name may turn out to be such an address, too; that is told when it does.
    fn warn_of_inner(&mut self, url: &str) {
        let uri = url.parse::<http::Uri>().ok();
        let host = uri.as_ref().and_then(http::Uri::host).unwrap_or_default();
        let host = host.trim_matches(['[', ']']);
        let why = match host.parse() {
            Ok(address) => Inner::of(address),
            Err(_name) if host.eq_ignore_ascii_case("localhost") => Some(Inner::Loopback),
            Err(_name) => None,
        };
        if let Some(why) = why {
            self.findings.add(
                Severity::Warning,
                code::INNER_KEYS,
                format!("{}.jwksUri", self.field),
                format!("{host} is {}: no keys are fetched from there", why.as_str()),
                "name the issuer's own server, or allow the network by --jwks-allow of the agents",
            );
        }
    }

    fn timeout(&mut self, rule: &JwtRule) -> Duration {
        let Some(text) = &rule.timeout else {
            return TIMEOUT;
        };
        match resolve::duration(text) {
            Some(timeout) if !timeout.is_zero() => timeout,
            _ => {
                let said = format!("{text:?} is no duration");
                self.reject("timeout", said, "write it as 5s");
                TIMEOUT
            }
        }
    }

    fn locations(&mut self, rule: &JwtRule) -> Vec<Location> {
        let mut locations = Vec::new();
        for (index, header) in rule.from_headers.iter().enumerate() {
            let field = format!("fromHeaders[{index}].name");
            if let Some(name) = self.header(&field, &header.name) {
                locations.push(Location::Header(name, header.prefix.clone()));
            }
        }
        let params = (&rule.from_params, "fromParams");
        let cookies = (&rule.from_cookies, "fromCookies");
        for (names, field) in [params, cookies] {
            if names.iter().any(String::is_empty) {
                self.reject(field, "must not have empty names", "remove them");
            }
        }
        locations.extend(rule.from_params.iter().cloned().map(Location::Param));
        locations.extend(rule.from_cookies.iter().cloned().map(Location::Cookie));
        if locations.is_empty() {
            return default_locations();
        }
        locations
    }

    fn header(&mut self, field: &str, name: &str) -> Option<HeaderName> {
        let parsed = name.parse::<HeaderName>();
        if parsed.is_err() {
            let text = format!("{name:?} is no name of a header");
            self.reject(field, text, "name one, as in x-jwt");
        }
        parsed.ok()
    }

    /// The name of a header that the application gets.
    fn output(&mut self, field: &str, name: &str) -> Option<HeaderName> {
        if RESERVED.contains(&name.to_ascii_lowercase().as_str()) {
            let text = format!("{name:?} cannot be written: it is about the connection");
            self.reject(field, text, "use a name of your own, as x-jwt-NAME");
            return None;
        }
        self.header(field, name)
    }

    fn payload_header(&mut self, rule: &JwtRule) -> Option<HeaderName> {
        match rule.output_payload_to_header.as_str() {
            "" => None,
            name => self.output("outputPayloadToHeader", name),
        }
    }

    fn claim_headers(&mut self, rule: &JwtRule) -> Vec<(HeaderName, String)> {
        let mut headers = Vec::new();
        for (index, one) in rule.output_claim_to_headers.iter().enumerate() {
            let field = format!("outputClaimToHeaders[{index}]");
            if one.claim.is_empty() {
                let field = format!("{field}.claim");
                self.reject(&field, "must not be empty", "name a claim");
            }
            if let Some(name) = self.output(&format!("{field}.header"), &one.header) {
                headers.push((name, one.claim.clone()));
            }
        }
        headers
    }
}

/// Whether a text is a URL of a web server.
fn is_web(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else {
        return false;
    };
    matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
}
