// SPDX-License-Identifier: Apache-2.0

//! Pure values and decisions: what the mesh looks like and what is to be done with a flow.
//!
//! Knows nothing of sockets, clocks, Kubernetes or files. Everything here is immutable once it is
//! in a [`Snapshot`], but for two kinds of atomics that outlive snapshots: the position in a
//! weight schedule and the load of an endpoint.

pub mod authorization;
pub mod balance;
pub mod condition;
pub mod edits;
pub mod path;
pub mod policy;
pub mod rewrite;
pub mod route;
pub mod rules;
pub mod service;
pub mod shared_map;
pub mod snapshot;
pub mod spiffe;
pub mod text;
pub mod workload;

pub use self::{
    authorization::{Authorization, Verdict},
    balance::{EndpointLoad, LoadGuard, Position, Schedule},
    condition::HttpMatch,
    edits::{HeaderEdit, HeaderEdits},
    path::PathMatch,
    policy::{InboundPolicy, MtlsMode},
    rewrite::{PathEdit, Redirect, Rewritten, UrlRewrite},
    route::{Backend, Client, Decision, HttpRoutes, HttpRule, Refusal, RequestHead, ResponseFlag},
    rules::Rules,
    service::{Cluster, Endpoint, ObjectRef, Protocol, Service, ServiceName, ServicePort},
    shared_map::{Difference, SharedMap},
    snapshot::{Destination, Snapshot},
    spiffe::SpiffeId,
    text::TextMatch,
    workload::{Labels, Workload, WorkloadUid},
};
