// SPDX-License-Identifier: Apache-2.0

//! The agent's outgoing connections: in a pod's namespace, known to the kernel programs as ours.
//!
//! Owns the choice of source address and port, and the tags that keep our own packets from being
//! captured. Knows nothing of what is spoken over a connection.
//!
//! Invariant: a socket is tagged before it is bound or connected, and the tuple of a connection to
//! an application is expected before its SYN and no longer than its socket (the sock_ops program
//! adds and removes it too; both do, because either can be missing at the critical moment).
//! Invariant: the source port of a connection to an application is never the kernel's choice: it
//! would walk the same sequence as the client's own and collide with it on one node.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    ops::{Deref, DerefMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use mesh_common::{Endpoint, LEG_PORT_COUNT, LEG_PORT_FIRST, Tag, TagKind, Tuple};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{netns::Netns, sys};

/// How long a peer may take to answer a SYN.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How many source ports are tried towards one application before giving up.
const PORT_TRIES: u32 = 64;

/// Values of the map of expected tuples: written by us before the SYN, overwritten by sock_ops.
const RESERVED: u32 = 0;

/// What an outgoing connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// A tunnel, from the pod's own address.
    Tunnel,
    /// A plain connection, from the pod's own address.
    Plain,
    /// To the application in the pod; it sees `client`'s address, with a port of our choice.
    App {
        /// Who opened the connection that this one continues.
        client: SocketAddr,
    },
}

/// Opens connections. Cheap to clone; may be used from every thread.
#[derive(Clone, Debug)]
pub struct Connector {
    maps: Option<Arc<ConnectorMaps>>,
    legs: Arc<Legs>,
}

/// The maps that outgoing sockets are written to.
#[derive(Debug)]
pub(super) struct ConnectorMaps {
    /// Socket storage.
    pub(super) tags: OwnedFd,
    /// Expected tuples.
    pub(super) expect: OwnedFd,
}

/// The connections to applications that are open.
#[derive(Debug)]
struct Legs {
    sources: Mutex<HashMap<SocketAddr, u32>>,
    next_port: AtomicU32,
}

/// A connection that the agent opened: a [`TcpStream`] that leaves no trace in the kernel maps
/// when it is dropped.
#[derive(Debug)]
pub struct Upstream {
    stream: TcpStream,
    _expected: Option<Expected>,
}

/// Keeps a tuple expected.
#[derive(Debug)]
struct Expected {
    maps: Arc<ConnectorMaps>,
    legs: Arc<Legs>,
    tuple: Tuple,
    source: SocketAddr,
}

impl Connector {
    pub(super) fn new(maps: Arc<ConnectorMaps>) -> Self {
        Self::with_maps(Some(maps))
    }

    /// A connector without kernel programs, for tests of the proxy over loopback: sockets are not
    /// tagged, and [`Leg::App`] connects from an ordinary address.
    pub fn untagged() -> Self {
        Self::with_maps(None)
    }

    fn with_maps(maps: Option<Arc<ConnectorMaps>>) -> Self {
        Self {
            maps,
            legs: Arc::new(Legs {
                sources: Mutex::default(),
                // A restarted agent starts elsewhere: its old ports may be in TIME_WAIT.
                next_port: AtomicU32::new(fastrand::u32(..)),
            }),
        }
    }

    /// Connects to `to` from within `netns`. Must be called on a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// What the kernel says; [`io::ErrorKind::TimedOut`] after 10 s.
    pub async fn connect(&self, netns: &Netns, leg: Leg, to: SocketAddr) -> io::Result<Upstream> {
        let (socket, expected) = self.begin(netns, leg, to)?;
        // From here on `expected` is dropped on every way out, including cancellation.
        let stream = TcpStream::from_std(socket.into())?;
        match tokio::time::timeout(CONNECT_TIMEOUT, stream.writable()).await {
            Ok(ready) => ready?,
            Err(_elapsed) => return Err(io::ErrorKind::TimedOut.into()),
        }
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        if leg != Leg::Tunnel {
            // A tunnel's truncation shows in TLS; what else is cut short must show in TCP.
            break_when_closed(&stream);
        }
        Ok(Upstream {
            stream,
            _expected: expected,
        })
    }

    /// Whether `peer` is the source of one of our own connections to applications.
    ///
    /// An accepted connection from there is our own, come back: it must be reset, not proxied.
    pub fn is_own_upstream(&self, peer: SocketAddr) -> bool {
        self.legs.lock().contains_key(&canonical(peer))
    }

    fn begin(
        &self,
        netns: &Netns,
        leg: Leg,
        to: SocketAddr,
    ) -> io::Result<(Socket, Option<Expected>)> {
        match (leg, &self.maps) {
            (Leg::App { client }, Some(maps)) => {
                let mut last = io::Error::from(io::ErrorKind::AddrInUse);
                for _ in 0..PORT_TRIES {
                    match self.begin_app(maps, netns, client, to) {
                        Err(error) if is_port_taken(&error) => last = error,
                        result => return result.map(|(socket, kept)| (socket, Some(kept))),
                    }
                }
                Err(last)
            }
            (Leg::Tunnel, _) => Ok((self.begin_plain(netns, TagKind::TUNNEL, to)?, None)),
            (Leg::Plain | Leg::App { .. }, _) => {
                Ok((self.begin_plain(netns, TagKind::PLAIN, to)?, None))
            }
        }
    }

    fn begin_plain(&self, netns: &Netns, kind: TagKind, to: SocketAddr) -> io::Result<Socket> {
        let socket = self.socket(netns, kind, to)?;
        start(&socket, to)?;
        Ok(socket)
    }

    fn begin_app(
        &self,
        maps: &Arc<ConnectorMaps>,
        netns: &Netns,
        client: SocketAddr,
        to: SocketAddr,
    ) -> io::Result<(Socket, Expected)> {
        let mut source = client;
        source.set_port(self.legs.next_port(client.port()));
        let socket = self.socket(netns, TagKind::APP_LEG, to)?;
        sys::set_transparent(&socket, to.is_ipv6())?;
        // Two applications may be reached from one client port; connect() checks the whole tuple.
        socket.set_reuse_address(true)?;
        socket.bind(&source.into())?;
        let expected = Expected::reserve(maps, &self.legs, source, to)?;
        start(&socket, to)?;
        Ok((socket, expected))
    }

    fn socket(&self, netns: &Netns, kind: TagKind, to: SocketAddr) -> io::Result<Socket> {
        let socket = netns
            .within(|| Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)))??;
        if let Some(maps) = &self.maps {
            maps.tag(&socket, kind)?;
        }
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        Ok(socket)
    }
}

impl ConnectorMaps {
    /// Tells the kernel programs that `socket` is ours. Before bind, listen and connect.
    pub(super) fn tag(&self, socket: impl AsFd, kind: TagKind) -> io::Result<()> {
        let fd = socket.as_fd().as_raw_fd();
        sys::map_update(&self.tags, &fd, &Tag::own(kind), 0)
    }
}

fn start(socket: &Socket, to: SocketAddr) -> io::Result<()> {
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        result => result,
    }
}

/// Another port may do: this one is bound, in TIME_WAIT, or expected for another connection.
fn is_port_taken(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EADDRINUSE | libc::EADDRNOTAVAIL | libc::EEXIST)
    )
}

/// One form per address: listeners may be dual-stack, tests certainly are.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Legs {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SocketAddr, u32>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next port, never `taken`: the client's own connection has that one.
    fn next_port(&self, taken: u16) -> u16 {
        loop {
            let offset = self.next_port.fetch_add(1, Ordering::Relaxed) % u32::from(LEG_PORT_COUNT);
            let offset = u16::try_from(offset).expect("less than a u16");
            let port = LEG_PORT_FIRST + offset;
            if port != taken {
                return port;
            }
        }
    }
}

impl Expected {
    fn reserve(
        maps: &Arc<ConnectorMaps>,
        legs: &Arc<Legs>,
        source: SocketAddr,
        to: SocketAddr,
    ) -> io::Result<Self> {
        let tuple = Tuple {
            source: Endpoint::new(source.ip(), source.port()),
            destination: Endpoint::new(to.ip(), to.port()),
        };
        sys::map_update(&maps.expect, &tuple, &RESERVED, sys::NOEXIST)?;
        let source = canonical(source);
        *legs.lock().entry(source).or_default() += 1;
        Ok(Self {
            maps: Arc::clone(maps),
            legs: Arc::clone(legs),
            tuple,
            source,
        })
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        // Usually gone already: the socket's close removed it.
        drop(sys::map_delete(&self.maps.expect, &self.tuple));
        let mut sources = self.legs.lock();
        if let Some(count) = sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

/// Closes a connection with a reset instead of an orderly end.
pub fn reset(stream: impl AsFd) {
    break_when_closed(&stream);
}

/// From now on closing `stream`, be it by the death of this process, resets the connection: its
/// peer must not take what was carried so far for everything. Until [`end_when_closed`].
pub fn break_when_closed(stream: impl AsFd) {
    // Without the option it is closed in the ordinary way, which is all there is left to do.
    drop(SockRef::from(&stream).set_linger(Some(Duration::ZERO)));
}

/// What `listener` accepts from now on sends without delay, as the kernel has sockets inherit it.
pub fn accept_without_delay(listener: impl AsFd) -> io::Result<()> {
    SockRef::from(&listener).set_tcp_nodelay(true)
}

/// A second descriptor of the same socket.
///
/// # Errors
/// There are no descriptors left.
pub fn duplicate(stream: impl AsFd) -> io::Result<std::net::TcpStream> {
    let second = stream.as_fd().try_clone_to_owned()?;
    Ok(second.into())
}

/// From now on closing `stream` still delivers what was written: our side has ended in order.
pub fn end_when_closed(stream: impl AsFd) {
    // If it fails the socket is gone already.
    drop(SockRef::from(&stream).set_linger(None));
}

impl Upstream {
    /// Has the kernel ask whether the peer is still there: how often without an answer, after how long, and
    /// how long between one time and the next; as it is set up to where nothing is said.
    pub fn keep_alive(
        &self,
        (probes, time, interval): (Option<u32>, Option<Duration>, Option<Duration>),
    ) {
        let mut keepalive = TcpKeepalive::new();
        if let Some(probes) = probes {
            keepalive = keepalive.with_retries(probes);
        }
        if let Some(time) = time {
            keepalive = keepalive.with_time(time);
        }
        if let Some(interval) = interval {
            keepalive = keepalive.with_interval(interval);
        }
        // What was checked when it was read the kernel takes.
        drop(SockRef::from(&self.stream).set_tcp_keepalive(&keepalive));
    }

    /// The socket of a tunnel.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}

impl Deref for Upstream {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.stream
    }
}

impl DerefMut for Upstream {
    fn deref_mut(&mut self) -> &mut TcpStream {
        &mut self.stream
    }
}

impl AsFd for Upstream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsyncRead for Upstream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Upstream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = ready!(Pin::new(&mut self.stream).poll_shutdown(context));
        end_when_closed(&self.stream);
        Poll::Ready(ended)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be built")
    }

    #[test]
    fn what_is_accepted_inherits_how_it_is_to_be_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
        accept_without_delay(&listener).expect("a TCP socket");
        break_when_closed(&listener);
        let to = listener.local_addr().expect("it is bound");
        let _client = std::net::TcpStream::connect(to).expect("it listens");
        let (accepted, _) = listener.accept().expect("a client is there");
        let accepted = SockRef::from(&accepted);
        assert_eq!(accepted.linger().expect("a socket"), Some(Duration::ZERO));
        assert!(accepted.tcp_nodelay().expect("a TCP socket"));
    }

    #[test]
    fn an_untagged_connector_connects_over_loopback() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
        let to = listener.local_addr().expect("it is bound");
        let here = Netns::current().expect("proc is mounted");
        let client = SocketAddr::from(([10, 0, 0, 1], 40_000));
        for leg in [Leg::Tunnel, Leg::Plain, Leg::App { client }] {
            let upstream = runtime()
                .block_on(Connector::untagged().connect(&here, leg, to))
                .expect("the listener is there");
            assert_eq!(upstream.peer_addr().expect("it is connected"), to);
            assert!(upstream.nodelay().expect("it is a TCP socket"));
        }
    }

    #[test]
    fn a_refused_connection_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
        let to = listener.local_addr().expect("it is bound");
        drop(listener);
        let here = Netns::current().expect("proc is mounted");
        let error = runtime()
            .block_on(Connector::untagged().connect(&here, Leg::Plain, to))
            .expect_err("nobody listens");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn ports_stay_in_their_range_and_avoid_the_clients_own() {
        let legs = Legs {
            sources: Mutex::default(),
            next_port: AtomicU32::new(u32::from(LEG_PORT_COUNT) - 2),
        };
        let last = LEG_PORT_FIRST + LEG_PORT_COUNT - 1;
        assert_eq!(legs.next_port(0), last - 1);
        assert_eq!(legs.next_port(last), LEG_PORT_FIRST);
        assert!(last < 32_768, "below the default ephemeral range");
    }
}
