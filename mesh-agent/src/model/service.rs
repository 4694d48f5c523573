// SPDX-License-Identifier: Apache-2.0

//! Services, their ports, and the endpoints behind them.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    balance::EndpointLoad,
    client_tls::ClientTls,
    locality::Place,
    opaque::OpaquePort,
    proxy_protocol::ProxyProtocol,
    route::HttpRoutes,
    session::Token,
    upstream::{Upkeep, UpstreamUse},
    visibility::Visibility,
    workload::Workload,
};

/// A Service's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl ServiceName {
    /// Composes a name.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// An object that configures the mesh, for messages and `proxy-config`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Its kind, for example `VirtualService`.
    pub kind: Arc<str>,
    /// Its namespace; empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// What is spoken on a Service port, from `appProtocol`, then the port's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1 or HTTP/2 with prior knowledge, told apart by the client's first bytes.
    Http,
    /// HTTP/2 with prior knowledge (`http2`, `kubernetes.io/h2c`).
    Http2,
    /// gRPC over HTTP/2.
    Grpc,
    /// Opaque bytes (`tcp`, `mysql`, ...).
    Tcp,
    /// The application's own TLS (`tls`, `https`): opaque bytes, but for what the client says first.
    Tls,
    /// Not declared: decided by the first bytes, without delaying a server that speaks first.
    Sniff,
}

/// One port of a Service.
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// The Service's port.
    pub number: u16,
    /// Its name; may be empty.
    pub name: Arc<str>,
    /// What is spoken.
    pub protocol: Protocol,
    /// All endpoints of the port, with no subset.
    pub cluster: Arc<Cluster>,
    /// Its DestinationRule subsets, as seen from the Service's own namespace.
    pub subsets: Vec<Arc<Cluster>>,
    /// HTTP routes by client namespace or [view](super::scope::View), which win over those for
    /// everybody: consumer HTTPRoutes, and VirtualServices that look different from there (`exportTo`, a
    /// Sidecar, a DestinationRule of its own).
    pub consumer_routes: Vec<(Arc<str>, Arc<HttpRoutes>)>,
    /// HTTP routes for every other client, if any are attached.
    pub routes: Option<Arc<HttpRoutes>>,
    /// Routes for what is carried as bytes.
    pub opaque: OpaquePort,
}

/// What an endpoint of a Service without an address of its own is to those who connect to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSocket {
    /// The Service.
    pub service: ServiceName,
    /// The number of its port.
    pub port: u16,
    /// Whether it is to be captured: nothing else says so of it.
    pub captured: bool,
}

/// A Service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its namespace and name.
    pub name: ServiceName,
    /// `<name>.<namespace>.svc.<cluster domain>`.
    pub hostname: Arc<str>,
    /// Its ClusterIPs; empty if headless.
    pub vips: Vec<IpAddr>,
    /// Its TCP ports.
    pub ports: Vec<Arc<ServicePort>>,
    /// Whether connections to its VIPs are captured: a route is attached, or an endpoint is enrolled.
    pub captured: bool,
    /// Whose clients see it; to others its VIPs are addresses like any other.
    pub visibility: Visibility,
}

/// The endpoints of a Service port, or of a subset of it.
#[derive(Debug)]
pub struct Cluster {
    /// The Service.
    pub service: ServiceName,
    /// The Service's fully qualified host name.
    pub hostname: Arc<str>,
    /// The Service's port number.
    pub port: u16,
    /// The DestinationRule subset, if it is one.
    pub subset: Option<Arc<str>>,
    /// The DestinationRule that shaped it, for `proxy-config clusters`.
    pub rule: Option<ObjectRef>,
    /// Ready endpoints only.
    pub endpoints: Vec<Endpoint>,
    /// Composed once: it is logged with every request.
    istio_name: Arc<str>,
    /// How they are used, if a DestinationRule says so.
    pub upstream: Option<Arc<UpstreamUse>>,
}

impl Service {
    /// The port with this number.
    pub fn port(&self, number: u16) -> Option<&Arc<ServicePort>> {
        self.ports.iter().find(|port| port.number == number)
    }
}

impl Cluster {
    /// Composes a cluster of what its fields say.
    pub fn new(
        service: ServiceName,
        hostname: Arc<str>,
        port: u16,
        subset: Option<Arc<str>>,
        rule: Option<ObjectRef>,
        endpoints: Vec<Endpoint>,
    ) -> Self {
        let part = subset.as_deref().unwrap_or("");
        Self {
            istio_name: format!("outbound|{port}|{part}|{hostname}").into(),
            service,
            hostname,
            port,
            subset,
            rule,
            endpoints,
            upstream: None,
        }
    }

    /// One of no Service, without endpoints.
    pub(super) fn called(name: &str) -> Self {
        let service = ServiceName::new("", name);
        Self {
            istio_name: name.into(),
            ..Self::new(service, name.into(), 0, None, None, Vec::new())
        }
    }

    /// The same, its endpoints used like this.
    #[must_use]
    pub fn used(self, upstream: Option<Arc<UpstreamUse>>) -> Self {
        Self { upstream, ..self }
    }

    /// The endpoint that `token` stands for.
    pub fn keeping(&self, token: Token) -> Option<&Endpoint> {
        let mut endpoints = self.endpoints.iter();
        endpoints.find(|endpoint| Token::of(endpoint.address) == token)
    }

    /// Istio's name: `outbound|<port>|<subset>|<host>`.
    pub fn istio_name(&self) -> &str {
        &self.istio_name
    }
}

/// Where a Service port's traffic can go.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Address and target port.
    pub address: SocketAddr,
    /// The pod behind the address, if it is one that we know.
    pub workload: Option<Arc<Workload>>,
    /// Where it runs, if that is known.
    pub place: Option<Arc<Place>>,
    /// What this node has under way there; the same value in every snapshot.
    pub load: Arc<EndpointLoad>,
    /// TLS besides the mesh's own, if a DestinationRule asks for it.
    pub tls: Option<Arc<ClientTls>>,
    /// How it is told of its client, if a DestinationRule asks for it.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How connections to it are kept, as far as a DestinationRule says it.
    pub upkeep: Option<Arc<Upkeep>>,
    /// How many parts it gets of what its cluster does; at least 1.
    pub weight: u32,
}
