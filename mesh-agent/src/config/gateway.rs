// SPDX-License-Identifier: Apache-2.0

//! `gateway.networking.k8s.io` HTTPRoute as it is written.
//!
//! Reference: kubernetes-sigs/gateway-api `apis/v1/httproute_types.go`.

use serde::Deserialize;

use super::object::{Present, null_default};

/// `HTTPRoute.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteSpec {
    #[serde(deserialize_with = "null_default")]
    pub parent_refs: Vec<ParentRef>,
    #[serde(deserialize_with = "null_default")]
    pub hostnames: Vec<String>,
    /// One rule for all requests if not written.
    pub rules: Option<Vec<Rule>>,
    pub use_default_gateways: Present,
}

/// What a route is attached to.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    pub group: Option<String>,
    pub kind: Option<String>,
    pub namespace: Option<String>,
    pub name: String,
    pub section_name: Option<String>,
    pub port: Option<u16>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    pub name: Option<String>,
    #[serde(deserialize_with = "null_default")]
    pub matches: Vec<RouteMatch>,
    #[serde(deserialize_with = "null_default")]
    pub filters: Vec<Filter>,
    #[serde(deserialize_with = "null_default")]
    pub backend_refs: Vec<BackendRef>,
    pub timeouts: Option<Timeouts>,
    pub retry: Present,
    pub session_persistence: Present,
}

/// Conditions, all of which must hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteMatch {
    pub path: Option<PathCondition>,
    #[serde(deserialize_with = "null_default")]
    pub headers: Vec<NamedCondition>,
    #[serde(deserialize_with = "null_default")]
    pub query_params: Vec<NamedCondition>,
    pub method: Option<Method>,
}

/// A condition on the path.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PathCondition {
    #[serde(rename = "type")]
    pub kind: Option<PathKind>,
    pub value: Option<String>,
}

/// `path.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum PathKind {
    Exact,
    PathPrefix,
    RegularExpression,
}

/// A condition on a header or query parameter.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct NamedCondition {
    #[serde(rename = "type")]
    pub kind: Option<TextKind>,
    pub name: String,
    pub value: String,
}

/// `headers[].type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum TextKind {
    Exact,
    RegularExpression,
}

/// `method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
}

impl Method {
    /// As requests have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
        }
    }
}

/// One filter of a rule or backend.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Filter {
    #[serde(rename = "type")]
    pub kind: String,
    pub request_header_modifier: Option<HeaderModifier>,
    pub response_header_modifier: Option<HeaderModifier>,
    pub request_mirror: Present,
    pub request_redirect: Present,
    pub url_rewrite: Present,
    pub cors: Present,
    pub external_auth: Present,
    pub extension_ref: Present,
}

/// What to do with headers of one direction.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HeaderModifier {
    #[serde(deserialize_with = "null_default")]
    pub set: Vec<Header>,
    #[serde(deserialize_with = "null_default")]
    pub add: Vec<Header>,
    #[serde(deserialize_with = "null_default")]
    pub remove: Vec<String>,
}

/// A header.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Header {
    pub name: String,
    pub value: String,
}

/// Where a share of a rule's requests goes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct BackendRef {
    pub group: Option<String>,
    pub kind: Option<String>,
    pub name: String,
    pub namespace: Option<String>,
    pub port: Option<u16>,
    pub weight: Option<u32>,
    #[serde(default, deserialize_with = "null_default")]
    pub filters: Vec<Filter>,
}

/// `timeouts`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Timeouts {
    pub request: Option<String>,
    pub backend_request: Option<String>,
}
