// SPDX-License-Identifier: Apache-2.0

//! Fixtures for tests, demo and benchmark: nodes, pods, applications and real agents on one machine.
//!
//! A [`Lab`] is two nodes joined by a link, each in a network namespace of its own; pods hang on
//! them as a CNI plugin would hang them. Nothing here knows how the agent works: it is started as
//! a user would start it, and judged by what applications, the wire and its command line show.
//!
//! Invariant: what a lab makes is gone when the lab is dropped, when the program is interrupted,
//! or, after a SIGKILL, when the next lab starts. A fixture that cannot be set up panics with the
//! reason: a test without its fixture has nothing to say, and a missing privilege is a failure.

#![allow(
    clippy::disallowed_methods,
    reason = "fixtures play the applications, whose connections are there to be captured"
)]

pub mod agent;
pub mod app;
pub mod bench;
pub mod capture_file;
pub mod client;
pub mod command;
pub mod demo;
pub mod foreign;
pub mod kube;
pub mod leftovers;
pub mod load;
pub mod manifest;
pub mod netns;
pub mod node;
pub mod pod;
pub mod secret;
pub mod topology;
pub mod wait;
pub mod wire;

pub use self::{
    agent::Agent,
    app::{App, Habit},
    client::{Http1, Response},
    load::Load,
    node::Node,
    pod::Pod,
    secret::{Secret, Told},
    topology::Lab,
    wire::Wire,
};
