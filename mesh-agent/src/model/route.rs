// SPDX-License-Identifier: Apache-2.0

//! Which backend a request goes to, or with what it is refused.

use std::sync::Arc;

use http::{HeaderMap, Method, Uri};

use super::{
    balance::Schedule,
    service::{Cluster, ObjectRef, ServicePort},
    workload::Workload,
};

/// Why a request or connection ended as it did: Envoy's response flags, so that existing dashboards and
/// habits work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResponseFlag {
    /// `NC`: the route names a cluster that does not exist.
    NoCluster,
    /// `NR`: no route matched.
    NoRoute,
    /// `UH`: no ready endpoint.
    NoHealthyUpstream,
    /// `UF`: connecting to the endpoint failed.
    UpstreamFailure,
}

/// The part of a request that routing looks at.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// Request target: origin form, or absolute form if the client sent that.
    pub uri: &'a Uri,
    /// `Host` or `:authority`.
    pub authority: &'a str,
    /// `http`; TLS from the application is opaque to us.
    pub scheme: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// The source workload.
    pub workload: &'a Workload,
}

/// The rules that decide about requests to one Service port.
#[derive(Clone, Debug)]
pub struct HttpRoutes {
    /// In the order in which they are tried.
    pub rules: Vec<HttpRule>,
    /// The object the rules come from (the first, if several).
    pub origin: ObjectRef,
}

/// One rule: conditions and what to do.
#[derive(Clone, Debug)]
pub struct HttpRule {
    /// `name`, else `<object>#<index>`; logged as route name.
    pub name: Arc<str>,
    /// Weighted backends.
    pub backends: Vec<Backend>,
    /// Draws one of `backends`.
    pub schedule: Schedule,
}

/// Where a share of a rule's requests goes.
#[derive(Clone, Debug)]
pub enum Backend {
    /// To the endpoints of this cluster.
    Cluster(Arc<Cluster>),
    /// Nowhere: answered with this.
    Refused(Refusal),
}

/// An answer that the mesh gives itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status code.
    pub status: u16,
    /// Why, in one flag.
    pub flag: ResponseFlag,
    /// Why, in words, for the access log: names the object and field.
    pub reason: Arc<str>,
}

/// What to do with one request.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Send it to an endpoint of `cluster`.
    Forward {
        /// Where to.
        cluster: Arc<Cluster>,
        /// The rule's name; `default` when no route is attached.
        route: Arc<str>,
    },
    /// Answer it.
    Refuse(Refusal),
}

impl ServicePort {
    /// Decides about one request of `client`; draws from the weight schedule, so call it once.
    pub fn decide(&self, client: &Client<'_>, head: &RequestHead<'_>) -> Decision {
        let _ = (client, head);
        todo!()
    }
}
