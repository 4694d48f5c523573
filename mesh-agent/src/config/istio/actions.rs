// SPDX-License-Identifier: Apache-2.0

//! What a rule of a VirtualService can do with a request, as it is written.
//!
//! Reference: istio/api `networking/v1alpha3/virtual_service.proto`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    super::object::{Present, null_default},
    Destination, StringMatch,
};

/// `redirect`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRedirect {
    pub uri: String,
    pub authority: String,
    pub port: Option<u16>,
    pub derive_port: Option<DerivePort>,
    pub scheme: String,
    pub redirect_code: Option<u16>,
}

/// `redirect.derivePort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DerivePort {
    FromProtocolDefault,
    FromRequestPort,
}

/// `directResponse`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DirectResponse {
    pub status: u16,
    pub body: Option<DirectBody>,
}

/// `directResponse.body`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DirectBody {
    pub string: Option<String>,
    /// In base64.
    pub bytes: Option<String>,
}

/// `rewrite`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRewrite {
    pub uri: String,
    pub authority: String,
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

/// `rewrite.uriRegexRewrite`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RegexRewrite {
    #[serde(rename = "match")]
    pub pattern: String,
    pub rewrite: String,
}

/// `delegate`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Delegate {
    pub name: String,
    pub namespace: String,
}

/// `fault`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FaultInjection {
    pub delay: Option<FaultDelay>,
    pub abort: Option<FaultAbort>,
}

/// `fault.delay`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FaultDelay {
    pub fixed_delay: Option<String>,
    pub exponential_delay: Present,
    pub percentage: Option<Percent>,
    /// The old spelling of `percentage`.
    pub percent: Option<u32>,
}

/// `fault.abort`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FaultAbort {
    pub http_status: Option<u16>,
    pub grpc_status: Option<String>,
    pub http2_error: Present,
    pub percentage: Option<Percent>,
}

/// A share in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Percent {
    pub value: f64,
}

/// One entry of `mirrors`.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
pub struct MirrorPolicy {
    pub destination: Destination,
    pub percentage: Option<Percent>,
}

/// `corsPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CorsPolicy {
    /// The old spelling of `allowOrigins`: exact ones.
    #[serde(deserialize_with = "null_default")]
    pub allow_origin: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub allow_origins: Vec<StringMatch>,
    #[serde(deserialize_with = "null_default")]
    pub allow_methods: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub allow_headers: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub expose_headers: Vec<String>,
    pub max_age: Option<String>,
    pub allow_credentials: Option<bool>,
    pub unmatched_preflights: Option<UnmatchedPreflights>,
}

/// `corsPolicy.unmatchedPreflights`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UnmatchedPreflights {
    Unspecified,
    Forward,
    Ignore,
}

/// `retries`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Retries {
    pub attempts: Option<u32>,
    pub per_try_timeout: Option<String>,
    pub retry_on: String,
    pub retry_remote_localities: Option<bool>,
    pub retry_ignore_previous_hosts: Option<bool>,
    pub backoff: Option<String>,
}
