// SPDX-License-Identifier: Apache-2.0

//! `security.istio.io` AuthorizationPolicy, as it is written.
//!
//! Reference: istio/api `security/v1beta1/authorization_policy.proto`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{object::null_default, security::Selector};

/// `spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct AuthorizationPolicySpec {
    pub selector: Option<Selector>,
    pub target_ref: Option<TargetRef>,
    #[serde(deserialize_with = "null_default")]
    pub target_refs: Vec<TargetRef>,
    #[serde(deserialize_with = "null_default")]
    pub rules: Vec<RuleSpec>,
    #[serde(deserialize_with = "null_default")]
    pub action: ActionSpec,
    pub provider: Option<ProviderSpec>,
}

/// What a policy is about, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct TargetRef {
    #[serde(deserialize_with = "null_default")]
    pub group: String,
    #[serde(deserialize_with = "null_default")]
    pub kind: String,
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    #[serde(deserialize_with = "null_default")]
    pub namespace: String,
}

/// `action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum ActionSpec {
    #[default]
    Allow,
    Deny,
    Audit,
    Custom,
}

/// `provider`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct ProviderSpec {
    #[serde(deserialize_with = "null_default")]
    pub name: String,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct RuleSpec {
    #[serde(deserialize_with = "null_default")]
    pub from: Vec<From>,
    #[serde(deserialize_with = "null_default")]
    pub to: Vec<To>,
    #[serde(deserialize_with = "null_default")]
    pub when: Vec<ConditionSpec>,
}

/// One entry of `from`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct From {
    pub source: Option<SourceSpec>,
}

/// One entry of `to`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct To {
    pub operation: Option<OperationSpec>,
}

/// A list of texts; null is none.
type Texts = Vec<String>;

/// `source`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SourceSpec {
    #[serde(deserialize_with = "null_default")]
    pub principals: Texts,
    #[serde(deserialize_with = "null_default")]
    pub not_principals: Texts,
    #[serde(deserialize_with = "null_default")]
    pub request_principals: Texts,
    #[serde(deserialize_with = "null_default")]
    pub not_request_principals: Texts,
    #[serde(deserialize_with = "null_default")]
    pub namespaces: Texts,
    #[serde(deserialize_with = "null_default")]
    pub not_namespaces: Texts,
    #[serde(deserialize_with = "null_default")]
    pub service_accounts: Texts,
    #[serde(deserialize_with = "null_default")]
    pub not_service_accounts: Texts,
    #[serde(deserialize_with = "null_default")]
    pub trust_domains: Texts,
    #[serde(deserialize_with = "null_default")]
    pub not_trust_domains: Texts,
    #[serde(deserialize_with = "null_default")]
    pub ip_blocks: Texts,
    #[serde(deserialize_with = "null_default")]
    pub not_ip_blocks: Texts,
    #[serde(deserialize_with = "null_default")]
    pub remote_ip_blocks: Texts,
    #[serde(deserialize_with = "null_default")]
    pub not_remote_ip_blocks: Texts,
}

/// `operation`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct OperationSpec {
    #[serde(deserialize_with = "null_default")]
    pub hosts: Texts,
    #[serde(deserialize_with = "null_default")]
    pub not_hosts: Texts,
    #[serde(deserialize_with = "null_default")]
    pub ports: Texts,
    #[serde(deserialize_with = "null_default")]
    pub not_ports: Texts,
    #[serde(deserialize_with = "null_default")]
    pub methods: Texts,
    #[serde(deserialize_with = "null_default")]
    pub not_methods: Texts,
    #[serde(deserialize_with = "null_default")]
    pub paths: Texts,
    #[serde(deserialize_with = "null_default")]
    pub not_paths: Texts,
}

/// One entry of `when`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ConditionSpec {
    #[serde(deserialize_with = "null_default")]
    pub key: String,
    #[serde(deserialize_with = "null_default")]
    pub values: Texts,
    #[serde(deserialize_with = "null_default")]
    pub not_values: Texts,
}
