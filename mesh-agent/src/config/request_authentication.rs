// SPDX-License-Identifier: Apache-2.0

//! `security.istio.io` RequestAuthentication, as it is written.
//!
//! Reference: istio/api `security/v1beta1/request_authentication.proto`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{authorization::TargetRef, object::null_default, security::Selector};

/// `spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RequestAuthenticationSpec {
    pub selector: Option<Selector>,
    pub target_ref: Option<TargetRef>,
    #[serde(deserialize_with = "null_default")]
    pub target_refs: Vec<TargetRef>,
    #[serde(deserialize_with = "null_default")]
    pub jwt_rules: Vec<JwtRule>,
}

/// One entry of `jwtRules`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct JwtRule {
    #[serde(deserialize_with = "null_default")]
    pub issuer: String,
    #[serde(deserialize_with = "null_default")]
    pub audiences: Vec<String>,
    #[serde(deserialize_with = "null_default", alias = "jwks_uri")]
    pub jwks_uri: String,
    #[serde(deserialize_with = "null_default")]
    pub jwks: String,
    #[serde(deserialize_with = "null_default")]
    pub from_headers: Vec<JwtHeader>,
    #[serde(deserialize_with = "null_default")]
    pub from_params: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub from_cookies: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub output_payload_to_header: String,
    #[serde(deserialize_with = "null_default")]
    pub output_claim_to_headers: Vec<ClaimHeader>,
    #[serde(deserialize_with = "null_default")]
    pub forward_original_token: bool,
    pub timeout: Option<String>,
    #[serde(deserialize_with = "null_default")]
    pub space_delimited_claims: Vec<String>,
}

/// One entry of `fromHeaders`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct JwtHeader {
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    #[serde(deserialize_with = "null_default")]
    pub prefix: String,
}

/// One entry of `outputClaimToHeaders`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct ClaimHeader {
    #[serde(deserialize_with = "null_default")]
    pub header: String,
    #[serde(deserialize_with = "null_default")]
    pub claim: String,
}
