// SPDX-License-Identifier: Apache-2.0

//! `gateway.networking.k8s.io` HTTPRoute and GRPCRoute as they are written.
//!
//! Reference: kubernetes-sigs/gateway-api `apis/v1/httproute_types.go`, `grpcroute_types.go`.

use serde::{Deserialize, Serialize};

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

/// `GRPCRoute.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRouteSpec {
    #[serde(deserialize_with = "null_default")]
    pub parent_refs: Vec<ParentRef>,
    #[serde(deserialize_with = "null_default")]
    pub hostnames: Vec<String>,
    /// One rule for all requests if not written.
    pub rules: Option<Vec<GrpcRule>>,
    pub use_default_gateways: Present,
}

/// `TCPRoute.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpRouteSpec {
    #[serde(deserialize_with = "null_default")]
    pub parent_refs: Vec<ParentRef>,
    #[serde(deserialize_with = "null_default")]
    pub rules: Vec<OpaqueRule>,
    pub use_default_gateways: Present,
}

/// `TLSRoute.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsRouteSpec {
    #[serde(deserialize_with = "null_default")]
    pub parent_refs: Vec<ParentRef>,
    #[serde(deserialize_with = "null_default")]
    pub hostnames: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub rules: Vec<OpaqueRule>,
    pub use_default_gateways: Present,
}

/// One rule of a TCPRoute or TLSRoute.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OpaqueRule {
    pub name: Option<String>,
    #[serde(deserialize_with = "null_default")]
    pub backend_refs: Vec<BackendRef>,
}

/// What a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// One rule of a GRPCRoute.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRule {
    pub name: Option<String>,
    #[serde(deserialize_with = "null_default")]
    pub matches: Vec<GrpcMatch>,
    #[serde(deserialize_with = "null_default")]
    pub filters: Vec<Filter>,
    #[serde(deserialize_with = "null_default")]
    pub backend_refs: Vec<BackendRef>,
    pub session_persistence: Option<SessionPersistence>,
}

/// `sessionPersistence`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionPersistence {
    pub session_name: Option<String>,
    pub absolute_timeout: Option<String>,
    pub idle_timeout: Option<String>,
    #[serde(rename = "type")]
    pub kind: Option<SessionKind>,
    pub cookie_config: Option<CookieConfig>,
}

/// `sessionPersistence.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum SessionKind {
    Cookie,
    Header,
}

/// `sessionPersistence.cookieConfig`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CookieConfig {
    pub lifetime_type: Option<CookieLifetime>,
}

/// `cookieConfig.lifetimeType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum CookieLifetime {
    Permanent,
    Session,
}

/// Conditions on a gRPC request, all of which must hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GrpcMatch {
    pub method: Option<GrpcMethod>,
    #[serde(deserialize_with = "null_default")]
    pub headers: Vec<NamedCondition>,
}

/// A condition on what is called.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GrpcMethod {
    #[serde(rename = "type")]
    pub kind: Option<TextKind>,
    pub service: Option<String>,
    pub method: Option<String>,
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
    pub retry: Option<Retry>,
    pub session_persistence: Option<SessionPersistence>,
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
    pub request_mirror: Option<RequestMirror>,
    pub request_redirect: Option<RequestRedirect>,
    pub url_rewrite: Option<UrlRewriteFilter>,
    pub cors: Option<CorsFilter>,
    pub external_auth: Present,
    pub extension_ref: Present,
}

/// Where the client is sent.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestRedirect {
    pub scheme: Option<String>,
    pub hostname: Option<String>,
    pub path: Option<PathModifier>,
    pub port: Option<u16>,
    pub status_code: Option<u16>,
}

/// What the endpoint sees.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct UrlRewriteFilter {
    pub hostname: Option<String>,
    pub path: Option<PathModifier>,
}

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathModifier {
    #[serde(rename = "type")]
    pub kind: PathModifierKind,
    pub replace_full_path: Option<String>,
    pub replace_prefix_match: Option<String>,
}

/// `path.type` of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum PathModifierKind {
    ReplaceFullPath,
    ReplacePrefixMatch,
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

/// `retry`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Retry {
    #[serde(deserialize_with = "null_default")]
    pub codes: Vec<u16>,
    pub attempts: Option<u32>,
    pub backoff: Option<String>,
}

/// Where copies of requests go.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestMirror {
    pub backend_ref: BackendRef,
    pub percent: Option<u32>,
    pub fraction: Option<Fraction>,
}

/// So many of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Fraction {
    pub numerator: u32,
    pub denominator: Option<u32>,
}

/// What is allowed to pages of other origins.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CorsFilter {
    #[serde(deserialize_with = "null_default")]
    pub allow_origins: Vec<String>,
    pub allow_credentials: Option<bool>,
    #[serde(deserialize_with = "null_default")]
    pub allow_methods: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub allow_headers: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub expose_headers: Vec<String>,
    pub max_age: Option<u32>,
}
