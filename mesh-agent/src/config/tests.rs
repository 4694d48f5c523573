// SPDX-License-Identifier: Apache-2.0

//! Manifests in, decisions and problems out.

mod authorization;
mod backend_policies;
mod client_tls;
mod delegates;
mod entries;
mod external_names;
mod files;
mod fixture;
mod gaps;
mod grpc_routes;
mod headless;
mod http_routes;
mod locality;
mod manifests;
mod opaque_property;
mod opaque_routes;
mod outbound_policy;
mod policies;
mod property;
mod providers;
mod rate_limits;
mod redirects;
mod routes;
mod safety;
mod scale;
mod seeds;
mod services;
mod sessions;
mod sidecars;
mod statuses;
mod tokens;
mod traffic;
mod traffic_policies;
mod trust_domains;
mod views;
mod workloads;
