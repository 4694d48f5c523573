// SPDX-License-Identifier: Apache-2.0

//! Objects in, one [`model::Snapshot`](crate::model::Snapshot) out.
//!
//! Front ends (a directory of manifests, the Kubernetes API) hand typed objects to an
//! [`Index`], which checks them, joins them and publishes an immutable snapshot together with a
//! [`Report`] of everything that is wrong. Nothing below this module knows Kubernetes; this module
//! knows nothing of sockets, the kernel or certificates.
//!
//! Invariant: what cannot be honoured is in the report, with object, field and fix.

use std::path::Path;

pub mod crds;
pub mod file;
pub mod frontier;
pub mod index;
pub mod installation;
pub mod kube;
pub mod object;
pub mod problem;
pub mod source;
pub mod status;

mod actions;
mod aim;
mod attachment;
mod authorization;
mod authorization_facts;
mod authorization_rules;
mod authorization_values;
mod backend_policy;
mod balancer;
mod base64;
mod budget;
mod build;
mod claims;
mod client;
mod client_tls;
mod compile;
mod condition;
mod delegate;
mod destination_rule;
mod dirty;
mod distribution;
mod endpoints;
mod enrol;
mod entries;
mod facts;
mod filters;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gaps;
mod gateway;
mod grpc_route;
mod guards;
mod headers;
mod headless;
mod http_route;
mod intern;
mod istio;
mod load;
mod loads;
mod locality;
mod mesh_config;
mod named;
mod names;
mod nodes;
mod opaque;
mod opaque_route;
mod opaque_routes;
mod overlap;
mod pod;
mod pods;
mod policy;
mod rate_limit;
mod reach;
mod read;
mod references;
mod request_authentication;
mod resolve;
mod revoked;
mod roots;
mod route;
mod routes;
mod scopes;
mod secrets;
mod security;
mod selection;
mod service;
mod service_entry;
mod services;
mod session;
mod sidecar;
mod slices;
mod token_rules;
mod traffic_policy;
mod treatment;
mod tree;
mod views;
mod virtual_service;
mod warmup;
mod workload_entry;

pub use self::{
    client::{ClientError, client},
    frontier::Frontier,
    index::{Index, IndexSettings},
    names::resolve as resolve_names,
    object::{Kind, Object, ObjectKey, Revision},
    problem::{Origin, Problem, Report, Severity},
    revoked::{RevokedError, parse_revoked},
    roots::watch_text,
    secrets::{ReadSecretError, SecretReader},
    source::{KindState, SourceKind, SourceState},
    status::{Condition, Conditions, ObjectStatus, ParentStatus},
};

/// Loads the manifests below `dir` and says what is wrong with them, without running anything.
pub fn analyze(dir: &Path, settings: IndexSettings) -> Report {
    let mut index = Index::new(settings);
    if let Err(error) = file::load_once(dir, &mut index) {
        index.set_front_end_problems(vec![error.problem()]);
    }
    index.publish();
    let report = index.report().borrow().clone();
    (*report).clone()
}

#[cfg(test)]
mod tests;
