// SPDX-License-Identifier: Apache-2.0

//! Sidecar as it is written.
//!
//! Reference: istio/api `networking/v1alpha3/sidecar.proto`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    super::object::{Present, null_default},
    entries::EntrySelector,
};

/// `Sidecar.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SidecarSpec {
    pub workload_selector: Option<EntrySelector>,
    pub ingress: Present,
    #[serde(deserialize_with = "null_default")]
    pub egress: Vec<Egress>,
    pub inbound_connection_pool: Present,
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
}

/// One entry of `egress`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Egress {
    pub port: Present,
    pub bind: Present,
    #[serde(deserialize_with = "null_default")]
    pub capture_mode: CaptureMode,
    #[serde(deserialize_with = "null_default")]
    pub hosts: Vec<String>,
}

/// `captureMode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CaptureMode {
    #[default]
    Default,
    Iptables,
    None,
}

/// `outboundTrafficPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OutboundTrafficPolicy {
    #[serde(deserialize_with = "null_default")]
    pub mode: OutboundMode,
    pub egress_proxy: Present,
}

/// `outboundTrafficPolicy.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutboundMode {
    /// What Istio takes it for where nothing is written.
    #[default]
    RegistryOnly,
    AllowAny,
}
