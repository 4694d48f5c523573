// SPDX-License-Identifier: Apache-2.0

//! ServiceEntry and WorkloadEntry as they are written.
//!
//! Reference: istio/api `networking/v1alpha3/{service_entry,workload_entry}.proto`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::super::object::null_default;

/// `ServiceEntry.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEntrySpec {
    #[serde(deserialize_with = "null_default")]
    pub hosts: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub addresses: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<EntryPort>,
    #[serde(deserialize_with = "null_default")]
    pub location: Location,
    #[serde(deserialize_with = "null_default")]
    pub resolution: Resolution,
    #[serde(deserialize_with = "null_default")]
    pub endpoints: Vec<WorkloadEntrySpec>,
    pub workload_selector: Option<EntrySelector>,
    #[serde(deserialize_with = "null_default")]
    pub export_to: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub subject_alt_names: Vec<String>,
}

/// One entry of `ports`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EntryPort {
    pub number: u16,
    #[serde(deserialize_with = "null_default")]
    pub protocol: String,
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    pub target_port: Option<u16>,
}

/// `location`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Location {
    #[default]
    MeshExternal,
    MeshInternal,
}

/// `resolution`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    #[default]
    None,
    Static,
    Dns,
    DnsRoundRobin,
    DynamicDns,
}

/// `workloadSelector`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EntrySelector {
    #[serde(deserialize_with = "null_default")]
    pub labels: BTreeMap<String, String>,
}

/// `WorkloadEntry.spec`, and one entry of `ServiceEntry.spec.endpoints`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadEntrySpec {
    #[serde(deserialize_with = "null_default")]
    pub address: String,
    #[serde(deserialize_with = "null_default")]
    pub ports: BTreeMap<String, u16>,
    #[serde(deserialize_with = "null_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_default")]
    pub network: String,
    #[serde(deserialize_with = "null_default")]
    pub locality: String,
    pub weight: Option<u32>,
    #[serde(deserialize_with = "null_default")]
    pub service_account: String,
}
