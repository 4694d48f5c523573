// SPDX-License-Identifier: Apache-2.0

//! Manifests in, decisions and problems out.

mod authorization;
mod files;
mod fixture;
mod grpc_routes;
mod http_routes;
mod manifests;
mod policies;
mod routes;
mod scale;
mod seeds;
mod services;
mod statuses;
mod workloads;
