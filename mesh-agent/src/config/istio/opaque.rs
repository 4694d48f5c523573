// SPDX-License-Identifier: Apache-2.0

//! `tls` and `tcp` of a VirtualService, as they are written.
//!
//! Reference: istio/api `networking/v1alpha3/virtual_service.proto`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    super::object::{Present, null_default},
    Destination,
};

/// One entry of `spec.tls`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsRoute {
    #[serde(rename = "match", deserialize_with = "null_default")]
    pub matches: Vec<TlsMatch>,
    #[serde(deserialize_with = "null_default")]
    pub route: Vec<RouteDestination>,
}

/// One entry of `spec.tcp`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpRoute {
    #[serde(rename = "match", deserialize_with = "null_default")]
    pub matches: Vec<TcpMatch>,
    #[serde(deserialize_with = "null_default")]
    pub route: Vec<RouteDestination>,
}

/// One entry of `match` of `tls`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsMatch {
    #[serde(deserialize_with = "null_default")]
    pub sni_hosts: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub destination_subnets: Vec<String>,
    pub port: Option<u16>,
    #[serde(deserialize_with = "null_default")]
    pub source_labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_default")]
    pub gateways: Vec<String>,
    pub source_namespace: String,
}

/// One entry of `match` of `tcp`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpMatch {
    #[serde(deserialize_with = "null_default")]
    pub destination_subnets: Vec<String>,
    pub port: Option<u16>,
    /// Istio has it, and never honoured it.
    pub source_subnet: Present,
    #[serde(deserialize_with = "null_default")]
    pub source_labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_default")]
    pub gateways: Vec<String>,
    pub source_namespace: String,
}

/// One entry of `route`.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
pub struct RouteDestination {
    pub destination: Destination,
    pub weight: Option<u32>,
}
