// SPDX-License-Identifier: Apache-2.0

//! The messages: Istio's certificate service, `google.protobuf.Struct` as far as it needs it, and
//! the reports of our nodes.
//!
//! Invariant: tags and types are those of the published contracts; our own only ever grow.

use std::collections::{BTreeMap, HashMap};

/// The path of Istio's certificate service.
pub const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// The path of our nodes' reports.
pub const REPORT: &str = "/mesh.agent.v1.Nodes/Report";

/// How the refusal of a report begins that another replica would take; its identity follows.
pub const NOT_LEADER: &str = "not the leader: ";

/// The metadata that says for whom a node asks.
const IMPERSONATED: &str = "ImpersonatedIdentity";

/// A request for a certificate.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CreateCertificateRequest {
    /// The signing request, PEM.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// How long the certificate should be valid, in seconds.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
    /// More about the request.
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<Struct>,
}

/// A certificate.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CreateCertificateResponse {
    /// The leaf, then intermediates one by one, then all roots in one; PEM.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Struct {
    /// Its fields.
    #[prost(map = "string, message", tag = "1")]
    pub fields: HashMap<String, Value>,
}

/// `google.protobuf.Value`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Value {
    /// One of the kinds.
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6")]
    pub kind: Option<Kind>,
}

/// A kind of [`Value`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Kind {
    /// Nothing.
    #[prost(int32, tag = "1")]
    Null(i32),
    /// A number.
    #[prost(double, tag = "2")]
    Number(f64),
    /// A text.
    #[prost(string, tag = "3")]
    Text(String),
    /// True or false.
    #[prost(bool, tag = "4")]
    Bool(bool),
    /// Fields.
    #[prost(message, tag = "5")]
    Struct(Struct),
    /// Several values.
    #[prost(message, tag = "6")]
    List(ListValue),
}

/// `google.protobuf.ListValue`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListValue {
    /// The values.
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<Value>,
}

/// What a node has applied. Which node it is, its token says.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReportRequest {
    /// The agent's version.
    #[prost(string, tag = "1")]
    pub agent_version: String,
    /// Up to which resource version of each kind.
    #[prost(btree_map = "string, uint64", tag = "2")]
    pub frontier: BTreeMap<String, u64>,
    /// The snapshot that the data path has.
    #[prost(uint64, tag = "3")]
    pub generation: u64,
    /// SHA-256 of the root certificates that the node trusts, in hexadecimal digits.
    #[prost(string, repeated, tag = "4")]
    pub trusted_roots: Vec<String>,
    /// Pods whose traffic is captured.
    #[prost(uint32, tag = "5")]
    pub captured_pods: u32,
    /// Pods whose traffic should be captured and is not.
    #[prost(uint32, tag = "6")]
    pub failed_pods: u32,
}

/// A report was taken.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReportResponse {}

impl CreateCertificateRequest {
    /// Asks for `identity`, not for the caller's own.
    pub fn impersonating(csr: String, validity_duration: i64, identity: &str) -> Self {
        let kind = Some(Kind::Text(identity.to_owned()));
        let fields = HashMap::from([(IMPERSONATED.to_owned(), Value { kind })]);
        Self {
            csr,
            validity_duration,
            metadata: Some(Struct { fields }),
        }
    }

    /// For whom, if not for the caller itself.
    pub fn impersonated(&self) -> Option<&str> {
        match &self.metadata.as_ref()?.fields.get(IMPERSONATED)?.kind {
            Some(Kind::Text(identity)) => Some(identity),
            // Something is asked for, and it is nobody's identity.
            _ => Some(""),
        }
    }
}
