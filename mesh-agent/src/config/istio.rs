// SPDX-License-Identifier: Apache-2.0

//! `networking.istio.io`: VirtualService, DestinationRule and entries as they are written.
//!
//! Fields of type [`Present`] are known but have no effect yet; `virtual_service.rs` and
//! `destination_rule.rs` report them. A field that is missing here is unknown to Istio too.
//! Reference: istio/api `networking/v1alpha3/{virtual_service,destination_rule}.proto`.

mod actions;
mod entries;
mod opaque;
mod policy;
mod sidecar;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

pub(super) use self::{
    actions::{
        CorsPolicy, Delegate, DerivePort, DirectResponse, FaultAbort, FaultDelay, FaultInjection,
        HttpRedirect, HttpRewrite, MirrorPolicy, Percent, Retries, UnmatchedPreflights,
    },
    entries::{EntryPort, Resolution, ServiceEntrySpec, WorkloadEntrySpec},
    opaque::{RouteDestination, TcpRoute, TlsRoute},
    policy::{
        ConnectionPool, ConsistentHash, Distribute, H2Upgrade, HttpCookie, HttpSettings,
        LoadBalancer, LocalityLb, OutlierDetection, ProxyProtocolVersion, RetryBudgetSettings,
        Simple, TcpKeepalive, TcpSettings, TrafficPolicy,
    },
    sidecar::{CaptureMode, Egress, OutboundMode, SidecarSpec},
};
use super::{
    object::{Present, null_default},
    security::Selector,
};

/// `VirtualService.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VirtualServiceSpec {
    #[serde(deserialize_with = "null_default")]
    pub hosts: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub gateways: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub http: Vec<HttpRoute>,
    #[serde(deserialize_with = "null_default")]
    pub tls: Vec<TlsRoute>,
    #[serde(deserialize_with = "null_default")]
    pub tcp: Vec<TcpRoute>,
    #[serde(deserialize_with = "null_default")]
    pub export_to: Vec<String>,
}

/// One entry of `spec.http`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRoute {
    pub name: String,
    #[serde(rename = "match", deserialize_with = "null_default")]
    pub matches: Vec<HttpMatchRequest>,
    #[serde(deserialize_with = "null_default")]
    pub route: Vec<HttpRouteDestination>,
    pub redirect: Option<HttpRedirect>,
    pub direct_response: Option<DirectResponse>,
    pub delegate: Option<Delegate>,
    pub rewrite: Option<HttpRewrite>,
    pub timeout: Option<String>,
    pub retries: Option<Retries>,
    pub fault: Option<FaultInjection>,
    pub mirror: Option<Destination>,
    #[serde(deserialize_with = "null_default")]
    pub mirrors: Vec<MirrorPolicy>,
    pub mirror_percent: Option<u32>,
    pub mirror_percentage: Option<Percent>,
    pub cors_policy: Option<CorsPolicy>,
    pub headers: Option<Headers>,
    /// Removed from Istio; always on.
    pub websocket_upgrade: Present,
}

/// One entry of `match`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpMatchRequest {
    pub name: String,
    pub uri: Option<StringMatch>,
    pub scheme: Option<StringMatch>,
    pub method: Option<StringMatch>,
    pub authority: Option<StringMatch>,
    #[serde(deserialize_with = "null_default")]
    pub headers: BTreeMap<String, Option<StringMatch>>,
    pub port: Option<u16>,
    #[serde(deserialize_with = "null_default")]
    pub source_labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_default")]
    pub gateways: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub query_params: BTreeMap<String, Option<StringMatch>>,
    pub ignore_uri_case: bool,
    #[serde(deserialize_with = "null_default")]
    pub without_headers: BTreeMap<String, Option<StringMatch>>,
    pub source_namespace: String,
    pub stat_prefix: Present,
}

/// A condition on a text.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StringMatch {
    pub exact: Option<String>,
    pub prefix: Option<String>,
    pub regex: Option<String>,
}

/// One entry of `route`.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteDestination {
    pub destination: Destination,
    pub weight: Option<u32>,
    pub headers: Option<Headers>,
}

/// Where to.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    pub host: String,
    pub subset: Option<String>,
    pub port: Option<PortSelector>,
}

/// A port by number.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
pub struct PortSelector {
    pub number: u16,
}

/// `headers` of a route or destination.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Headers {
    pub request: Option<HeaderOperations>,
    pub response: Option<HeaderOperations>,
}

/// What to do with headers of one direction.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HeaderOperations {
    #[serde(deserialize_with = "null_default")]
    pub set: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_default")]
    pub add: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_default")]
    pub remove: Vec<String>,
}

/// `DestinationRule.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DestinationRuleSpec {
    pub host: String,
    #[serde(default)]
    pub traffic_policy: Option<TrafficPolicy>,
    #[serde(default, deserialize_with = "null_default")]
    pub subsets: Vec<Subset>,
    #[serde(default, deserialize_with = "null_default")]
    pub export_to: Vec<String>,
    pub workload_selector: Option<Selector>,
}

/// A named part of a Service's endpoints.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Subset {
    pub name: String,
    #[serde(default, deserialize_with = "null_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub traffic_policy: Option<TrafficPolicy>,
}

/// `tls`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientTls {
    pub mode: Option<ClientTlsMode>,
    pub client_certificate: Option<String>,
    pub private_key: Option<String>,
    pub ca_certificates: Option<String>,
    pub ca_crl: Option<String>,
    pub credential_name: Option<String>,
    #[serde(deserialize_with = "null_default")]
    pub subject_alt_names: Vec<String>,
    pub sni: Option<String>,
    pub insecure_skip_verify: Option<bool>,
}

/// `tls.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClientTlsMode {
    Disable,
    Simple,
    Mutual,
    IstioMutual,
}
