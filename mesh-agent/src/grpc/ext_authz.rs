// SPDX-License-Identifier: Apache-2.0

//! Envoy's external authorization: what a service is told about a request, and what it answers.
//!
//! As far as the mesh needs it. Invariant: tags and types are those of the published contract.
//! Reference: envoy `api/envoy/service/auth/v3/{attribute_context,external_auth}.proto`.

use std::collections::HashMap;

use bytes::Bytes;

/// The path of the service's one call.
pub const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// What is asked.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CheckRequest {
    /// What is known.
    #[prost(message, optional, tag = "1")]
    pub attributes: Option<AttributeContext>,
}

/// What is known of a request.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AttributeContext {
    /// Who asks.
    #[prost(message, optional, tag = "1")]
    pub source: Option<Peer>,
    /// Who is asked.
    #[prost(message, optional, tag = "2")]
    pub destination: Option<Peer>,
    /// For what.
    #[prost(message, optional, tag = "4")]
    pub request: Option<AttributeRequest>,
}

/// One side.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Peer {
    /// Where it is.
    #[prost(message, optional, tag = "1")]
    pub address: Option<Address>,
    /// Whom it proved to be; empty if it did not.
    #[prost(string, tag = "4")]
    pub principal: String,
}

/// `envoy.config.core.v3.Address`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Address {
    /// Of a socket.
    #[prost(message, optional, tag = "1")]
    pub socket_address: Option<SocketAddress>,
}

/// `envoy.config.core.v3.SocketAddress`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SocketAddress {
    /// The IP address.
    #[prost(string, tag = "2")]
    pub address: String,
    /// The port.
    #[prost(uint32, optional, tag = "3")]
    pub port_value: Option<u32>,
}

/// The request.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AttributeRequest {
    /// When it came.
    #[prost(message, optional, tag = "1")]
    pub time: Option<Timestamp>,
    /// Its head.
    #[prost(message, optional, tag = "2")]
    pub http: Option<HttpRequest>,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Timestamp {
    /// Since 1970.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// And less than a second.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// A request's head.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HttpRequest {
    /// `x-request-id`.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The method.
    #[prost(string, tag = "2")]
    pub method: String,
    /// Names in lower case; several values of one name are joined by commas.
    #[prost(map = "string, string", tag = "3")]
    pub headers: HashMap<String, String>,
    /// With the query.
    #[prost(string, tag = "4")]
    pub path: String,
    /// `Host` or `:authority`.
    #[prost(string, tag = "5")]
    pub host: String,
    /// `http`.
    #[prost(string, tag = "6")]
    pub scheme: String,
    /// Of the body; -1 if that is not known.
    #[prost(int64, tag = "9")]
    pub size: i64,
    /// `HTTP/1.1` or another.
    #[prost(string, tag = "10")]
    pub protocol: String,
    /// What is shown of the body, as text.
    #[prost(string, tag = "11")]
    pub body: String,
    /// The same as it is.
    #[prost(bytes = "bytes", tag = "12")]
    pub raw_body: Bytes,
}

/// What is answered.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CheckResponse {
    /// Yes if its code is 0.
    #[prost(message, optional, tag = "1")]
    pub status: Option<RpcStatus>,
    /// With a no.
    #[prost(message, optional, tag = "2")]
    pub denied_response: Option<DeniedHttpResponse>,
    /// With a yes.
    #[prost(message, optional, tag = "3")]
    pub ok_response: Option<OkHttpResponse>,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RpcStatus {
    /// A code of gRPC's.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// Why.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// How the client is answered.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeniedHttpResponse {
    /// 403 if there is none.
    #[prost(message, optional, tag = "1")]
    pub status: Option<HttpStatus>,
    /// The answer's headers.
    #[prost(message, repeated, tag = "2")]
    pub headers: Vec<HeaderValueOption>,
    /// The answer's body.
    #[prost(string, tag = "3")]
    pub body: String,
}

/// `envoy.type.v3.HttpStatus`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HttpStatus {
    /// A status of HTTP.
    #[prost(int32, tag = "1")]
    pub code: i32,
}

/// How the request goes on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OkHttpResponse {
    /// For the request.
    #[prost(message, repeated, tag = "2")]
    pub headers: Vec<HeaderValueOption>,
    /// Names that are taken out of the request.
    #[prost(string, repeated, tag = "5")]
    pub headers_to_remove: Vec<String>,
    /// For the answer.
    #[prost(message, repeated, tag = "6")]
    pub response_headers_to_add: Vec<HeaderValueOption>,
}

/// `envoy.config.core.v3.HeaderValueOption`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeaderValueOption {
    /// The header.
    #[prost(message, optional, tag = "1")]
    pub header: Option<HeaderValue>,
    /// Whether what is there stays.
    #[prost(message, optional, tag = "2")]
    pub append: Option<BoolValue>,
}

/// `envoy.config.core.v3.HeaderValue`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeaderValue {
    /// Its name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(string, tag = "2")]
    pub value: String,
    /// Its value, where that is no text.
    #[prost(bytes = "vec", tag = "3")]
    pub raw_value: Vec<u8>,
}

/// `google.protobuf.BoolValue`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BoolValue {
    /// Itself.
    #[prost(bool, tag = "1")]
    pub value: bool,
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_body_is_written_by_its_published_tags() {
        let request = HttpRequest {
            body: "a".to_owned(),
            raw_body: Bytes::from_static(b"b"),
            ..HttpRequest::default()
        };
        assert_eq!(request.encode_to_vec(), b"\x5a\x01a\x62\x01b");
    }

    #[test]
    fn an_answer_is_read_by_its_published_tags() {
        // status {code: 7}, denied_response {status {code: 401}, headers [{header {a: b}}], body: no}
        let bytes = b"\x0a\x02\x08\x07\x12\x13\x0a\x03\x08\x91\x03\x12\x08\x0a\x06\x0a\x01a\x12\x01b\x1a\x02no";
        let answer = CheckResponse::decode(&bytes[..]).unwrap();
        assert_eq!(answer.status.unwrap().code, 7);
        let denied = answer.denied_response.unwrap();
        assert_eq!(denied.status.unwrap().code, 401);
        assert_eq!(denied.headers[0].header.as_ref().unwrap().value, "b");
        assert_eq!(denied.body, "no");
    }
}
