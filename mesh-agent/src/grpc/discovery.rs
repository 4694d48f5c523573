// SPDX-License-Identifier: Apache-2.0

//! As much of Envoy's discovery and status messages as `istioctl proxy-status` needs.
//!
//! Invariant: tags and types are those of the published contracts.
//! Reference: `envoy/service/discovery/v3/discovery.proto`, `envoy/service/status/v3/csds.proto`.

use super::messages::{Kind, Struct, Value};

/// The path of Envoy's discovery service; we answer the first message of a stream and end it.
pub const DISCOVERY: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Any {
    /// Of which message the bytes are.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// A request for resources of one type.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DiscoveryRequest {
    /// The type.
    #[prost(string, tag = "4")]
    pub type_url: String,
}

/// Resources of one type.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DiscoveryResponse {
    /// The resources.
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Any>,
    /// The type that was asked for.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// Who answers.
    #[prost(message, optional, tag = "6")]
    pub control_plane: Option<ControlPlane>,
}

/// Who answers a request.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ControlPlane {
    /// JSON in Istio's form.
    #[prost(string, tag = "1")]
    pub identifier: String,
}

/// A proxy.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Node {
    /// Its name.
    #[prost(string, tag = "1")]
    pub id: String,
    /// More about it.
    #[prost(message, optional, tag = "3")]
    pub metadata: Option<Struct>,
}

/// How far a proxy is with its configuration.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ClientConfig {
    /// The proxy.
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    /// By type.
    #[prost(message, repeated, tag = "3")]
    pub generic_xds_configs: Vec<GenericXdsConfig>,
}

/// How far a proxy is with resources of one type.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GenericXdsConfig {
    /// The type.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// 1 synced, 2 not sent, 3 stale.
    #[prost(int32, tag = "6")]
    pub config_status: i32,
}

impl Any {
    /// Holds `message`, whose type is `type_url`.
    pub fn pack(type_url: &str, message: &impl prost::Message) -> Self {
        Self {
            type_url: type_url.to_owned(),
            value: message.encode_to_vec(),
        }
    }

    /// The message in it, whatever its type; `None` if the bytes are not of such a message.
    pub fn unpack<M: prost::Message + Default>(&self) -> Option<M> {
        M::decode(self.value.as_slice()).ok()
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        let kind = Some(Kind::Text(text.to_owned()));
        Self { kind }
    }
}
