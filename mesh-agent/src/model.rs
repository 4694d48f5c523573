// SPDX-License-Identifier: Apache-2.0

//! Pure values and decisions: what the mesh looks like and what is to be done with a flow.
//!
//! Knows nothing of sockets, clocks, Kubernetes or files. Everything here is immutable once it is
//! in a [`Snapshot`], but for two kinds of atomics that outlive snapshots: the position in a
//! schedule, and the load and health of an endpoint.

pub mod authorization;
pub mod balance;
pub mod client_tls;
pub mod condition;
pub mod cors;
pub mod edits;
pub mod fault;
pub mod hashing;
pub mod inner;
pub mod limit;
pub mod locality;
pub mod mirror;
pub mod named;
pub mod normalize;
pub mod opaque;
pub mod outlier;
pub mod path;
pub mod plan;
pub mod policy;
pub mod provider;
pub mod proxy_protocol;
pub mod retry;
pub mod revoked;
pub mod rewrite;
pub mod route;
pub mod rules;
pub mod scope;
pub mod service;
pub mod session;
pub mod share;
pub mod shared_map;
pub mod snapshot;
pub mod spiffe;
pub mod text;
pub mod token;
pub mod treatment;
pub mod trust_domains;
pub mod upstream;
pub mod visibility;
pub mod warmup;
pub mod workload;

pub use self::{
    authorization::{Authorization, Verdict},
    balance::{EndpointLoad, LoadGuard, Position, Schedule},
    client_tls::{ClientTls, Credential, Origination, Roots},
    condition::HttpMatch,
    cors::{Cors, CorsDecision},
    edits::{HeaderEdit, HeaderEdits},
    fault::{AbortStatus, Fault, Injected},
    hashing::{HashPolicy, Key},
    locality::{Nearness, Place, Spread},
    mirror::Mirror,
    named::{NamedPort, NamedPorts, Strangers, Told},
    normalize::PathNormalization,
    opaque::{
        NamePattern, OpaqueBackend, OpaqueDecision, OpaqueMatch, OpaquePort, OpaqueRoutes,
        OpaqueRule, Opening,
    },
    outlier::{Conduct, Outlier},
    path::PathMatch,
    policy::{InboundPolicy, MtlsMode},
    retry::{RetryOn, RetryPolicy, TryEnd},
    rewrite::{PathEdit, Redirect, Rewritten, UrlRewrite},
    route::{Backend, Client, Decision, HttpRoutes, HttpRule, Refusal, RequestHead, ResponseFlag},
    rules::Rules,
    scope::{OutboundPolicy, Scope, Seen, SeenHosts, SeenIn, View},
    service::{
        Cluster, Endpoint, ObjectRef, Protocol, Service, ServiceName, ServicePort, ServiceSocket,
    },
    session::Session,
    share::Share,
    shared_map::{Difference, SharedMap},
    snapshot::{Destination, Snapshot},
    spiffe::SpiffeId,
    text::TextMatch,
    treatment::{DirectAnswer, Treatment},
    trust_domains::TrustDomains,
    upstream::{Ask, Balancer, Limits, UpstreamPolicy, UpstreamUse},
    visibility::Visibility,
    workload::{Labels, Workload, WorkloadUid},
};
