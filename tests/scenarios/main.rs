// SPDX-License-Identifier: Apache-2.0

//! Scenarios: real agents between real applications, a module per promise.
//!
//! Each test makes a lab of its own and is judged by what applications, the wire and the agent's
//! command line show.

#![allow(
    clippy::disallowed_methods,
    reason = "scenarios play the applications, whose connections are there to be captured"
)]

mod direct;
