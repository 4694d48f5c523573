// SPDX-License-Identifier: Apache-2.0

//! `security.istio.io` PeerAuthentication and `authentication.istio.io` Policy, as they are written.
//!
//! Reference: istio/api `security/v1beta1/peer_authentication.proto` and, up to 1.4,
//! `authentication/v1alpha1/policy.proto`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use super::object::{Present, null_default};

/// `PeerAuthentication.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerAuthenticationSpec {
    pub selector: Option<Selector>,
    pub mtls: Option<Mtls>,
    #[serde(deserialize_with = "null_default")]
    pub port_level_mtls: BTreeMap<u16, Mtls>,
}

/// Which pods.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Selector {
    #[serde(deserialize_with = "null_default")]
    pub match_labels: BTreeMap<String, String>,
}

/// `mtls`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Mtls {
    #[serde(deserialize_with = "null_default")]
    pub mode: Mode,
}

/// `mtls.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Mode {
    #[default]
    Unset,
    Disable,
    Permissive,
    Strict,
}

/// `spec` of a Policy or MeshPolicy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicySpec {
    #[serde(deserialize_with = "null_default")]
    pub targets: Vec<Target>,
    #[serde(deserialize_with = "null_default")]
    pub peers: Vec<Peer>,
    pub peer_is_optional: bool,
    pub origins: Present,
    pub origin_is_optional: Present,
    pub principal_binding: Present,
}

/// A Service, and perhaps some of its ports.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Target {
    pub name: String,
    pub subset: Present,
    pub labels: Present,
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<TargetPort>,
}

/// A Service's port, by one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TargetPort {
    pub number: Option<u16>,
    pub name: Option<String>,
}

/// One way for a peer to prove who it is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Peer {
    /// `None` if not written; `mtls:` (null) and `mtls: {}` both ask for the default mode.
    #[serde(deserialize_with = "written")]
    pub mtls: Option<LegacyMtls>,
    pub jwt: Present,
}

/// `peers[].mtls`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LegacyMtls {
    #[serde(alias = "allow_tls")]
    pub allow_tls: bool,
    #[serde(deserialize_with = "null_default")]
    pub mode: LegacyMode,
}

/// `peers[].mtls.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LegacyMode {
    #[default]
    Strict,
    /// Istio 0.8 only: TLS with or without a client certificate, or plaintext.
    TlsPermissive,
    Permissive,
}

/// Tells a field that is null from one that is not written.
fn written<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<LegacyMtls>, D::Error> {
    Ok(Some(Option::deserialize(deserializer)?.unwrap_or_default()))
}
