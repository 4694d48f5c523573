// SPDX-License-Identifier: Apache-2.0

//! Opens connections to endpoints: through a tunnel if the workload there is enrolled and not on
//! this node, else plain TCP; another endpoint if one cannot be connected to.
//!
//! Knows nothing of what is sent over them. Invariant: an endpoint is tried at most once per call,
//! and what it has under way is counted from before it is tried.

use std::{io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode, Uri};
use tokio::io::AsyncWriteExt;

use super::{
    Outcome,
    connection::Connection,
    local,
    stream::Upstream,
    tunnel::{ConnectHeaders, TunnelError},
    usage::{self, Admission},
};
pub(crate) use crate::telemetry::chain;
use crate::{
    datapath::Leg,
    model::{Ask, ClientTls, Cluster, Conduct, Endpoint, Key, LoadGuard, Service, Workload},
};

/// How long a server may take to agree on TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How many endpoints are tried before giving up.
pub(crate) const MAX_TRIES: usize = 3;

/// A connection to an endpoint of a cluster.
pub(crate) struct Dialed {
    pub(crate) upstream: Upstream,
    pub(crate) endpoint: Endpoint,
    pub(crate) load: LoadGuard,
    /// What the connection counts for.
    pub(crate) admission: Option<Admission>,
}

/// Connects to an endpoint of `cluster`, to the next if that fails.
pub(crate) async fn cluster(
    connection: &Rc<Connection>,
    service: &Service,
    cluster: &Cluster,
) -> Result<Dialed, Outcome> {
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut failure = Outcome::NoEndpoint;
    let admission = connection.pod.usages.admit_bytes(cluster)?;
    let key = key(connection, cluster);
    while tried.len() < MAX_TRIES {
        let random = |n| fastrand::usize(..n);
        let from = connection.workload();
        let ask = Ask {
            key,
            labels: Some(&from.labels),
            now: usage::uptime(),
        };
        let original = original(connection, cluster);
        let chosen = match &original {
            Some(endpoint) => Some(endpoint).filter(|endpoint| !tried.contains(&endpoint.address)),
            None => cluster.choose(&ask, random, &tried),
        };
        let Some(endpoint) = chosen else {
            break;
        };
        let load = endpoint.load.begin();
        let to = self::endpoint(connection, Some(service), endpoint, None);
        let dialed = match cluster.limits().connect_timeout {
            None => to.await,
            // Cancel-safe: what is given up is the attempt to connect.
            Some(limit) => match tokio::time::timeout(limit, to).await {
                Ok(dialed) => dialed,
                Err(_elapsed) => Err(too_slow(endpoint.address)),
            },
        };
        match &dialed {
            Ok(_) => cluster.note(endpoint, Conduct::Status(200), usage::uptime()),
            Err(Outcome::ConnectFailed(_)) => {
                cluster.note(endpoint, Conduct::Failed, usage::uptime());
            }
            // To deny is no failure of the endpoint's.
            Err(_) => {}
        }
        match dialed {
            Ok(upstream) => {
                return Ok(Dialed {
                    upstream,
                    endpoint: endpoint.clone(),
                    load,
                    admission,
                });
            }
            Err(why) => {
                tried.push(endpoint.address);
                failure = why;
            }
        }
    }
    Err(failure)
}

/// The endpoint of a cluster whose connections go on to where they were opened to.
///
/// None where that is an address of a Service with an endpoint in the mesh: what is sent there
/// would reach it in plaintext. As without a mesh, any of the endpoints is taken instead.
pub(crate) fn original(connection: &Connection, cluster: &Cluster) -> Option<Endpoint> {
    let to = connection.orig_dst;
    if !cluster.is_original() {
        return None;
    }
    let snapshot = connection.thread.snapshot();
    let in_mesh = |endpoint: &Endpoint| endpoint.workload.as_ref().is_some_and(|it| it.enrolled);
    let there = snapshot.by_vip.get(&to).map(|(_, port)| &port.cluster);
    if there.is_some_and(|there| there.endpoints.iter().any(in_mesh)) {
        return None;
    }
    cluster.original(to, || snapshot.by_address.get(&to.ip()).cloned())
}

/// What bytes are sent by, where endpoints are found by key: nothing but their source is known.
fn key(connection: &Connection, cluster: &Cluster) -> Option<u64> {
    let none = (HeaderMap::new(), Uri::default());
    match cluster.hash()?.key(&none.0, &none.1, connection.peer.ip()) {
        Key::Is(key) => Some(key),
        Key::Wanted | Key::None => None,
    }
}

/// Connects to an endpoint, with the TLS that a rule asks for towards it, which offers `alpn`.
pub(crate) async fn endpoint(
    connection: &Rc<Connection>,
    service: Option<&Service>,
    endpoint: &Endpoint,
    alpn: Option<&'static str>,
) -> Result<Upstream, Outcome> {
    let to = (endpoint.address, endpoint.workload.as_ref());
    let Some(tls) = endpoint.tls.as_deref() else {
        let upstream = address(connection, service, to.0, to.1).await?;
        keep_alive(endpoint, &upstream);
        return introduced(connection, endpoint, upstream).await;
    };
    let wanted = match tls {
        ClientTls::Originate(wanted) => wanted,
        ClientTls::Refused(why) => return Err(refused(to.0, why)),
        // What it means for an endpoint was decided when the cluster was made.
        ClientTls::Mesh => return Err(refused(to.0, "the mesh's TLS is not spoken there")),
    };
    let from = connection.workload();
    if !wanted.is_for(&from.namespace) {
        let why = "the rule's certificate is for clients of the rule's own namespace";
        return Err(refused(to.0, why));
    }
    let identities = &connection.thread.shared.identities;
    // Before connecting: without TLS there is nothing to connect for.
    let connector = Box::pin(identities.originate(wanted, alpn)).await;
    let (connector, name) = connector.map_err(|error| refused(to.0, &chain(&error)))?;
    let upstream = address(connection, service, to.0, to.1).await?;
    keep_alive(endpoint, &upstream);
    let upstream = introduced(connection, endpoint, upstream).await?;
    let shaking = connector.connect(name, Box::new(upstream));
    // Cancel-safe: what is given up is the attempt to connect.
    match tokio::time::timeout(HANDSHAKE, Box::pin(shaking)).await {
        Ok(Ok(stream)) => Ok(Upstream::Originated(Box::new(stream))),
        Ok(Err(error)) => Err(refused(to.0, &chain(&error))),
        Err(_elapsed) => Err(refused(to.0, "the handshake took too long")),
    }
}

/// Has the kernel ask whether an endpoint outside of the mesh is still there, if a rule asks for that. Tunnels
/// are kept alive by the agents at their ends.
fn keep_alive(endpoint: &Endpoint, upstream: &Upstream) {
    let upkeep = endpoint.upkeep.as_ref();
    let keepalive = upkeep.and_then(|upkeep| upkeep.keepalive);
    if let (Some(keepalive), Upstream::Plain(socket)) = (keepalive, upstream) {
        socket.keep_alive((keepalive.probes, keepalive.time, keepalive.interval));
    }
}

/// The connection once it has said whose it is, if a rule asks for that.
async fn introduced(
    connection: &Connection,
    endpoint: &Endpoint,
    mut upstream: Upstream,
) -> Result<Upstream, Outcome> {
    let Some(version) = endpoint.proxy_protocol else {
        return Ok(upstream);
    };
    let header = version.header(connection.peer, connection.orig_dst);
    // Cancel-safe: what is given up is the attempt to connect.
    let said = tokio::time::timeout(HANDSHAKE, async {
        upstream.write_all(&header).await?;
        upstream.flush().await
    });
    match said.await {
        Ok(Ok(())) => Ok(upstream),
        Ok(Err(error)) => Err(failed(endpoint.address, &error)),
        Err(_elapsed) => Err(too_slow(endpoint.address)),
    }
}

fn refused(address: SocketAddr, why: &str) -> Outcome {
    Outcome::ConnectFailed(format!("{address}: TLS: {why}").into())
}

/// Connects to `address` on behalf of the connection's pod; says why if that fails: it could not be
/// reached, or its policy does not let the pod in.
pub(crate) async fn address(
    connection: &Rc<Connection>,
    service: Option<&Service>,
    address: SocketAddr,
    workload: Option<&Arc<Workload>>,
) -> Result<Upstream, Outcome> {
    let (thread, pod) = (&connection.thread, &connection.pod);
    // A pod that reaches itself never leaves its namespace: there is nobody to hide from.
    let tunnelled = |to: &&Arc<Workload>| to.enrolled && to.uid != pod.workload.uid;
    let Some(to) = workload.filter(tunnelled) else {
        let connector = &thread.shared.connector;
        let connected = connector.connect(&pod.netns, Leg::Plain, address);
        return match Box::pin(connected).await {
            Ok(stream) => Ok(Upstream::Plain(stream)),
            Err(error) => Err(failed(address, &error)),
        };
    };
    let from = connection.workload();
    if let Some(there) = local::find(thread, &to.uid, address) {
        return match local::connect(connection, from, there, address).await {
            Ok(upstream) => Ok(upstream),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(Outcome::DeniedThere(error.to_string().into()))
            }
            Err(error) => Err(failed(address, &error)),
        };
    }
    thread.note_reached(&to.uid);
    let headers = headers(connection, service, &from);
    let budgets = Some(&pod.budgets.tunnels);
    let tunnels = &thread.tunnels;
    let opened = tunnels.open(&from, &pod.netns, to, address, &headers, budgets);
    match Box::pin(opened).await {
        Ok(stream) => Ok(Upstream::Tunnel(stream)),
        Err(TunnelError::Refused(StatusCode::UNAUTHORIZED)) => {
            let why = format!("{address}: denied by the policy of the other end");
            Err(Outcome::DeniedThere(why.into()))
        }
        Err(error) => Err(failed(address, &error)),
    }
}

/// Why an endpoint that took too long to connect to was given up.
pub(crate) fn too_slow(address: SocketAddr) -> Outcome {
    Outcome::ConnectFailed(format!("{address}: timed out").into())
}

fn failed(address: SocketAddr, error: &(dyn std::error::Error + 'static)) -> Outcome {
    Outcome::ConnectFailed(format!("{address}: {}", chain(error)).into())
}

/// What the other end of a tunnel is told about the client.
fn headers(connection: &Connection, service: Option<&Service>, from: &Workload) -> ConnectHeaders {
    let host = service.map_or_else(String::new, |service| format!(";host={}", service.hostname));
    ConnectHeaders {
        forwarded: Some(format!("for=\"{}\"{host}", connection.peer)),
        baggage: Some(baggage(from)),
        traceparent: None,
    }
}

/// A workload's labels in the form that Istio's data planes exchange.
pub(crate) fn baggage(workload: &Workload) -> String {
    format!(
        "k8s.namespace.name={},k8s.deployment.name={},service.name={},service.version={}",
        workload.namespace, workload.owner, workload.canonical_service, workload.canonical_revision
    )
}
