// SPDX-License-Identifier: Apache-2.0

//! What the server's end of a tunnel grants its peer, in numbers.

use std::time::Duration;

use super::super::tunnel_keep_alive::KeepAliveLimits;
use crate::identity::Alpn;

/// How much and how long.
#[derive(Clone, Copy, Debug)]
pub struct HboneLimits {
    /// What is spoken, if the peer offers it.
    pub alpn: Alpn,
    /// For TLS and HTTP/2's preface together.
    pub handshake_timeout: Duration,
    /// Streams of HBONE at once.
    pub max_streams: u32,
    /// Streams of the mux at once.
    pub mux_streams: usize,
    /// Bytes that a stream may have under way to a reader that stopped.
    pub stream_window: u32,
    /// Bytes of headers per request.
    pub max_header_list: u32,
    /// How a silent peer is found.
    pub keep_alive: KeepAliveLimits,
}

impl Default for HboneLimits {
    fn default() -> Self {
        Self {
            alpn: Alpn::Hbone,
            handshake_timeout: Duration::from_secs(10),
            max_streams: 200,
            mux_streams: 256,
            stream_window: 256 * 1024,
            max_header_list: 64 * 1024,
            keep_alive: KeepAliveLimits::default(),
        }
    }
}
