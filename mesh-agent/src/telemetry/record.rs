// SPDX-License-Identifier: Apache-2.0

//! What the proxy tells about connections and requests: plain borrowed values.
//!
//! Invariant: one [`ConnectionRecord`] per connection and one [`RequestRecord`] per request, made
//! when it has ended; every metric and access log line derives from them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use crate::model::{Service, SpiffeId, Workload};

/// On whose behalf a record is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reporter {
    /// The node of the workload that opened the connection.
    Source,
    /// The node of the workload that accepted it.
    Destination,
}

impl Reporter {
    /// As in the label `reporter`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// Who talks to whom.
#[derive(Clone, Copy, Debug)]
pub struct Flow<'a> {
    /// Who tells.
    pub reporter: Reporter,
    /// The workload that opened the connection, if it is known.
    pub source: Option<&'a Arc<Workload>>,
    /// Its identity, as proven by its certificate (reporter destination) or shown (source).
    pub source_identity: Option<&'a SpiffeId>,
    /// The workload that took it, if one was chosen and is known.
    pub destination: Option<&'a Arc<Workload>>,
    /// Its identity.
    pub destination_identity: Option<&'a SpiffeId>,
    /// The Service that was addressed, if it is known.
    pub service: Option<&'a Service>,
    /// Whether the leg between the nodes was mutual TLS.
    pub mutual_tls: bool,
    /// The other end of the accepted socket; in a tunnel, the client that it speaks for.
    pub peer: SocketAddr,
    /// What the client connected to.
    pub orig_dst: SocketAddr,
}

/// A connection that has ended.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionRecord<'a> {
    /// Who talked to whom.
    pub flow: Flow<'a>,
    /// Bytes that the client received.
    pub bytes_sent: u64,
    /// Bytes that the client sent.
    pub bytes_received: u64,
    /// From accept to the end.
    pub duration: Duration,
    /// Envoy's response flags, comma-separated; `-` if there are none.
    pub flags: &'a str,
    /// Why it failed, in words.
    pub error: Option<&'a str>,
    /// The address of the endpoint that it was carried to.
    pub endpoint: Option<SocketAddr>,
}

/// A request that has been answered, or was given up.
#[derive(Clone, Copy, Debug)]
pub struct RequestRecord<'a> {
    /// Who talked to whom.
    pub flow: Flow<'a>,
    /// The method.
    pub method: &'a str,
    /// Path and query, as the client sent them.
    pub path: &'a str,
    /// `Host` or `:authority`.
    pub authority: &'a str,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'a str,
    /// The `grpc-status` of the answer.
    pub grpc: Option<u32>,
    /// Whether the request was gRPC (content type `application/grpc*`).
    pub is_grpc: bool,
    /// HTTP status of the answer; 0 if the client went away before there was one.
    pub status: u16,
    /// Envoy's response flags, comma-separated; `-` if there are none.
    pub flags: &'a str,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
    /// From the request's head to the last byte of the answer.
    pub duration: Duration,
    /// The share of `duration` until the endpoint's answer began.
    pub upstream_duration: Option<Duration>,
    /// The name of the rule that decided.
    pub route: &'a str,
    /// Istio's name of the cluster that was chosen; empty if none was.
    pub cluster: &'a str,
    /// The endpoint that answered.
    pub endpoint: Option<SocketAddr>,
    /// `User-Agent`; empty if absent.
    pub user_agent: &'a str,
    /// `X-Request-Id`.
    pub request_id: Option<&'a str>,
    /// Why the mesh answered itself or gave up, in words.
    pub reason: Option<&'a str>,
}
