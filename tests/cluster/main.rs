// SPDX-License-Identifier: Apache-2.0

//! A real cluster: what users see of the mesh in Kubernetes, a module per promise.
//!
//! Run by `cargo xtask test kube`, which starts the cluster. The tests share it, so they run one
//! after the other, and each keeps to namespaces of its own.

#![allow(
    clippy::unwrap_used,
    reason = "all of this crate is tests: a panic with its line is what they are for"
)]

mod authority;
mod bare;
mod early;
mod enrol;
mod istiod;
mod kinds;
mod outage;
mod posts;
mod replay;
mod reuse;
mod rollout;
mod rotation;
mod secrets;
mod strict;
mod uninstall;
mod upgrade;
