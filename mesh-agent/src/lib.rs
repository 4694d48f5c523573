// SPDX-License-Identifier: Apache-2.0

//! The node agent: takes the TCP traffic of enrolled pods into one proxy per node.
//!
//! The arrow of dependencies only points down this list (checked by `cargo xtask check`):
//! [`settings`], [`agent`] and [`control`] compose; [`admin`] reads; [`config`] turns objects into a
//! [`model::Snapshot`]; [`proxy`] carries out what the model decides; [`datapath`] owns the
//! kernel side; [`identity`] owns keys and certificates; [`telemetry`], [`grpc`] and
//! [`tasks`] are leaves.

pub mod admin;
pub mod agent;
pub mod cli;
pub mod config;
pub mod control;
pub mod datapath;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod grpc;
pub mod identity;
pub mod model;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod pieces;
pub mod proxy;
pub mod settings;
pub mod tasks;
pub mod telemetry;

/// Counts what tests ask of it.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: &stats_alloc::StatsAlloc<std::alloc::System> = &stats_alloc::INSTRUMENTED_SYSTEM;
