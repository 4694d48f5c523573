// SPDX-License-Identifier: Apache-2.0

//! The whole proxy over loopback: real sockets and threads, hand-made snapshots, no kernel
//! programs. VIPs are further addresses of 127.0.0.0/8, so that a listener on the wildcard address
//! plays the captured pod's.

mod allocations;
mod authorization;
mod budgets;
mod client_certificates;
mod compared;
mod custom;
mod differential;
mod elsewhere;
mod envoy;
pub(super) mod frames;
mod hostile_http2;
mod http2;
mod limits;
mod local;
pub(super) mod mesh;
mod opaque;
mod original;
mod origination;
mod proxy_protocol;
mod rate_limits;
mod request_headers;
mod revoked;
mod sessions;
mod slow_heads;
mod smuggling;
mod tcp;
mod tokens;
mod treated;
mod tunnel;

/// HTTP/1 as it is served by hand, where it is plain.
#[path = "tests"]
mod fast {
    use super::mesh::{self, Mesh};
    use crate::proxy::Http1Engine;

    mod http;
    mod http1;
    mod http1_bodies;

    fn start() -> Mesh {
        Mesh::start_with(Http1Engine::Fast)
    }
}

/// HTTP/1 as hyper serves it.
#[path = "tests"]
#[expect(
    clippy::duplicate_mod,
    reason = "the same promises, whoever keeps them"
)]
mod hyper {
    use super::mesh::{self, Mesh};
    use crate::proxy::Http1Engine;

    mod http;
    mod http1;
    mod http1_bodies;

    fn start() -> Mesh {
        Mesh::start_with(Http1Engine::Hyper)
    }
}

/// How many random exchanges a test plays.
fn exchanges() -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "how long a test runs is no setting of the agent"
    )]
    let wanted = std::env::var("MESH_AGENT_DIFFERENTIAL");
    wanted
        .ok()
        .map_or(150, |text| text.parse().expect("a number"))
}
