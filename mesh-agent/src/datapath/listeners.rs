// SPDX-License-Identifier: Apache-2.0

//! The agent's listeners in a pod.
//!
//! Invariant: a listener is tagged before it is bound, so what it accepts is ours from the start.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    sync::Arc,
};

use mesh_common::{TagKind, names};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    PodSockets,
    accepts::Accepts,
    connect::ConnectorMaps,
    diag,
    maps::PodMaps,
    pod::{Pod, PodError},
    route, sys,
};

/// Istio's ports, which applications know to avoid; only their being free matters.
const OUTBOUND_PORT: u16 = 15_001;
const INBOUND_PORT: u16 = 15_006;
const BACKLOG: i32 = 4096;

/// Those of one pod, by direction.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    outbound: Vec<TcpListener>,
    inbound: Vec<TcpListener>,
    pub(super) watch: Watch,
}

/// Knows whether those of one pod still listen: who may administer a namespace may end any socket in
/// it (`SOCK_DESTROY`), whoever's it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    cookies: Vec<u64>,
    pub(super) accepts: Arc<Accepts>,
}

impl Listeners {
    /// Opens them and puts them into the map, in place of an earlier agent's. The calling thread
    /// must be in the pod's namespace.
    pub(super) fn open(connector: &ConnectorMaps, maps: &mut PodMaps) -> Result<Self, PodError> {
        let v4 = IpAddr::from(Ipv4Addr::LOCALHOST);
        let v6 = IpAddr::from(Ipv6Addr::LOCALHOST);
        let mut listeners = Self::default();
        for (index, address, port) in [
            (names::LISTENER_OUTBOUND_V4, v4, OUTBOUND_PORT),
            (names::LISTENER_OUTBOUND_V6, v6, OUTBOUND_PORT),
            (names::LISTENER_INBOUND_V4, v4, INBOUND_PORT),
            (names::LISTENER_INBOUND_V6, v6, INBOUND_PORT),
        ] {
            if address.is_ipv6() && !route::has_ipv6() {
                continue;
            }
            let listener = listener(connector, SocketAddr::new(address, port))
                // An application has the port: any other does as well.
                .or_else(|_| listener(connector, SocketAddr::new(address, 0)))
                .map_err(PodError::Listen)?;
            maps.listeners.set(index, &listener, 0)?;
            let cookie = sys::socket_cookie(&listener).map_err(PodError::Listen)?;
            listeners.watch.cookies.push(cookie);
            if port == OUTBOUND_PORT {
                listeners.outbound.push(listener);
            } else {
                listeners.inbound.push(listener);
            }
        }
        Ok(listeners)
    }

    /// With what the proxy needs to know of their pod.
    pub(super) fn of(self, pod: &Pod) -> PodSockets {
        PodSockets {
            workload: Arc::clone(&pod.workload),
            netns: pod.netns.clone(),
            addresses: pod.addresses.clone(),
            outbound: self.outbound,
            inbound: self.inbound,
            accepts: self.watch.accepts,
        }
    }
}

impl Watch {
    /// Whether all of them listen. The calling thread must be in the pod's namespace.
    pub(super) fn is_whole(&self) -> io::Result<bool> {
        let listening = diag::listeners()?;
        let listens = |own: &u64| listening.iter().any(|socket| socket.cookie() == *own);
        Ok(self.cookies.iter().all(listens))
    }

    /// How many connections wait to be accepted: the kernel has them, and they are not lost. Likewise.
    pub(super) fn waiting(&self) -> io::Result<u64> {
        let mut listening = diag::listeners()?;
        listening.retain(|socket| self.cookies.contains(&socket.cookie()));
        Ok(listening.iter().map(|it| u64::from(it.waiting)).sum())
    }
}

fn listener(connector: &ConnectorMaps, address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    connector.tag(&socket, TagKind::ACCEPTED)?;
    sys::set_transparent(&socket, address.is_ipv6())?;
    socket.set_reuse_address(true)?;
    // Two agents listen side by side while one hands over to the other.
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
