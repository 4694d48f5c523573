// SPDX-License-Identifier: Apache-2.0

//! Carries the traffic of this node's pods: accepts what the kernel captured, does what the model
//! decides, and says how each connection and request ended.
//!
//! Knows nothing of Kubernetes, manifests or BPF. Everything on the request path belongs to one data
//! thread (`threads`) and is `Rc`, never `Arc`; only a position in a weight schedule, the load of
//! an endpoint and counters are shared between threads.
//!
//! Invariant: every connection and every request ends in exactly one [`Outcome`].

pub mod copy;
pub mod hbone;
pub mod outcome;
pub mod sniff;
pub mod tunnel;
mod tunnel_keep_alive;
mod tunnel_link;
mod tunnel_stream;

pub use self::outcome::Outcome;
