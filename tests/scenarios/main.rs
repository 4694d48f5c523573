// SPDX-License-Identifier: Apache-2.0

//! Scenarios: real agents between real applications, a module per promise.
//!
//! Each test makes a lab of its own and is judged by what applications, the wire and the agent's
//! command line show.

#![allow(
    clippy::disallowed_methods,
    reason = "scenarios play the applications, whose connections are there to be captured"
)]
#![allow(
    clippy::unwrap_used,
    reason = "all of this crate is tests: a panic with its line is what they are for"
)]

mod authorization;
mod benchmark;
mod bytes;
mod capture;
mod certificates;
mod confined;
mod custom;
mod destinations;
mod direct;
mod floods;
mod gamma;
mod headless;
mod hostile;
mod inside;
mod interop;
mod lifecycle;
mod mesh;
mod mtls;
mod opaque;
mod programs;
mod protocols;
mod reachability;
mod reload;
mod rotation;
mod routes;
mod scale;
mod seeds;
mod sidecars;
mod slice;
mod tokens;
mod traffic;
mod upgrade;
